//! What is asked about a flow, and what the answers say.

use super::Flow;
use crate::{
    case::dropped::trace,
    judge::{Evidence, EvidenceKind},
    model::{
        ConntrackStatus, ControlMessage, DropPlace, DroppedSegment, FlowConntrack, FlowEnds, FlowKey, ForwardPath,
        InZone, Knowledge, MonoTime, Owner, OwnerKnowledge, Question, TrackedFlow, WaitingEnd,
    },
};

impl Flow {
    /// What there is to ask. Firewalls drop strays all day: of a FIN that has come once nothing is asked, for one that is missed comes
    /// again; of a RST, which does not, at first only what connection tracking knows, and so of what begins a connection or goes on with
    /// it.
    pub(in crate::case) fn questions(&mut self, now: MonoTime) -> Vec<Question> {
        let is_told_once = |(_, _, segment): &(_, _, DroppedSegment)| segment.message != ControlMessage::Fin;
        if !self.is_worth_more() && !self.latest_dropped().as_ref().is_some_and(is_told_once) {
            return Vec::new();
        }
        // What is not known of a stray at first will not be known later.
        let is_answered = matches!(self.conntrack, Knowledge::Known(_) | Knowledge::Unavailable(_));
        if !self.is_ending() && !self.is_worth_more() && is_answered {
            return Vec::new();
        }
        self.awaited.conntrack = true;
        let zone = match (self.key.zone.or_else(|| self.held_in_zone()), self.may_search) {
            (Some(zone), true) => InZone::First(zone),
            (None, true) => InZone::Any,
            (zone, false) => InZone::Only(zone.unwrap_or(0)),
        };
        let mut questions = vec![Question::FlowConntrack { key: self.asked_as, zone }];
        if self.is_worth_more() {
            questions.extend(self.more_questions(now));
        }
        questions
    }

    /// Whether more is asked than what connection tracking knows: copies were dropped, too, or connection tracking knows the connection,
    /// or cannot say.
    fn is_worth_more(&self) -> bool {
        let is_repeated = self.is_ending() && self.is_repeated();
        match &self.conntrack {
            Knowledge::NotAsked => is_repeated,
            Knowledge::Known(FlowConntrack::Active(entries, _)) => is_repeated || !entries.is_empty(),
            Knowledge::Known(FlowConntrack::Inactive) | Knowledge::Unavailable(_) => true,
        }
    }

    /// Whether what was dropped ends the connection.
    pub(in crate::case) fn is_ending(&self) -> bool {
        let mut segments = self.evidence.as_slice().iter().filter_map(Evidence::segment);
        segments.any(|segment| segment.message.is_ending())
    }

    /// Whether more than one segment was dropped.
    pub(in crate::case) fn is_repeated(&self) -> bool {
        self.evidence.as_slice().iter().filter_map(Evidence::segment).nth(1).is_some()
    }

    /// All the rest; of what does not change, once.
    fn more_questions(&mut self, now: MonoTime) -> Vec<Question> {
        let key = self.asked_as;
        let mut questions = vec![self.ask_ends()];
        self.awaited.ends.get_or_insert(now);
        let latest = self.latest_dropped();
        if let Some((_, _, segment)) = &latest
            && let Some(ingress_ifindex) = segment.ingress_ifindex()
            && self.path == Knowledge::NotAsked
        {
            self.awaited.path = true;
            let destination_mac = segment.destination_mac;
            questions.push(Question::ForwardPath { key, ingress_ifindex, destination_mac });
        }
        if let Some((at, _, segment)) = latest {
            let address = segment.location;
            if address != 0 && segment.function.is_none() && self.function_asked != Some(address) {
                self.function_asked = Some(address);
                self.awaited.function = true;
                questions.push(Question::Function { key, address });
            }
            if !self.has_asked_place
                && let Some(trace) = trace(self.evidence.as_slice(), at, &segment)
            {
                (self.has_asked_place, self.awaited.place) = (true, true);
                questions.push(Question::DropPlace { key, trace });
            }
        }
        questions
    }

    /// The entry that tells most: of several zones, one that translates.
    fn telling_entry(&self) -> Option<&TrackedFlow> {
        let entries = self.entries();
        entries.iter().find(|flow| flow.is_translated()).or_else(|| entries.first())
    }

    fn ask_ends(&self) -> Question {
        let key = self.asked_as;
        let (receiver, sender) = match self.telling_entry() {
            Some(flow) => (flow.socket_of(key.local), flow.socket_of(key.remote)),
            None => ((key.local, key.remote), (key.remote, key.local)),
        };
        Question::FlowEnds { key, receiver, sender }
    }

    /// The zone in which connection tracking held the latest segment for invalid, where it told.
    fn held_in_zone(&self) -> Option<u16> {
        self.evidence.as_slice().iter().rev().find_map(Evidence::as_invalid).and_then(|invalid| invalid.zone)
    }

    /// Takes in which way it goes.
    pub(in crate::case) fn take_path(&mut self, path: Knowledge<ForwardPath>) {
        self.awaited.path = false;
        self.path = path;
    }

    /// Whether it is for an address of this host, and not one that connection tracking translates: then it is not forwarded, and of no
    /// socket here. What it holds for invalid it does not translate.
    pub(in crate::case) fn ends_here(&self) -> bool {
        let is_translated = self.entries().iter().any(TrackedFlow::is_translated);
        matches!(&self.path, Knowledge::Known(path) if path.ends_here) && !is_translated
    }

    /// Takes in which function is at an address.
    pub(in crate::case) fn take_function(&mut self, address: u64, name: Option<&str>) {
        self.awaited.function = false;
        self.evidence.name_function(address, name);
    }

    /// Takes in where it was dropped.
    pub(in crate::case) fn take_place(&mut self, now: MonoTime, place: Result<DropPlace, String>) {
        self.awaited.place = false;
        match place {
            Ok(place) => self.note(now, EvidenceKind::DropPlace(Box::new(place))),
            Err(why) => self.place_unknown = Some(why),
        }
    }

    /// Takes in what connection tracking knows. What is to be asked then: all the rest, where that makes it worth asking; and where it
    /// translates addresses, the ends anew, which are other sockets than the packet says.
    pub(in crate::case) fn take_conntrack(
        &mut self,
        now: MonoTime,
        conntrack: Knowledge<FlowConntrack>,
    ) -> Vec<Question> {
        self.awaited.conntrack = false;
        let was_worth_more = self.is_worth_more();
        let asked_before = self.ask_ends();
        self.conntrack = conntrack;
        let status = match &self.conntrack {
            Knowledge::Known(conntrack) if self.is_ending() => Knowledge::Known(conntrack.status()),
            // Where one zone has seen the handshake through, that another has not is how it is meant to be.
            Knowledge::Known(conntrack) => Knowledge::Known(conntrack.furthest()),
            Knowledge::Unavailable(why) => Knowledge::Unavailable(why.clone()),
            Knowledge::NotAsked => Knowledge::NotAsked,
        };
        let before = std::mem::replace(&mut self.status, status);
        self.note_conntrack(now, &before);
        if let Knowledge::Known(conntrack) = &self.conntrack {
            self.first_conntrack.get_or_insert_with(|| conntrack.clone());
        }
        if let Some(flow) = self.telling_entry().copied() {
            let (initiator, responder) = flow.original;
            let is_tracked_in = |zone: &u16| self.entries().iter().any(|flow| flow.entry.zone == *zone);
            let held_in = self.held_in_zone().filter(is_tracked_in);
            let zone = if self.entries().len() == 1 { Some(flow.entry.zone) } else { held_in };
            // It keeps the name that it was first given.
            if !self.is_direction_known {
                self.key = FlowKey { zone, initiator, responder, ..self.key };
                self.is_direction_known = true;
                self.translation = flow.translation();
            }
        }
        if !self.is_worth_more() {
            return Vec::new();
        }
        if !was_worth_more {
            return self.more_questions(now);
        }
        let asked_now = self.ask_ends();
        if asked_now == asked_before {
            return Vec::new();
        }
        self.awaited.ends.get_or_insert(now);
        vec![asked_now]
    }

    /// What connection tracking says is evidence when it is first told, and when it changes.
    fn note_conntrack(&mut self, now: MonoTime, before: &Knowledge<ConntrackStatus>) {
        let state = |status: &Knowledge<ConntrackStatus>| match status {
            Knowledge::Known(ConntrackStatus::Tracked(entry, _)) => Some(Some(entry.state)),
            Knowledge::Known(ConntrackStatus::Forgotten(_)) => Some(None),
            Knowledge::Known(ConntrackStatus::Inactive) | Knowledge::NotAsked | Knowledge::Unavailable(_) => None,
        };
        if state(before) == state(&self.status) {
            return;
        }
        match self.status {
            Knowledge::Known(ConntrackStatus::Tracked(entry, _)) => self.note(now, EvidenceKind::ConntrackEntry(entry)),
            Knowledge::Known(ConntrackStatus::Forgotten(settings)) => {
                self.note(now, EvidenceKind::ConntrackEntryMissing(settings));
            }
            Knowledge::Known(ConntrackStatus::Inactive) | Knowledge::NotAsked | Knowledge::Unavailable(_) => {}
        }
    }

    /// Takes in which sockets of this host are its ends; the question who holds that of the receiver.
    pub(in crate::case) fn take_ends(&mut self, now: MonoTime, ends: FlowEnds) -> Option<Question> {
        let asked_at = self.awaited.ends.take().unwrap_or(now);
        let before = std::mem::replace(&mut self.ends, ends);
        let (receiver, sender) = (self.asked_as.local, self.asked_as.remote);
        let seen = [
            (sender, before.receiver.is_some(), self.ends.receiver.clone()),
            (receiver, before.sender.is_some(), self.ends.sender.clone()),
        ];
        for (sender, was_there, end) in seen {
            let evidence = self.evidence.as_slice();
            let dropped = Evidence::segments_from(evidence, sender).next_back();
            let Some((at, segment)) = dropped.or_else(|| Evidence::dropped_from(evidence, sender).pop()) else {
                continue;
            };
            let is_about_it = self.sender() == Some(sender);
            match end {
                Some(end) if is_about_it && segment.was_no_end(&end.status, asked_at.since(at)) => {
                    self.note(now, EvidenceKind::AcknowledgmentsResumed);
                }
                Some(end) if segment.may_be_missed_in(end.status.state) => {
                    let state = end.status.state;
                    self.note_waiting(now, WaitingEnd { netns: end.netns, sender, state });
                }
                Some(_) => {}
                None if was_there => self.note(now, EvidenceKind::SocketGone),
                None => {}
            }
        }
        self.ask_owner()
    }

    /// Asks once who holds the receiver's socket.
    fn ask_owner(&mut self) -> Option<Question> {
        let key = self.asked_as;
        let receiver = self.ends_from(self.sender()?).receiver?;
        let inode = u64::from(receiver.status.inode);
        if inode == 0 || self.receiver_owner.0 == inode {
            return None;
        }
        self.receiver_owner = (inode, OwnerKnowledge::NotAsked);
        self.awaited.owner = true;
        Some(Question::Owner { key, inode })
    }

    /// Whether it was asked who holds the receiver's socket.
    pub(in crate::case) const fn awaits_owner(&self) -> bool {
        self.awaited.owner
    }

    /// Takes in who holds the receiver's socket, if that was asked.
    pub(in crate::case) fn take_owner(&mut self, owner: Result<Option<Owner>, String>) {
        if std::mem::take(&mut self.awaited.owner) {
            self.receiver_owner.1 = owner.into();
        }
    }

    fn note_waiting(&mut self, at: MonoTime, end: WaitingEnd) {
        let kind = EvidenceKind::EndWaits(end);
        if self.evidence.as_slice().last().is_some_and(|last| last.kind == kind) {
            self.evidence.replace_latest(Evidence { at, kind });
        } else {
            self.note(at, kind);
        }
    }
}
