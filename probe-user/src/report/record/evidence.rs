use std::{net::IpAddr, time::Duration};

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    finding::{EndpointBody, endpoint},
    place::PlaceBody,
    socket::SocketBody,
};
use crate::{
    judge::{Evidence, EvidenceKind},
    model::{ConntrackState, DroppedSegment, NetfilterHook},
    report::WallClock,
};

/// One thing that was seen.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct EvidenceBody {
    /// When.
    #[schemars(extend("format" = "date-time"))]
    pub time: String,
    /// Its name.
    pub kind: &'static str,
    /// A sentence.
    pub text: String,
    /// Its numbers.
    pub data: EvidenceData,
}

/// The numbers of a piece of evidence, by `kind`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum EvidenceData {
    /// `retransmission_timeout`, `probe_sent`.
    Attempt {
        /// What sending returned: a negative errno, or 0; `null` where that was not seen.
        send_result: Option<i32>,
        /// The socket.
        #[serde(flatten)]
        socket: Box<SocketBody>,
    },
    /// `scanned`, `reset_received`, `syn_ack_received`: the socket.
    Socket(Box<SocketBody>),
    /// `no_route`.
    Route {
        /// What looking the route up gave.
        errno: i32,
    },
    /// `next_hop_silent`.
    NextHop {
        /// The router; `null` for the peer itself.
        gateway: Option<IpAddr>,
        /// The interface it is behind.
        interface: String,
    },
    /// `conntrack_entry`.
    ConntrackEntry {
        /// The TCP state as `conntrack -L` writes it, in lower case; `null` where the entry has none.
        state: Option<&'static str>,
        /// Whether packets of both directions have been seen.
        replied: bool,
        /// Whether it is kept when the table is full.
        assured: bool,
        /// In how many seconds it expires if no packet comes; `null` where the kernel does not say.
        expires_in_seconds: Option<u64>,
        /// The zone it is in; 0 is the default.
        zone: u16,
    },
    /// `conntrack_entry_missing`: what decides how long entries are kept; `null` where it cannot be read.
    ConntrackEntryMissing {
        /// `nf_conntrack_tcp_loose`.
        tcp_loose: Option<bool>,
        /// `nf_conntrack_tcp_timeout_established`.
        timeout_established_seconds: Option<u64>,
        /// `nf_conntrack_tcp_timeout_unacknowledged`.
        timeout_unacknowledged_seconds: Option<u64>,
        /// `nf_conntrack_tcp_timeout_max_retrans`.
        timeout_max_retrans_seconds: Option<u64>,
    },
    /// `state_change`.
    StateChange {
        /// State before.
        from: &'static str,
        /// State after.
        to: &'static str,
        /// The socket's error; 0 for none.
        errno: Option<i32>,
    },
    /// `segment_dropped`.
    Dropped {
        /// `FIN`, `RST`, `SYN`, `SYN-ACK`, `ACK` or `data`.
        message: &'static str,
        /// Its sequence number: the copies of a FIN have the same, unless they carry data.
        sequence: u32,
        /// Who sent it, of a connection that is only forwarded; else `null`.
        sender: Option<EndpointBody>,
        /// Index of the interface it came in by; `null` for one that this host has sent.
        ingress_ifindex: Option<u32>,
        /// The kernel's name for why, without `SKB_DROP_REASON_`.
        reason: &'static str,
        /// The kernel function that dropped it; `null` where it is not known.
        function: Option<String>,
        /// The packet's length from the IP header on, as that states it.
        stated_bytes: u32,
        /// The same as the kernel held it: what is more is padding of the link layer.
        actual_bytes: u32,
        /// Bytes of data of the application in it.
        data_bytes: u32,
        /// `right`, `wrong`, `offloaded` (to the network card) or `not_verifiable` (because of the data).
        #[schemars(extend("enum" = ["right", "wrong", "offloaded", "not_verifiable"]))]
        checksum: &'static str,
        /// Whether connection tracking had given it a connection; `null` where the kernel does not tell.
        tracked: Option<bool>,
    },
    /// `drop_place`.
    Place(PlaceBody),
    /// `segment_invalid`.
    Invalid {
        /// `FIN` or `RST`.
        message: &'static str,
        /// As in `segment_dropped`.
        sequence: u32,
        /// As in `segment_dropped`.
        sender: Option<EndpointBody>,
        /// Index of the interface it came in by; `null` for one that this host has sent.
        ingress_ifindex: Option<u32>,
        /// Why connection tracking held it for invalid, in the kernel's words.
        why: String,
        /// The hook of netfilter on which it was looked at; `null` where the kernel does not tell.
        hook: Option<&'static str>,
        /// The zone of the connection it was taken for; `null` where none was looked for.
        zone: Option<u16>,
        /// As in `segment_dropped`.
        stated_bytes: u32,
        /// As in `segment_dropped`.
        actual_bytes: u32,
        /// As in `segment_dropped`.
        data_bytes: u32,
        /// As in `segment_dropped`.
        #[schemars(extend("enum" = ["right", "wrong", "offloaded", "not_verifiable"]))]
        checksum: &'static str,
    },
    /// `syn_ack_retransmission`: before this one; `null` where the kernel does not tell.
    SynAckRepeat {
        /// How often the request's timer had fired.
        timeouts: Option<u8>,
        /// How often the client had repeated its SYN.
        syn_repeats: Option<u32>,
    },
    /// `path_mismatch`.
    PathMismatch {
        /// Name of the interface that segments come in by.
        ingress_interface: String,
        /// Name of the interface that they leave by.
        egress_interface: String,
    },
    /// `peer_connected`.
    PeerConnected {
        /// How many other connections.
        connections: usize,
    },
    /// `still_open`.
    StillOpen {
        /// The socket's state.
        state: &'static str,
    },
    /// `end_waits`.
    EndWaits {
        /// Inode number of the receiver's network namespace.
        netns: u32,
        /// The receiver's state.
        state: &'static str,
        /// Who sent what it waits for.
        sender: EndpointBody,
    },
    /// `socket_error`.
    Error {
        /// The error.
        errno: Option<i32>,
    },
    /// Kinds without numbers: an empty object.
    Nothing {},
}

impl EvidenceBody {
    pub(super) fn new(evidence: &Evidence, clock: &WallClock) -> Self {
        let data = match &evidence.kind {
            EvidenceKind::RetransmissionTimeout(attempt) | EvidenceKind::ProbeSent(attempt) => EvidenceData::Attempt {
                send_result: attempt.send_result,
                socket: Box::new(SocketBody::new(&attempt.socket)),
            },
            EvidenceKind::Scanned(socket)
            | EvidenceKind::ResetReceived(socket)
            | EvidenceKind::SynAckReceived(socket) => EvidenceData::Socket(Box::new(SocketBody::new(socket))),
            EvidenceKind::NoRoute { errno } => EvidenceData::Route { errno: *errno },
            EvidenceKind::NextHopSilent(route) => {
                EvidenceData::NextHop { gateway: route.gateway, interface: route.egress.name.clone() }
            }
            EvidenceKind::ConntrackEntry(entry) => EvidenceData::ConntrackEntry {
                state: entry.state.map(ConntrackState::name),
                replied: entry.replied,
                assured: entry.assured,
                expires_in_seconds: seconds(entry.expires_in),
                zone: entry.zone,
            },
            EvidenceKind::ConntrackEntryMissing(settings) => EvidenceData::ConntrackEntryMissing {
                tcp_loose: settings.loose,
                timeout_established_seconds: seconds(settings.timeout_established),
                timeout_unacknowledged_seconds: seconds(settings.timeout_unacknowledged),
                timeout_max_retrans_seconds: seconds(settings.timeout_max_retrans),
            },
            EvidenceKind::StateChange { from, to, error } => {
                EvidenceData::StateChange { from: from.name(), to: to.name(), errno: *error }
            }
            EvidenceKind::SegmentDropped(segment) => EvidenceData::Dropped {
                message: segment.message.name(),
                sequence: segment.sequence,
                sender: sender(segment),
                ingress_ifindex: segment.ingress_ifindex(),
                reason: segment.reason.kernel_name(),
                function: segment.function.clone(),
                stated_bytes: segment.stated_bytes,
                actual_bytes: segment.actual_bytes,
                data_bytes: segment.data_bytes,
                checksum: segment.checksum.name(),
                tracked: segment.is_tracked,
            },
            EvidenceKind::DropPlace(place) => EvidenceData::Place(PlaceBody::new(place)),
            EvidenceKind::SegmentInvalid(invalid) => EvidenceData::Invalid {
                message: invalid.segment.message.name(),
                sequence: invalid.segment.sequence,
                sender: sender(&invalid.segment),
                ingress_ifindex: invalid.segment.ingress_ifindex(),
                why: invalid.why.clone(),
                hook: invalid.hook.map(NetfilterHook::name),
                zone: invalid.zone,
                stated_bytes: invalid.segment.stated_bytes,
                actual_bytes: invalid.segment.actual_bytes,
                data_bytes: invalid.segment.data_bytes,
                checksum: invalid.segment.checksum.name(),
            },
            EvidenceKind::SynAckRetransmission(repeat) => {
                EvidenceData::SynAckRepeat { timeouts: repeat.timeouts, syn_repeats: repeat.syn_repeats() }
            }
            EvidenceKind::PathMismatch { ingress, egress } => EvidenceData::PathMismatch {
                ingress_interface: ingress.name.clone(),
                egress_interface: egress.name.clone(),
            },
            EvidenceKind::PeerConnected { count } => EvidenceData::PeerConnected { connections: *count },
            EvidenceKind::StillOpen { state } => EvidenceData::StillOpen { state: state.name() },
            EvidenceKind::EndWaits(end) => {
                EvidenceData::EndWaits { netns: end.netns, state: end.state.name(), sender: endpoint(end.sender) }
            }
            EvidenceKind::SocketError { error } => EvidenceData::Error { errno: *error },
            EvidenceKind::LocalAddressGone
            | EvidenceKind::SynReceived
            | EvidenceKind::HandshakeCompleted
            | EvidenceKind::ResetSent
            | EvidenceKind::SegmentGotThrough
            | EvidenceKind::AcknowledgmentsResumed
            | EvidenceKind::SocketGone
            | EvidenceKind::WatchResumed => EvidenceData::Nothing {},
        };
        Self { time: clock.rfc3339(evidence.at), kind: evidence.kind.name(), text: evidence.kind.to_string(), data }
    }
}

fn sender(segment: &DroppedSegment) -> Option<EndpointBody> {
    segment.origin.forwarded_sender().map(endpoint)
}

fn seconds(duration: Option<Duration>) -> Option<u64> {
    duration.map(|duration| duration.as_secs())
}
