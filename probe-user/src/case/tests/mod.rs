mod closing;
mod contract;
mod load;
mod missing;
mod opening;
mod resume;

use std::time::Duration;

use super::*;
use crate::{
    judge::{Cause, Confidence, MissingEvidence},
    model::{
        Answer, ConnectionEvent, ConnectionKey, ConntrackStatus, Event, EventKind, Interface, LossPlace, MonoTime,
        Owner, OwnerKnowledge, PathStatus, PendingTimer, Question, Route, SocketCookie, SocketLookup, SocketRouting,
        SocketStatus, SocketTimer, SocketView, TcpState,
    },
};

fn at(ms: u64) -> MonoTime {
    MonoTime::from_ns(1_000_000_000_000 + ms * 1_000_000)
}

fn key(port: u16) -> ConnectionKey {
    ConnectionKey { netns: 4_026_532_177, local: ([10, 0, 0, 1], port).into(), remote: ([10, 0, 0, 2], 5672).into() }
}

/// The socket at its `count`th timeout in a row, first sent 200 ms before the first.
fn socket(count: u8) -> SocketView {
    let rto = Duration::from_millis(200 << count.saturating_sub(1).min(20));
    SocketView {
        state: Some(TcpState::Established),
        cookie: Some(SocketCookie(7)),
        snd_una: Some(1_000),
        snd_nxt: Some(1_100),
        write_seq: Some(1_100),
        snd_wnd_bytes: Some(64_000),
        retransmits: Some(count),
        rto: Some(rto),
        retransmitting_for: Some(Duration::from_millis(200 * ((1u64 << count.clamp(1, 30)) - 2))),
        last_ack_ago: Some(Duration::from_secs(3_600)),
        last_data_ago: Some(Duration::from_secs(3_600)),
        user_timeout: Some(Duration::ZERO),
        orphaned: Some(false),
        tcp_retries2: Some(15),
        tcp_orphan_retries: Some(0),
        error: Some(0),
        soft_error: Some(0),
        ..SocketView::default()
    }
}

fn path(local_address: bool) -> PathStatus {
    let egress = Interface { index: 2, name: "eth0".to_owned() };
    let route = Ok(Route { egress, gateway: None, neighbour: None });
    let socket = SocketRouting { mark: Some(0), bound_to: Some(0), transparent: Some(false) };
    PathStatus { local_address, socket, route, ingress: None, reverse_path_filter: None }
}

fn timeout_event(port: u16, count: u8) -> Event {
    // Timeouts 1, 2, 3, … come 0.2, 0.6, 1.4, … s after the segment was first sent.
    let ms = 200 * ((1 << count) - 1);
    Event::Connection(ConnectionEvent {
        at: at(ms),
        key: key(port),
        socket: socket(count),
        kind: EventKind::RetransmissionTimeout { send_result: Some(0) },
    })
}

fn closed(ms: u64, error: i32) -> Event {
    Event::Connection(ConnectionEvent {
        at: at(ms),
        key: key(1),
        socket: SocketView { state: Some(TcpState::Close), error: Some(error), ..socket(4) },
        kind: EventKind::StateChange { from: TcpState::Established, to: TcpState::Close },
    })
}

fn status(retransmits: u8) -> SocketStatus {
    SocketStatus {
        state: TcpState::Established,
        inode: 99,
        retransmits,
        probes: 0,
        heard_ago: Duration::from_secs(3_600),
        data_ago: None,
        timer: None,
    }
}

fn found(retransmits: u8) -> Answer {
    Answer::Socket { key: key(1), lookup: SocketLookup::Found(status(retransmits)) }
}

#[derive(Debug, Default)]
struct Said {
    questions: Vec<Question>,
    findings: Vec<Finding>,
}

fn said(tracker: &mut Tracker) -> Said {
    let mut said = Said::default();
    while let Some(output) = tracker.poll_output() {
        match output {
            Output::Question(question) => said.questions.push(question),
            Output::Finding(finding) => said.findings.push(*finding),
        }
    }
    said
}

/// A tracker that has seen the first `count` timeouts of one connection. From the fourth on, all it asks is answered.
fn stalled(count: u8) -> (Tracker, Said) {
    let mut tracker = Tracker::new();
    for count in 1..=count {
        if count == 4 {
            answer_everything(&mut tracker);
        }
        tracker.handle_event(timeout_event(1, count));
        if count >= 4 {
            answer_surroundings(&mut tracker);
        }
    }
    let said = said(&mut tracker);
    (tracker, said)
}

/// No process holds the connection any more, and all is well around it.
fn answer_everything(tracker: &mut Tracker) {
    tracker.handle_answer(at(0), found(3));
    tracker.handle_answer(at(0), Answer::Owner { key: key(1), owner: Ok(None) });
    answer_surroundings(tracker);
}

fn answer_surroundings(tracker: &mut Tracker) {
    tracker.handle_answer(at(0), Answer::Path { key: key(1), path: Ok(path(true)) });
    tracker.handle_answer(at(0), Answer::Conntrack { key: key(1), conntrack: Ok(ConntrackStatus::Inactive) });
}

fn states(said: &Said) -> Vec<FindingState> {
    said.findings.iter().map(|finding| finding.state).collect()
}

/// The socket as a scan finds it: data to send, the window open, and nothing in flight.
fn unsendable(ms: u64, backoff: u8) -> Event {
    Event::Connection(ConnectionEvent {
        at: at(ms),
        key: key(1),
        socket: SocketView {
            snd_nxt: Some(1_000),
            packets_out: Some(0),
            retransmits: Some(0),
            probes_out: Some(backoff),
            backoff: Some(backoff),
            timer: Some(PendingTimer { kind: SocketTimer::Persist, due_in: Duration::from_secs(1) }),
            probing_for: Some(Duration::from_secs(3)),
            ..socket(1)
        },
        kind: EventKind::Scanned,
    })
}
