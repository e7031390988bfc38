use std::time::Duration;

use super::{record::Recorder, text::Layout, *};
use crate::{
    case::{Finding, FindingId, FindingState, Outcome, OwnerKnowledge},
    judge::{
        Attempt, Cause, Confidence, Deadline, DeadlineSource, Evidence, EvidenceKind, KernelTimer, MissingEvidence,
        Ruling, Verdict,
    },
    model::{
        ConnectionKey, Coverage, Hook, HookStatus, Interface, Keepalive, Knowledge, LossPlace, Mechanism, MissingField,
        MonoTime, NeighbourState, Owner, PathStatus, Place, Route, ScanStatus, SocketCookie, SocketView, TcpState,
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
        ..SocketView::default()
    }
}

fn timeout(count: u8, ms: u64, send_result: Option<i32>) -> Evidence {
    let timeout = Attempt { send_result, socket: socket(count, ms) };
    Evidence { at: at(ms), kind: EvidenceKind::RetransmissionTimeout(Box::new(timeout)) }
}

fn path() -> Knowledge<PathStatus> {
    let interface = |index, name: &str| Interface { index, name: name.to_owned() };
    let gateway = Some([10, 3, 0, 1].into());
    let neighbour = Some(NeighbourState::Resolved);
    Knowledge::Known(PathStatus {
        local_address: true,
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
    }
}

fn summary(findings: Vec<Finding>) -> Summary {
    let count = |hook| HookCount { hook, seen: 0, emitted: 0, lost: 0, suppressed: 0, missed: 0 };
    let mut hooks = Hook::ALL.map(count).to_vec();
    hooks[1] = HookCount { hook: Hook::TcpRetransmitSkb, seen: 12, emitted: 8, lost: 4, suppressed: 0, missed: 0 };
    Summary { watched: Duration::from_secs(30), findings, hooks, undecodable: 0, unasked: 0 }
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

#[test]
fn a_report_of_nothing_is_one_line() {
    let mut coverage = coverage();
    coverage.hooks = Hook::ALL.into_iter().map(|hook| (hook, HookStatus::Attached(Mechanism::TpBtf))).collect();
    let mut summary = summary(Vec::new());
    summary.hooks[1] =
        HookCount { hook: Hook::TcpRetransmitSkb, seen: 9, emitted: 9, lost: 0, suppressed: 0, missed: 0 };
    let layout = Layout { width: 80, color: false };
    let text = text::report(&summary, &coverage, &clock(), at(30_000), layout);
    assert_eq!(text, "No connection in limbo (watched for 30.0 s until 21:24:30.000 UTC).\n");
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

#[test]
fn records_are_as_the_contract_says() {
    let host = Host { name: "compute-3".to_owned(), machine_id: None, boot_id: uuid::Uuid::from_u128(7) };
    let mut recorder = Recorder::new(host, clock());
    let records = vec![
        recorder.coverage(at(0), &coverage()),
        recorder.finding(&finding("10.3.0.50:51050", FindingState::Opened)),
        recorder.finding(&local_failure()),
        recorder.loss(at(13_000), LossPlace::Ring(Hook::TcpRetransmitSkb), 4),
        recorder.summary(at(30_000), &summary(vec![finding("10.3.0.50:51050", FindingState::Opened)])),
    ];
    insta::assert_json_snapshot!(records);
}
