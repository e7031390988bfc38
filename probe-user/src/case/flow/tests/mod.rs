mod fin;
mod handshake;
mod resume;
mod strays;
mod translation;

use std::time::Duration;

use super::*;
use crate::{
    case::{Output, Tracker},
    judge::{Cause, Confidence},
    model::{
        Answer, ConntrackEntry, ConntrackSettings, ConntrackState, ControlMessage, Direction, Event, HostEnd,
        Interface, Owner, Port, Question, SocketLookup, SocketStatus, TcpState, TrackedFlow, dropped_fin,
    },
};

const IN: u32 = 3;

fn client() -> SocketAddr {
    ([10, 0, 0, 1], 40_000).into()
}

fn server() -> SocketAddr {
    ([10, 0, 0, 2], 5672).into()
}

/// Of a packet from the server to the client.
fn key() -> ConnectionKey {
    ConnectionKey { netns: 1, local: client(), remote: server() }
}

fn back() -> ConnectionKey {
    ConnectionKey { netns: 1, local: server(), remote: client() }
}

fn at(ms: u64) -> MonoTime {
    MonoTime::from_ns(1_000_000_000_000 + ms * 1_000_000)
}

fn segment(is_tracked: bool) -> DroppedSegment {
    DroppedSegment { is_tracked: Some(is_tracked), ..dropped_fin(Origin::Received { ifindex: IN }) }
}

fn drop_at(ms: u64, key: ConnectionKey, segment: DroppedSegment) -> Event {
    let kind = EventKind::SegmentDropped(Box::new(segment));
    Event::Connection(ConnectionEvent { at: at(ms), key, socket: SocketView::default(), kind })
}

fn entry(state: ConntrackState, zone: u16, closed_by: Option<Direction>) -> TrackedFlow {
    let entry = ConntrackEntry { state: Some(state), replied: true, assured: true, expires_in: None, zone };
    TrackedFlow { entry, original: (client(), server()), reply: (server(), client()), closed_by }
}

fn end(state: TcpState) -> HostEnd {
    let long_ago = Duration::from_secs(3_600);
    let status = SocketStatus {
        state,
        inode: 9,
        retransmits: 0,
        probes: 0,
        timer: None,
        heard_ago: long_ago,
        data_ago: Some(long_ago),
    };
    HostEnd { netns: 8, status }
}

/// What the witnesses say whenever they are asked.
#[derive(Clone, Default)]
struct World {
    entries: Vec<TrackedFlow>,
    is_tracking: bool,
    ends: FlowEnds,
    ends_here: bool,
}

impl World {
    fn tracked(state: ConntrackState) -> Self {
        Self { entries: vec![entry(state, 5, None)], is_tracking: true, ..Self::default() }
    }

    fn with_receiver(self, state: TcpState) -> Self {
        Self { ends: FlowEnds { receiver: Some(end(state)), sender: None }, ..self }
    }

    fn answer(&self, question: &Question) -> Answer {
        match *question {
            Question::Socket { key, .. } => Answer::Socket { key, lookup: SocketLookup::Gone },
            Question::FlowConntrack { key, .. } => {
                let active = FlowConntrack::Active(self.entries.clone(), ConntrackSettings::default());
                let conntrack = if self.is_tracking { active } else { FlowConntrack::Inactive };
                Answer::FlowConntrack { key, conntrack: Ok(conntrack) }
            }
            Question::FlowEnds { key, .. } => Answer::FlowEnds { key, ends: self.ends.clone() },
            Question::ForwardPath { key, ingress_ifindex, .. } => {
                let port = |index, name: &str| {
                    Some(Port { interface: Interface { index, name: name.to_owned() }, behind: None })
                };
                let (ingress, egress) = (port(ingress_ifindex, "uplink"), port(4, "tap0"));
                Answer::ForwardPath { key, path: Ok(ForwardPath { ends_here: self.ends_here, ingress, egress }) }
            }
            Question::Function { key, address } => {
                Answer::Function { key, address, function: Ok(Some("nft_do_chain".to_owned())) }
            }
            Question::Owner { key, inode } => {
                let pid = u32::try_from(inode).unwrap();
                Answer::Owner { key, owner: Ok(Some(Owner { pid, ..Owner::default() })) }
            }
            Question::DropPlace { key, .. } => Answer::DropPlace { key, place: Err("not found".to_owned()) },
            Question::Path { .. } | Question::Conntrack { .. } | Question::Service { .. } => {
                panic!("not of a flow: {question:?}")
            }
        }
    }
}

/// A tracker with its witnesses.
struct Lab {
    tracker: Tracker,
    world: World,
    now: MonoTime,
    findings: Vec<Finding>,
    /// Questions about flows that wait for their answers, while the witnesses are slow.
    held: Option<Vec<Question>>,
}

impl Lab {
    fn new(world: World) -> Self {
        Self { tracker: Tracker::new(), world, now: at(0), findings: Vec::new(), held: None }
    }

    /// Lets time pass, and answers whatever is asked.
    fn run_until(&mut self, ms: u64) {
        loop {
            self.settle();
            match self.tracker.poll_timeout() {
                Some(due) if due <= at(ms) => {
                    self.now = self.now.max(due);
                    self.tracker.handle_timeout(due);
                }
                Some(_) | None => break,
            }
        }
        self.now = at(ms);
    }

    fn settle(&mut self) {
        while let Some(output) = self.tracker.poll_output() {
            match output {
                Output::Finding(finding) => self.findings.push(*finding),
                Output::Question(question) => match &mut self.held {
                    Some(held) if !matches!(question, Question::Socket { .. }) => held.push(question),
                    Some(_) | None => self.tracker.handle_answer(self.now, self.world.answer(&question)),
                },
            }
        }
    }

    fn drops(&mut self, copies: impl IntoIterator<Item = u64>, key: ConnectionKey, segment: &DroppedSegment) {
        for ms in copies {
            self.run_until(ms);
            self.tracker.handle_event(drop_at(ms, key, segment.clone()));
        }
        self.settle();
    }

    fn states(&self) -> Vec<(FindingState, Confidence)> {
        self.findings.iter().map(|finding| (finding.state, finding.ruling.confidence)).collect()
    }

    fn outcome(&self) -> Option<FindingState> {
        self.findings.last().map(|finding| finding.state)
    }
}

/// When a sender with the shortest RTO sends a FIN: at once and after 0.2, 0.6, 1.4, 3, 6.2 s.
const COPIES: [u64; 6] = [0, 200, 600, 1_400, 3_000, 6_200];
const RECOVERED: Option<FindingState> = Some(FindingState::Closed(Outcome::Recovered));

fn step(message: ControlMessage) -> DroppedSegment {
    DroppedSegment { message, ..segment(false) }
}
