//! What witnesses say.

use super::{GRACE_FOR_LAST_EVENT, Tracker};
use crate::{
    case::{finding::Outcome, open_case::Case, recovery::next_look_in, wakes::Wake},
    judge::{Evidence, EvidenceKind},
    model::{Answer, MonoTime, SocketLookup, SocketStatus, TcpState},
};

impl Tracker {
    /// Takes in what a witness says at `now`.
    pub fn handle_answer(&mut self, now: MonoTime, answer: Answer) {
        self.advance(now);
        self.sort_answer(answer);
        self.cases.settle();
    }

    fn sort_answer(&mut self, answer: Answer) {
        match answer {
            Answer::Socket { key, lookup } => {
                let Some(mut case) = self.take_case(&key) else { return };
                let asked_at = case.asked_socket.take().unwrap_or(self.now);
                if case.has_ended {
                    self.keep(case);
                    return;
                }
                match lookup {
                    SocketLookup::Found(status) => self.socket_found(case, asked_at, &status),
                    SocketLookup::Gone if case.is_of_no_socket() => self.begin_flow(&case),
                    SocketLookup::Gone => {
                        case.set_socket_known();
                        if let Some(next) = case.awaits_another_try(self.now) {
                            case.wake = Some((next, Wake::Overdue));
                            self.take_answer(case);
                            return;
                        }
                        if !case.has_finding() && case.is_embryonic() {
                            // What was dropped decides, not the socket: a request may have ended with the SYN-ACK that could not leave.
                            self.take_answer(case);
                            return;
                        }
                        case.wake = Some((self.now + GRACE_FOR_LAST_EVENT, Wake::Gone));
                        self.keep(case);
                    }
                    SocketLookup::Unknown(why) => {
                        if case.set_socket_unknown(why) {
                            self.close(case, Outcome::Unobserved);
                            return;
                        }
                        if case.has_finding() {
                            case.look_when_overdue(self.now, None);
                        }
                        self.take_answer(case);
                    }
                }
            }
            Answer::Owner { key, owner } => {
                let Some(owner) = self.take_flow_owner(&key, owner) else { return };
                let Some(mut case) = self.take_case(&key) else { return };
                case.owner = owner.into();
                case.asked_owner = false;
                self.take_answer(case);
            }
            Answer::Path { key, path } => {
                let Some(mut case) = self.take_case(&key) else { return };
                let evidence = case.surroundings.take_path(path.into());
                evidence.into_iter().for_each(|kind| case.note(self.now, kind));
                self.take_answer(case);
            }
            Answer::ForwardPath { key, path } => self.take_flow_path(&key, path),
            Answer::FlowConntrack { key, conntrack } => self.take_flow_conntrack(&key, conntrack),
            Answer::FlowEnds { key, ends } => self.take_flow_ends(&key, ends),
            Answer::Function { key, address, function } => {
                self.take_flow_function(&key, address, function.as_ref().ok().and_then(Option::as_deref));
                let Some(mut case) = self.take_case(&key) else { return };
                case.take_function(address, function.ok().flatten().as_deref());
                self.take_answer(case);
            }
            Answer::DropPlace { key, place } => {
                let Some(mut case) = self.take_case(&key) else {
                    self.take_flow_place(&key, place);
                    return;
                };
                case.take_place(self.now, place);
                self.take_answer(case);
            }
            Answer::Service { key, service } => {
                let Some(mut case) = self.take_case(&key) else { return };
                if let Some(inode) = case.take_service(self.now, service) {
                    self.ask_owner_of(&mut case, inode);
                }
                if case.has_finding() || case.has_ended || case.held_until.is_some() {
                    self.take_answer(case);
                } else {
                    self.consider(case);
                }
            }
            Answer::Conntrack { key, conntrack } => {
                let Some(mut case) = self.take_case(&key) else { return };
                let evidence = case.surroundings.take_conntrack(conntrack.into());
                evidence.into_iter().for_each(|kind| case.note(self.now, kind));
                self.take_answer(case);
            }
        }
    }

    fn socket_found(&mut self, mut case: Box<Case>, asked_at: MonoTime, status: &SocketStatus) {
        case.set_socket_known();
        case.learn_state(status.state);
        case.touched = self.now;
        // A request socket belongs to who listens.
        if status.state != TcpState::NewSynReceived {
            self.ask_owner_of(&mut case, u64::from(status.inode));
        }
        if case.has_completed_handshake(status) {
            case.note(self.now, EvidenceKind::HandshakeCompleted);
            self.close(case, Outcome::Recovered);
            return;
        }
        let dropped = Evidence::dropped(case.evidence.as_slice()).filter(|_| case.dropped().is_some());
        if let Some([_, (dropped_at, segment)]) = dropped {
            let is_missed = segment.is_missed_in(status.state);
            if is_missed && segment.was_no_end(status, asked_at.since(dropped_at)) {
                case.note(self.now, EvidenceKind::AcknowledgmentsResumed);
                self.close(case, Outcome::Recovered);
                return;
            }
            self.looked_at_receiver(case, status, is_missed);
        } else if case.has_recovered(asked_at, status) {
            case.note(self.now, EvidenceKind::AcknowledgmentsResumed);
            self.close(case, Outcome::Recovered);
        } else if !case.has_told() {
            self.take_answer(case);
        } else {
            let wait = case.next_handshake_look().unwrap_or_else(|| next_look_in(status));
            case.look_when_overdue(self.now, Some(wait));
            self.judge_and_keep(case);
        }
    }

    /// Of this connection a segment was dropped, and now its socket was looked at.
    fn looked_at_receiver(&mut self, mut case: Box<Case>, status: &SocketStatus, is_missed: bool) {
        if !is_missed {
            case.note(self.now, EvidenceKind::SegmentGotThrough);
            self.close(case, Outcome::Recovered);
            return;
        }
        case.note_still_open(self.now, status.state);
        // The rules take longer to list than a function to name.
        for question in case.questions().into_iter().chain(case.ask_function()).chain(case.ask_place()) {
            self.ask(question);
        }
        if case.has_told() || !case.awaits_answers() {
            case.look_when_overdue(self.now, None);
            self.judge_and_keep(case);
        } else {
            self.hold(case);
        }
    }

    /// Judges what has waited for answers when all are in.
    fn take_answer(&mut self, mut case: Box<Case>) {
        if case.has_ended {
            if case.asked_owner {
                self.keep(case);
            } else {
                self.end(case);
            }
        } else if case.is_gone_before_a_word() {
            self.keep(case);
        } else if case.has_told() {
            self.judge_and_keep(case);
        } else if case.held_until.is_some() && !case.awaits_answers() {
            case.forget_when_overdue(self.now);
            self.judge_and_keep(case);
        } else {
            self.keep(case);
        }
    }
}
