//! `tcp:tcp_retransmit_skb`, `tcp:tcp_retransmit_synack`, `tcp:tcp_receive_reset`, `tcp:tcp_send_reset`.

use aya_ebpf::{
    macros::{btf_tracepoint, fentry, fexit, kprobe, kretprobe, tracepoint},
    programs::{BtfTracePointContext, FEntryContext, FExitContext, ProbeContext, RetProbeContext, TracePointContext},
};
use connprobe_common::{
    abi::{NO_RESULT, hook},
    fields::Field,
};

use super::{
    classic_field, classic_socket, cookie, entered, kprobe_argument, kprobe_socket, left, no_cookie, socket_argument,
};
use crate::{
    emit::socket::{Kind, Limit, SocketEvent, socket_event},
    globals::{read, settings},
    limit::{self, Timeout},
    memory::{Known, Memory},
    socket::{Address, state},
};

/// A segment was sent again.
///
/// Kernel function `__tcp_retransmit_skb` (`net/ipv4/tcp_output.c`), since 4.15; from 6.17 with the result of sending, and
/// then also when sending failed. Ordinary: fast retransmit and tail loss probes, which come with `icsk_retransmits` 0
/// (`tcp_retransmit_timer` counts before it retransmits; an ACK of new data resets the count), and further segments sent
/// again under the same count. Blind spot: before 6.17 the tracepoints do not see a retransmission that cannot leave the
/// host; the programs at the return of the function `tcp_retransmit_skb` do. Cost of an ordinary one: one field read, by
/// kprobe besides a look-up between entry and return.
#[btf_tracepoint(function = "tcp_retransmit_skb")]
fn tcp_retransmit_skb(ctx: BtfTracePointContext) -> i32 {
    let raw = ctx.arg(0);
    let Some(sk) = Known::socket(raw).and_then(Known::tcp) else { return 0 };
    // SAFETY: points into the settings.
    let result = if unsafe { read(&raw const (*settings()).retransmit_has_result) } == 1 {
        ctx.arg::<i32>(2)
    } else {
        NO_RESULT
    };
    on_retransmit(sk, result, || cookie(raw));
    0
}

#[tracepoint]
fn tcp_retransmit_skb_classic(ctx: TracePointContext) -> u32 {
    let Some(sk) = classic_socket(&ctx, hook::TCP_RETRANSMIT_SKB) else { return 0 };
    // SAFETY: points into the settings.
    let offset = unsafe { &raw const (*settings()).classic_err_offset };
    on_retransmit(sk, classic_field(&ctx, offset).unwrap_or(NO_RESULT), no_cookie);
    0
}

#[fexit(function = "tcp_retransmit_skb")]
fn tcp_retransmit_skb_fexit(ctx: FExitContext) -> i32 {
    let raw = ctx.arg(0);
    if let Some(sk) = Known::socket(raw).and_then(Known::tcp) {
        on_retransmit(sk, ctx.ret().unwrap_or(NO_RESULT), || cookie(raw));
    }
    0
}

#[kprobe]
fn tcp_retransmit_skb_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(sk) = kprobe_socket(&ctx, 0) {
        entered(&ctx, sk);
    }
    0
}

#[kretprobe]
fn tcp_retransmit_skb_kretprobe(ctx: RetProbeContext) -> u32 {
    if let Some((sk, result)) = left(&ctx) {
        on_retransmit(sk, result, no_cookie);
    }
    0
}

#[inline(always)]
fn on_retransmit<M: Memory>(sk: M, result: i32, cookie: impl FnOnce() -> u64) {
    let retransmits = u32::from(sk.read::<u8>(Field::IcskRetransmits).unwrap_or(0));
    if retransmits == 0 {
        return;
    }
    let Some(state) = sk.read(Field::SkState) else { return };
    let limit = if state == state::SYN_SENT {
        Limit::Handshake
    } else {
        Limit::Timeout(Timeout { snd_una: sk.read(Field::TpSndUna).unwrap_or(0), retransmits })
    };
    let event = SocketEvent { result, ..SocketEvent::new(hook::TCP_RETRANSMIT_SKB, Kind::Full, state) };
    socket_event(event, limit, sk, cookie);
}

/// A SYN-ACK was sent again.
///
/// Kernel function `tcp_rtx_synack` (`net/ipv4/tcp_output.c`), since 4.15: a SYN-ACK is repeated when its timer has run out, or the
/// client has repeated its SYN (`tcp_check_req`). Ordinary: the ACK has come, and with TCP_DEFER_ACCEPT the listener waits for data
/// (`inet_request_sock.acked`). The listener is argument 0, the request socket argument 1. Blind spots: SYN cookies keep no request
/// socket and repeat nothing; the tracepoint is passed only when sending succeeded.
#[btf_tracepoint(function = "tcp_retransmit_synack")]
fn tcp_retransmit_synack(ctx: BtfTracePointContext) -> i32 {
    if let Some((req, _)) = socket_argument(ctx.arg(1)) {
        on_retransmit_synack(req);
    }
    0
}

#[tracepoint]
fn tcp_retransmit_synack_classic(ctx: TracePointContext) -> u32 {
    // SAFETY: points into the settings.
    let offset = unsafe { &raw const (*settings()).classic_req_offset };
    if let Some(req) = classic_field::<u64>(&ctx, offset).filter(|req| *req != 0) {
        on_retransmit_synack(Address(req));
    }
    0
}

#[fentry(function = "tcp_rtx_synack")]
fn tcp_rtx_synack_fentry(ctx: FEntryContext) -> i32 {
    if let Some((req, _)) = socket_argument(ctx.arg(1)) {
        on_retransmit_synack(req);
    }
    0
}

#[kprobe]
fn tcp_rtx_synack_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(req) = kprobe_argument(&ctx, 1).filter(|req| *req != 0) {
        on_retransmit_synack(Address(req));
    }
    0
}

#[inline(always)]
fn on_retransmit_synack(req: Address) {
    if req.read_bits(Field::ReqAcked) == Some(1) {
        return;
    }
    let event = SocketEvent::new(hook::TCP_RETRANSMIT_SYNACK, Kind::Request, state::NEW_SYN_RECV);
    // The cookie helper takes full sockets only; `SocketRecord::cookie` is still set when the kernel has given one.
    socket_event(event, Limit::Handshake, req, no_cookie);
}

/// An acceptable RST came in.
///
/// Kernel function `tcp_reset` (`net/ipv4/tcp_input.c`), since 4.15, before the state changes. Ordinary: a RST that answers
/// a SYN (port closed) or ends an embryonic connection.
#[btf_tracepoint(function = "tcp_receive_reset")]
fn tcp_receive_reset(ctx: BtfTracePointContext) -> i32 {
    if let Some((sk, raw)) = socket_argument(ctx.arg(0)) {
        on_reset(hook::TCP_RECEIVE_RESET, sk, || cookie(raw));
    }
    0
}

#[tracepoint]
fn tcp_receive_reset_classic(ctx: TracePointContext) -> u32 {
    if let Some(sk) = classic_socket(&ctx, hook::TCP_RECEIVE_RESET) {
        on_reset(hook::TCP_RECEIVE_RESET, sk, no_cookie);
    }
    0
}

#[fentry(function = "tcp_reset")]
fn tcp_reset_fentry(ctx: FEntryContext) -> i32 {
    if let Some((sk, raw)) = socket_argument(ctx.arg(0)) {
        on_reset(hook::TCP_RECEIVE_RESET, sk, || cookie(raw));
    }
    0
}

#[kprobe]
fn tcp_reset_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(sk) = kprobe_socket(&ctx, 0) {
        on_reset(hook::TCP_RECEIVE_RESET, sk, no_cookie);
    }
    0
}

/// This host sends a RST.
///
/// Kernel functions `tcp_v4_send_reset`, `tcp_v6_send_reset` and `tcp_send_active_reset`, since 4.15; the layout of the
/// tracepoint's arguments after the first differs between kernels and is not used. Ordinary: no socket (closed port), a
/// socket whose application closed it with unread data (its state is CLOSE by then), an embryonic connection.
#[btf_tracepoint(function = "tcp_send_reset")]
fn tcp_send_reset(ctx: BtfTracePointContext) -> i32 {
    if let Some((sk, raw)) = socket_argument(ctx.arg(0)) {
        on_reset(hook::TCP_SEND_RESET, sk, || cookie(raw));
    }
    0
}

#[tracepoint]
fn tcp_send_reset_classic(ctx: TracePointContext) -> u32 {
    if let Some(sk) = classic_socket(&ctx, hook::TCP_SEND_RESET) {
        on_reset(hook::TCP_SEND_RESET, sk, no_cookie);
    }
    0
}

#[fentry(function = "tcp_v4_send_reset")]
fn tcp_v4_send_reset_fentry(ctx: FEntryContext) -> i32 {
    on_send_reset(&ctx)
}

#[kprobe]
fn tcp_v4_send_reset_kprobe(ctx: ProbeContext) -> u32 {
    on_send_reset_kprobe(&ctx)
}

#[fentry(function = "tcp_v6_send_reset")]
fn tcp_v6_send_reset_fentry(ctx: FEntryContext) -> i32 {
    on_send_reset(&ctx)
}

#[kprobe]
fn tcp_v6_send_reset_kprobe(ctx: ProbeContext) -> u32 {
    on_send_reset_kprobe(&ctx)
}

#[fentry(function = "tcp_send_active_reset")]
fn tcp_send_active_reset_fentry(ctx: FEntryContext) -> i32 {
    on_send_reset(&ctx)
}

#[kprobe]
fn tcp_send_active_reset_kprobe(ctx: ProbeContext) -> u32 {
    on_send_reset_kprobe(&ctx)
}

#[inline(always)]
fn on_send_reset(ctx: &FEntryContext) -> i32 {
    if let Some((sk, raw)) = socket_argument(ctx.arg(0)) {
        on_reset(hook::TCP_SEND_RESET, sk, || cookie(raw));
    }
    0
}

#[inline(always)]
fn on_send_reset_kprobe(ctx: &ProbeContext) -> u32 {
    if let Some(sk) = kprobe_socket(ctx, 0) {
        on_reset(hook::TCP_SEND_RESET, sk, no_cookie);
    }
    0
}

#[inline(always)]
fn on_reset(hook: u16, sk: Address, cookie: impl FnOnce() -> u64) {
    let Some(state) = sk.state() else { return };
    if state::is_synchronized(state) {
        socket_event(SocketEvent::new(hook, Kind::Full, state), Limit::Connection, sk, cookie);
        if hook == hook::TCP_RECEIVE_RESET
            && let Some(watch) = limit::watched(sk)
        {
            // Whatever RST the kernel takes closes its socket (`tcp_reset`, `net/ipv4/tcp_input.c`, 4.15 to 6.18).
            watch.end();
        }
    }
}
