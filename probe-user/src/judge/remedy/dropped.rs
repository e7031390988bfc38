//! A FIN or a RST was thrown away.

use super::{ONLY_LOOKS, Patient, Remedy, kernel, silent};
use crate::{
    judge::Evidence,
    model::{Checksum, FilterRule, InvalidSegment, Knowledge, Origin, Site},
};

pub(super) fn conntrack_bad_checksum(patient: &Patient<'_>) -> Vec<Remedy> {
    let find = |who: &str| {
        Remedy::new(format!("Find who makes the wrong checksum: {who}"))
            .command(format!("{}tcpdump -nnvv -i any 'tcp[tcpflags] & (tcp-fin|tcp-rst) != 0'", patient.here()))
            .place(patient.place())
            .risk("none: it only looks; checksums of packets that this host sends look wrong there when its card computes them")
    };
    let look_no_longer = |text: &str| {
        let text = format!(
            "Let connection tracking no longer look at checksums: the receivers of the packets do so themselves.{text}"
        );
        kernel::setting(patient, text, &[("net.netfilter.nf_conntrack_checksum", 0)]).risk(
            "packets that were damaged on the way pass the firewall, up to the host they are for, which drops them",
        )
    };
    let checksum = Evidence::dropped(patient.evidence).map(|[_, (_, latest)]| latest.checksum);
    let first = match checksum {
        // It was computed over what the IP header states, as TCP does (`tcp_v4_rcv`).
        Some(Checksum::Wrong { .. }) => {
            let find = find(
                "a sender that pads short frames and lets the padding into the sum, or a network card that computes it wrongly. To let it \
                 pass does not help (no exception, no nf_conntrack_checksum = 0): its receiver's TCP finds the sum wrong, too, and drops \
                 it next (`stack_drop`).",
            );
            return [find].into_iter().chain(end_it(patient)).chain(flows(patient)).collect();
        }
        Some(Checksum::Right) => look_no_longer(""),
        Some(Checksum::Offloaded | Checksum::NotVerifiable) | None => {
            look_no_longer(" Where the sum is wrong to them, too, their TCP drops them next (`stack_drop`).")
        }
    };
    let find = find(
        "a sender that pads short frames and lets the padding into the sum, a network card that computes it wrongly, or a kernel of this \
         host that does not cut off the padding (mended in current ones).",
    );
    let between = except(patient).or_else(|| flows(patient));
    [first].into_iter().chain(between).chain(end_it(patient)).chain([find]).collect()
}

pub(super) fn conntrack_invalid(patient: &Patient<'_>) -> Vec<Remedy> {
    let here = patient.here();
    let be_liberal = |text: &str| {
        kernel::setting(patient, text.to_owned(), &[("net.netfilter.nf_conntrack_tcp_be_liberal", 1)])
            .risk("forged segments outside the window pass the firewall, up to the host they are for, which drops them")
    };
    let Some(invalid) = why_invalid(patient) else {
        let log = Remedy::new("Let connection tracking log why it holds packets for invalid, and read its log.")
            .command(format!("{here}sysctl -w net.netfilter.nf_conntrack_log_invalid=6; dmesg -w | grep nf_ct"))
            .place(patient.place())
            .risk(
                "a line in the kernel's log for each invalid TCP packet; of other network namespaces than the first the kernel logs only with \
                 net.netfilter.nf_log_all_netns = 1",
            )
            .lasting("not meant to last: set it back to 0 when the reason is known");
        let text = "If it says that the packets lie outside the window (as where only one direction passes this host): accept them.";
        return [log]
            .into_iter()
            .chain(except(patient))
            .chain(end_it(patient))
            .chain(flows(patient))
            .chain([be_liberal(text)])
            .collect();
    };
    let text = "Let connection tracking accept segments outside of the window it has followed; where only one direction passes this \
                host, mend the routes.";
    let be_liberal = invalid.is_about_window().then(|| be_liberal(text));
    let look = Remedy::new("See what comes in: connection tracking takes its word from these packets.")
        .command(format!("{here}tcpdump -nnvv -i any 'tcp[tcpflags] & (tcp-fin|tcp-rst) != 0'"))
        .place(patient.place())
        .risk(ONLY_LOOKS);
    be_liberal.into_iter().chain(except(patient)).chain(flows(patient)).chain(end_it(patient)).chain([look]).collect()
}

/// What connection tracking has told of the latest that was dropped.
fn why_invalid<'a>(patient: &Patient<'a>) -> Option<&'a InvalidSegment> {
    let [_, (at, latest)] = Evidence::dropped(patient.evidence)?;
    Evidence::why_invalid(patient.evidence, at, latest)
}

/// Shows the flow that drops it, where Open vSwitch does, or where it was last seen there (before Linux 6.6 its drops cannot be seen), and
/// what is tracked of the connection.
pub(super) fn flows(patient: &Patient<'_>) -> Option<Remedy> {
    let latest = patient.evidence.iter().rev().find_map(Evidence::segment)?;
    let is_there = match Evidence::place(patient.evidence) {
        _ if latest.reason.is_of_open_vswitch() => true,
        Some(place) => !latest.reason.is_seen() && place.site == Some(Site::OpenVswitch),
        None => false,
    };
    let entry = Evidence::latest_conntrack_entry(patient.evidence);
    let zone = entry.map_or(String::new(), |entry| format!(" zone={}", entry.zone));
    is_there.then(|| {
        Remedy::new(
            "See which flow of Open vSwitch drops it: its packets go up with each copy; who sets the flows up (Neutron, OVN) has to change it, \
             or to let what is invalid pass. The second command shows what is tracked of the connection.",
        )
        .command(format!(
            "ovs-appctl dpctl/dump-flows -m | grep actions:drop; ovs-appctl dpctl/dump-conntrack{zone} | grep {}",
            patient.key.local.ip()
        ))
        .place("on this host, beside ovs-vswitchd")
        .risk(ONLY_LOOKS)
    })
}

/// An exception from the rule that drops it, where only one can have done so.
fn except(patient: &Patient<'_>) -> Option<Remedy> {
    let Knowledge::Known(rules) = &Evidence::place(patient.evidence)?.rules else { return None };
    let rule = rules.only()?;
    let [_, (_, latest)] = Evidence::dropped(patient.evidence)?;
    let (source, destination) = match latest.origin {
        Origin::Received { .. } | Origin::Forwarded { .. } => (patient.key.remote, patient.key.local),
        Origin::Sent => (patient.key.local, patient.key.remote),
    };
    let version = if source.is_ipv4() { "ip" } else { "ip6" };
    let FilterRule { family, table, chain, handle, .. } = rule;
    let (verb, position) = match handle {
        Some(handle) => ("insert", format!(" position {handle}")),
        None => ("add", String::new()),
    };
    let statement = format!(
        "{verb} rule {family} {table} {chain}{position} {version} saddr {} {version} daddr {} tcp flags & (fin|rst) != 0 accept",
        source.ip(),
        destination.ip()
    );
    let can_be_named = [family, table, chain].into_iter().all(|name| is_identifier(name));
    let command = can_be_named.then(|| format!("{}nft '{statement}'", patient.here()));
    Some(Remedy {
        place: command.as_ref().map(|_| patient.place()),
        command,
        ..Remedy::new(format!("Let the ends of connections between these hosts pass before {rule}."))
            .risk("forged FINs and RSTs from that address pass this chain, too; TCP itself takes only those that fit its window")
            .lasting("in the file or by the program that sets this table up, else it is gone at its next start")
    })
}

/// Whether `nft` takes this for a name (`string` in its `src/scanner.l`). The kernel takes anything: a container that makes a table in its
/// own network namespace could otherwise write into the command what it wants to be run.
fn is_identifier(name: &str) -> bool {
    let begins = name.starts_with(|first: char| first.is_ascii_alphabetic() || matches!(first, '_' | '.'));
    begins && name.chars().all(|other| other.is_ascii_alphanumeric() || matches!(other, '/' | '-' | '_' | '.'))
}

pub(super) fn firewall_drop(patient: &Patient<'_>) -> Vec<Remedy> {
    let mut remedies: Vec<_> = except(patient).into_iter().chain(flows(patient)).collect();
    remedies.push(
        Remedy::new("See which rule drops it: its counter goes up with each copy of the FIN.")
            .command(format!("{0}nft -a list ruleset; {0}iptables-save -c; {0}iptables-legacy-save -c", patient.here()))
            .place(patient.place())
            .risk(ONLY_LOOKS),
    );
    remedies.extend(end_it(patient));
    remedies
}

pub(super) fn stack_drop(patient: &Patient<'_>) -> Vec<Remedy> {
    let mut remedies = vec![
        Remedy::new("See which counter goes up: wrong checksums, old timestamps, or another path than expected.")
            .command(format!(
                "{}nstat -az TcpInCsumErrors IpExtInCsumErrors TcpExtPAWSEstab TcpExtTCPChallengeACK TcpExtIPReversePathFilter",
                patient.here()
            ))
            .place(patient.place())
            .risk(ONLY_LOOKS),
    ];
    remedies.extend(end_it(patient));
    remedies
}

pub(super) fn unacknowledged_fin(patient: &Patient<'_>) -> Vec<Remedy> {
    /// The kernel's default is 8 (`tcp_orphan_retries`, `net/ipv4/tcp_timer.c`).
    const FEWER_ORPHAN_RETRIES: u32 = 4;
    let text = "If there are many of these: let the kernel give closed connections up earlier.";
    vec![
        silent::look_whether_known(patient),
        kernel::setting(patient, text.to_owned(), &[("net.ipv4.tcp_orphan_retries", FEWER_ORPHAN_RETRIES)])
            .risk("a peer on a slow path may not get the last data of a closed connection"),
    ]
}

/// Tells the application what it has missed, where it is on this host.
fn end_it(patient: &Patient<'_>) -> Option<Remedy> {
    (!patient.is_over && !patient.is_forwarded).then(|| end(patient))
}

/// The same, wherever it is.
pub(super) fn end(patient: &Patient<'_>) -> Remedy {
    let where_it_waits = if patient.is_forwarded { "where it waits" } else { "here" };
    patient
        .kill(&format!(
            "End the connection {where_it_waits}: the application gets an error instead of waiting for an end that was thrown away."
        ))
        .risk(
            "cuts this one connection: the application gets ECONNABORTED, and what it still wants to send is lost; needs \
             CONFIG_INET_DIAG_DESTROY",
        )
}
