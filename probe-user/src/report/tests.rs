mod forwarded;
mod terminal;

use std::time::Duration;

use super::{record::Recorder, text::Layout, *};
use crate::{
    case::{Finding, FindingId, FindingState, Outcome},
    judge::{
        Attempt, Cause, Confidence, Deadline, DeadlineSource, Evidence, EvidenceKind, KernelTimer, MissingEvidence,
        Ruling, Verdict,
        risk::{
            Groups, Idle, Limit, LimitSource, LookedBy, Probing, RiskKind, Risks, Risky, Service, ServiceDirection,
        },
    },
    model::{
        Amounts, ClosedConnection, ConnectionKey, Coverage, Halves, Hook, HookStatus, Interface, Keepalive, Knowledge,
        LossPlace, Mechanism, MissingField, MonoTime, NeighbourState, Owner, OwnerCall, OwnerKnowledge, PathStatus,
        Place, Role, Route, ScanStatus, SeenProcess, SocketCookie, SocketRouting, SocketView, TcpState,
    },
};

fn at(ms: u64) -> MonoTime {
    MonoTime::from_ns(5_000_000_000_000 + ms * 1_000_000)
}

fn clock() -> WallClock {
    WallClock::aligned(at(0), "2026-11-20T21:24:00Z".parse().unwrap())
}

fn socket(count: u8, ms: u64) -> SocketView {
    SocketView {
        state: Some(TcpState::Established),
        snd_una: Some(4_000_000_000),
        snd_nxt: Some(4_000_000_512),
        write_seq: Some(4_000_002_048),
        snd_wnd_bytes: Some(64_256),
        packets_out: Some(1),
        retransmits: Some(count),
        rto: Some(Duration::from_millis(200 << (count - 1))),
        retransmitting_for: Some(Duration::from_millis(ms - 200)),
        last_ack_ago: Some(Duration::from_secs(3_600)),
        last_data_ago: Some(Duration::from_secs(3_600)),
        user_timeout: Some(Duration::ZERO),
        keepalive: Some(Keepalive { enabled: true, idle: Some(Duration::from_secs(60)), interval: None, probes: None }),
        orphaned: Some(false),
        soft_error: Some(0),
        ..SocketView::default()
    }
}

fn timeout(count: u8, ms: u64, send_result: Option<i32>) -> Evidence {
    let timeout = Attempt { send_result, socket: socket(count, ms) };
    Evidence { at: at(ms), kind: EvidenceKind::RetransmissionTimeout(timeout) }
}

fn path() -> Knowledge<PathStatus> {
    let interface = |index, name: &str| Interface { index, name: name.to_owned() };
    let gateway = Some([10, 3, 0, 1].into());
    let neighbour = Some(NeighbourState::Resolved);
    Knowledge::Known(PathStatus {
        local_address: true,
        socket: SocketRouting { mark: Some(7), bound_to: Some(0), transparent: Some(false) },
        route: Ok(Route { egress: interface(2, "eth0"), gateway, neighbour }),
        ingress: Some(interface(3, "eth1")),
        reverse_path_filter: Some(1),
    })
}

fn finding(local: &str, state: FindingState) -> Finding {
    let key = ConnectionKey {
        netns: 4_026_532_177,
        local: local.parse().unwrap(),
        remote: if local.starts_with('[') { "[2001:db8::2]:5672" } else { "10.3.0.100:5672" }.parse().unwrap(),
    };
    Finding {
        path: path(),
        id: FindingId { key, cookie: Some(SocketCookie(77)), opened_at: at(3_000), case: 0 },
        state,
        at: at(12_600),
        flow: None,
        socket: socket(6, 12_600),
        ruling: Ruling {
            verdict: Verdict::RetransmitStalled,
            cause: Cause::PeerSilent,
            confidence: Confidence::Confirmed,
            since: at(200),
            deadline: Some(Deadline {
                at: at(942_000),
                timer: KernelTimer::Retransmission,
                set_by: DeadlineSource::TcpRetries2 { retries: 15 },
            }),
            missing: Vec::new(),
        },
        owner: OwnerKnowledge::Process(Owner {
            pid: 812,
            comm: "nova-compute".to_owned(),
            other_holders: 0,
            exe: Some("/usr/bin/python3.11".to_owned()),
            cgroup: Some("/system.slice/nova-compute.service".to_owned()),
            place: Place { unit: Some("nova-compute.service".to_owned()), ..Place::default() },
        }),
        evidence: vec![timeout(1, 200, Some(0)), timeout(2, 600, Some(-16)), timeout(6, 12_600, Some(0))],
        evidence_left_out: 3,
    }
}

fn local_failure() -> Finding {
    let mut finding = finding("[2001:db8::1]:50000", FindingState::Updated);
    finding.ruling.cause = Cause::LocalSendFailure;
    finding.ruling.confidence = Confidence::Suspected;
    finding.ruling.missing = vec![MissingEvidence::LocalAddressAndRoute, MissingEvidence::LostEvents { count: 4 }];
    finding.ruling.deadline = Some(Deadline {
        at: at(30_000),
        timer: KernelTimer::Retransmission,
        set_by: DeadlineSource::TcpUserTimeout { timeout: Duration::from_secs(30) },
    });
    finding.owner =
        OwnerKnowledge::Unavailable("3 processes could not be looked into; run connprobe as root".to_owned());
    finding.evidence = vec![timeout(6, 12_600, Some(-113))];
    finding
}

fn coverage() -> Coverage {
    let status = |hook| {
        if hook == Hook::InetSkErrorReport {
            HookStatus::Unsupported("tracefs shows no such tracepoint".to_owned())
        } else {
            HookStatus::Attached(Mechanism::TpBtf)
        }
    };
    Coverage {
        kernel_release: "6.1.0-13-amd64".to_owned(),
        hooks: Hook::ALL.into_iter().map(|hook| (hook, status(hook))).collect(),
        missing_fields: vec![MissingField {
            field: "inet_connection_sock.icsk_rto_max".to_owned(),
            why: "this kernel has no inet_connection_sock.icsk_rto_max".to_owned(),
            harmless: true,
        }],
        scan: ScanStatus::Iterator,
        self_test: None,
        modules: Vec::new(),
        costs: std::collections::BTreeMap::new(),
        lifecycle: None,
    }
}

fn summary(findings: Vec<Finding>) -> Summary {
    let count = |hook| HookCount { hook, seen: 0, emitted: 0, lost: 0, suppressed: 0, missed: 0 };
    let mut hooks = Hook::ALL.map(count).to_vec();
    hooks[1] = HookCount { hook: Hook::TcpRetransmitSkb, seen: 12, emitted: 8, lost: 4, suppressed: 0, missed: 0 };
    let (watched, forgotten) = (Duration::from_secs(30), Forgotten::default());
    Summary { watched, findings, forgotten, hooks, undecodable: 0, unasked: 0, risks: None }
}

#[test]
fn the_report_says_everything_an_operator_needs_in_eighty_columns() {
    let findings = vec![
        finding("10.3.0.50:51050", FindingState::Updated),
        local_failure(),
        finding("10.3.0.50:51051", FindingState::Closed(Outcome::Recovered)),
        finding("10.3.0.50:51052", FindingState::Closed(Outcome::TimedOut)),
    ];
    let layout = Layout { width: 80, color: false };
    insta::assert_snapshot!(text::report(&summary(findings), &coverage(), &clock(), at(15_000), layout));
}

/// As many connections as these that have lost their address, two that were restarted, and one silent peer.
fn many(count: u16) -> Vec<Finding> {
    let mut findings = vec![finding("10.3.0.51:51050", FindingState::Opened)];
    findings.extend((0..count).map(|number| {
        let mut finding = finding(&format!("10.3.0.50:{}", 40_000 + number), FindingState::Updated);
        finding.ruling.cause = Cause::SourceAddressLost;
        if number == 1 {
            finding.ruling.confidence = Confidence::Suspected;
        }
        finding.evidence = vec![timeout(6, 12_600, Some(-101))];
        finding
    }));
    findings.extend((0..2).map(|number| {
        let mut finding = finding(&format!("10.3.0.50:{}", 60_000 + number), FindingState::Opened);
        finding.owner = OwnerKnowledge::NoProcess;
        finding
    }));
    findings
}

#[test]
fn of_many_that_are_alike_one_is_told_in_full_and_all_are_counted() {
    let layout = Layout { width: 80, color: false };
    insta::assert_snapshot!(text::report(&summary(many(300)), &coverage(), &clock(), at(15_000), layout));
}

#[test]
fn while_watching_only_the_first_of_a_kind_is_told_in_full() {
    let (mut told, layout) = (text::Told::default(), Layout { width: 80, color: false });
    let mut change = |local| text::change(&finding(local, FindingState::Opened), &mut told, &clock(), layout);
    assert!(change("10.3.0.50:40000").contains("what to do"));
    assert_eq!(
        &*change("10.3.0.50:40001"),
        "21:24:12.600  10.3.0.50:40001 -> 10.3.0.100:5672  retransmit_stalled,\n              peer_silent (confirmed), \
         held by nova-compute (pid 812) in\n              nova-compute.service\n"
    );
}

#[test]
fn the_error_that_the_kernel_remembers_is_the_one_it_will_report() {
    let text = |soft_error| {
        let mut finding = finding("10.3.0.50:40000", FindingState::Opened);
        finding.socket.soft_error = soft_error;
        sentences::until(&finding, &clock(), at(15_000)).unwrap()
    };
    assert!(text(Some(0)).contains("reports ETIMEDOUT to the application;"));
    assert!(text(Some(113)).contains("reports EHOSTUNREACH to the application;"));
    assert!(text(None).contains("reports ETIMEDOUT to the application, or an ICMP error it has got;"));
}

#[test]
fn for_how_long_a_drop_can_be_seen_is_told_of_a_fin_that_another_host_repeats() {
    use crate::model::{ControlMessage, DroppedSegment, Origin, dropped_fin};
    let told = |origin, message| {
        let segment = DroppedSegment { message, ..dropped_fin(origin) };
        let mut finding = finding("10.3.0.50:51050", FindingState::Opened);
        let (verdict, cause) = (Verdict::SilentlyDroppedFin, Cause::FirewallDrop);
        finding.ruling = Ruling { verdict, cause, deadline: None, ..finding.ruling };
        finding.evidence = vec![Evidence { at: at(0), kind: EvidenceKind::SegmentDropped(Box::new(segment)) }];
        sentences::until(&finding, &clock(), at(1_000))
    };
    let from_peer = Origin::Received { ifindex: 2 };
    assert!(told(from_peer, ControlMessage::Fin).unwrap().starts_with("10.3.0.100 repeats its FIN for about 100 s"));
    assert_eq!(told(from_peer, ControlMessage::Reset), None, "a RST is sent once");
    assert_eq!(told(Origin::Sent, ControlMessage::Fin), None, "of its own this host knows the deadline");
}

#[test]
fn however_many_there_are_the_report_is_bounded() {
    let findings = (0..1_000_u32).map(|number| {
        let mut finding = finding(&format!("10.3.0.50:{}", 40_000 + number), FindingState::Opened);
        finding.owner = OwnerKnowledge::Process(Owner { pid: number, comm: "x".to_owned(), ..Owner::default() });
        finding
    });
    let layout = Layout { width: 80, color: false };
    let text = text::report(&summary(findings.collect()), &coverage(), &clock(), at(15_000), layout);
    assert!(text.contains("   970 more, of other causes or owners; --format json has them all"), "{text}");
    assert!(text.lines().count() < 1_000);
}

#[test]
fn a_report_of_nothing_is_one_line() {
    let mut coverage = coverage();
    coverage.hooks = Hook::ALL.into_iter().map(|hook| (hook, HookStatus::Attached(Mechanism::TpBtf))).collect();
    let mut summary = summary(Vec::new());
    summary.hooks[1] =
        HookCount { hook: Hook::TcpRetransmitSkb, seen: 9, emitted: 9, lost: 0, suppressed: 0, missed: 0 };
    let layout = Layout { width: 80, color: false };
    let text = text::report(&summary, &coverage, &clock(), at(30_000), layout);
    assert_eq!(&*text, "No connection in limbo (watched for 30.0 s until 21:24:30.000 UTC).\n");
}

#[test]
fn colours_are_only_where_they_are_asked_for() {
    let report = |color| {
        let findings = vec![finding("10.3.0.50:51050", FindingState::Opened)];
        text::report(&summary(findings), &coverage(), &clock(), at(15_000), Layout { width: 80, color })
    };
    assert!(!report(false).contains('\u{1b}'));
    assert!(report(true).contains('\u{1b}'));
}

fn idle(port: u16, idle_s: u64, probing: Probing) -> Idle {
    Idle {
        key: ConnectionKey {
            netns: 4_026_532_177,
            local: ([10, 3, 0, 50], port).into(),
            remote: ([10, 3, 0, 100], 5672).into(),
        },
        cookie: Some(SocketCookie(u64::from(port))),
        inode: Some(1),
        peer_has_closed: false,
        idle_for: Duration::from_secs(idle_s),
        probing,
    }
}

/// Connections of a service of OpenStack to its broker, of an unknown process that keeps alive too late for this host's own
/// connection tracking, and of a web server that does not close.
fn risks() -> Risks {
    let by_operator = Limit { time: Duration::from_secs(3_600), set_by: LimitSource::IdleTimeout };
    let by_conntrack = Limit { time: Duration::from_secs(300), set_by: LimitSource::Conntrack };
    let outgoing = Service { port: 5672, direction: ServiceDirection::Outgoing };
    let mut groups = Groups::default();
    let mut add = |kind, idle, limit, service, holder| groups.add(&Risky { kind, idle, limit, service }, holder);
    let OwnerKnowledge::Process(nova) = finding("10.3.0.50:51050", FindingState::Opened).owner else { unreachable!() };
    for number in 0..37u16 {
        let nova = OwnerKnowledge::Process(Owner { pid: 812 + u32::from(number % 3), ..nova.clone() });
        let idle = idle(51_000 + number, 3_123 + 60 * u64::from(number % 10), Probing::Off);
        add(RiskKind::IdleWithoutKeepalive, idle, by_operator, outgoing, nova);
    }
    for time in [7_200, 600] {
        let idle = idle(52_000, 45, Probing::AfterAtLeast(Duration::from_secs(time)));
        let hidden =
            OwnerKnowledge::Unavailable("3 processes could not be looked into; run connprobe as root".to_owned());
        add(RiskKind::KeepaliveTooLate, idle, by_conntrack, outgoing, hidden);
    }
    let leaked = Idle { peer_has_closed: true, ..idle(80, 86_399, Probing::Off) };
    let web = Owner { pid: 4_711, comm: "uwsgi".to_owned(), ..Owner::default() };
    let at_web = Service { port: 80, direction: ServiceDirection::Accepted };
    add(RiskKind::CloseWaitLeak, leaked, by_operator, at_web, OwnerKnowledge::Process(web));
    let mut risks = Risks::new(at(14_000), LookedBy::SockDiag, Duration::from_secs(3_600));
    groups.tell(&mut risks);
    risks.keepalive_unknown = 2;
    risks.gaps = vec!["network namespace 4026532178 could not be looked at: it is gone".to_owned()];
    risks
}

#[test]
fn risks_are_told_after_the_findings_in_eighty_columns() {
    let summary = Summary { risks: Some(risks()), ..summary(Vec::new()) };
    let layout = Layout { width: 80, color: false };
    insta::assert_snapshot!(text::report(&summary, &coverage(), &clock(), at(15_000), layout));
}

#[test]
fn a_look_that_sees_no_risk_is_a_line_and_one_that_failed_says_so() {
    let text = |gaps: Vec<String>| {
        let risks = Risks { gaps, ..Risks::new(at(14_000), LookedBy::SockDiag, Duration::from_secs(3_600)) };
        let summary = Summary { risks: Some(risks), hooks: Vec::new(), ..summary(Vec::new()) };
        let coverage = Coverage { hooks: Vec::new(), ..coverage() };
        text::report(&summary, &coverage, &clock(), at(15_000), Layout { width: 80, color: false })
    };
    let first = "No connection in limbo (watched for 30.0 s until 21:24:15.000 UTC).\n\n";
    assert_eq!(*text(Vec::new()), format!("{first}No risk seen among the idle connections.\n"));
    let failed = text(vec!["the look for risks has failed".to_owned()]);
    assert_eq!(
        *failed,
        format!("{first}No risk seen, but not everything could be looked at:\n  - the look for risks has failed\n")
    );
}

/// Records of every type; of findings one that is open, one that is over, and one of a connection that is only forwarded.
pub(crate) fn records_of_every_type() -> Vec<record::Record> {
    let host =
        Host { name: "compute-3".to_owned(), machine_id: Some("2f".repeat(16)), boot_id: uuid::Uuid::from_u128(7) };
    let mut recorder = Recorder::new(host, clock());
    let sink = |failing: Option<&str>| SinkHealth {
        sink: "stdout".to_owned(),
        written: 7,
        dropped: 0,
        errors: 0,
        failing: failing.map(str::to_owned),
    };
    let heartbeat = Heartbeat {
        at: at(20_000),
        watched: Duration::from_secs(20),
        open_cases: 2,
        open_findings: 1,
        findings: 1,
        lost: 4,
        undecodable: 0,
        questions_waiting: 0,
        connections: None,
        hooks: summary(Vec::new()).hooks,
        cost: Cost { cpu: Some(Duration::from_millis(250)), rss_bytes: Some(1 << 24), bpf: None },
        sinks: vec![sink(None), sink(Some("No space left"))],
    };
    let risks = risks();
    vec![
        recorder.coverage(at(0), &coverage()),
        recorder.finding(&finding("10.3.0.50:51050", FindingState::Opened)),
        recorder.finding(&finding("[2001:db8::1]:51050", FindingState::Closed(Outcome::Recovered))),
        recorder.finding(&forwarded::to_a_container()),
        recorder.connection(&closed(), None, &[]),
        recorder.loss(at(13_000), LossPlace::Ring(Hook::TcpRetransmitSkb), 4),
        recorder.heartbeat(&heartbeat),
        recorder.risk(&risks, risks.risks.first().unwrap()),
        recorder.summary(at(30_000), &summary(vec![finding("10.3.0.50:51050", FindingState::Opened)])),
    ]
}

#[test]
fn risk_records_are_as_the_contract_says() {
    let host = Host { name: "compute-3".to_owned(), machine_id: None, boot_id: uuid::Uuid::from_u128(7) };
    let mut recorder = Recorder::new(host, clock());
    let risks = risks();
    let mut records: Vec<_> = risks.risks.iter().map(|risk| recorder.risk(&risks, risk)).collect();
    records
        .push(recorder.summary(at(30_000), &Summary { risks: Some(risks), hooks: Vec::new(), ..summary(Vec::new()) }));
    insta::assert_json_snapshot!(records);
}

fn closed() -> ClosedConnection {
    let key =
        ConnectionKey { netns: 7, local: ([10, 3, 0, 50], 51_050).into(), remote: ([10, 3, 0, 100], 5672).into() };
    ClosedConnection {
        at: at(12_500),
        key,
        cookie: None,
        opened: Some(at(500)),
        established: Some(at(501)),
        role: Some(Role::ActiveOpen),
        last_state: TcpState::Established,
        error: Some(104),
        halves: Halves::default(),
        amounts: Amounts { bytes_sent: Some(1_000), rtt: Some(Duration::from_micros(130)), ..Amounts::default() },
        process: Some(SeenProcess { pid: 812, comm: "beam.smp".to_owned(), by: OwnerCall::Connect }),
        uid: Some(106),
        cgroup_id: None,
    }
}

#[test]
fn records_are_as_the_contract_says() {
    let host = Host { name: "compute-3".to_owned(), machine_id: None, boot_id: uuid::Uuid::from_u128(7) };
    let mut recorder = Recorder::new(host, clock());
    let records = vec![
        recorder.coverage(at(0), &coverage()),
        recorder.finding(&finding("10.3.0.50:51050", FindingState::Opened)),
        recorder.finding(&local_failure()),
        recorder.connection(&closed(), None, &[]),
        recorder.loss(at(13_000), LossPlace::Ring(Hook::TcpRetransmitSkb), 4),
        recorder.summary(at(30_000), &summary(vec![finding("10.3.0.50:51050", FindingState::Opened)])),
    ];
    insta::assert_json_snapshot!(records);
}
