//! `sock:inet_sock_set_state` again, for records of connections that are over. These programs are loaded only when such records are
//! asked for.
//!
//! Kernel functions and minimum kernels as of [`super::sock`]. A connection is remembered from SYN-SENT on, or where the peer opened it,
//! from ESTABLISHED on: a listener's child comes to be when the handshake is complete (`tcp_check_req`). At CLOSE one record tells all;
//! the socket itself has counted what went over it.
//!
//! What its state was before CLOSE tells which FIN came first (RFC 9293 section 3.6), `sk_err` which error, for the kernel sets it before
//! the state (`tcp_reset`, `tcp_write_err`). Going to TIME-WAIT, and with the socket closed already to FIN-WAIT-2, the kernel replaces
//! the socket with a small one and closes it (`tcp_time_wait`): what comes later is not seen.
//!
//! The owner: state changes run in softirq, where the current task is a stranger. Only three are made by system calls alone and so in
//! the owner's own context: to SYN-SENT (`tcp_v4_connect`), to FIN-WAIT-1 and LAST-ACK (`tcp_close_state`), and with them CLOSE of a
//! connection that its own end aborts, without an error. Blind spot: who has accepted a connection that the peer resets.
//!
//! When: TCP reads the same clock at each segment that comes in and keeps the time (`tcp_mstamp_refresh`), so that it is read here only
//! where a system call or a timer makes the change. (The fields of a socket are loads, where the verifier knows the pointer: see
//! [`crate::memory`].)
//!
//! Cost: of a change to SYN-RECEIVED, FIN-WAIT-2, CLOSE-WAIT, CLOSING or LISTEN a comparison; of others a look-up in an array
//! ([`crate::lives`]), a clock or two a connection, the name of the current task once, and one record.

use aya_ebpf::{
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid},
    macros::{btf_tracepoint, fentry, kprobe, tracepoint},
    programs::{BtfTracePointContext, FEntryContext, ProbeContext, TracePointContext},
};
use connprobe_common::{abi::hook, connection, fields::Field};

use super::{classic_field, classic_socket, kprobe_argument, kprobe_socket};
use crate::{
    clock,
    emit::connection::connection_event,
    filter,
    globals::settings,
    lives::{Life, Place},
    memory::{Known, Memory},
    socket::{self, state},
};

/// A bit of `enum sock_flags`, the same in every kernel since 2.6. Of it depends only which clock is read.
const SOCK_DONE: u64 = 1 << 1;

#[btf_tracepoint(function = "inet_sock_set_state")]
fn lifecycle_inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    let (from, to) = (ctx.arg::<i32>(1) as u8, ctx.arg::<i32>(2) as u8);
    if is_told(to)
        && let Some(sk) = Known::socket(ctx.arg(0))
    {
        on_state_change(sk, from, to);
    }
    0
}

#[tracepoint]
fn lifecycle_inet_sock_set_state_classic(ctx: TracePointContext) -> u32 {
    // SAFETY: both point into the settings.
    let (from_offset, to_offset) =
        unsafe { (&raw const (*settings()).classic_oldstate_offset, &raw const (*settings()).classic_newstate_offset) };
    // One after the other, as of the program for suspicions.
    let Some(to) = classic_field::<i32>(&ctx, to_offset) else { return 0 };
    if !is_told(to as u8) {
        return 0;
    }
    let Some(from) = classic_field::<i32>(&ctx, from_offset) else { return 0 };
    if let Some(sk) = classic_socket(&ctx, hook::INET_SOCK_SET_STATE) {
        on_state_change(sk, from as u8, to as u8);
    }
    0
}

#[fentry(function = "tcp_set_state")]
fn lifecycle_tcp_set_state_fentry(ctx: FEntryContext) -> i32 {
    let to = ctx.arg::<i32>(1) as u8;
    if is_told(to)
        && let Some(sk) = Known::socket(ctx.arg(0))
        && let Some(from) = sk.read(Field::SkState)
    {
        on_state_change(sk, from, to);
    }
    0
}

#[kprobe]
fn lifecycle_tcp_set_state_kprobe(ctx: ProbeContext) -> u32 {
    let Some(to) = kprobe_argument(&ctx, 1) else { return 0 };
    if is_told(to as u8)
        && let Some(sk) = kprobe_socket(&ctx, 0)
        && let Some(from) = sk.state()
    {
        on_state_change(sk, from, to as u8);
    }
    0
}

/// Whether something is to be learned from a change to this state.
#[inline(always)]
fn is_told(to: u8) -> bool {
    matches!(to, state::SYN_SENT | state::ESTABLISHED | state::FIN_WAIT1 | state::LAST_ACK | state::CLOSE)
}

#[inline(always)]
fn on_state_change<M: Memory>(sk: M, from: u8, to: u8) {
    // Other protocols have the same states (`IPPROTO_MPTCP`, SCTP).
    if !socket::is_tcp(sk) {
        return;
    }
    let Some(place) = Place::of(sk.address()) else { return };
    match to {
        state::SYN_SENT => {
            if let Some(life) = place.life_to_write() {
                *life = Life { opened_ns: clock::now_ns(), role: connection::ROLE_ACTIVE, ..Life::UNSEEN };
                note_owner(life, connection::OWNER_CONNECTED);
            }
        }
        state::ESTABLISHED => on_established(sk, place, from),
        state::CLOSE => on_close(sk, place, from),
        _ => on_closing(sk, place),
    }
}

/// When the segment came in that is being looked at: the same clock, which TCP has read for itself (`tcp_mstamp_refresh`).
#[inline(always)]
fn received_ns<M: Memory>(sk: M) -> u64 {
    match sk.read::<u64>(Field::TpClockCache) {
        Some(0) | None => clock::now_ns(),
        Some(received_ns) => received_ns,
    }
}

#[inline(always)]
fn on_established<M: Memory>(sk: M, place: Place, from: u8) {
    // At SYN-SENT its port need not be known yet.
    if !filter::passes_socket(sk) {
        place.leave();
        return;
    }
    // It is a segment that establishes it, but where a socket is put back as it once was (TCP_REPAIR): that was opened now, too.
    let Some(tcp) = sk.tcp() else { return };
    let established_ns = received_ns(tcp);
    // Otherwise it is of a socket whose end was missed.
    if let Some(life) = place.life()
        && life.established_ns == 0
        && life.opened_ns != 0
    {
        life.established_ns = if established_ns > life.opened_ns { established_ns } else { life.opened_ns };
        return;
    }
    let (role, opened_ns) =
        if from == state::SYN_SENT { (connection::ROLE_ACTIVE, 0) } else { (connection::ROLE_PASSIVE, established_ns) };
    if let Some(life) = place.life_to_write() {
        *life = Life { opened_ns, established_ns, role, ..Life::UNSEEN };
    }
}

/// The application closes it, or its half of it.
#[inline(always)]
fn on_closing<M: Memory>(sk: M, place: Place) {
    let life = match place.life() {
        Some(life) => life,
        None if filter::passes_socket(sk) => {
            let Some(life) = place.life_to_write() else { return };
            *life = Life::UNSEEN;
            life
        }
        None => return,
    };
    if life.owner_from == connection::OWNER_UNKNOWN {
        note_owner(life, connection::OWNER_CLOSED);
    }
}

#[inline(always)]
fn on_close<M: Memory>(sk: M, place: Place, from: u8) {
    // Neither a listener nor a socket that never had a connection is one.
    if matches!(from, state::CLOSE | state::LISTEN) {
        return;
    }
    let mut life = match place.life() {
        Some(life) => *life,
        // A listener's child that another one has made needless, or that could not be made (`inet_ehash_nolisten`, `tcp_v4_syn_recv_sock`):
        // its tuple may be that of a connection that lives.
        None if from == state::SYN_RECV => return,
        None => Life::UNSEEN,
    };
    if life.opened_ns | life.established_ns != 0 && !place.is_held() {
        // What was copied may be another's by half.
        life = Life::UNSEEN;
    }
    if let Some(tcp) = sk.tcp() {
        tell(tcp, from, &mut life);
    }
    place.leave();
}

#[inline(always)]
fn tell<M: Memory>(sk: M, from: u8, life: &mut Life) {
    let is_aborted_here =
        matches!(from, state::ESTABLISHED | state::CLOSE_WAIT) && sk.read::<i32>(Field::SkErr) == Some(0);
    if life.owner_from == connection::OWNER_UNKNOWN && is_aborted_here {
        note_owner(life, connection::OWNER_CLOSED);
    }
    let now_ns = if is_ended_by_segment(sk, from) { received_ns(sk) } else { clock::now_ns() };
    connection_event(sk, from, life, now_ns);
}

/// Whether it is the peer's FIN that ends it, or the last ACK. All else may come of a system call or a timer.
#[inline(always)]
fn is_ended_by_segment<M: Memory>(sk: M, from: u8) -> bool {
    match from {
        // `SOCK_DONE`: `tcp_fin` leaves this state at once.
        state::FIN_WAIT2 => sk.read::<u64>(Field::SkFlags).is_some_and(|flags| flags & SOCK_DONE != 0),
        state::LAST_ACK => match (sk.read::<u32>(Field::TpWriteSeq), sk.read::<u32>(Field::TpSndUna)) {
            (Some(write_seq), Some(snd_una)) => write_seq == snd_una,
            _ => false,
        },
        _ => false,
    }
}

/// Only where the change is made by a system call of the owner.
#[inline(always)]
fn note_owner(life: &mut Life, owner_from: u8) {
    if let Ok(comm) = bpf_get_current_comm() {
        life.comm = comm;
        life.pid = (bpf_get_current_pid_tgid() >> 32) as u32;
        life.owner_from = owner_from;
    }
}
