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
//! Cost: of a change to FIN-WAIT-2, CLOSE-WAIT, CLOSING or LISTEN a comparison; an insertion and a removal a connection, one or two
//! look-ups, its tuple read twice, one record.

use aya_ebpf::{
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::{btf_tracepoint, fentry, kprobe, map, tracepoint},
    maps::LruHashMap,
    programs::{BtfTracePointContext, FEntryContext, ProbeContext, TracePointContext},
};
use connprobe_common::{abi::hook, connection, fields::Field};

use super::{classic_field, classic_socket, kprobe_argument, kprobe_socket, socket_argument};
use crate::{
    emit::connection::{Life, connection_event},
    filter,
    globals::settings,
    socket::{self, Address, state},
};

const IPPROTO_TCP: u16 = 6;

/// Connections that are remembered at once, those longest without a change forgotten first: of them it is not known when they were
/// opened. One unless user space makes room before loading, for the map is used only when asked for.
#[map]
static LIVES: LruHashMap<u64, Life> = LruHashMap::with_max_entries(1, 0);

#[btf_tracepoint(function = "inet_sock_set_state")]
fn lifecycle_inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    let (from, to) = (ctx.arg::<i32>(1) as u8, ctx.arg::<i32>(2) as u8);
    if is_told(to)
        && let Some((sk, _)) = socket_argument(ctx.arg(0))
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
        && let Some((sk, _)) = socket_argument(ctx.arg(0))
        && let Some(from) = sk.state()
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
fn on_state_change(sk: Address, from: u8, to: u8) {
    // Other protocols have the same states (`IPPROTO_MPTCP`, SCTP).
    if sk.read::<u16>(Field::SkProtocol) != Some(IPPROTO_TCP) {
        return;
    }
    // SAFETY: the helper takes nothing and only reads a clock.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    match to {
        state::SYN_SENT => {
            let mut life = Life { opened_ns: now_ns, role: connection::ROLE_ACTIVE, ..Life::UNSEEN };
            note_owner(&mut life, connection::OWNER_CONNECTED);
            let _ = LIVES.insert(&sk.0, &life, 0);
        }
        state::ESTABLISHED => on_established(sk, from, now_ns),
        state::CLOSE => on_close(sk, from, now_ns),
        _ => on_closing(sk),
    }
}

#[inline(always)]
fn on_established(sk: Address, from: u8, now_ns: u64) {
    // At SYN-SENT its port need not be known yet.
    if !socket::tuple(sk).is_some_and(|tuple| filter::passes(&tuple)) {
        let _ = LIVES.remove(&sk.0);
        return;
    }
    if let Some(life) = LIVES.get_ptr_mut(&sk.0) {
        // SAFETY: a map value stays valid while the program runs, and the socket's lock keeps its changes apart.
        let life = unsafe { &mut *life };
        // Otherwise it is of a socket whose end was missed.
        if life.established_ns == 0 && life.opened_ns != 0 {
            life.established_ns = now_ns;
            return;
        }
    }
    let (role, opened_ns) =
        if from == state::SYN_SENT { (connection::ROLE_ACTIVE, 0) } else { (connection::ROLE_PASSIVE, now_ns) };
    let life = Life { opened_ns, established_ns: now_ns, role, ..Life::UNSEEN };
    let _ = LIVES.insert(&sk.0, &life, 0);
}

/// The application closes it, or its half of it.
#[inline(always)]
fn on_closing(sk: Address) {
    match LIVES.get_ptr_mut(&sk.0) {
        Some(life) => {
            // SAFETY: as above.
            let life = unsafe { &mut *life };
            if life.owner_from == connection::OWNER_UNKNOWN {
                note_owner(life, connection::OWNER_CLOSED);
            }
        }
        None if socket::tuple(sk).is_some_and(|tuple| filter::passes(&tuple)) => {
            let mut life = Life::UNSEEN;
            note_owner(&mut life, connection::OWNER_CLOSED);
            let _ = LIVES.insert(&sk.0, &life, 0);
        }
        None => {}
    }
}

#[inline(always)]
fn on_close(sk: Address, from: u8, now_ns: u64) {
    // Neither a listener nor a socket that never had a connection is one.
    if matches!(from, state::CLOSE | state::LISTEN) {
        return;
    }
    let mut life = match LIVES.get_ptr(&sk.0) {
        // SAFETY: copied out at once.
        Some(life) => unsafe { *life },
        // A listener's child that another one has made needless, or that could not be made (`inet_ehash_nolisten`, `tcp_v4_syn_recv_sock`):
        // its tuple may be that of a connection that lives.
        None if from == state::SYN_RECV => return,
        None => Life::UNSEEN,
    };
    let _ = LIVES.remove(&sk.0);
    let is_aborted_here =
        matches!(from, state::ESTABLISHED | state::CLOSE_WAIT) && sk.read::<i32>(Field::SkErr) == Some(0);
    if life.owner_from == connection::OWNER_UNKNOWN && is_aborted_here {
        note_owner(&mut life, connection::OWNER_CLOSED);
    }
    connection_event(sk, from, &life, now_ns);
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
