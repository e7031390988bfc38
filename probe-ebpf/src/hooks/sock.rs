//! `sock:inet_sock_set_state`, `sock:inet_sk_error_report`.

use aya_ebpf::{
    macros::{btf_tracepoint, fentry, kprobe, tracepoint},
    programs::{BtfTracePointContext, FEntryContext, ProbeContext, TracePointContext},
};
use connprobe_common::{abi::hook, fields::Field};

use super::{classic_field, classic_socket, cookie, kprobe_argument, kprobe_socket, no_cookie, socket_argument};
use crate::{
    emit::socket::{Kind, Limit, SocketEvent, socket_event},
    globals::settings,
    limit,
    memory::Memory,
    socket::{self, Address, state},
};

/// A socket changes its state.
///
/// Kernel functions `inet_sk_state_store` (`net/ipv4/af_inet.c`), since 4.16, and `tcp_set_state` (`net/ipv4/tcp.c`) above
/// it, through which every change passes that does not begin a connection. Ordinary: every change of a socket that is not
/// under suspicion. Blind spot: request sockets (SYN-RECEIVED of a listener) have no such event. Cost of an ordinary one: a
/// comparison on the way up, one hash look-up on the way down.
#[btf_tracepoint(function = "inet_sock_set_state")]
fn inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    let (from, to) = (ctx.arg::<i32>(1) as u8, ctx.arg::<i32>(2) as u8);
    if begins(to) {
        return 0;
    }
    if let Some((sk, raw)) = socket_argument(ctx.arg(0)) {
        on_state_change(sk, from, to, || cookie(raw));
    }
    0
}

#[tracepoint]
fn inet_sock_set_state_classic(ctx: TracePointContext) -> u32 {
    // SAFETY: both point into the settings.
    let (from_offset, to_offset) =
        unsafe { (&raw const (*settings()).classic_oldstate_offset, &raw const (*settings()).classic_newstate_offset) };
    // One after the other: of a pair the compiler would keep an unset half in a register, which the verifier refuses.
    let Some(to) = classic_field::<i32>(&ctx, to_offset) else { return 0 };
    if begins(to as u8) {
        return 0;
    }
    let Some(from) = classic_field::<i32>(&ctx, from_offset) else { return 0 };
    if let Some(sk) = classic_socket(&ctx, hook::INET_SOCK_SET_STATE) {
        on_state_change(sk, from as u8, to as u8, no_cookie);
    }
    0
}

/// The function comes a little before the tracepoint: the socket still has its old state and its port.
#[fentry(function = "tcp_set_state")]
fn tcp_set_state_fentry(ctx: FEntryContext) -> i32 {
    let to = ctx.arg::<i32>(1) as u8;
    if begins(to) {
        return 0;
    }
    if let Some((sk, raw)) = socket_argument(ctx.arg(0))
        && let Some(from) = sk.state()
    {
        on_state_change(sk, from, to, || cookie(raw));
    }
    0
}

#[kprobe]
fn tcp_set_state_kprobe(ctx: ProbeContext) -> u32 {
    let Some(to) = kprobe_argument(&ctx, 1) else { return 0 };
    if begins(to as u8) {
        return 0;
    }
    if let Some(sk) = kprobe_socket(&ctx, 0)
        && let Some(from) = sk.state()
    {
        on_state_change(sk, from, to as u8, no_cookie);
    }
    0
}

/// States in which a connection begins: no suspicion can be older than they are.
#[inline(always)]
fn begins(to: u8) -> bool {
    matches!(to, state::SYN_SENT | state::LISTEN | state::NEW_SYN_RECV)
}

#[inline(always)]
fn on_state_change(sk: Address, from: u8, to: u8, cookie: impl FnOnce() -> u64) {
    let Some(watch) = limit::watched(sk) else { return };
    if to != state::CLOSE && watch.is_over() {
        // Another socket by now.
        limit::unwatch(sk);
        return;
    }
    let event = SocketEvent { old_state: from, ..SocketEvent::new(hook::INET_SOCK_SET_STATE, Kind::Full, to) };
    socket_event(event, Limit::Watched(watch), sk, cookie);
    if to == state::CLOSE {
        limit::unwatch(sk);
    }
}

/// The kernel tells the application of an error.
///
/// Kernel function `sk_error_report` (`net/core/sock.c`), since 5.14. Ordinary: refused and reset connections (the reset
/// hooks tell of those that were established) and a broken pipe. The classic tracepoint names no socket and no namespace,
/// so there is no classic program for it. The function is called for sockets of every family; those without a TCP tuple are
/// no event. From 6.10 the socket is in CLOSE by now, before that still in its old state.
#[btf_tracepoint(function = "inet_sk_error_report")]
fn inet_sk_error_report(ctx: BtfTracePointContext) -> i32 {
    if let Some((sk, raw)) = socket_argument(ctx.arg(0)) {
        on_error_report(sk, || cookie(raw));
    }
    0
}

#[fentry(function = "sk_error_report")]
fn sk_error_report_fentry(ctx: FEntryContext) -> i32 {
    if let Some((sk, raw)) = socket_argument(ctx.arg(0)) {
        on_error_report(sk, || cookie(raw));
    }
    0
}

#[kprobe]
fn sk_error_report_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(sk) = kprobe_socket(&ctx, 0) {
        on_error_report(sk, no_cookie);
    }
    0
}

#[inline(always)]
fn on_error_report(sk: Address, cookie: impl FnOnce() -> u64) {
    if !socket::is_tcp(sk) {
        return;
    }
    let (Some(error), Some(state)) = (sk.read::<i32>(Field::SkErr), sk.state()) else { return };
    if is_ordinary_error(error) {
        return;
    }
    let event = SocketEvent::new(hook::INET_SK_ERROR_REPORT, Kind::Full, state);
    socket_event(event, Limit::Connection, sk, cookie);
    if state == state::CLOSE {
        // `socket_event` put it under suspicion again, and no further state change will end that.
        limit::unwatch(sk);
    }
}

#[inline(always)]
fn is_ordinary_error(errno: i32) -> bool {
    const NONE: i32 = 0;
    const EPIPE: i32 = 32;
    const ECONNABORTED: i32 = 103;
    const ECONNRESET: i32 = 104;
    const ECONNREFUSED: i32 = 111;
    matches!(errno, NONE | EPIPE | ECONNABORTED | ECONNRESET | ECONNREFUSED)
}
