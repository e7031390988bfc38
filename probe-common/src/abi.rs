//! Records on the ring and counters in the per-CPU map.

#[cfg(feature = "zerocopy")]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of every layout in this crate. A record of another version is refused by user space.
pub const ABI_VERSION: u16 = 3;

/// Hook numbers: the index into the counters.
pub mod hook {
    /// `sock:inet_sock_set_state`
    pub const INET_SOCK_SET_STATE: u16 = 0;
    /// `tcp:tcp_retransmit_skb`
    pub const TCP_RETRANSMIT_SKB: u16 = 1;
    /// `tcp:tcp_retransmit_synack`
    pub const TCP_RETRANSMIT_SYNACK: u16 = 2;
    /// `tcp:tcp_receive_reset`
    pub const TCP_RECEIVE_RESET: u16 = 3;
    /// `tcp:tcp_send_reset`
    pub const TCP_SEND_RESET: u16 = 4;
    /// `sock:inet_sk_error_report`
    pub const INET_SK_ERROR_REPORT: u16 = 5;
    /// `skb:kfree_skb`: a SYN or a SYN-ACK for a synchronized connection, or a segment as in [`super::DropRecord`], was dropped
    pub const KFREE_SKB: u16 = 6;
    /// `tcp_write_wakeup()` and `tcp_send_probe0()`: a probe was sent
    pub const TCP_WRITE_WAKEUP: u16 = 7;
    /// `nf_l4proto_log_invalid()` and `nf_ct_l4proto_log_invalid()`: connection tracking holds a packet for invalid
    pub const NF_CT_LOG_INVALID: u16 = 8;
    /// How many hooks there are.
    pub const COUNT: usize = 9;

    /// No hook of the counters: a connection is over, [`crate::connection::ConnectionRecord`].
    pub const LIFECYCLE: u16 = u16::MAX - 1;

    /// No hook: the record was written by the scan over all sockets, and counts nowhere.
    pub const SCAN: u16 = u16::MAX;
}

/// Address families as the kernel numbers them (`AF_INET`, `AF_INET6`).
pub mod family {
    /// `AF_INET`
    pub const INET: u16 = 2;
    /// `AF_INET6`
    pub const INET6: u16 = 10;
}

/// `SocketRecord::old_state` and `new_state` when only a packet was at hand, and no socket.
pub const UNKNOWN_STATE: u8 = 0;

/// `SocketRecord::result` when the hook has no result to tell.
pub const NO_RESULT: i32 = i32::MIN;

/// One suspicious event on one socket, as written to the ring. All integers are in the host's byte order unless said.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "zerocopy", derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
#[repr(C)]
pub struct SocketRecord {
    /// [`ABI_VERSION`].
    pub abi_version: u16,
    /// The hook that raised it, one of [`hook`].
    pub hook: u16,
    /// Size of the whole record in bytes.
    pub size: u32,
    /// `bpf_ktime_get_ns()`: `CLOCK_MONOTONIC`, nanoseconds.
    pub ktime_ns: u64,
    /// `bpf_jiffies64()` at the same moment.
    pub jiffies: u64,
    /// Set of [`crate::fields::Field::bit`]s that were read; a field whose bit is clear is unavailable, whatever it holds.
    pub available: u64,
    /// Socket cookie; 0 when the kernel has not given one yet.
    pub cookie: u64,
    /// `sk_flags`, a set of `enum sock_flags` bits.
    pub sk_flags: u64,
    /// Local address in network order, IPv4 mapped into IPv6.
    pub local_address: [u8; 16],
    /// Remote address in network order, IPv4 mapped into IPv6.
    pub remote_address: [u8; 16],
    /// Local port, host order.
    pub local_port: u16,
    /// Remote port, host order.
    pub remote_port: u16,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// State before, for a state change; otherwise the state.
    pub old_state: u8,
    /// State after, for a state change; otherwise the state.
    pub new_state: u8,
    /// `icsk_retransmits`; of a request socket `num_timeout`, how often its timer had fired before this.
    pub retransmits: u8,
    /// `icsk_backoff`.
    pub backoff: u8,
    /// `icsk_probes_out`.
    pub probes_out: u8,
    /// `tp->keepalive_probes`; 0 means the namespace's default.
    pub keepalive_probes: u8,
    /// `net->ipv4.sysctl_tcp_retries2`.
    pub tcp_retries2: u8,
    /// `net->ipv4.sysctl_tcp_orphan_retries`.
    pub tcp_orphan_retries: u8,
    /// `icsk_rto`, jiffies.
    pub rto_jiffies: u32,
    /// `icsk_rto_max`, jiffies.
    pub rto_max_jiffies: u32,
    /// `icsk_user_timeout`, milliseconds.
    pub user_timeout_ms: u32,
    /// `tp->snd_una`.
    pub snd_una: u32,
    /// `tp->snd_nxt`.
    pub snd_nxt: u32,
    /// `tp->write_seq`.
    pub write_seq: u32,
    /// `tp->snd_wnd`, bytes.
    pub snd_wnd: u32,
    /// `tp->packets_out`, segments.
    pub packets_out: u32,
    /// `tp->total_retrans`, segments; of a request socket `num_retrans`, SYN-ACKs sent again before this.
    pub total_retrans: u32,
    /// `tp->retrans_stamp`: low 32 bits of `CLOCK_MONOTONIC` in milliseconds, or microseconds with `usec_ts`; 0 for none.
    pub retrans_stamp: u32,
    /// `tp->rcv_tstamp`: low 32 bits of jiffies at the last acceptable ACK.
    pub rcv_tstamp_jiffies: u32,
    /// `tp->keepalive_time`, jiffies; 0 means the namespace's default.
    pub keepalive_time_jiffies: u32,
    /// `tp->keepalive_intvl`, jiffies; 0 means the namespace's default.
    pub keepalive_intvl_jiffies: u32,
    /// `sk_rx_dst_ifindex`.
    pub ingress_ifindex: u32,
    /// `sk_dst_cache->dev->ifindex`.
    pub egress_ifindex: u32,
    /// `sk_err`, a positive errno.
    pub error: i32,
    /// The hook's own result: what sending the retransmission returned, or [`NO_RESULT`].
    pub result: i32,
    /// `tp->tcp_usec_ts`: 1 when `retrans_stamp` is in microseconds.
    pub usec_ts: u8,
    /// `icsk_pending`: which timer `retransmit_expires_jiffies` is about, `ICSK_TIME_*` of `include/net/inet_connection_sock.h`.
    pub pending: u8,
    /// `net->ipv4.sysctl_tcp_keepalive_probes`.
    pub net_keepalive_probes: u8,
    /// Of [`hook::KFREE_SKB`]: the flags of the TCP segment that came in; else 0.
    pub segment_flags: u8,
    /// `icsk_retransmit_timer.expires`: when the pending timer fires, in jiffies as a `long`.
    pub retransmit_expires_jiffies: u64,
    /// `sk_timer.expires`: when the keepalive timer (also that of FIN-WAIT-2) fires, in jiffies as a `long`; stale when it is
    /// not armed.
    pub sk_timer_expires_jiffies: u64,
    /// `icsk_probes_tstamp`: low 32 bits of jiffies at the first unanswered probe; 0 for none.
    pub probes_tstamp_jiffies: u32,
    /// `icsk_ack.lrcvtime`: low 32 bits of jiffies when data last came in.
    pub lrcvtime_jiffies: u32,
    /// `net->ipv4.sysctl_tcp_keepalive_time`, jiffies.
    pub net_keepalive_time_jiffies: u32,
    /// `net->ipv4.sysctl_tcp_keepalive_intvl`, jiffies.
    pub net_keepalive_intvl_jiffies: u32,
    /// `sk_err_soft`, a positive errno: an ICMP error that is remembered, not reported; 0 for none.
    pub soft_error: i32,
    /// Milliseconds since a segment last came in or left (`tp->tcp_mstamp`), at most what fits; only from the scan for idle
    /// connections, for to the hooks it is always now.
    pub segment_ago_ms: u32,
    /// Inode number of the socket's file in `sockfs`; 0 when no process holds it.
    pub inode: u64,
}

const _: () = {
    use core::mem::offset_of;
    assert!(offset_of!(SocketRecord, abi_version) == 0);
    assert!(offset_of!(SocketRecord, hook) == 2);
    assert!(offset_of!(SocketRecord, size) == 4);
    assert!(offset_of!(SocketRecord, ktime_ns) == 8);
    assert!(offset_of!(SocketRecord, jiffies) == 16);
    assert!(offset_of!(SocketRecord, available) == 24);
    assert!(offset_of!(SocketRecord, cookie) == 32);
    assert!(offset_of!(SocketRecord, sk_flags) == 40);
    assert!(offset_of!(SocketRecord, local_address) == 48);
    assert!(offset_of!(SocketRecord, remote_address) == 64);
    assert!(offset_of!(SocketRecord, local_port) == 80);
    assert!(offset_of!(SocketRecord, remote_port) == 82);
    assert!(offset_of!(SocketRecord, netns) == 84);
    assert!(offset_of!(SocketRecord, old_state) == 88);
    assert!(offset_of!(SocketRecord, new_state) == 89);
    assert!(offset_of!(SocketRecord, retransmits) == 90);
    assert!(offset_of!(SocketRecord, backoff) == 91);
    assert!(offset_of!(SocketRecord, probes_out) == 92);
    assert!(offset_of!(SocketRecord, keepalive_probes) == 93);
    assert!(offset_of!(SocketRecord, tcp_retries2) == 94);
    assert!(offset_of!(SocketRecord, tcp_orphan_retries) == 95);
    assert!(offset_of!(SocketRecord, rto_jiffies) == 96);
    assert!(offset_of!(SocketRecord, rto_max_jiffies) == 100);
    assert!(offset_of!(SocketRecord, user_timeout_ms) == 104);
    assert!(offset_of!(SocketRecord, snd_una) == 108);
    assert!(offset_of!(SocketRecord, snd_nxt) == 112);
    assert!(offset_of!(SocketRecord, write_seq) == 116);
    assert!(offset_of!(SocketRecord, snd_wnd) == 120);
    assert!(offset_of!(SocketRecord, packets_out) == 124);
    assert!(offset_of!(SocketRecord, total_retrans) == 128);
    assert!(offset_of!(SocketRecord, retrans_stamp) == 132);
    assert!(offset_of!(SocketRecord, rcv_tstamp_jiffies) == 136);
    assert!(offset_of!(SocketRecord, keepalive_time_jiffies) == 140);
    assert!(offset_of!(SocketRecord, keepalive_intvl_jiffies) == 144);
    assert!(offset_of!(SocketRecord, ingress_ifindex) == 148);
    assert!(offset_of!(SocketRecord, egress_ifindex) == 152);
    assert!(offset_of!(SocketRecord, error) == 156);
    assert!(offset_of!(SocketRecord, result) == 160);
    assert!(offset_of!(SocketRecord, usec_ts) == 164);
    assert!(offset_of!(SocketRecord, pending) == 165);
    assert!(offset_of!(SocketRecord, net_keepalive_probes) == 166);
    assert!(offset_of!(SocketRecord, segment_flags) == 167);
    assert!(offset_of!(SocketRecord, retransmit_expires_jiffies) == 168);
    assert!(offset_of!(SocketRecord, sk_timer_expires_jiffies) == 176);
    assert!(offset_of!(SocketRecord, probes_tstamp_jiffies) == 184);
    assert!(offset_of!(SocketRecord, lrcvtime_jiffies) == 188);
    assert!(offset_of!(SocketRecord, net_keepalive_time_jiffies) == 192);
    assert!(offset_of!(SocketRecord, net_keepalive_intvl_jiffies) == 196);
    assert!(offset_of!(SocketRecord, soft_error) == 200);
    assert!(offset_of!(SocketRecord, segment_ago_ms) == 204);
    assert!(offset_of!(SocketRecord, inode) == 208);
    assert!(size_of::<SocketRecord>() == 216);
};

/// How many bytes of a packet's headers are kept: more than the 120 of an IPv4 and a TCP header at their longest (RFC 791 section 3.1,
/// RFC 9293 section 3.1), and a power of two, so that one mask bounds them. An IPv6 header is shorter.
pub const MAX_HEADERS_BYTES: usize = 128;

/// A segment that was thrown away, as written to the ring: a FIN, a RST, a SYN-ACK, a SYN that came by an unexpected interface, or any
/// of a connection under suspicion. All integers are in the host's byte order unless said.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "zerocopy", derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
#[repr(C)]
pub struct DropRecord {
    /// [`ABI_VERSION`].
    pub abi_version: u16,
    /// [`hook::KFREE_SKB`].
    pub hook: u16,
    /// Size of the whole record in bytes.
    pub size: u32,
    /// `bpf_ktime_get_ns()`: `CLOCK_MONOTONIC`, nanoseconds.
    pub ktime_ns: u64,
    /// Where in the kernel's code it was dropped: the address after the call.
    pub location: u64,
    /// Why: the code that [`crate::settings::Settings::told_reasons`] has for the kernel's reason.
    pub reason: u32,
    /// Inode number of the network namespace it was in.
    pub netns: u32,
    /// The interface it came in by (`skb_iif`); 0 for one that this host has made.
    pub ingress_ifindex: u32,
    /// Bytes from the IP header to the end of the packet, as the kernel holds it.
    pub packet_bytes: u32,
    /// How many of `headers` are filled.
    pub headers_bytes: u16,
    /// `ip_summed`: what is known of its checksum (`CHECKSUM_*` of `include/linux/skbuff.h`); [`UNKNOWN`] where not read.
    pub checksum_state: u8,
    /// 1 when connection tracking has given it a connection, 0 when not; [`UNKNOWN`] where not read.
    pub is_tracked: u8,
    /// Always zero.
    pub padding: [u8; 4],
    /// IP header, then TCP header, as on the wire. No data.
    pub headers: [u8; MAX_HEADERS_BYTES],
    /// By which calls the kernel got there: return addresses, the innermost first; 0 behind the last.
    pub stack: [u64; MAX_STACK_FRAMES],
    /// Of one that came in: the address of the link layer it is for, where that is Ethernet; else other bytes before the IP header, or zeros.
    pub destination_mac: [u8; 6],
    /// Always zero.
    pub padding_2: [u8; 2],
}

/// How many return addresses are kept: from a rule of nftables to the function that received the packet there are at most eight, and
/// the program's own and the tracepoint's come before.
pub const MAX_STACK_FRAMES: usize = 12;

/// In a byte of [`DropRecord`]: this kernel does not tell.
pub const UNKNOWN: u8 = u8::MAX;

const _: () = {
    use core::mem::offset_of;
    assert!(offset_of!(DropRecord, abi_version) == 0);
    assert!(offset_of!(DropRecord, hook) == 2);
    assert!(offset_of!(DropRecord, size) == 4);
    assert!(offset_of!(DropRecord, ktime_ns) == 8);
    assert!(offset_of!(DropRecord, location) == 16);
    assert!(offset_of!(DropRecord, reason) == 24);
    assert!(offset_of!(DropRecord, netns) == 28);
    assert!(offset_of!(DropRecord, ingress_ifindex) == 32);
    assert!(offset_of!(DropRecord, packet_bytes) == 36);
    assert!(offset_of!(DropRecord, headers_bytes) == 40);
    assert!(offset_of!(DropRecord, checksum_state) == 42);
    assert!(offset_of!(DropRecord, is_tracked) == 43);
    assert!(offset_of!(DropRecord, padding) == 44);
    assert!(offset_of!(DropRecord, headers) == 48);
    assert!(offset_of!(DropRecord, stack) == 176);
    assert!(offset_of!(DropRecord, destination_mac) == 272);
    assert!(offset_of!(DropRecord, padding_2) == 278);
    assert!(size_of::<DropRecord>() == 280);
};

/// How many bytes are kept of the text by which connection tracking says why a packet is invalid; the longest of 6.18 has 62.
pub const MAX_REASON_BYTES: usize = 80;

/// [`InvalidRecord::zone`] where no connection was at hand, or this kernel does not tell.
pub const NO_ZONE: u32 = u32::MAX;

/// A FIN or a RST that connection tracking holds for invalid, as written to the ring. All integers are in the host's byte order.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "zerocopy", derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
#[repr(C)]
pub struct InvalidRecord {
    /// The packet. Its `hook` is [`hook::NF_CT_LOG_INVALID`], its `size` that of the whole record, its `location` and `reason` are 0.
    pub packet: DropRecord,
    /// Why, in the kernel's words: a format string, ended by a zero byte.
    pub text: [u8; MAX_REASON_BYTES],
    /// `nf_conn.zone.id` of the connection it was taken for, or [`NO_ZONE`].
    pub zone: u32,
    /// `nf_hook_state.hook`: on which of netfilter's hooks it was looked at (`enum nf_inet_hooks`); [`UNKNOWN`] where not read.
    pub netfilter_hook: u8,
    /// Always zero.
    pub padding: [u8; 3],
}

const _: () = {
    use core::mem::offset_of;
    assert!(offset_of!(InvalidRecord, packet) == 0);
    assert!(offset_of!(InvalidRecord, text) == size_of::<DropRecord>());
    assert!(offset_of!(InvalidRecord, zone) == size_of::<DropRecord>() + 80);
    assert!(offset_of!(InvalidRecord, netfilter_hook) == size_of::<DropRecord>() + 84);
    assert!(offset_of!(InvalidRecord, padding) == size_of::<DropRecord>() + 85);
    assert!(size_of::<InvalidRecord>() == size_of::<DropRecord>() + 88);
    // By its length a record is told from the others.
    assert!(
        size_of::<InvalidRecord>() != size_of::<SocketRecord>() && size_of::<DropRecord>() != size_of::<SocketRecord>()
    );
};

/// What one hook did on one CPU. `seen == emitted + lost`; what was held back by a limit is counted apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "zerocopy", derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
#[repr(C)]
pub struct HookCounters {
    /// Suspicious events that passed filter and limit and asked for a place on the ring.
    pub seen: u64,
    /// Those that got it.
    pub emitted: u64,
    /// Those that did not because the ring was full.
    pub lost: u64,
    /// Suspicious events held back by the limit per connection or per CPU.
    pub suppressed: u64,
}

const _: () = assert!(size_of::<HookCounters>() == 32);
