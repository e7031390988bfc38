//! Connections that this host only forwards.

use std::net::SocketAddr;

use super::*;
use crate::{
    case::FlowView,
    model::{
        Behind, Checksum, ConntrackEntry, ConntrackState, ControlMessage, DropReason, DroppedSegment, FlowEnds,
        FlowKey, ForwardPath, HostEnd, Machine, Origin, Port, SocketStatus, Stack, Translation, WaitingEnd,
    },
};

const CLIENT: ([u8; 4], u16) = ([10, 3, 0, 50], 51_050);
const SERVER: ([u8; 4], u16) = ([10, 3, 0, 100], 5672);

fn server() -> SocketAddr {
    SERVER.into()
}

fn dropped(ms: u64) -> Evidence {
    let segment = DroppedSegment {
        message: ControlMessage::Fin,
        origin: Origin::Forwarded { ifindex: 4, sender: server() },
        sequence: 4_000_000_512,
        reason: DropReason::NetfilterDrop,
        location: 1,
        stack: Stack::default(),
        function: Some("nft_do_chain".to_owned()),
        stated_bytes: 40,
        actual_bytes: 46,
        data_bytes: 0,
        // Less by the length of the padding.
        checksum: Checksum::Wrong { carried: 0xabc7, due: 0xabcd },
        is_tracked: Some(false),
        destination_mac: None,
    };
    Evidence { at: at(ms), kind: EvidenceKind::SegmentDropped(Box::new(segment)) }
}

/// A padded FIN on its way from the tunnel to a virtual machine.
fn to_a_machine(state: FindingState) -> Finding {
    let port = |index, name: &str, behind| Port { interface: Interface { index, name: name.to_owned() }, behind };
    let machine = Machine {
        pid: 4_711,
        name: Some("instance-0000002a".to_owned()),
        uuid: Some("6c1f6a9c-0a1b-4c8e-9d8f-0d5a0c3f2b11".to_owned()),
    };
    let path = ForwardPath {
        ends_here: false,
        ingress: Some(port(4, "genev_sys_6081", None)),
        egress: Some(port(9, "tap1a2b3c4d-5e", Some(Behind::Machine(machine)))),
    };
    let key = FlowKey { netns: 4_026_531_840, zone: Some(5), initiator: CLIENT.into(), responder: server() };
    let id = ConnectionKey { netns: key.netns, local: key.initiator, remote: key.responder };
    let entry = ConntrackEntry {
        state: Some(ConntrackState::Established),
        replied: true,
        assured: true,
        expires_in: Some(Duration::from_secs(431_990)),
        zone: 5,
    };
    Finding {
        id: FindingId { key: id, cookie: None, opened_at: at(3_000), case: 1 },
        flow: Some(Box::new(FlowView {
            key,
            is_direction_known: true,
            packet: (server(), CLIENT.into()),
            translation: None,
            path: Knowledge::Known(path),
            ends: FlowEnds::default(),
            receiver_owner: OwnerKnowledge::NotAsked,
        })),
        socket: SocketView::default(),
        path: Knowledge::NotAsked,
        ruling: Ruling {
            verdict: Verdict::SilentlyDroppedFin,
            cause: Cause::ConntrackBadChecksum,
            confidence: Confidence::Confirmed,
            since: at(2_000),
            deadline: None,
            missing: Vec::new(),
        },
        owner: OwnerKnowledge::NotAsked,
        evidence: vec![
            dropped(2_000),
            dropped(2_200),
            Evidence { at: at(3_000), kind: EvidenceKind::ConntrackEntry(entry) },
        ],
        evidence_left_out: 0,
        ..finding("10.3.0.50:51050", state)
    }
}

/// The same to a container of this host, seen in the namespace of a router.
pub(super) fn to_a_container() -> Finding {
    let mut finding = to_a_machine(FindingState::Opened);
    let status = SocketStatus {
        state: TcpState::Established,
        inode: 9,
        retransmits: 0,
        probes: 0,
        timer: None,
        heard_ago: Duration::ZERO,
        data_ago: None,
    };
    let flow = finding.flow.as_mut().unwrap();
    flow.key.netns = 4_026_532_500;
    flow.key.zone = Some(0);
    flow.ends.receiver = Some(HostEnd { netns: 4_026_532_600, status });
    flow.receiver_owner = OwnerKnowledge::Process(Owner { pid: 99, comm: "beam.smp".to_owned(), ..Owner::default() });
    if let Knowledge::Known(path) = &mut flow.path {
        path.egress.as_mut().unwrap().behind = Some(Behind::Netns(4_026_532_600));
    }
    finding.id.key.netns = 4_026_532_500;
    finding.id.case = 2;
    let waits = WaitingEnd { netns: 4_026_532_600, sender: server(), state: TcpState::Established };
    finding.evidence.push(Evidence { at: at(3_001), kind: EvidenceKind::EndWaits(waits) });
    finding
}

/// What the server's own host sees of it: nobody acknowledges its FIN.
fn at_the_server() -> Finding {
    let mut finding = finding("10.3.0.50:51050", FindingState::Opened);
    (finding.id.key.local, finding.id.key.remote) = (server(), CLIENT.into());
    finding.ruling.verdict = Verdict::SilentlyDroppedFin;
    finding.ruling.cause = Cause::UnacknowledgedFin;
    finding.ruling.confidence = Confidence::Suspected;
    finding
}

#[test]
fn a_connection_is_told_once_with_all_that_is_seen_of_it() {
    let mut other = to_a_machine(FindingState::Updated);
    (other.id.key.local, other.id.case) = (([10, 3, 0, 50], 51_051).into(), 3);
    let flow = other.flow.as_mut().unwrap();
    flow.key.initiator.set_port(51_051);
    flow.is_direction_known = false;
    let closed = to_a_machine(FindingState::Closed(Outcome::Recovered));
    let findings = vec![at_the_server(), to_a_machine(FindingState::Opened), to_a_container(), other];
    let layout = Layout { width: 80, color: false };
    insta::assert_snapshot!(text::report(&summary(findings), &coverage(), &clock(), at(15_000), layout));
    let text = text::report(&summary(vec![closed]), &coverage(), &clock(), at(15_000), layout);
    assert!(text.starts_with("No connection in limbo"), "{text}");
}

#[test]
fn a_translated_connection_is_told_with_both_its_names() {
    let service: SocketAddr = ([10, 96, 0, 10], 443).into();
    let mut finding = to_a_machine(FindingState::Opened);
    let flow = finding.flow.as_mut().unwrap();
    flow.key.responder = service;
    flow.translation = Some(Translation { original: (CLIENT.into(), service), translated: (CLIENT.into(), server()) });
    let layout = Layout { width: 240, color: false };
    let text = text::report(&summary(vec![finding.clone()]), &coverage(), &clock(), at(15_000), layout);
    for said in [
        "10.3.0.50:51050 -> 10.96.0.10:443",
        "translated to 10.3.0.50:51050 -> 10.3.0.100:5672",
        "10.3.0.100 has ended the connection",
        "Nothing tells 10.3.0.50 ",
        "$ ss -tK src 10.3.0.50 sport = :51050 dst 10.96.0.10 dport = :443",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let host = Host { name: "compute-3".to_owned(), machine_id: None, boot_id: uuid::Uuid::nil() };
    let record = serde_json::to_value(Recorder::new(host, clock()).finding(&finding)).unwrap();
    let translated = &record["connection"]["translated"];
    assert_eq!(translated["responder"]["port"], 5672);
    assert_ne!(translated["community_id"], record["connection"]["community_id"]);
}

#[test]
fn records_of_forwarded_connections_are_as_the_contract_says() {
    let host = Host { name: "compute-3".to_owned(), machine_id: None, boot_id: uuid::Uuid::nil() };
    let mut recorder = Recorder::new(host, clock());
    let records = [at_the_server(), to_a_container()].map(|finding| recorder.finding(&finding));
    let records = records.map(|record| serde_json::to_value(record).unwrap());
    assert_eq!(records[1]["related"][0], records[0]["finding_id"]);
    insta::assert_json_snapshot!(records[1]);
    let closed = FindingState::Closed(Outcome::Recovered);
    let closing = serde_json::to_value(recorder.finding(&Finding { state: closed, ..at_the_server() })).unwrap();
    assert_eq!(closing["related"][0], records[1]["finding_id"]);
    let last = serde_json::to_value(recorder.finding(&to_a_container())).unwrap();
    assert_eq!(last["related"], serde_json::json!([]));
}
