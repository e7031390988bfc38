//! Where a FIN was dropped: on which hook, and by which rule of nftables.

use anyhow::{Context as _, Result, ensure};
use connprobe_tests::{
    findings::{ensure_is_about, wait as finding},
    labs::routed::Routed,
    netns::Netns,
    peer::{Options, Peer},
    probe::Probe,
    require::Requirement::{Conntrack, Iptables},
    runner::{Test, TestContext},
    watching::{SOON, WATCHING, connect, stop, watch},
    wire::{DropPlace, Finding},
};

pub(crate) fn tests() -> Vec<Test> {
    let tracked = [WATCHING, &[Conntrack]].concat();
    let test = |name: &str, function: fn(&TestContext) -> Result<()>| Test::new(name, &tracked, function);
    let tracked_by_iptables = [WATCHING, &[Conntrack, Iptables]].concat();
    let with_iptables =
        |name: &str, function: fn(&TestContext) -> Result<()>| Test::new(name, &tracked_by_iptables, function);
    vec![
        test("the rule that drops a FIN is named with its hook, and so is an exception from it", input),
        test("of a FIN that is held for invalid, the rule for invalid packets is named among others", invalid),
        test("of a FIN of this host, the rule on its way out is named", output),
        test("a chain's policy and rules that are only jumped to are found", policy).not_shared(),
        test("where two rules can have dropped a FIN, both are named and neither is blamed", several).not_shared(),
        with_iptables("a rule that iptables has made for nftables is named", iptables_nft).not_shared(),
        with_iptables(
            "of a rule in the older tables of iptables, the table is named, and that the rule is not known",
            legacy,
        ),
    ]
}

/// What is told of the place, as soon as it is told.
fn place(probe: &Probe) -> Result<(Finding, DropPlace)> {
    let told = |finding: &Finding| -> Result<Option<DropPlace>> {
        let place = finding.evidence.iter().rev().find(|evidence| evidence.kind == "drop_place");
        place.map(|place| Ok(serde_json::from_value(place.data.clone().into())?)).transpose()
    };
    let mut latest = finding(probe, "opened", SOON)?;
    // A slow guest looks it up for longer than a first judgment waits.
    loop {
        if let Some(place) = told(&latest)? {
            return Ok((latest, place));
        }
        latest = finding(probe, "updated", SOON).context("waiting for the place")?;
    }
}

/// A connection whose client drops what these rules say, watched; the end that `who` names closes.
fn dropped(test: &TestContext, rules: &str, who: &str, mangled: bool) -> Result<(Finding, DropPlace)> {
    let (opened, place) = dropped_by(test, |client| client.nft(rules), who, mangled)?;
    ensure!(place.rules_unavailable.is_none() && place.rules_left_out == 0, "{place:?}");
    Ok((opened, place))
}

/// The same of rules that `set_up` makes.
fn dropped_by(
    test: &TestContext,
    set_up: impl FnOnce(&Netns) -> Result<()>,
    who: &str,
    mangled: bool,
) -> Result<(Finding, DropPlace)> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    // Before the connection, so that connection tracking knows it.
    set_up(&lab.client)?;
    let (server, client): (Peer, Peer) = connect(&lab, &Options::default())?;
    if mangled {
        lab.mangle_fins("tcp checksum set 0xbad")?;
    }
    let probe = watch(&lab.client, &[])?;
    match who {
        "client" => client.command("shutdown")?,
        _ => server.command("close")?,
    }
    let (opened, place) = place(&probe)?;
    ensure!(opened.verdict == "silently_dropped_fin", "{opened:#?}");
    ensure_is_about(&opened, &client, &lab.client)?;
    ensure!(place.site.as_deref() == Some("netfilter"), "{place:?}");
    ensure!(place.functions.iter().any(|function| function.starts_with("nf")), "{place:?}");
    stop(probe)?;
    Ok((opened, place))
}

/// The texts of the rules in question, and the hook.
fn rules(place: &DropPlace) -> (Option<&str>, Vec<&str>) {
    let rules = place.rules.iter().flatten().map(|rule| rule.text.as_str()).collect();
    (place.hook.as_deref(), rules)
}

fn input(test: &TestContext) -> Result<()> {
    let table = "table inet drops { chain early { type filter hook input priority -10; udp dport 53 drop; tcp flags & rst == rst drop; }; \
                 chain in { type filter hook input priority 0; tcp sport 22 drop; tcp sport 5672 tcp flags & fin == fin counter drop; }; }\n";
    let (opened, place) = dropped(test, table, "server", false)?;
    ensure!(opened.cause == "firewall_drop", "{opened:#?}");
    let (hook, texts) = rules(&place);
    let [text] = texts.as_slice() else { anyhow::bail!("{place:?}") };
    ensure!(hook == Some("input") && text.starts_with("tcp sport 5672") && text.ends_with("drop"), "{place:?}");
    let rule = place.rules.iter().flatten().next().context("no rule")?;
    ensure!((rule.family.as_str(), rule.table.as_str(), rule.chain.as_str()) == ("inet", "drops", "in"), "{rule:?}");
    let handle = rule.handle.context("no handle")?;
    let exception = opened.remedies.iter().filter_map(|remedy| remedy.command.as_ref());
    let named = format!("insert rule inet drops in position {handle} ip saddr 10.77.2.1");
    ensure!(exception.into_iter().any(|command| command.contains(&named)), "{:#?}", opened.remedies);
    Ok(())
}

fn invalid(test: &TestContext) -> Result<()> {
    let table = "table inet firewall { chain prerouting { type filter hook prerouting priority 0; ct state established accept; \
                 ct state invalid drop; tcp dport 22 drop; }; chain input { type filter hook input priority 0; tcp flags fin drop; }; }\n";
    let (opened, place) = dropped(test, table, "server", true)?;
    ensure!(opened.cause == "conntrack_bad_checksum", "{opened:#?}");
    let (hook, texts) = rules(&place);
    ensure!(hook == Some("prerouting") && texts == ["ct state invalid drop"], "{place:?}");
    Ok(())
}

fn output(test: &TestContext) -> Result<()> {
    let table = "table ip drops { chain out { type filter hook output priority 0; tcp flags & fin == fin drop; }; }\n";
    let (opened, place) = dropped(test, table, "client", false)?;
    ensure!(opened.cause == "firewall_drop", "{opened:#?}");
    let (hook, texts) = rules(&place);
    ensure!(hook == Some("output") && texts.len() == 1, "{place:?}");
    Ok(())
}

fn policy(test: &TestContext) -> Result<()> {
    let table = "table ip filter { chain FINS { tcp flags & fin == 0 accept; }; \
                 chain INPUT { type filter hook input priority 0; policy drop; tcp dport 22 accept; jump FINS; }; }\n";
    let (_, place) = dropped(test, table, "server", false)?;
    let (hook, texts) = rules(&place);
    ensure!(hook == Some("input") && texts == ["policy drop"], "{place:?}");
    Ok(())
}

fn several(test: &TestContext) -> Result<()> {
    let table = "table inet drops { chain in { type filter hook input priority 0; iifname \"other\" drop; \
                 meta mark 0 tcp flags fin drop; }; }\n";
    let (opened, place) = dropped(test, table, "server", false)?;
    let (_, texts) = rules(&place);
    ensure!(texts.len() == 2, "{place:?}");
    ensure!(opened.remedies.iter().all(|remedy| !remedy.text.contains("handle")), "{:#?}", opened.remedies);
    Ok(())
}

fn iptables_nft(test: &TestContext) -> Result<()> {
    let invalid = "-A INPUT -m conntrack --ctstate INVALID -j DROP";
    let (opened, place) = dropped_by(test, |client| client.iptables("nft", invalid), "server", true)?;
    ensure!(opened.cause == "conntrack_bad_checksum", "{opened:#?}");
    ensure!(place.hook.as_deref() == Some("input") && place.rules_unavailable.is_none(), "{place:?}");
    let rules = place.rules.clone().context("no rules")?;
    let [rule] = rules.as_slice() else { anyhow::bail!("{place:?}") };
    ensure!((rule.table.as_str(), rule.chain.as_str()) == ("filter", "INPUT") && rule.handle.is_some(), "{rule:?}");
    ensure!(rule.text.contains("invalid") || rule.text.contains("conntrack"), "{rule:?}");
    Ok(())
}

fn legacy(test: &TestContext) -> Result<()> {
    let fins = "-A INPUT -p tcp --sport 5672 --tcp-flags FIN FIN -j DROP";
    let (opened, place) = dropped_by(test, |client| client.iptables("legacy", fins), "server", false)?;
    ensure!(opened.cause == "firewall_drop", "{opened:#?}");
    ensure!(place.hook.as_deref() == Some("input") && place.rules.is_none(), "{place:?}");
    let expected = "iptables-legacy, table filter, hook input (list with iptables-legacy-save -c -t filter)";
    ensure!(place.rules_unavailable.as_deref() == Some(expected), "{place:?}");
    let missing = opened.missing_evidence.iter().find(|missing| missing.kind == "drop_rule");
    ensure!(missing.is_some_and(|missing| missing.text.contains(expected)), "{:?}", opened.missing_evidence);
    let commands = opened.remedies.iter().filter_map(|remedy| remedy.command.as_ref());
    ensure!(commands.into_iter().any(|command| command.contains("iptables-legacy-save -c")), "{:#?}", opened.remedies);
    Ok(())
}
