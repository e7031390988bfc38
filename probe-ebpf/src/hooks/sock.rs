//! `sock:inet_sock_set_state`, `sock:inet_sk_error_report`.

use aya_ebpf::{
    macros::{btf_tracepoint, tracepoint},
    programs::{BtfTracePointContext, TracePointContext},
};
use connprobe_common::{abi::hook, fields::Field};

use super::{classic_field, classic_socket, cookie, no_cookie, socket_argument};
use crate::{
    emit::{self, Kind, Limit, SocketEvent},
    globals::settings,
    limit,
    socket::{Address, state},
};

const IPPROTO_TCP: u16 = 6;

/// A socket changes its state.
///
/// Kernel function `inet_sk_state_store` (`net/ipv4/af_inet.c`), since 4.16. Ordinary: every change of a socket that is not
/// under suspicion. Blind spot: request sockets (SYN-RECEIVED of a listener) have no such event. Cost of an ordinary one: a
/// comparison on the way up, one hash look-up on the way down.
#[btf_tracepoint(function = "inet_sock_set_state")]
fn inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    let (from, to) = (ctx.arg::<i32>(1) as u8, ctx.arg::<i32>(2) as u8);
    if begins(to) {
        return 0;
    }
    if let Some((sk, raw)) = socket_argument(&ctx, 0) {
        on_state_change(sk, from, to, || cookie(raw));
    }
    0
}

#[tracepoint]
fn inet_sock_set_state_classic(ctx: TracePointContext) -> u32 {
    // SAFETY: both point into the settings.
    let (from_offset, to_offset) =
        unsafe { (&raw const (*settings()).classic_oldstate_offset, &raw const (*settings()).classic_newstate_offset) };
    let (Some(from), Some(to)) = (classic_field::<i32>(&ctx, from_offset), classic_field::<i32>(&ctx, to_offset))
    else {
        return 0;
    };
    if begins(to as u8) {
        return 0;
    }
    if let Some(sk) = classic_socket(&ctx, hook::INET_SOCK_SET_STATE) {
        on_state_change(sk, from as u8, to as u8, no_cookie);
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
    if !limit::is_watched(sk) {
        return;
    }
    let event = SocketEvent {
        old_state: from,
        ..SocketEvent::new(hook::INET_SOCK_SET_STATE, Kind::Full, Limit::Connection, to)
    };
    emit::socket_event(event, sk, cookie);
    if to == state::CLOSE {
        limit::unwatch(sk);
    }
}

/// The kernel tells the application of an error.
///
/// Kernel function `sk_error_report` (`net/core/sock.c`), since 5.14. Ordinary: refused and reset connections (the reset
/// hooks tell of those that were established) and a broken pipe. The classic tracepoint names no socket and no namespace,
/// so there is no classic program for it. From 6.10 the socket is in CLOSE by now, before that still in its old state.
#[btf_tracepoint(function = "inet_sk_error_report")]
fn inet_sk_error_report(ctx: BtfTracePointContext) -> i32 {
    let Some((sk, raw)) = socket_argument(&ctx, 0) else { return 0 };
    if sk.read::<u16>(Field::SkProtocol) != Some(IPPROTO_TCP) {
        return 0;
    }
    let (Some(error), Some(state)) = (sk.read::<i32>(Field::SkErr), sk.state()) else { return 0 };
    if is_ordinary_error(error) {
        return 0;
    }
    emit::socket_event(SocketEvent::new(hook::INET_SK_ERROR_REPORT, Kind::Full, Limit::Connection, state), sk, || {
        cookie(raw)
    });
    if state == state::CLOSE {
        // `socket_event` put it under suspicion again, and no further state change will end that.
        limit::unwatch(sk);
    }
    0
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
