//! `tcp_write_wakeup()` and `tcp_send_probe0()`: keepalive probes and probes of a window.

use aya_ebpf::{
    macros::{fexit, kprobe, kretprobe, map},
    maps::PerCpuArray,
    programs::{FExitContext, ProbeContext, RetProbeContext},
};
use connprobe_common::{
    abi::{NO_RESULT, hook},
    fields::Field,
};

use super::{cookie, entered, kprobe_socket, left, no_cookie, socket_argument};
use crate::{
    emit::socket::{Kind, Limit, SocketEvent, socket_event},
    memory::Memory,
    socket::{Address, state},
};

/// Doublings of the persist timer from which on a probe is told of, though it may be answered.
const TOLD_FROM_BACKOFF: u8 = 3;

/// What sending the latest probe gave on this CPU, for `tcp_send_probe0`, which returns nothing and is what called.
#[map]
static PROBE_SENT: PerCpuArray<Sent> = PerCpuArray::with_max_entries(1, 0);

/// The socket whose probe was sent, and what sending returned.
#[derive(Clone, Copy)]
#[repr(C)]
struct Sent {
    sk: u64,
    result: i32,
    padding: u32,
}

/// A probe was sent.
///
/// Kernel functions `tcp_write_wakeup` (`net/ipv4/tcp_output.c`), called by `tcp_keepalive_timer` and by `tcp_send_probe0`, and the
/// latter, at whose return the persist timer runs again; since 4.x. There is no tracepoint; where functions cannot be attached to,
/// the scan finds the same a little later. Ordinary: a keepalive probe when the one before was answered, and the first probes of a
/// window. Blind spot: the counter of keepalive probes goes up only after the return. Cost of an ordinary one: three field reads, by
/// kprobe besides a look-up between entry and return.
#[fexit(function = "tcp_write_wakeup")]
fn tcp_write_wakeup_fexit(ctx: FExitContext) -> i32 {
    if let Some((sk, raw)) = socket_argument(ctx.arg(0)) {
        on_wakeup(sk, ctx.ret().unwrap_or(NO_RESULT), || cookie(raw));
    }
    0
}

#[kprobe]
fn tcp_write_wakeup_kprobe(ctx: ProbeContext) -> u32 {
    remember(&ctx)
}

#[kretprobe]
fn tcp_write_wakeup_kretprobe(ctx: RetProbeContext) -> u32 {
    if let Some((sk, result)) = left(&ctx) {
        on_wakeup(sk, result, no_cookie);
    }
    0
}

#[fexit(function = "tcp_send_probe0")]
fn tcp_send_probe0_fexit(ctx: FExitContext) -> i32 {
    if let Some((sk, raw)) = socket_argument(ctx.arg(0)) {
        on_probe0(sk, || cookie(raw));
    }
    0
}

#[kprobe]
fn tcp_send_probe0_kprobe(ctx: ProbeContext) -> u32 {
    remember(&ctx)
}

#[kretprobe]
fn tcp_send_probe0_kretprobe(ctx: RetProbeContext) -> u32 {
    if let Some((sk, _)) = left(&ctx) {
        on_probe0(sk, no_cookie);
    }
    0
}

#[inline(always)]
fn remember(ctx: &ProbeContext) -> u32 {
    if let Some(sk) = kprobe_socket(ctx, 0) {
        entered(ctx, sk);
    }
    0
}

/// With nothing to send it is keepalive's; else `tcp_send_probe0` has called and tells.
#[inline(always)]
fn on_wakeup(sk: Address, result: i32, cookie: impl FnOnce() -> u64) {
    if let Some(sent) = PROBE_SENT.get_ptr_mut(0) {
        // SAFETY: a per-CPU value belongs to this CPU while the program runs.
        unsafe { *sent = Sent { sk: sk.0, result, padding: 0 } };
    }
    // One after the other: of two options compared the compiler would keep an unset half, which the verifier refuses.
    let Some(write_seq) = sk.read::<u32>(Field::TpWriteSeq) else { return };
    let Some(snd_nxt) = sk.read::<u32>(Field::TpSndNxt) else { return };
    if write_seq != snd_nxt {
        return;
    }
    if result >= 0 && sk.read::<u8>(Field::IcskProbesOut).unwrap_or(0) == 0 {
        return;
    }
    tell(sk, result, cookie);
}

#[inline(always)]
fn on_probe0(sk: Address, cookie: impl FnOnce() -> u64) {
    let mut result = NO_RESULT;
    if let Some(sent) = PROBE_SENT.get_ptr_mut(0) {
        // SAFETY: a per-CPU value belongs to this CPU while the program runs.
        let sent = unsafe { &mut *sent };
        if sent.sk == sk.0 {
            result = sent.result;
            sent.sk = 0;
        }
    }
    let failed = result < 0 && result != NO_RESULT;
    if failed
        || sk.read::<u8>(Field::IcskProbesOut).unwrap_or(0) > 1
        || sk.read::<u8>(Field::IcskBackoff).unwrap_or(0) >= TOLD_FROM_BACKOFF
    {
        tell(sk, result, cookie);
    }
}

#[inline(always)]
fn tell(sk: Address, result: i32, cookie: impl FnOnce() -> u64) {
    let Some(state) = sk.state() else { return };
    if state::is_synchronized(state) {
        let event = SocketEvent { result, ..SocketEvent::new(hook::TCP_WRITE_WAKEUP, Kind::Full, state) };
        socket_event(event, Limit::Connection, sk, cookie);
    }
}
