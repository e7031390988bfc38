use super::*;

const PACKET: Packet = Packet {
    source: std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)), 5672),
    destination: std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), 40_000),
    is_invalid: Some(true),
    is_reset: false,
};

const INPUT: Site = Site::Netfilter(NetfilterHook::Input);

/// A chain on input, and its rules, each with its handle.
fn ruleset(policy: &str, rules: &[&str]) -> Value {
    let rules: String = rules
        .iter()
        .enumerate()
        .map(|(index, expressions)| {
            let chain = if expressions.starts_with("other:") { "other" } else { "input" };
            let expressions = expressions.trim_start_matches("other:");
            format!(
                r#",{{"rule":{{"family":"inet","table":"t","chain":"{chain}","handle":{},"expr":[{expressions}]}}}}"#,
                index + 1
            )
        })
        .collect();
    let text = format!(
        r#"{{"nftables":[{{"metainfo":{{"version":"1.0.6"}}}},{{"table":{{"family":"inet","name":"t","handle":1}}}},
        {{"chain":{{"family":"inet","table":"t","name":"input","handle":1,"type":"filter","hook":"input","prio":0,"policy":"{policy}"}}}},
        {{"chain":{{"family":"inet","table":"t","name":"other","handle":2}}}}{rules}]}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn handles(policy: &str, rules: &[&str], packet: &Packet) -> Vec<Option<u64>> {
    let found = candidates(&ruleset(policy, rules), "", INPUT, packet);
    found.candidates.into_iter().map(|rule| rule.handle).collect()
}

const INVALID: &str = r#"{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":"invalid"}},{"drop":null}"#;
const ESTABLISHED: &str =
    r#"{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":["established","related"]}},{"accept":null}"#;
const FIN: &str = r#"{"match":{"op":"==","left":{"&":[{"payload":{"protocol":"tcp","field":"flags"}},"fin"]},"right":"fin"}},
    {"counter":{"packets":1,"bytes":40}},{"drop":null}"#;
const ALL: &str = r#"{"drop":null}"#;

#[test]
fn an_invalid_fin_is_dropped_by_the_first_rule_that_is_for_it() {
    let valid = Packet { is_invalid: Some(false), ..PACKET };
    let unknown = Packet { is_invalid: None, ..PACKET };
    assert_eq!(handles("accept", &[ESTABLISHED, INVALID, ALL], &PACKET), [Some(2)]);
    assert_eq!(handles("accept", &[ESTABLISHED, INVALID, FIN, ALL], &valid), [Some(3)]);
    assert_eq!(handles("accept", &[INVALID, FIN, ALL], &unknown), [Some(1), Some(2)]);
    assert_eq!(handles("drop", &[ESTABLISHED], &PACKET), [None], "the chain's policy");
    assert_eq!(handles("accept", &[ESTABLISHED], &PACKET), []);
    let reset = Packet { is_invalid: Some(false), is_reset: true, ..PACKET };
    assert_eq!(handles("drop", &[FIN, r#"{"accept":null}"#], &reset), []);
}

#[test]
fn ports_addresses_and_protocols_rule_rules_out() {
    let with = |left: &str, right: &str| {
        let rule = format!(r#"{{"match":{{"op":"==","left":{left},"right":{right}}}}},{{"drop":null}}"#);
        !handles("accept", &[&rule], &PACKET).is_empty()
    };
    let sport = r#"{"payload":{"protocol":"tcp","field":"sport"}}"#;
    assert!(with(sport, "5672") && with(sport, r#"{"set":[22,{"range":[5000,6000]}]}"#) && !with(sport, "22"));
    let source = r#"{"payload":{"protocol":"ip","field":"saddr"}}"#;
    assert!(with(source, r#"{"prefix":{"addr":"10.0.0.0","len":24}}"#) && !with(source, r#""10.0.0.1""#));
    assert!(with(source, r#""@allowed""#), "what is in a named set is not known");
    assert!(!with(r#"{"payload":{"protocol":"udp","field":"dport"}}"#, "40000"));
    assert!(!with(r#"{"meta":{"key":"l4proto"}}"#, r#""udp""#));
    assert!(with(r#"{"meta":{"key":"iifname"}}"#, r#""eth0""#), "not looked at");
}

#[test]
fn chains_that_are_jumped_to_and_verdict_maps_are_followed() {
    let jump = r#"{"jump":{"target":"other"}}"#;
    let other_fin = format!("other:{FIN}");
    assert_eq!(handles("accept", &[jump, ALL, &other_fin], &PACKET), [Some(3)]);
    assert_eq!(handles("accept", &[jump, ALL, r#"other:{"return":null}"#], &PACKET), [Some(2)]);
    let itself = r#"other:{"jump":{"target":"other"}}"#;
    assert_eq!(handles("accept", &[jump, itself, ALL], &PACKET), [Some(3)], "a loop ends");
    let map = r#"{"vmap":{"key":{"ct":{"key":"state"}},"data":{"set":[["invalid",{"drop":null}],["established",{"accept":null}]]}}}"#;
    assert_eq!(handles("drop", &[map], &PACKET), [Some(1)]);
}

#[test]
fn what_is_not_understood_neither_rules_out_nor_proves() {
    let xtables = r#"{"xt":{"type":"match","name":"conntrack"}},{"counter":{"packets":0,"bytes":0}},{"drop":null}"#;
    let newer = r#"{"some thing":[1,2]},{"drop":null}"#;
    assert_eq!(handles("accept", &[xtables, newer, ALL, FIN], &PACKET), [Some(1), Some(2), Some(3)]);
    for nothing in ["{}", "[]", r#"{"nftables":[{"rule":{}},{"chain":{"name":7}},4]}"#] {
        let ruleset = serde_json::from_str(nothing).unwrap();
        assert_eq!(candidates(&ruleset, "", INPUT, &PACKET), FilterRules::default());
    }
}

#[test]
fn of_many_only_some_are_named() {
    let limited = r#"{"limit":{"rate":1,"per":"second"}},{"drop":null}"#;
    let found = candidates(&ruleset("accept", &[limited; 9]), "", INPUT, &PACKET);
    assert_eq!((found.candidates.len(), found.left_out, found.only()), (MOST_CANDIDATES, 3, None));
}

#[test]
fn a_rule_is_told_as_nft_writes_it() {
    let listing = "table ip t { # handle 9\n}\ntable inet t { # handle 1\n\tset s {\n\t\ttype ipv4_addr\n\t}\n\n\tchain input { # handle 1\n\
                   \t\ttype filter hook input priority filter; policy accept;\n\t\tct state invalid drop # handle 1\n\t}\n}\n";
    let found = candidates(&ruleset("accept", &[INVALID]), listing, INPUT, &PACKET);
    let rule = found.only().unwrap();
    assert_eq!(
        (rule.text.as_str(), rule.chain.as_str(), rule.family.as_str()),
        ("ct state invalid drop", "input", "inet")
    );
}
