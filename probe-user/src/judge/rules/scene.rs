//! What the rules' tests judge: one connection, with what was seen of it.

use std::time::Duration;

use crate::{
    judge::{Attempt, Evidence, EvidenceKind, History, Ruling, Thresholds, judge},
    model::{
        ConnectionKey, ConntrackEntry, ConntrackSettings, ConntrackState, ConntrackStatus, DroppedSegment, Interface,
        Knowledge, MonoTime, NeighbourState, Origin, PathStatus, Route, ServiceStatus, SocketRouting, SocketView,
        TcpState, Vantage, dropped_fin,
    },
};

/// When the first thing was seen.
pub(super) const SEEN_AT: MonoTime = MonoTime::from_ns(1_000_000_000_000);

/// An established connection with its window open, all acknowledged, and the peer last heard of four seconds ago.
pub(super) fn quiet() -> SocketView {
    SocketView {
        state: Some(TcpState::Established),
        snd_una: Some(1_000),
        snd_nxt: Some(1_000),
        write_seq: Some(1_000),
        snd_wnd_bytes: Some(64_000),
        packets_out: Some(0),
        retransmits: Some(0),
        backoff: Some(0),
        probes_out: Some(0),
        rto: Some(Duration::from_millis(200)),
        last_ack_ago: Some(Duration::from_secs(4)),
        last_data_ago: Some(Duration::from_secs(4)),
        user_timeout: Some(Duration::ZERO),
        soft_error: Some(0),
        orphaned: Some(false),
        tcp_retries2: Some(15),
        ..SocketView::default()
    }
}

/// The same with 100 bytes unacknowledged through so many timeouts.
pub(super) fn stalled(retransmits: u8) -> SocketView {
    SocketView {
        snd_nxt: Some(1_100),
        write_seq: Some(1_100),
        packets_out: Some(1),
        retransmits: Some(retransmits),
        rto: Some(Duration::from_millis(200 << retransmits.min(9))),
        retransmitting_for: Some(Duration::from_secs(3)),
        ..quiet()
    }
}

/// A FIN of the peer that a rule dropped, and to which connection tracking had given no connection.
pub(in crate::judge) fn fin() -> DroppedSegment {
    DroppedSegment { is_tracked: Some(false), ..dropped_fin(Origin::Received { ifindex: 2 }) }
}

/// A connection's history, and what witnesses have said.
#[derive(Default)]
pub(super) struct Scene {
    evidence: Vec<Evidence>,
    socket: SocketView,
    path: Knowledge<PathStatus>,
    conntrack: Knowledge<ConntrackStatus>,
    service: Knowledge<ServiceStatus>,
    events_lost: u64,
    is_forwarded: bool,
}

impl Scene {
    /// The scan has found this socket.
    pub(super) fn scanned(socket: SocketView) -> Self {
        Self::default().seen(&socket, EvidenceKind::Scanned(Box::new(socket.clone())))
    }

    /// This socket's retransmission timer has fired.
    pub(super) fn timed_out(socket: SocketView, send_result: Option<i32>) -> Self {
        let timeout = Attempt { send_result, socket: socket.clone() };
        Self::default().seen(&socket, EvidenceKind::RetransmissionTimeout(timeout))
    }

    /// Something was seen while the socket was like this.
    pub(super) fn seen(mut self, socket: &SocketView, kind: EvidenceKind) -> Self {
        self.socket = socket.clone();
        self.then(kind)
    }

    /// Something was seen a second after the last.
    pub(super) fn then(self, kind: EvidenceKind) -> Self {
        self.later(Duration::from_secs(1), kind)
    }

    /// Something was seen so long after the last.
    pub(super) fn later(mut self, wait: Duration, kind: EvidenceKind) -> Self {
        let at = self.evidence.last().map_or(SEEN_AT, |last| last.at + wait);
        self.evidence.push(Evidence { at, kind });
        self
    }

    /// The address is there, and so is a route, or not.
    pub(super) fn path(mut self, local_address: bool, errno: Option<i32>) -> Self {
        let route = Route { egress: Interface { index: 2, name: "eth0".to_owned() }, gateway: None, neighbour: None };
        self.path = Knowledge::Known(PathStatus {
            local_address,
            socket: SocketRouting { mark: Some(0), bound_to: Some(0), transparent: Some(false) },
            route: errno.map_or(Ok(route), Err),
            ingress: None,
            reverse_path_filter: None,
        });
        self
    }

    /// The socket has `IP_TRANSPARENT`, or not.
    pub(super) fn transparent(mut self, transparent: Option<bool>) -> Self {
        if let Knowledge::Known(path) = &mut self.path {
            path.socket.transparent = transparent;
        }
        self
    }

    /// The socket's mark.
    pub(super) fn mark(mut self, mark: Option<u32>) -> Self {
        if let Knowledge::Known(path) = &mut self.path {
            path.socket.mark = mark;
        }
        self
    }

    /// The next hop of the path is like this.
    pub(super) fn neighbour(mut self, neighbour: NeighbourState) -> Self {
        if let Knowledge::Known(PathStatus { route: Ok(route), .. }) = &mut self.path {
            route.neighbour = Some(neighbour);
        }
        self
    }

    /// Connection tracking knows others but not this one.
    pub(super) fn forgotten_by_conntrack(mut self) -> Self {
        let settings = ConntrackSettings {
            loose: Some(false),
            timeout_established: Some(Duration::from_secs(432_000)),
            timeout_unacknowledged: Some(Duration::from_secs(300)),
            timeout_max_retrans: Some(Duration::from_secs(300)),
            ..ConntrackSettings::default()
        };
        self.conntrack = Knowledge::Known(ConntrackStatus::Forgotten(settings));
        self.then(EvidenceKind::ConntrackEntryMissing(settings))
    }

    /// Connection tracking has an entry for it, and looks at checksums or not.
    pub(super) fn tracked(self, checksum: Option<bool>) -> Self {
        self.tracked_as(ConntrackState::Established, checksum)
    }

    /// The same in this state.
    pub(super) fn tracked_as(mut self, state: ConntrackState, checksum: Option<bool>) -> Self {
        let entry = ConntrackEntry {
            state: Some(state),
            replied: true,
            assured: true,
            expires_in: Some(Duration::from_secs(400_000)),
            zone: 0,
        };
        let settings = ConntrackSettings { checksum, be_liberal: Some(false), ..ConntrackSettings::default() };
        self.conntrack = Knowledge::Known(ConntrackStatus::Tracked(entry, settings));
        self
    }

    /// Connection tracking takes what lies outside of the window, too.
    pub(super) fn liberal(mut self) -> Self {
        if let Knowledge::Known(ConntrackStatus::Tracked(_, settings)) = &mut self.conntrack {
            settings.be_liberal = Some(true);
        }
        self
    }

    /// Its entry has seen packets of one direction only.
    pub(super) fn unreplied(mut self) -> Self {
        if let Knowledge::Known(ConntrackStatus::Tracked(entry, _)) = &mut self.conntrack {
            entry.replied = false;
        }
        self
    }

    /// What connection tracking says.
    pub(super) const fn conntrack(&self) -> &Knowledge<ConntrackStatus> {
        &self.conntrack
    }

    /// This host only forwards it.
    pub(super) fn forwarded(mut self) -> Self {
        self.is_forwarded = true;
        self
    }

    /// Segments come in by another interface than they leave by.
    pub(super) fn arrives_by(mut self, name: &str, index: u32) -> Self {
        if let Knowledge::Known(path) = &mut self.path {
            path.ingress = Some(Interface { index, name: name.to_owned() });
        }
        self
    }

    /// Something listens on the local port, and so many other connections of the peer are established.
    pub(super) fn served(mut self, connections_with_peer: usize) -> Self {
        self.service = Knowledge::Known(ServiceStatus { listener_inode: Some(7), connections_with_peer });
        self
    }

    /// So many events were lost.
    pub(super) fn lost(mut self, events: u64) -> Self {
        self.events_lost = events;
        self
    }

    pub(super) fn judge(&self) -> Option<Ruling> {
        let key =
            ConnectionKey { netns: 1, local: ([10, 0, 0, 1], 40_000).into(), remote: ([10, 0, 0, 2], 5672).into() };
        judge(&History {
            key: &key,
            vantage: if self.is_forwarded { Vantage::Forwarder } else { Vantage::Endpoint },
            socket: &self.socket,
            evidence: &self.evidence,
            path: &self.path,
            conntrack: &self.conntrack,
            service: &self.service,
            thresholds: &Thresholds::default(),
            events_lost: self.events_lost,
        })
    }
}
