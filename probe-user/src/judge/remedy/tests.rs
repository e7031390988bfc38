use super::*;
use crate::{
    judge::{Confidence, Deadline, KernelTimer, Verdict},
    model::{MonoTime, OwnerKnowledge, Place},
};

fn key(local_port: u16, remote_port: u16) -> ConnectionKey {
    ConnectionKey { netns: 1, local: ([10, 0, 0, 1], local_port).into(), remote: ([10, 0, 0, 2], remote_port).into() }
}

fn ruling(cause: Cause, set_by: DeadlineSource) -> Ruling {
    let at = MonoTime::from_ns(1);
    Ruling {
        verdict: Verdict::RetransmitStalled,
        cause,
        confidence: Confidence::Confirmed,
        since: at,
        deadline: Some(Deadline { at, timer: KernelTimer::Retransmission, set_by }),
        missing: Vec::new(),
    }
}

const DEFAULT: DeadlineSource = DeadlineSource::TcpRetries2 { retries: 15 };

fn owner(comm: &str) -> Owner {
    Owner { pid: 812, comm: comm.to_owned(), ..Owner::default() }
}

/// Everything that is said of a connection that goes on waiting, in one text.
fn said(cause: Cause, key: &ConnectionKey, owner: Option<&Owner>) -> String {
    let remedies = remedies(key, &ruling(cause, DEFAULT), owner, None, false, &[]);
    remedies.iter().map(|remedy| format!("{remedy:?}\n")).collect()
}

#[test]
fn every_cause_has_one_to_five_remedies_whoever_holds_the_socket() {
    for cause in Cause::ALL {
        for (local, remote) in [(40_000, 80), (40_000, 5672), (5672, 40_000), (5671, 5672)] {
            for comm in ["haproxy", "beam.smp", "nova-compute", "python3", "curl"] {
                for (is_over, owner) in [(false, Some(owner(comm))), (true, Some(owner(comm))), (false, None)] {
                    let remedies =
                        remedies(&key(local, remote), &ruling(cause, DEFAULT), owner.as_ref(), None, is_over, &[]);
                    assert!((1..=MOST_REMEDIES).contains(&remedies.len()), "{cause:?} {comm}");
                    let kills =
                        |remedy: &Remedy| remedy.command.as_ref().is_some_and(|command| command.contains("ss -tK"));
                    assert!(!(is_over && remedies.iter().any(kills)), "{cause:?}: what is over cannot be ended");
                }
            }
        }
    }
}

#[test]
fn what_changes_something_says_what_it_risks_and_a_setting_how_to_make_it_last() {
    for cause in Cause::ALL {
        for comm in ["haproxy", "beam.smp", "nova-compute", "curl"] {
            for key in [key(40_000, 5672), key(5672, 40_000)] {
                for remedy in remedies(&key, &ruling(cause, DEFAULT), Some(&owner(comm)), None, false, &[]) {
                    assert!(remedy.command.is_none() || remedy.risk.is_some(), "{remedy:?}");
                    assert_eq!(remedy.command.is_some(), remedy.place.is_some(), "{remedy:?}");
                    let sets = remedy.command.as_ref().is_some_and(|command| command.contains("sysctl -w"));
                    assert!(!sets || remedy.lasting.is_some(), "{remedy:?}");
                }
            }
        }
    }
}

#[test]
fn commands_run_in_the_namespace_of_the_owner() {
    assert!(said(Cause::SourceAddressLost, &key(1, 2), Some(&owner("curl"))).contains("nsenter -t 812 -n ip address"));
    let unknown = said(Cause::SourceAddressLost, &key(1, 2), None);
    assert!(!unknown.contains("nsenter") && unknown.contains("in network namespace 1 (`lsns"), "{unknown}");
    let over =
        remedies(&key(1, 2), &ruling(Cause::LocalSendFailure, DEFAULT), Some(&owner("curl")), Some(7), true, &[]);
    assert!(
        over.iter().all(|remedy| remedy.place.as_ref().is_some_and(|place| place.contains("as long as it is alive")))
    );
    assert!(over.iter().any(|remedy| remedy.command.as_ref().is_some_and(|command| command.ends_with(" mark 7"))));
}

#[test]
fn what_ends_more_than_one_connection_says_so() {
    let remedies =
        remedies(&key(1, 2), &ruling(Cause::SourceAddressLost, DEFAULT), Some(&owner("curl")), None, false, &[]);
    let risk = |command: &str| {
        let is_it = |remedy: &&Remedy| remedy.command.as_ref().is_some_and(|it| it.ends_with(command));
        remedies.iter().find(is_it).and_then(|remedy| remedy.risk.clone()).unwrap()
    };
    assert!(risk("ss -tK src 10.0.0.1").contains("cuts every connection from 10.0.0.1"));
    assert!(risk("ss -tK src 10.0.0.1 sport = :1 dst 10.0.0.2 dport = :2").contains("cuts this one connection"));
}

#[test]
fn what_is_ended_where_segments_are_lost_stays_open_at_the_peer() {
    let warns = |cause| said(cause, &key(40_000, 5672), None).contains("so is the RST that tells the peer");
    for lost in [Cause::PeerSilent, Cause::KeepaliveUnanswered, Cause::ConntrackExpired, Cause::EmbryonicExpired] {
        assert!(warns(lost), "{lost:?}");
    }
    for told in [Cause::PeerRestarted, Cause::PeerWindowShut, Cause::ConntrackInvalid] {
        assert!(!warns(told), "{told:?}");
    }
}

#[test]
fn haproxy_that_writes_from_a_lost_address_is_told_of_tcp_ut() {
    let text = said(Cause::SourceAddressLost, &key(5672, 40_000), Some(&owner("haproxy")));
    assert!(text.contains("tcp-ut 30s") && text.contains("/etc/haproxy/haproxy.cfg"), "{text}");
    assert!(!text.contains("RABBITMQ"), "{text}");
    let text = said(Cause::PeerReset, &key(40_000, 80), Some(&owner("haproxy")));
    assert!(text.contains("option clitcpka") && text.contains("timeout client"), "{text}");
}

#[test]
fn a_service_of_openstack_is_told_of_its_own_file_and_unit() {
    let unit = Some("openstack-nova-compute.service".to_owned());
    let nova = Owner { place: Place { unit, ..Place::default() }, ..owner("nova-compute") };
    let text = said(Cause::PeerSilent, &key(40_000, 5672), Some(&nova));
    for expected in ["heartbeat_timeout_threshold", "/etc/nova/nova.conf", "restart openstack-nova-compute.service"] {
        assert!(text.contains(expected), "no {expected} in {text}");
    }
    let text = said(Cause::PeerSilent, &key(40_000, 5671), Some(&owner("python3")));
    assert!(text.contains("If python3 is a service of OpenStack") && !text.contains("/etc/nova"), "{text}");
    let text = said(Cause::PeerSilent, &key(40_000, 3306), Some(&nova));
    assert!(!text.contains("heartbeat_timeout_threshold"), "a database is no broker: {text}");
}

#[test]
fn the_broker_is_told_of_heartbeats_and_its_clients_are() {
    let text = said(Cause::PeerSilent, &key(5672, 40_000), Some(&owner("beam.smp")));
    assert!(text.contains("`heartbeat = 60`") && text.contains("{raw,6,18,<<30000:32/native>>}"), "{text}");
    let text = said(Cause::KeepaliveUnanswered, &key(5672, 40_000), None);
    assert!(text.contains("tcp_listen_options.keepalive = true"), "{text}");
    let text = said(Cause::KeepaliveUnanswered, &key(40_000, 5672), Some(&owner("java")));
    assert!(text.contains("its connection option `heartbeat`"), "{text}");
    let text = said(Cause::PeerWindowShut, &key(40_000, 5672), Some(&owner("nova-conductor")));
    assert!(text.contains("rabbitmq-diagnostics alarms"), "{text}");
}

#[test]
fn what_was_reset_is_asked_of_the_peer_by_its_role() {
    for (local, remote, expected) in [
        (40_000, 80, "whether what listens on port 80 was"),
        (5672, 39_473, "whether the client was"),
        (5672, 20_000, "whether the client was"),
        (40_000, 40_001, "whether what held the other end was"),
        (80, 443, "whether what held the other end was"),
    ] {
        let text = said(Cause::PeerReset, &key(local, remote), None);
        assert!(text.contains(expected) && text.contains("virtual address"), "{local} and {remote}: {text}");
    }
}

#[test]
fn the_kernels_limit_is_named_only_where_it_decides_and_can_be_lowered() {
    let lowers = |set_by| {
        let remedies = remedies(&key(1, 2), &ruling(Cause::PeerSilent, set_by), None, None, false, &[]);
        remedies.iter().any(|remedy| remedy.command.as_ref().is_some_and(|command| command.contains("tcp_retries2=8")))
    };
    assert!(lowers(DEFAULT));
    assert!(!lowers(DeadlineSource::TcpRetries2 { retries: 8 }));
    let timeout = std::time::Duration::from_secs(30);
    assert!(!lowers(DeadlineSource::TcpUserTimeout { timeout }));
}

#[test]
fn a_setting_lasts_where_the_owners_network_is_made() {
    let text = said(Cause::PeerReset, &key(1, 2), Some(&owner("curl")));
    assert!(text.contains("/etc/sysctl.d/") && !text.contains("securityContext"), "{text}");
    let place = Place { container_id: Some("1f".repeat(32)), ..Place::default() };
    let contained = Owner { place, ..owner("curl") };
    assert!(said(Cause::PeerReset, &key(1, 2), Some(&contained)).contains("by `--sysctl`"));
    let place = Place { pod_uid: Some("1f".repeat(16)), ..contained.place.clone() };
    let in_pod = Owner { place, ..contained };
    assert!(said(Cause::PeerReset, &key(1, 2), Some(&in_pod)).contains("securityContext.sysctls"));
}

#[test]
fn addresses_of_ipv6_are_written_as_ss_reads_them() {
    let key = ConnectionKey {
        netns: 1,
        local: "[2001:db8::1]:1".parse().unwrap(),
        remote: "[2001:db8::2]:2".parse().unwrap(),
    };
    assert!(
        said(Cause::PeerSilent, &key, None)
            .contains("ss -tK src [2001:db8::1] sport = :1 dst [2001:db8::2] dport = :2")
    );
}

#[test]
fn every_risk_has_one_to_five_remedies_whoever_holds_the_sockets_and_none_without_what_it_costs() {
    use crate::judge::risk::{
        Groups, Idle, Limit, LimitSource, LookedBy, Probing, RiskKind, Risks, Risky, Service, ServiceDirection,
    };
    let idle = |key| Idle {
        key,
        cookie: None,
        inode: Some(1),
        peer_has_closed: false,
        idle_for: std::time::Duration::from_secs(400),
        probing: Probing::AfterAtLeast(std::time::Duration::from_secs(7_200)),
    };
    let holders =
        ["haproxy", "beam.smp", "nova-compute", "python3", "curl"].map(|comm| OwnerKnowledge::Process(owner(comm)));
    let mut groups = Groups::default();
    for holder in
        holders.into_iter().chain([OwnerKnowledge::NoProcess, OwnerKnowledge::Unavailable("hidden".to_owned())])
    {
        for (key, direction, port) in [
            (key(40_000, 80), ServiceDirection::Outgoing, 80),
            (key(40_000, 5672), ServiceDirection::Outgoing, 5672),
            (key(5672, 40_000), ServiceDirection::Accepted, 5672),
        ] {
            for kind in RiskKind::ALL {
                for set_by in [LimitSource::IdleTimeout, LimitSource::Conntrack] {
                    let limit = Limit { time: std::time::Duration::from_secs(300), set_by };
                    let service = Service { port, direction };
                    groups.add(&Risky { kind, idle: idle(key), limit, service }, holder.clone());
                }
            }
        }
    }
    let mut told = Risks::new(MonoTime::default(), LookedBy::Iterator, std::time::Duration::from_secs(300));
    groups.tell(&mut told);
    assert!(told.risks.len() > 40);
    for risk in &told.risks {
        let remedies = risk_remedies(risk);
        assert!((1..=MOST_REMEDIES).contains(&remedies.len()), "{risk:?}");
        for remedy in remedies {
            assert!(remedy.command.is_none() || remedy.risk.is_some(), "{remedy:?}");
            if let Some(command) = remedy.command.filter(|command| command.contains("tcp_keepalive_time=")) {
                assert!(command.contains("tcp_keepalive_time=150 "), "half of the limit: {command}");
                assert!(remedy.lasting.is_some());
            }
        }
    }
}

#[test]
fn a_checksum_that_is_wrong_to_its_receiver_is_not_let_pass() {
    use crate::{
        judge::{EvidenceKind, rules::scene},
        model::{Checksum, DroppedSegment},
    };
    let first = |checksum| {
        let segment = DroppedSegment { checksum, ..scene::fin() };
        let kind = EvidenceKind::SegmentDropped(Box::new(segment));
        let ruling = ruling(Cause::ConntrackBadChecksum, DEFAULT);
        let evidence = [Evidence { at: MonoTime::from_ns(1), kind }];
        let remedies = remedies(&key(40_000, 80), &ruling, None, None, false, &evidence);
        let command = |remedy: &Remedy| remedy.command.clone().unwrap_or_default();
        let sets = remedies.iter().position(|remedy| command(remedy).ends_with("nf_conntrack_checksum=0"));
        (sets, remedies.iter().any(|remedy| remedy.text.contains("stack_drop")))
    };
    assert_eq!(first(Checksum::Wrong { carried: 1, due: 2 }), (None, true));
    assert_eq!(first(Checksum::NotVerifiable), (Some(0), true));
    assert_eq!(first(Checksum::Right), (Some(0), false));
}

#[test]
fn a_flow_of_open_vswitch_is_looked_for_where_it_has_dropped_it_or_can_have() {
    use crate::{
        judge::EvidenceKind,
        model::{ConntrackEntry, DropPlace, DropReason, DroppedSegment, Site},
    };
    let segment = |reason| DroppedSegment { reason, ..crate::judge::rules::scene::fin() };
    let dropped = |reason| EvidenceKind::SegmentDropped(Box::new(segment(reason)));
    let place = |site| {
        let place = DropPlace { site: Some(site), functions: Vec::new(), rules: crate::model::Knowledge::NotAsked };
        EvidenceKind::DropPlace(Box::new(place))
    };
    let command = |kinds: Vec<EvidenceKind>| {
        let evidence: Vec<_> = kinds.into_iter().map(|kind| Evidence { at: MonoTime::from_ns(1), kind }).collect();
        let ruling = ruling(Cause::ConntrackBadChecksum, DEFAULT);
        let remedies = remedies(&key(40_000, 80), &ruling, None, None, false, &evidence);
        remedies.into_iter().filter_map(|remedy| remedy.command).find(|command| command.contains("ovs-appctl"))
    };
    let entry = ConntrackEntry { state: None, replied: true, assured: true, expires_in: None, zone: 7 };
    let told = command(vec![dropped(DropReason::OvsLastAction), EvidenceKind::ConntrackEntry(entry)]).unwrap();
    assert!(told.ends_with("dpctl/dump-conntrack zone=7 | grep 10.0.0.1"), "{told}");
    assert!(command(vec![dropped(DropReason::NetfilterDrop)]).is_none());
    // Before Linux 6.6 its drops are not seen.
    assert!(command(vec![dropped(DropReason::Unseen), place(Site::OpenVswitch)]).is_some());
    assert!(command(vec![dropped(DropReason::Unseen), place(Site::TrafficControl)]).is_none());
    assert!(command(vec![dropped(DropReason::NetfilterDrop), place(Site::OpenVswitch)]).is_none());
}

#[test]
fn a_unit_is_named_in_a_command_as_the_shell_takes_it() {
    let reload = |unit: &str| {
        let place = Place { unit: Some(unit.to_owned()), ..Place::default() };
        let haproxy = Owner { place, ..owner("haproxy") };
        let ruling = ruling(Cause::SourceAddressLost, DEFAULT);
        let remedies = remedies(&key(5672, 40_000), &ruling, Some(&haproxy), None, false, &[]);
        let lasting: Vec<_> = remedies.into_iter().filter_map(|remedy| remedy.lasting).collect();
        let command = lasting.iter().find_map(|text| text.split_once("`systemctl reload ")).unwrap().1;
        command.split_once('`').unwrap().0.to_owned()
    };
    assert_eq!(reload("haproxy@blue.service"), "haproxy@blue.service");
    assert_eq!(reload(r"ha\x2dproxy.service"), r#""ha\\x2dproxy.service""#);
    assert_eq!(reload("$(reboot);.service"), "'$(reboot);.service'");
}

#[test]
fn a_rule_is_put_only_where_nft_takes_the_names_and_no_name_writes_into_the_command() {
    use crate::{
        judge::{EvidenceKind, rules::scene},
        model::{DropPlace, FilterRule, FilterRules, Knowledge, NetfilterHook, Site},
    };
    let command = |table: &str, chain: &str| {
        let [family, table, chain] = ["inet", table, chain].map(str::to_owned);
        let rule = FilterRule { family, table, chain, handle: Some(9), text: "drop".to_owned() };
        let rules = Knowledge::Known(FilterRules { candidates: vec![rule], left_out: 0 });
        let site = Some(Site::Netfilter(NetfilterHook::Input));
        let place = EvidenceKind::DropPlace(Box::new(DropPlace { site, functions: Vec::new(), rules }));
        let evidence = [EvidenceKind::SegmentDropped(Box::new(scene::fin())), place]
            .map(|kind| Evidence { at: MonoTime::from_ns(1), kind });
        let ruling = ruling(Cause::FirewallDrop, DEFAULT);
        let remedies = remedies(&key(40_000, 80), &ruling, None, None, false, &evidence);
        let except = remedies.into_iter().find(|remedy| remedy.text.contains("pass before the rule")).unwrap();
        assert_eq!(except.command.is_some(), except.place.is_some());
        except.command
    };
    let told = command("filter", "cali-from.host_1").unwrap();
    assert!(told.starts_with("nft 'insert rule inet filter cali-from.host_1 position 9 ip saddr "), "{told}");
    for name in ["x'; reboot; '", "x; flush ruleset", "a b", "a\nb", "$(reboot)", "9", ""] {
        assert_eq!((command(name, "input"), command("filter", name)), (None, None), "{name:?}");
    }
}
