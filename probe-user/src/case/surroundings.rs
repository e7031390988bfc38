use crate::{
    judge::{Cause, Confidence, EvidenceKind, MissingEvidence, Ruling},
    model::{ConnectionKey, ConntrackStatus, Knowledge, PathStatus, Question, ServiceStatus, SocketView},
};

/// What witnesses have said of the host around a connection: the way to its peer, and connection tracking.
#[derive(Clone, Debug, Default)]
pub(super) struct Surroundings {
    pub(super) path: Knowledge<PathStatus>,
    pub(super) conntrack: Knowledge<ConntrackStatus>,
    pub(super) service: Knowledge<ServiceStatus>,
    awaits_path: bool,
    awaits_conntrack: bool,
    awaits_service: bool,
    service_asked: bool,
    asked_at: Option<Step>,
    /// Whether the name of a function is still to come.
    pub(super) awaits_function: bool,
    /// The address last asked about.
    function_asked: Option<u64>,
    /// Whether it was asked where the drop was, and is still to be answered.
    pub(super) has_asked_place: bool,
    pub(super) awaits_place: bool,
    /// Why that could not be told.
    pub(super) place_unknown: Option<String>,
}

/// How far a socket has got in waiting: it changes with every timeout and every unanswered probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    retransmits: Option<u8>,
    probes_out: Option<u8>,
    backoff: Option<u8>,
    ingress_ifindex: Option<u32>,
}

impl Surroundings {
    /// Of which only the way to the peer is known, from a run before, and perhaps where the drop was.
    pub(super) fn resume(path: Knowledge<PathStatus>, has_place: bool) -> Self {
        Self { path, has_asked_place: has_place, ..Self::default() }
    }

    /// Whether no witness was ever asked.
    pub(super) const fn is_untouched(&self) -> bool {
        matches!(
            self,
            Self {
                path: Knowledge::NotAsked,
                conntrack: Knowledge::NotAsked,
                service: Knowledge::NotAsked,
                awaits_path: false,
                awaits_conntrack: false,
                awaits_service: false,
                service_asked: false,
                asked_at: None,
                awaits_function: false,
                function_asked: None,
                has_asked_place: false,
                awaits_place: false,
                place_unknown: None,
            }
        )
    }

    /// What to ask now, if anything: each witness once a step, however often a scan comes by.
    pub(super) fn questions(
        &mut self,
        key: &ConnectionKey,
        socket: &SocketView,
        ingress_ifindex: Option<u32>,
    ) -> Vec<Question> {
        let (retransmits, probes_out, backoff) = (socket.retransmits, socket.probes_out, socket.backoff);
        let step = Some(Step { retransmits, probes_out, backoff, ingress_ifindex });
        if self.asked_at == step {
            return Vec::new();
        }
        self.asked_at = step;
        // What is still unanswered from the step before was lost on the way.
        (self.awaits_path, self.awaits_conntrack) = (true, true);
        vec![Question::Path { key: *key, ingress_ifindex }, Question::Conntrack { key: *key }]
    }

    /// Whether an answer is still to come.
    pub(super) const fn awaits_answers(&self) -> bool {
        self.awaits_path || self.awaits_conntrack || self.awaits_function || self.awaits_service || self.awaits_place
    }

    /// Lowers a ruling that the first answer of connection tracking may show to be about the wrong cause. That answer mostly comes
    /// before there is a ruling; on a starved host it does not.
    pub(super) fn lower_while_unanswered(&self, ruling: &mut Ruling) {
        let is_unanswered = self.awaits_conntrack && self.conntrack == Knowledge::NotAsked;
        // What `conntrack_expired` may be taken for.
        let may_be_forgotten = matches!(
            ruling.cause,
            Cause::PeerSilent | Cause::LocalSendFailure | Cause::KeepaliveUnanswered | Cause::WindowProbesUnanswered
        );
        if is_unanswered && may_be_forgotten {
            ruling.confidence = Confidence::Suspected;
            ruling.missing.push(MissingEvidence::ConntrackAnswer);
        }
    }

    /// Whether the function at this address is to be asked for now, and was not before.
    pub(super) fn asks_function(&mut self, address: u64) -> bool {
        let is_new = self.function_asked.replace(address) != Some(address);
        self.awaits_function |= is_new;
        is_new
    }

    /// Whether what this host serves was asked for.
    pub(super) const fn has_asked_service(&self) -> bool {
        self.service_asked
    }

    /// Whether what this host serves is to be asked for now: once.
    pub(super) fn asks_service(&mut self) -> bool {
        let is_new = !std::mem::replace(&mut self.service_asked, true);
        self.awaits_service |= is_new;
        is_new
    }

    /// Takes in what this host serves.
    pub(super) fn take_service(&mut self, service: Knowledge<ServiceStatus>) {
        self.awaits_service = false;
        self.service = service;
    }

    /// Takes in what is known of the way to the peer. What is wrong with it is evidence when it is new.
    pub(super) fn take_path(&mut self, path: Knowledge<PathStatus>) -> Option<EvidenceKind> {
        self.awaits_path = false;
        let before = std::mem::replace(&mut self.path, path);
        let wrong = |path: &Knowledge<PathStatus>| {
            let Knowledge::Known(status) = path else { return None };
            match (status.no_route(), path.silent_next_hop()) {
                _ if status.address_is_gone() => Some(EvidenceKind::LocalAddressGone),
                (Some(errno), _) => Some(EvidenceKind::NoRoute { errno }),
                (None, Some(route)) => Some(EvidenceKind::NextHopSilent(route.clone())),
                (None, None) => status.mismatch().map(|(ingress, egress)| EvidenceKind::PathMismatch {
                    ingress: ingress.clone(),
                    egress: egress.clone(),
                }),
            }
        };
        wrong(&self.path).filter(|now| wrong(&before).as_ref() != Some(now))
    }

    /// Takes in what connection tracking knows. It is evidence when it is first told, and when it changes.
    pub(super) fn take_conntrack(&mut self, conntrack: Knowledge<ConntrackStatus>) -> Option<EvidenceKind> {
        self.awaits_conntrack = false;
        let before = std::mem::replace(&mut self.conntrack, conntrack);
        match (&self.conntrack, before) {
            (Knowledge::Known(ConntrackStatus::Tracked(..)), Knowledge::Known(ConntrackStatus::Tracked(..)))
            | (Knowledge::Known(ConntrackStatus::Forgotten(_)), Knowledge::Known(ConntrackStatus::Forgotten(_))) => {
                None
            }
            (Knowledge::Known(ConntrackStatus::Tracked(entry, _)), _) => Some(EvidenceKind::ConntrackEntry(*entry)),
            (Knowledge::Known(ConntrackStatus::Forgotten(settings)), _) => {
                Some(EvidenceKind::ConntrackEntryMissing(*settings))
            }
            (Knowledge::Known(ConntrackStatus::Inactive) | Knowledge::NotAsked | Knowledge::Unavailable(_), _) => None,
        }
    }
}
