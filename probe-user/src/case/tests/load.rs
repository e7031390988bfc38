//! More at once than the witnesses have room for.

use super::*;

/// What a virtual address that moves away does to the connections that were made from it. The witnesses answer one question every five
/// milliseconds, and take only so many at once.
#[test]
fn of_a_thousand_connections_that_lose_their_address_at_once_each_gets_its_cause_and_owner() {
    const CASES: u16 = 1_000;
    for room in [1, 256] {
        let mut tracker = Tracker::new();
        for port in 1..=CASES {
            let Event::Connection(event) = unsendable(10_000, 3) else { unreachable!() };
            let socket = SocketView { cookie: Some(SocketCookie(port.into())), ..event.socket };
            tracker.handle_event(Event::Connection(ConnectionEvent { key: key(port), socket, ..event }));
        }
        let mut in_flight = std::collections::VecDeque::new();
        let mut paths_asked = Vec::new();
        let mut latest = std::collections::BTreeMap::new();
        for step in 0.. {
            while let Some(output) = tracker.poll_output() {
                match output {
                    Output::Finding(finding) => {
                        latest.insert(finding.id.key, *finding);
                    }
                    Output::Question(question) if in_flight.len() < room => in_flight.push_back(question),
                    Output::Question(question) => {
                        tracker.put_back(question);
                        break;
                    }
                }
            }
            let is_whole = |finding: &Finding| {
                finding.ruling.cause == Cause::SourceAddressLost
                    && finding.owner.process().is_some_and(|owner| owner.pid == u32::from(finding.id.key.local.port()))
            };
            if latest.len() == usize::from(CASES) && latest.values().all(is_whole) {
                break;
            }
            assert!(tracker.questions_waiting() <= 4 * usize::from(CASES), "none waits twice");
            assert!(step < 8 * u64::from(CASES), "each waits for its turn once: {} left", in_flight.len());
            let now = at(10_000 + 5 * step);
            tracker.handle_timeout(now);
            let Some(question) = in_flight.pop_front() else { continue };
            let answer = match question {
                Question::Socket { key, .. } => {
                    let timer = Some((SocketTimer::Persist, Duration::from_secs(1)));
                    let status = SocketStatus { inode: key.local.port().into(), timer, ..status(0) };
                    Answer::Socket { key, lookup: SocketLookup::Found(status) }
                }
                Question::Owner { key, inode } => {
                    let pid = inode.try_into().unwrap();
                    Answer::Owner { key, owner: Ok(Some(Owner { pid, ..Owner::default() })) }
                }
                Question::Path { key, .. } => {
                    paths_asked.push(key);
                    Answer::Path { key, path: Ok(path(false)) }
                }
                Question::Conntrack { key } => Answer::Conntrack { key, conntrack: Ok(ConntrackStatus::Inactive) },
                Question::Function { key, address } => Answer::Function { key, address, function: Ok(None) },
                Question::ForwardPath { .. } | Question::FlowConntrack { .. } | Question::FlowEnds { .. } => {
                    unreachable!()
                }
                Question::Service { key } => Answer::Service { key, service: Err(String::new()) },
                Question::DropPlace { key, .. } => Answer::DropPlace { key, place: Err("not found".to_owned()) },
            };
            tracker.handle_answer(now, answer);
        }
        assert_eq!(paths_asked, (1..=CASES).map(key).collect::<Vec<_>>(), "first come, first asked");
    }
}
