//! What holds for whatever comes in.

use proptest::prelude::*;

use super::*;
use crate::model::{ControlMessage, DropReason, DroppedSegment, Origin, ServiceStatus, dropped_fin};

#[test]
fn a_timeout_handed_in_early_or_twice_does_nothing() {
    let (mut tracker, _) = stalled(4);
    let due = tracker.poll_timeout().unwrap();
    tracker.handle_timeout(due.before(Duration::from_nanos(1)));
    assert!(said(&mut tracker).questions.is_empty());
    tracker.handle_timeout(due);
    let asked = said(&mut tracker).questions.len();
    tracker.handle_timeout(due);
    assert_eq!((asked <= 1, said(&mut tracker).questions.len()), (true, 0));
}

#[test]
fn one_case_more_than_fits_evicts_the_oldest_and_says_so() {
    const ROOM: usize = 1_000;
    let mut tracker = Tracker::with_room(0, ROOM);
    for index in 0..=u32::try_from(ROOM).unwrap() {
        let Event::Connection(mut event) = timeout_event(1, 6) else { unreachable!() };
        event.at = at(20_000 + u64::from(index));
        event.key.netns = index;
        event.socket.cookie = Some(SocketCookie(u64::from(index) + 1));
        tracker.handle_event(Event::Connection(event));
    }
    let said = said(&mut tracker);
    let evicted: Vec<_> =
        said.findings.iter().filter(|finding| finding.state == FindingState::Closed(Outcome::Evicted)).collect();
    assert_eq!((evicted.len(), tracker.open_cases()), (1, ROOM));
    assert_eq!(evicted[0].id.key.netns, 0);
}

#[derive(Clone, Debug)]
enum Input {
    Event { port: u16, ms: u64, cookie: u64, count: u8, una: u32, kind: u8, error: i32 },
    Found { port: u16, ms: u64, retransmits: u8, inode: u32 },
    Gone { port: u16, ms: u64 },
    Unknown { port: u16, ms: u64 },
    Owner { port: u16, ms: u64, known: bool },
    Function { port: u16, ms: u64 },
    Service { port: u16, ms: u64, served: bool },
    Lost { ms: u64 },
    Timeout { ms: u64 },
    TimeoutWhenDue,
}

fn input() -> impl Strategy<Value = Input> {
    let (port, ms) = (1u16..4, 0u64..2_000_000);
    prop_oneof![
        8 => (port.clone(), ms.clone(), 0u64..3, 0u8..12, 0u32..3, 0u8..16, prop_oneof![Just(0), Just(110), Just(104)])
            .prop_map(|(port, ms, cookie, count, una, kind, error)| Input::Event { port, ms, cookie, count, una, kind, error }),
        2 => (port.clone(), ms.clone(), 0u8..5, 0u32..2)
            .prop_map(|(port, ms, retransmits, inode)| Input::Found { port, ms, retransmits, inode }),
        1 => (port.clone(), ms.clone()).prop_map(|(port, ms)| Input::Gone { port, ms }),
        1 => (port.clone(), ms.clone()).prop_map(|(port, ms)| Input::Unknown { port, ms }),
        1 => (port.clone(), ms.clone()).prop_map(|(port, ms)| Input::Function { port, ms }),
        1 => (port.clone(), ms.clone(), any::<bool>()).prop_map(|(port, ms, served)| Input::Service { port, ms, served }),
        1 => (port, ms.clone(), any::<bool>()).prop_map(|(port, ms, known)| Input::Owner { port, ms, known }),
        1 => ms.clone().prop_map(|ms| Input::Lost { ms }),
        1 => ms.prop_map(|ms| Input::Timeout { ms }),
        4 => Just(Input::TimeoutWhenDue),
    ]
}

fn apply(tracker: &mut Tracker, input: Input) {
    match input {
        Input::Event { port, ms, cookie, count, una, kind, error } => {
            let kind = match kind {
                0 => EventKind::SynAckRetransmission,
                1 => EventKind::ResetReceived,
                2 => EventKind::ResetSent,
                3 => EventKind::SocketError,
                4 => EventKind::StateChange { from: TcpState::Established, to: TcpState::Close },
                5 => EventKind::SegmentDropped(Box::new(dropped_fin(Origin::Received { ifindex: 1 }))),
                6 => EventKind::StateChange { from: TcpState::Established, to: TcpState::CloseWait },
                7 => EventKind::SynAckReceived,
                9..=12 => {
                    let messages = [ControlMessage::Syn, ControlMessage::SynAck, ControlMessage::Ack];
                    let message = messages[usize::from(count % 3)];
                    let origin = if kind % 2 == 0 { Origin::Sent } else { Origin::Received { ifindex: 1 } };
                    let reason = if kind < 11 { DropReason::IpRpfilter } else { DropReason::NetfilterDrop };
                    EventKind::SegmentDropped(Box::new(DroppedSegment { message, reason, ..dropped_fin(origin) }))
                }
                8 => EventKind::StateChange { from: TcpState::SynSent, to: TcpState::Established },
                _ => EventKind::RetransmissionTimeout { send_result: None },
            };
            let state = if let EventKind::StateChange { to, .. } = kind {
                to
            } else if kind == EventKind::SynAckRetransmission {
                TcpState::NewSynReceived
            } else if cookie == 0 && matches!(kind, EventKind::RetransmissionTimeout { .. }) {
                TcpState::SynSent
            } else {
                TcpState::Established
            };
            let socket = SocketView {
                state: Some(state),
                cookie: (cookie > 0).then_some(SocketCookie(cookie)),
                snd_una: Some(una),
                error: Some(error),
                ..socket(count)
            };
            tracker.handle_event(Event::Connection(ConnectionEvent { at: at(ms), key: key(port), socket, kind }));
        }
        Input::Found { port, ms, retransmits, inode } => {
            let lookup = SocketLookup::Found(SocketStatus { inode, ..status(retransmits) });
            tracker.handle_answer(at(ms), Answer::Socket { key: key(port), lookup });
        }
        Input::Gone { port, ms } => {
            tracker.handle_answer(at(ms), Answer::Socket { key: key(port), lookup: SocketLookup::Gone });
        }
        Input::Unknown { port, ms } => {
            let lookup = SocketLookup::Unknown(String::new());
            tracker.handle_answer(at(ms), Answer::Socket { key: key(port), lookup });
        }
        Input::Owner { port, ms, known } => {
            let owner = if known { Ok(None) } else { Err("no".to_owned()) };
            tracker.handle_answer(at(ms), Answer::Owner { key: key(port), owner });
        }
        Input::Function { port, ms } => {
            tracker.handle_answer(at(ms), Answer::Function { key: key(port), address: 0xf00, function: Ok(None) });
        }
        Input::Service { port, ms, served } => {
            let listener_inode = served.then_some(7);
            let service = Ok(ServiceStatus { listener_inode, connections_with_peer: usize::from(served) });
            tracker.handle_answer(at(ms), Answer::Service { key: key(port), service });
        }
        Input::Lost { ms } => {
            tracker.handle_event(Event::Lost { at: at(ms), place: LossPlace::Decode, count: 1 });
        }
        Input::Timeout { ms } => tracker.handle_timeout(at(ms)),
        Input::TimeoutWhenDue => {
            if let Some(due) = tracker.poll_timeout() {
                tracker.handle_timeout(due);
            }
        }
    }
}

proptest! {
    /// Whatever comes in, in whatever order: no panic, every finding is opened once before anything else is said of it and
    /// closed at most once, after which nothing more is said, also by a tracker that goes on where another one has ended; and left
    /// alone, the tracker comes to rest.
    #[test]
    fn findings_live_from_one_opening_to_one_end(
        inputs in proptest::collection::vec(input(), 0..200),
        restarts in proptest::collection::btree_set(0usize..200, 0..3),
    ) {
        let mut tracker = Tracker::new();
        let mut life: std::collections::BTreeMap<FindingId, bool> = std::collections::BTreeMap::new();
        let mut open: std::collections::BTreeMap<FindingId, Finding> = std::collections::BTreeMap::new();
        for (number, input) in inputs.into_iter().enumerate() {
            if restarts.contains(&number) {
                tracker = Tracker::new();
                // Later than anything before.
                let now = at(10_000_000 * number as u64 + 10_000_000);
                tracker.handle_timeout(now);
                for finding in open.values() {
                    prop_assert!(tracker.resume(now, finding.clone()));
                }
            }
            apply(&mut tracker, input);
            for finding in said(&mut tracker).findings {
                if finding.is_over() {
                    open.remove(&finding.id);
                } else {
                    open.insert(finding.id, finding.clone());
                }
                match finding.state {
                    FindingState::Opened => prop_assert_eq!(life.insert(finding.id, false), None),
                    FindingState::Updated => prop_assert_eq!(life.get(&finding.id), Some(&false)),
                    FindingState::Closed(_) => prop_assert_eq!(life.insert(finding.id, true), Some(false)),
                }
            }
            prop_assert!(tracker.open_cases() <= 3);
            prop_assert!(tracker.open_cases() == 0 || tracker.poll_timeout().is_some(), "every case waits for something");
        }
        for _ in 0..100 {
            let Some(due) = tracker.poll_timeout() else { break };
            tracker.handle_timeout(due);
            for question in said(&mut tracker).questions {
                if let Question::Socket { key, .. } = question {
                    tracker.handle_answer(due, Answer::Socket { key, lookup: SocketLookup::Gone });
                }
            }
        }
        prop_assert_eq!(tracker.open_cases(), 0);
    }
}
