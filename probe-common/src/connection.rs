//! Records of connections that are over, on a ring of their own.

#[cfg(feature = "zerocopy")]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A connection that is over, as written to the ring of its own. All integers are in the host's byte order unless said.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "zerocopy", derive(FromBytes, IntoBytes, KnownLayout, Immutable))]
#[repr(C)]
pub struct ConnectionRecord {
    /// [`crate::abi::ABI_VERSION`].
    pub abi_version: u16,
    /// [`crate::abi::hook::LIFECYCLE`].
    pub hook: u16,
    /// Size of the whole record in bytes.
    pub size: u32,
    /// `bpf_ktime_get_ns()` when the socket went to CLOSE.
    pub ktime_ns: u64,
    /// The same when it went to SYN-SENT, or of a passive open to ESTABLISHED; 0 where that was not seen.
    pub opened_ns: u64,
    /// The same when it went to ESTABLISHED; 0 where it never did, or that was not seen.
    pub established_ns: u64,
    /// Socket cookie; 0 when the kernel has not given one.
    pub cookie: u64,
    /// `tp->bytes_sent`, with what was sent again.
    pub bytes_sent: u64,
    /// `tp->bytes_retrans`.
    pub bytes_retrans: u64,
    /// `tp->bytes_acked`, with SYN and FIN.
    pub bytes_acked: u64,
    /// `tp->bytes_received`, with the FIN.
    pub bytes_received: u64,
    /// `sk->sk_cgrp_data.cgroup->kn->id`: the inode number of the socket's cgroup.
    pub cgroup_id: u64,
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
    /// Set of the `HAS_*` bits: a field whose bit is clear is unavailable, whatever it holds.
    pub available: u32,
    /// `tp->segs_out`.
    pub segs_out: u32,
    /// `tp->segs_in`.
    pub segs_in: u32,
    /// `tp->total_retrans`, segments.
    pub total_retrans: u32,
    /// `tp->srtt_us`: eight times the smoothed round-trip time, in microseconds; 0 where none was measured.
    pub srtt_eighth_us: u32,
    /// `tp->rtt_min`, microseconds; `u32::MAX` where none was measured.
    pub rtt_min_us: u32,
    /// `sk_err`, a positive errno.
    pub error: i32,
    /// `sk_uid`.
    pub uid: u32,
    /// Process (thread group) that `owner_from` says of; 0 for none.
    pub pid: u32,
    /// State before CLOSE.
    pub old_state: u8,
    /// One of the `ROLE_*`.
    pub role: u8,
    /// One of the `OWNER_*`.
    pub owner_from: u8,
    /// `sk_shutdown`: [`RCV_SHUTDOWN`] and the other half's bit.
    pub shutdown: u8,
    /// Its command name, ended by a zero byte where it is shorter.
    pub comm: [u8; 16],
    /// The lower half of `sk_flags`, a set of `enum sock_flags` bits.
    pub sk_flags: u32,
    /// `tp->linger2`: TCP_LINGER2, jiffies; below 0 for a RST in place of FIN-WAIT-2.
    pub linger2_jiffies: i32,
    /// `tp->write_seq - tp->snd_una`: what the peer has not acknowledged, with this end's FIN.
    pub unacked: u32,
    /// `tp->data_segs_in`.
    pub data_segs_in: u32,
}

/// Buckets of the table of what was seen of open connections, a power of two: each socket has one by its address.
pub const LIFE_BUCKETS: u32 = 16_384;
/// Places in each bucket, a power of two.
pub const LIFE_WAYS: usize = 8;
/// What is remembered of a connection, in words.
pub const LIFE_WORDS: usize = 5;
/// Words of a bucket: the address of the socket that each place belongs to, 0 for none, and after those what the places hold.
pub const LIFE_BUCKET_WORDS: usize = LIFE_WAYS * (1 + LIFE_WORDS);

/// How it was opened was not seen.
pub const ROLE_UNKNOWN: u8 = 0;
/// By this end (`connect`).
pub const ROLE_ACTIVE: u8 = 1;
/// By the peer.
pub const ROLE_PASSIVE: u8 = 2;

/// No process was seen.
pub const OWNER_UNKNOWN: u8 = 0;
/// The one that called `connect`.
pub const OWNER_CONNECTED: u8 = 1;
/// The one that closed it or shut it down.
pub const OWNER_CLOSED: u8 = 2;

/// Bits of [`ConnectionRecord::available`].
pub const HAS_BYTES_SENT: u32 = 1 << 0;
/// `bytes_retrans`.
pub const HAS_BYTES_RETRANS: u32 = 1 << 1;
/// `bytes_acked`.
pub const HAS_BYTES_ACKED: u32 = 1 << 2;
/// `bytes_received`.
pub const HAS_BYTES_RECEIVED: u32 = 1 << 3;
/// `segs_out`.
pub const HAS_SEGS_OUT: u32 = 1 << 4;
/// `segs_in`.
pub const HAS_SEGS_IN: u32 = 1 << 5;
/// `total_retrans`.
pub const HAS_TOTAL_RETRANS: u32 = 1 << 6;
/// `srtt_eighth_us`.
pub const HAS_SRTT: u32 = 1 << 7;
/// `rtt_min_us`.
pub const HAS_RTT_MIN: u32 = 1 << 8;
/// `error`.
pub const HAS_ERROR: u32 = 1 << 9;
/// `uid`.
pub const HAS_UID: u32 = 1 << 10;
/// `cgroup_id`.
pub const HAS_CGROUP: u32 = 1 << 11;
/// `shutdown`.
pub const HAS_SHUTDOWN: u32 = 1 << 12;
/// `sk_flags`.
pub const HAS_SK_FLAGS: u32 = 1 << 13;
/// `linger2_jiffies`.
pub const HAS_LINGER2: u32 = 1 << 14;
/// `unacked`.
pub const HAS_UNACKED: u32 = 1 << 15;
/// `data_segs_in`.
pub const HAS_DATA_SEGS_IN: u32 = 1 << 16;

/// The bit of `sk_shutdown` for what comes in (`include/net/sock.h`).
pub const RCV_SHUTDOWN: u8 = 1;

const _: () = {
    use core::mem::offset_of;
    assert!(offset_of!(ConnectionRecord, abi_version) == 0);
    assert!(offset_of!(ConnectionRecord, hook) == 2);
    assert!(offset_of!(ConnectionRecord, size) == 4);
    assert!(offset_of!(ConnectionRecord, ktime_ns) == 8);
    assert!(offset_of!(ConnectionRecord, opened_ns) == 16);
    assert!(offset_of!(ConnectionRecord, established_ns) == 24);
    assert!(offset_of!(ConnectionRecord, cookie) == 32);
    assert!(offset_of!(ConnectionRecord, bytes_sent) == 40);
    assert!(offset_of!(ConnectionRecord, bytes_retrans) == 48);
    assert!(offset_of!(ConnectionRecord, bytes_acked) == 56);
    assert!(offset_of!(ConnectionRecord, bytes_received) == 64);
    assert!(offset_of!(ConnectionRecord, cgroup_id) == 72);
    assert!(offset_of!(ConnectionRecord, local_address) == 80);
    assert!(offset_of!(ConnectionRecord, remote_address) == 96);
    assert!(offset_of!(ConnectionRecord, local_port) == 112);
    assert!(offset_of!(ConnectionRecord, remote_port) == 114);
    assert!(offset_of!(ConnectionRecord, netns) == 116);
    assert!(offset_of!(ConnectionRecord, available) == 120);
    assert!(offset_of!(ConnectionRecord, segs_out) == 124);
    assert!(offset_of!(ConnectionRecord, segs_in) == 128);
    assert!(offset_of!(ConnectionRecord, total_retrans) == 132);
    assert!(offset_of!(ConnectionRecord, srtt_eighth_us) == 136);
    assert!(offset_of!(ConnectionRecord, rtt_min_us) == 140);
    assert!(offset_of!(ConnectionRecord, error) == 144);
    assert!(offset_of!(ConnectionRecord, uid) == 148);
    assert!(offset_of!(ConnectionRecord, pid) == 152);
    assert!(offset_of!(ConnectionRecord, old_state) == 156);
    assert!(offset_of!(ConnectionRecord, role) == 157);
    assert!(offset_of!(ConnectionRecord, owner_from) == 158);
    assert!(offset_of!(ConnectionRecord, shutdown) == 159);
    assert!(offset_of!(ConnectionRecord, comm) == 160);
    assert!(offset_of!(ConnectionRecord, sk_flags) == 176);
    assert!(offset_of!(ConnectionRecord, linger2_jiffies) == 180);
    assert!(offset_of!(ConnectionRecord, unacked) == 184);
    assert!(offset_of!(ConnectionRecord, data_segs_in) == 188);
    assert!(size_of::<ConnectionRecord>() == 192);
};
