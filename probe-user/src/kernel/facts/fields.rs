//! Which field of which kernel structure each [`Field`] is, and what it must look like.

use connprobe_common::fields::Field;

/// What a field's type must be for the programs to read it right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// An integer (or an enum, or an array or structure read as bytes) of so many bytes.
    Bytes(u32),
    /// A pointer to the named structure.
    PointerTo(&'static str),
    /// A bit-field of at most 8 bits.
    Bits,
}

/// The path to a field: a structure, and member names from it. Members of anonymous structures and unions count as the
/// structure's own, as in C.
#[derive(Clone, Copy, Debug)]
pub(super) struct FieldPath {
    pub(super) structure: &'static str,
    pub(super) members: &'static [&'static str],
    pub(super) shape: Shape,
}

/// Structures of which the first starts the second at offset 0, so that one pointer serves all their fields
/// (`struct tcp_sock` in `include/linux/tcp.h` and what it embeds).
pub(super) const NESTING: [(&str, &str); 4] =
    [("sock", "__sk_common"), ("inet_sock", "sk"), ("inet_connection_sock", "icsk_inet"), ("tcp_sock", "inet_conn")];

const fn at(structure: &'static str, members: &'static [&'static str], shape: Shape) -> FieldPath {
    FieldPath { structure, members, shape }
}

/// Where to look first for a field that has moved: other kernels have it at its [`path`], too, but use what lies there otherwise.
pub(super) const fn newer_path(field: Field) -> Option<FieldPath> {
    match field {
        // `tcp_reset_keepalive_timer`: of TCP's own from 6.19 and stable releases since (seen in 6.12.117); `sk_timer` is then
        // MPTCP's.
        Field::SkTimerExpires => {
            Some(at("inet_connection_sock", &["icsk_keepalive_timer", "expires"], Shape::Bytes(8)))
        }
        _ => None,
    }
}

/// Where to look for `field`.
pub(super) const fn path(field: Field) -> FieldPath {
    use Shape::{Bits, Bytes, PointerTo};
    match field {
        Field::SkFamily => at("sock_common", &["skc_family"], Bytes(2)),
        Field::SkState => at("sock_common", &["skc_state"], Bytes(1)),
        Field::SkDaddr => at("sock_common", &["skc_daddr"], Bytes(4)),
        Field::SkRcvSaddr => at("sock_common", &["skc_rcv_saddr"], Bytes(4)),
        Field::SkV6Daddr => at("sock_common", &["skc_v6_daddr"], Bytes(16)),
        Field::SkV6RcvSaddr => at("sock_common", &["skc_v6_rcv_saddr"], Bytes(16)),
        Field::SkDport => at("sock_common", &["skc_dport"], Bytes(2)),
        Field::SkNum => at("sock_common", &["skc_num"], Bytes(2)),
        Field::SkNet => at("sock_common", &["skc_net", "net"], PointerTo("net")),
        Field::SkCookie => at("sock_common", &["skc_cookie", "counter"], Bytes(8)),
        Field::SkProtocol => at("sock", &["sk_protocol"], Bytes(2)),
        Field::SkErr => at("sock", &["sk_err"], Bytes(4)),
        Field::SkFlags => at("sock_common", &["skc_flags"], Bytes(8)),
        Field::SkRxDstIfindex => at("sock", &["sk_rx_dst_ifindex"], Bytes(4)),
        Field::SkDstCache => at("sock", &["sk_dst_cache"], PointerTo("dst_entry")),
        Field::InetSport => at("inet_sock", &["inet_sport"], Bytes(2)),
        Field::IcskRetransmits => at("inet_connection_sock", &["icsk_retransmits"], Bytes(1)),
        Field::IcskBackoff => at("inet_connection_sock", &["icsk_backoff"], Bytes(1)),
        Field::IcskRto => at("inet_connection_sock", &["icsk_rto"], Bytes(4)),
        Field::IcskRtoMax => at("inet_connection_sock", &["icsk_rto_max"], Bytes(4)),
        Field::IcskUserTimeout => at("inet_connection_sock", &["icsk_user_timeout"], Bytes(4)),
        Field::IcskProbesOut => at("inet_connection_sock", &["icsk_probes_out"], Bytes(1)),
        Field::TpSndUna => at("tcp_sock", &["snd_una"], Bytes(4)),
        Field::TpSndNxt => at("tcp_sock", &["snd_nxt"], Bytes(4)),
        Field::TpWriteSeq => at("tcp_sock", &["write_seq"], Bytes(4)),
        Field::TpSndWnd => at("tcp_sock", &["snd_wnd"], Bytes(4)),
        Field::TpPacketsOut => at("tcp_sock", &["packets_out"], Bytes(4)),
        Field::TpTotalRetrans => at("tcp_sock", &["total_retrans"], Bytes(4)),
        Field::TpRetransStamp => at("tcp_sock", &["retrans_stamp"], Bytes(4)),
        Field::TpUsecTs => at("tcp_sock", &["tcp_usec_ts"], Bits),
        Field::TpRcvTstamp => at("tcp_sock", &["rcv_tstamp"], Bytes(4)),
        Field::TpTcpMstamp => at("tcp_sock", &["tcp_mstamp"], Bytes(8)),
        Field::TpKeepaliveTime => at("tcp_sock", &["keepalive_time"], Bytes(4)),
        Field::TpKeepaliveIntvl => at("tcp_sock", &["keepalive_intvl"], Bytes(4)),
        Field::TpKeepaliveProbes => at("tcp_sock", &["keepalive_probes"], Bytes(1)),
        Field::NetInum => at("net", &["ns", "inum"], Bytes(4)),
        Field::NetTcpRetries2 => at("net", &["ipv4", "sysctl_tcp_retries2"], Bytes(1)),
        Field::NetTcpOrphanRetries => at("net", &["ipv4", "sysctl_tcp_orphan_retries"], Bytes(1)),
        Field::DstDev => at("dst_entry", &["dev"], PointerTo("net_device")),
        Field::DevIfindex => at("net_device", &["ifindex"], Bytes(4)),
        Field::ReqNumTimeout => at("request_sock", &["num_timeout"], Bits),
        Field::ReqNumRetrans => at("request_sock", &["num_retrans"], Bytes(1)),
        Field::ReqAcked => at("inet_request_sock", &["acked"], Bits),
        Field::IcskPending => at("inet_connection_sock", &["icsk_pending"], Bytes(1)),
        Field::IcskTimeout => at("inet_connection_sock", &["icsk_retransmit_timer", "expires"], Bytes(8)),
        Field::IcskProbesTstamp => at("inet_connection_sock", &["icsk_probes_tstamp"], Bytes(4)),
        Field::SkTimerExpires => at("sock", &["sk_timer", "expires"], Bytes(8)),
        Field::IcskAckLrcvtime => at("inet_connection_sock", &["icsk_ack", "lrcvtime"], Bytes(4)),
        Field::NetKeepaliveTime => at("net", &["ipv4", "sysctl_tcp_keepalive_time"], Bytes(4)),
        Field::NetKeepaliveIntvl => at("net", &["ipv4", "sysctl_tcp_keepalive_intvl"], Bytes(4)),
        Field::SkErrSoft => at("sock", &["sk_err_soft"], Bytes(4)),
        Field::SkSocket => at("sock", &["sk_socket"], PointerTo("socket")),
        // `sk_socket` points at the first member of this (`SOCK_INODE`, `include/net/sock.h`).
        Field::SocketInode => at("socket_alloc", &["vfs_inode", "i_ino"], Bytes(8)),
        Field::SkbHead => at("sk_buff", &["head"], Bytes(8)),
        Field::SkbNetworkHeader => at("sk_buff", &["network_header"], Bytes(2)),
        Field::SkbDev => at("sk_buff", &["dev"], PointerTo("net_device")),
        Field::SkbRefdst => at("sk_buff", &["_skb_refdst"], Bytes(8)),
        Field::SkbData => at("sk_buff", &["data"], Bytes(8)),
        Field::SkbLen => at("sk_buff", &["len"], Bytes(4)),
        Field::SkbSkbIif => at("sk_buff", &["skb_iif"], Bytes(4)),
        Field::SkbIpSummed => at("sk_buff", &["ip_summed"], Bits),
        Field::SkbNfct => at("sk_buff", &["_nfct"], Bytes(8)),
        Field::SkbSk => at("sk_buff", &["sk"], PointerTo("sock")),
        Field::DevNet => at("net_device", &["nd_net", "net"], PointerTo("net")),
        Field::TpBytesSent => at("tcp_sock", &["bytes_sent"], Bytes(8)),
        Field::TpBytesRetrans => at("tcp_sock", &["bytes_retrans"], Bytes(8)),
        Field::TpBytesAcked => at("tcp_sock", &["bytes_acked"], Bytes(8)),
        Field::TpBytesReceived => at("tcp_sock", &["bytes_received"], Bytes(8)),
        Field::TpSegsOut => at("tcp_sock", &["segs_out"], Bytes(4)),
        Field::TpSegsIn => at("tcp_sock", &["segs_in"], Bytes(4)),
        Field::TpSrttUs => at("tcp_sock", &["srtt_us"], Bytes(4)),
        // `struct minmax`, of which the first sample is the minimum.
        Field::TpRttMin => at("tcp_sock", &["rtt_min"], Bytes(24)),
        Field::SkUid => at("sock", &["sk_uid"], Bytes(4)),
        Field::SkCgroup => at("sock", &["sk_cgrp_data", "cgroup"], PointerTo("cgroup")),
        Field::CgroupKn => at("cgroup", &["kn"], PointerTo("kernfs_node")),
        Field::KnId => at("kernfs_node", &["id"], Bytes(8)),
        Field::SkShutdown => at("sock", &["sk_shutdown"], Bytes(1)),
        Field::TpLinger2 => at("tcp_sock", &["linger2"], Bytes(4)),
        Field::TpClockCache => at("tcp_sock", &["tcp_clock_cache"], Bytes(8)),
        Field::TpDataSegsIn => at("tcp_sock", &["data_segs_in"], Bytes(4)),
        Field::NetKeepaliveProbes => at("net", &["ipv4", "sysctl_tcp_keepalive_probes"], Bytes(1)),
    }
}

/// Fields without which no event can be told apart from another connection's: a kernel lacking one cannot be observed.
pub(super) const INDISPENSABLE: [Field; 11] = [
    Field::SkFamily,
    Field::SkState,
    Field::SkDaddr,
    Field::SkRcvSaddr,
    Field::SkV6Daddr,
    Field::SkV6RcvSaddr,
    Field::SkDport,
    Field::SkNum,
    Field::SkNet,
    Field::NetInum,
    Field::IcskRetransmits,
];

/// The C spelling of a path, for people.
pub(in crate::kernel) fn spelled(field: Field) -> String {
    let path = path(field);
    format!("{}.{}", path.structure, path.members.join("."))
}

/// The field with this C spelling.
pub fn field_named(name: &str) -> Option<Field> {
    Field::ALL.into_iter().find(|field| spelled(*field) == name)
}

/// Fields that this kernel may lack without harm, because something else says the same.
pub(super) const fn is_expected_to_be_missing(field: Field) -> bool {
    // `icsk_rto_max` came in 6.15 (120 s before), `tcp_usec_ts` in 6.7 (milliseconds before); without CONFIG_SOCK_CGROUP_DATA sockets have
    // no cgroup.
    matches!(field, Field::IcskRtoMax | Field::TpUsecTs | Field::SkCgroup)
}
