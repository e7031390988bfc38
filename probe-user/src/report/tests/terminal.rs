//! What a person sees: names that mean no good, long names, narrow and wide terminals, colours.

use proptest::prelude::*;

use super::{forwarded::to_a_container, *};
use crate::model::{Behind, DropPlace, FilterRule, FilterRules, Machine, NetfilterHook, Site};

/// A report in which everything that has a name has this one.
fn report_of(name: &str, layout: Layout) -> Printable {
    let name = || name.to_owned();
    let owner = |place| {
        let (exe, cgroup) = (Some(name()), Some(name()));
        OwnerKnowledge::Process(Owner { pid: 812, comm: name(), exe, cgroup, place, ..Owner::default() })
    };
    let places = [
        Place::default(),
        Place { unit: Some(format!("{}.service", name())), ..Place::default() },
        Place { container_id: Some(name()), pod_uid: Some(name()), ..Place::default() },
        Place { vm: Some(name()), ..Place::default() },
    ];
    let mut findings: Vec<_> = places
        .into_iter()
        .map(|place| Finding { owner: owner(place), ..finding("10.3.0.50:51050", FindingState::Opened) })
        .collect();
    findings.push(Finding {
        owner: OwnerKnowledge::Unavailable(name()),
        ..finding("10.3.0.50:51051", FindingState::Updated)
    });
    let mut forwarded = to_a_container();
    if let Knowledge::Known(path) = &mut forwarded.flow.as_mut().unwrap().path {
        path.ingress.as_mut().unwrap().interface.name = name();
        let egress = path.egress.as_mut().unwrap();
        egress.interface.name = name();
        egress.behind = Some(Behind::Machine(Machine { pid: 7, name: Some(name()), uuid: Some(name()) }));
    }
    let [table, chain, text] = [name(), name(), name()];
    let rule = FilterRule { family: "inet".to_owned(), table, chain, handle: Some(9), text };
    let rules = Knowledge::Known(FilterRules { candidates: vec![rule], left_out: 0 });
    let place = DropPlace { site: Some(Site::Netfilter(NetfilterHook::Input)), functions: vec![name()], rules };
    forwarded.evidence.push(Evidence { at: at(4_000), kind: EvidenceKind::DropPlace(Box::new(place)) });
    forwarded.ruling.cause = Cause::FirewallDrop;
    findings.push(forwarded);
    let mut path_mismatch = finding("10.3.0.50:51052", FindingState::Opened);
    if let Knowledge::Known(path) = &mut path_mismatch.path {
        path.route.as_mut().unwrap().egress.name = name();
        path.ingress.as_mut().unwrap().name = name();
    }
    path_mismatch.ruling.cause = Cause::PathMismatch;
    findings.push(path_mismatch);
    let mut risks = risks();
    risks.gaps.push(name());
    for risk in &mut risks.risks {
        risk.holder = OwnerKnowledge::Process(Owner { comm: name(), cgroup: Some(name()), ..Owner::default() });
    }
    let summary = Summary { risks: Some(risks), ..summary(findings) };
    let mut coverage = coverage();
    coverage.scan = ScanStatus::SockDiag(name());
    coverage.hooks.push((Hook::TcpRetransmitSkb, HookStatus::Broken(name())));
    let mut text = text::report(&summary, &coverage, &clock(), at(15_000), layout);
    for finding in &summary.findings {
        text.push(text::change(finding, &mut text::Told::default(), &clock(), layout));
    }
    text
}

/// A name that someone could think of.
fn names() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        any::<String>(),
        prop::sample::select(vec![
            "\x1b[2J",
            "\x1b[31m",
            "\x1b]0;x\x07",
            "\u{9b}8m",
            "\n",
            "\r",
            "\u{202e}",
            "\u{200b}",
            "x"
        ])
        .prop_map(str::to_owned),
    ];
    prop::collection::vec(part, 1..6).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_name_acts_on_the_terminal(name in names(), width in 40_usize..120) {
        let escapes = |text: &str| text.matches('\x1b').count();
        let text = report_of(&name, Layout { width, color: true });
        // Each is of a style of the report's own.
        let harmless: String = name.chars().map(|one| if matches!(one, ' '..='~') { one } else { '~' }).collect();
        prop_assert_eq!(escapes(&text), escapes(&report_of(&harmless, Layout { width, color: true })));
        let acts = |character: char| match character {
            '\n' | '\x1b' => false,
            '\u{200b}' | '\u{202e}' => true,
            _ => character.is_control(),
        };
        prop_assert_eq!(text.chars().find(|character| acts(*character)), None);
        let plain = report_of(&name, Layout { width, color: false });
        prop_assert_eq!(escapes(&plain), 0);
    }
}

/// Addresses of full length, and names as long as file systems and Kubernetes allow.
fn long() -> Summary {
    let mut findings = Vec::new();
    for (number, cause) in [(0, Cause::PeerSilent), (1, Cause::PeerSilent), (2, Cause::UnacknowledgedFin)] {
        let mut finding =
            finding(&format!("[2001:db8:85a3:1234:5678:8a2e:1370:733{number}]:5000{number}"), FindingState::Opened);
        finding.id.key.remote = "[2001:db8:85a3:1234:9abc:def0:1370:7fff]:5672".parse().unwrap();
        finding.ruling.cause = cause;
        let unit = Some(format!("{}.service", "very-long-name-".repeat(8)));
        if let OwnerKnowledge::Process(owner) = &mut finding.owner {
            owner.place = Place { unit, ..Place::default() };
        }
        if number == 2 {
            finding.owner = OwnerKnowledge::Process(Owner {
                pid: 4_194_304,
                comm: "fifteen-letters".to_owned(),
                place: Place {
                    container_id: Some("container-".repeat(13)),
                    pod_uid: Some("0d6b3b3a-58a8-4a4e-9f0e-2f0d1c6f7a11".to_owned()),
                    ..Place::default()
                },
                ..Owner::default()
            });
            finding.ruling.verdict = Verdict::SilentlyDroppedFin;
            finding.ruling.confidence = Confidence::Suspected;
        }
        findings.push(finding);
    }
    findings.push(Finding { state: FindingState::Closed(Outcome::Recovered), ..findings[0].clone() });
    summary(findings)
}

fn long_report(width: usize, color: bool) -> Printable {
    text::report(&long(), &coverage(), &clock(), at(15_000), Layout { width, color })
}

#[test]
fn long_names_and_addresses_break_nothing_in_eighty_columns() {
    insta::assert_snapshot!(long_report(80, false));
}

#[test]
fn long_names_and_addresses_break_nothing_in_two_hundred_columns() {
    insta::assert_snapshot!(long_report(200, false));
}

#[test]
fn hundreds_are_told_by_their_kinds_in_two_hundred_columns() {
    let layout = Layout { width: 200, color: false };
    insta::assert_snapshot!(text::report(&summary(many(300)), &coverage(), &clock(), at(15_000), layout));
}

#[test]
fn colours_say_how_sure_it_is_and_what_can_be_copied() {
    // With a name for the character that no editor shows.
    insta::assert_snapshot!(long_report(80, true).replace('\x1b', "ESC"));
}

#[test]
fn only_what_is_to_be_copied_and_single_names_are_wider_than_the_terminal() {
    for width in [60, 80, 110] {
        let text = long_report(width, false);
        let wide = text.lines().filter(|line| line.chars().count() > width);
        for line in wide.filter(|line| !line.trim_start().starts_with("$ ")) {
            // A name that leaves no room for an indent and a time before it.
            assert!(line.split(' ').any(|word| word.len() + 16 > width), "{width}: {line}");
        }
    }
}
