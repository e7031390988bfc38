use std::{net::SocketAddr, time::Duration};

use super::*;
use crate::model::{
    ConnectionEvent, ConnectionKey, EventKind, Keepalive, LocalConntrack, LocalPorts, Owner, OwnerKnowledge,
    SocketView, TcpState,
};

const HOUR: Duration = Duration::from_secs(3_600);
const LIMIT: Limit = Limit { time: HOUR, set_by: LimitSource::IdleTimeout };

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn key(local_port: u16, remote_port: u16) -> ConnectionKey {
    ConnectionKey { netns: 1, local: ([10, 0, 0, 1], local_port).into(), remote: ([10, 0, 0, 2], remote_port).into() }
}

fn keepalive(enabled: bool, idle: Option<u64>) -> Option<Keepalive> {
    Some(Keepalive { enabled, idle: idle.map(seconds), interval: None, probes: None })
}

fn view(idle_s: u64) -> SocketView {
    SocketView {
        state: Some(TcpState::Established),
        snd_una: Some(7),
        snd_nxt: Some(7),
        write_seq: Some(7),
        segment_ago: Some(seconds(idle_s)),
        keepalive: keepalive(false, None),
        inode: Some(1),
        ..SocketView::default()
    }
}

fn event(socket: SocketView) -> ConnectionEvent {
    ConnectionEvent { at: MonoTime::default(), key: key(40_000, 5672), socket, kind: EventKind::Scanned }
}

fn kind(socket: SocketView) -> Option<RiskKind> {
    Idle::of(&event(socket))?.kind(LIMIT)
}

fn idle(local_port: u16, idle_s: u64) -> Idle {
    Idle { key: key(local_port, 5672), ..Idle::of(&event(view(idle_s))).unwrap() }
}

#[test]
fn a_connection_is_a_risk_when_it_is_idle_for_a_tenth_of_the_limit_without_keepalive() {
    assert_eq!(kind(view(360)), Some(RiskKind::IdleWithoutKeepalive));
    assert_eq!(kind(view(359)), None);
}

#[test]
fn keepalive_is_no_risk_unless_it_comes_too_late() {
    let with = |keepalive, due_in| kind(SocketView { keepalive, keepalive_due_in: due_in, ..view(400) });
    assert_eq!(with(keepalive(true, Some(3_599)), None), None);
    assert_eq!(with(keepalive(true, Some(3_600)), None), Some(RiskKind::KeepaliveTooLate));
    // Only the timer is known: 400 s of idleness and the rest.
    assert_eq!(with(keepalive(true, None), Some(seconds(3_200))), Some(RiskKind::KeepaliveTooLate));
    assert_eq!(with(keepalive(true, None), Some(seconds(3_199))), None);
    // What is not known is not guessed.
    assert_eq!(with(keepalive(true, None), None), None);
    assert_eq!(with(None, None), None);
}

#[test]
fn what_waits_for_an_answer_or_is_in_another_state_is_no_risk() {
    assert_eq!(kind(SocketView { write_seq: Some(8), ..view(400) }), None);
    assert_eq!(kind(SocketView { snd_una: Some(6), ..view(400) }), None);
    assert_eq!(kind(SocketView { probes_out: Some(1), ..view(400) }), None);
    assert_eq!(kind(SocketView { state: Some(TcpState::FinWait2), ..view(400) }), None);
    assert_eq!(kind(SocketView { segment_ago: None, ..view(400) }), None);
}

#[test]
fn without_the_time_of_the_last_segment_both_other_times_are_needed() {
    let with = |ack, data| kind(SocketView { segment_ago: None, last_ack_ago: ack, last_data_ago: data, ..view(0) });
    assert_eq!(with(Some(seconds(400)), Some(seconds(500))), Some(RiskKind::IdleWithoutKeepalive));
    assert_eq!(with(Some(seconds(400)), Some(seconds(300))), None);
    assert_eq!(with(Some(seconds(400)), None), None);
}

#[test]
fn a_socket_left_in_close_wait_is_a_leak_whatever_its_keepalive() {
    let closed = |idle_s| SocketView { state: Some(TcpState::CloseWait), ..view(idle_s) };
    assert_eq!(kind(closed(360)), Some(RiskKind::CloseWaitLeak));
    assert_eq!(kind(SocketView { keepalive: keepalive(true, Some(60)), ..closed(360) }), Some(RiskKind::CloseWaitLeak));
    assert_eq!(kind(closed(359)), None);
}

#[test]
fn a_shorter_timeout_of_local_connection_tracking_holds_where_the_connection_passes_it() {
    let set_by = |idle: &Idle, conntrack: &LocalConntrack| limit(idle, HOUR, Some(conntrack)).unwrap().set_by;
    let ends: (SocketAddr, SocketAddr) = (key(1, 5672).local, key(1, 5672).remote);
    let mut conntrack = LocalConntrack { timeout: seconds(300), tracks_v4: true, ..LocalConntrack::default() };
    assert_eq!(set_by(&idle(1, 299), &conntrack), LimitSource::IdleTimeout);
    assert_eq!(set_by(&idle(1, 300), &conntrack), LimitSource::Conntrack, "forgotten already");
    conntrack.known.insert(ends);
    assert_eq!(set_by(&idle(1, 30), &conntrack), LimitSource::Conntrack);
    assert_eq!(set_by(&idle(2, 30), &conntrack), LimitSource::IdleTimeout, "another connection");
    assert_eq!(set_by(&Idle { peer_has_closed: true, ..idle(1, 30) }, &conntrack), LimitSource::IdleTimeout);
    conntrack.timeout = seconds(7_200);
    assert_eq!(set_by(&idle(1, 30), &conntrack), LimitSource::IdleTimeout, "the shorter one holds");
    conntrack = LocalConntrack { timeout: seconds(300), tracks_v6: true, ..LocalConntrack::default() };
    assert_eq!(set_by(&idle(1, 300), &conntrack), LimitSource::IdleTimeout, "it tracks no IPv4");
    assert_eq!(limit(&idle(1, 300), HOUR, None), Some(LIMIT));
}

#[test]
fn a_connection_that_does_not_leave_this_host_is_forgotten_by_nothing_but_its_own_connection_tracking() {
    let within = |address: &str| {
        let end = |port| SocketAddr::new(address.parse().unwrap(), port);
        Idle { key: ConnectionKey { netns: 1, local: end(1), remote: end(2) }, ..idle(1, 400) }
    };
    for address in ["127.0.0.1", "::1", "10.0.0.1"] {
        let idle = within(address);
        assert_eq!(limit(&idle, HOUR, None), None, "{address}");
        assert_eq!(limit(&Idle { peer_has_closed: true, ..idle }, HOUR, None), Some(LIMIT), "{address}");
        let known = [(idle.key.local, idle.key.remote)].into();
        let conntrack = LocalConntrack { timeout: seconds(300), known, ..LocalConntrack::default() };
        assert_eq!(limit(&idle, HOUR, Some(&conntrack)).unwrap().set_by, LimitSource::Conntrack, "{address}");
    }
}

#[test]
fn the_port_that_names_the_service_is_the_listeners() {
    let ports = LocalPorts { listening: [5672, 35_357].into(), ephemeral: Some(32_768..=60_999) };
    let service = |local, remote| {
        let Service { port, direction } = service(&ports, &key(local, remote));
        (port, direction.name())
    };
    assert_eq!(service(40_000, 5672), (5672, "outgoing"));
    assert_eq!(service(5672, 40_000), (5672, "accepted"));
    assert_eq!(service(35_357, 40_000), (35_357, "accepted"));
    assert_eq!(service(80, 40_000), (80, "accepted"), "its listener is gone");
    assert_eq!(service(700, 2049), (2049, "outgoing"), "an outgoing connection from a port of the privileged");
    assert_eq!(service(40_000, 50_000), (50_000, "outgoing"));
}

fn risky(idle: Idle) -> Risky {
    Risky {
        kind: idle.kind(LIMIT).unwrap(),
        idle,
        limit: LIMIT,
        service: Service { port: 5672, direction: ServiceDirection::Outgoing },
    }
}

fn process(pid: u32, comm: &str) -> OwnerKnowledge {
    OwnerKnowledge::Process(Owner { pid, comm: comm.to_owned(), ..Owner::default() })
}

fn told(groups: Groups) -> Risks {
    let mut risks = Risks::new(MonoTime::default(), LookedBy::Iterator, HOUR);
    groups.tell(&mut risks);
    risks
}

#[test]
fn alike_connections_are_counted_together_and_the_longest_idle_are_the_examples() {
    let mut groups = Groups::default();
    for port in 1..=20u16 {
        groups
            .add(&risky(idle(port, 1_000 + 200 * u64::from(port))), process(800 + u32::from(port % 2), "nova-compute"));
    }
    groups.add(&risky(idle(99, 400)), process(7, "curl"));
    groups.add(&risky(idle(98, 400)), OwnerKnowledge::NoProcess);
    let risks = told(groups);
    let counts: Vec<_> = risks.risks.iter().map(|risk| risk.count).collect();
    assert_eq!(counts, [20, 1, 1]);
    let first = &risks.risks[0];
    assert!(
        matches!(&first.holder, OwnerKnowledge::Process(owner) if owner.pid == 800 && owner.comm == "nova-compute")
    );
    assert_eq!((first.processes, first.over_limit, first.longest_idle), (2, 8, seconds(5_000)));
    let ports: Vec<_> = first.examples.iter().map(|example| example.key.local.port()).collect();
    assert_eq!(ports, [20, 19, 18]);
}

#[test]
fn times_of_keepalive_are_told_as_a_range() {
    let mut groups = Groups::default();
    for (port, probing) in [
        (1, Probing::After(seconds(7_200))),
        (2, Probing::After(seconds(5_000))),
        (3, Probing::AfterAtLeast(seconds(9_000))),
    ] {
        groups.add(&risky(Idle { probing, ..idle(port, 400) }), process(1, "x"));
    }
    let risk = told(groups).risks.remove(0);
    let expected = KeepaliveTimes { shortest: seconds(5_000), longest: seconds(9_000), exact: false };
    assert_eq!((risk.count, risk.keepalive), (3, Some(expected)));
}

#[test]
fn the_smallest_groups_are_left_out_and_counted() {
    let mut groups = Groups::default();
    for number in 0..52u16 {
        for port in 0..=u16::from(number >= 2) {
            groups.add(&risky(idle(1_000 + port, 400)), process(1, &format!("process-{number}")));
        }
    }
    let risks = told(groups);
    assert_eq!((risks.risks.len(), risks.left_out, risks.connections_left_out), (50, 2, 2));
    assert!(risks.risks.iter().all(|risk| risk.count == 2));
}
