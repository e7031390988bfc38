//! What witnesses say.

use super::{GRACE_FOR_LAST_EVENT, HOLD, Tracker};
use crate::{
    case::{
        finding::{Outcome, OwnerKnowledge},
        open_case::{Case, Wake},
        recovery::next_look_in,
    },
    judge::EvidenceKind,
    model::{Answer, MonoTime, SocketLookup, SocketStatus},
};

impl Tracker {
    /// Takes in what a witness says at `now`.
    pub fn handle_answer(&mut self, now: MonoTime, answer: Answer) {
        self.advance(now);
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
                    SocketLookup::Gone => {
                        case.set_socket_known();
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
                let Some(mut case) = self.take_case(&key) else { return };
                case.owner = match owner {
                    Ok(Some(owner)) => OwnerKnowledge::Process(owner),
                    Ok(None) => OwnerKnowledge::NoProcess,
                    Err(why) => OwnerKnowledge::Unavailable(why),
                };
                case.asked_owner = false;
                self.take_answer(case);
            }
            Answer::Path { key, path } => {
                let Some(mut case) = self.take_case(&key) else { return };
                let evidence = case.surroundings.take_path(path.into());
                evidence.into_iter().for_each(|kind| case.note(self.now, kind));
                self.take_answer(case);
            }
            Answer::Function { key, address, function } => {
                let Some(mut case) = self.take_case(&key) else { return };
                case.take_function(address, function.ok().flatten().as_deref());
                self.take_answer(case);
            }
            Answer::DropPlace { key, place } => {
                let Some(mut case) = self.take_case(&key) else { return };
                case.take_place(self.now, place);
                self.take_answer(case);
            }
            Answer::Conntrack { key, conntrack } => {
                let Some(mut case) = self.take_case(&key) else { return };
                let evidence = case.surroundings.take_conntrack(conntrack.into());
                evidence.into_iter().for_each(|kind| case.note(self.now, kind));
                self.take_answer(case);
            }
        }
    }

    fn socket_found(&mut self, mut case: Case, asked_at: MonoTime, status: &SocketStatus) {
        case.set_socket_known();
        case.learn_state(status.state);
        case.touched = self.now;
        self.ask_owner_of(&mut case, u64::from(status.inode));
        if let Some(is_missed) = case.dropped().map(|segment| segment.is_missed_in(status.state)) {
            self.looked_at_receiver(case, status, is_missed);
        } else if !case.has_finding() {
            self.take_answer(case);
        } else if case.has_recovered(asked_at, status) {
            case.note(self.now, EvidenceKind::AcknowledgmentsResumed);
            self.close(case, Outcome::Recovered);
        } else {
            case.look_when_overdue(self.now, Some(next_look_in(status)));
            self.judge_and_keep(case);
        }
    }

    /// Of this connection a segment was dropped, and now its socket was looked at.
    fn looked_at_receiver(&mut self, mut case: Case, status: &SocketStatus, is_missed: bool) {
        if !is_missed {
            case.note(self.now, EvidenceKind::SegmentGotThrough);
            self.close(case, Outcome::Recovered);
            return;
        }
        case.note_still_open(self.now, status.state);
        for question in case.questions().into_iter().chain(case.ask_place()).chain(case.ask_function()) {
            self.ask(question);
        }
        if case.has_finding() || !case.awaits_answers() {
            case.look_when_overdue(self.now, None);
            self.judge_and_keep(case);
        } else {
            let until = *case.held_until.get_or_insert(self.now + HOLD);
            case.wake = Some((until, Wake::Judge));
            self.keep(case);
        }
    }

    /// Judges what has waited for answers when all are in.
    fn take_answer(&mut self, mut case: Case) {
        if case.has_ended {
            if case.asked_owner {
                self.keep(case);
            } else {
                self.end(case);
            }
        } else if case.has_finding() {
            self.judge_and_keep(case);
        } else if case.held_until.is_some() && !case.awaits_answers() {
            case.forget_when_overdue(self.now);
            self.judge_and_keep(case);
        } else {
            self.keep(case);
        }
    }
}
