//! A FIN or a RST was thrown away.

use super::{ONLY_LOOKS, Patient, Remedy, kernel, silent};

pub(super) fn conntrack_bad_checksum(patient: &Patient<'_>) -> Vec<Remedy> {
    let here = patient.here();
    let text = "Let connection tracking no longer look at checksums: the receivers of the packets do so themselves.";
    let mut remedies =
        vec![kernel::setting(patient, text.to_owned(), &[("net.netfilter.nf_conntrack_checksum", 0)]).risk(
            "packets that were damaged on the way pass the firewall, up to the host they are for, which drops them",
        )];
    remedies.extend(end_it(patient));
    remedies.push(
        Remedy::new(
            "Find who makes the wrong checksum: a sender that pads short frames and lets the padding into the sum, a network card \
             that computes it wrongly, or a kernel of this host that does not cut off the padding (mended in current ones).",
        )
        .command(format!("{here}tcpdump -nnvv -i any 'tcp[tcpflags] & (tcp-fin|tcp-rst) != 0'"))
        .place(patient.place())
        .risk("none: it only looks; checksums of packets that this host sends look wrong there when its card computes them"),
    );
    remedies
}

pub(super) fn conntrack_invalid(patient: &Patient<'_>) -> Vec<Remedy> {
    let here = patient.here();
    let mut remedies = vec![
        Remedy::new("Let connection tracking log why it holds packets for invalid, and read its log.")
            .command(format!("{here}sysctl -w net.netfilter.nf_conntrack_log_invalid=6; dmesg -w | grep nf_ct"))
            .place(patient.place())
            .risk("a line in the kernel's log for each invalid TCP packet")
            .lasting("not meant to last: set it back to 0 when the reason is known"),
    ];
    remedies.extend(end_it(patient));
    let text = "If it says that the packets lie outside the window (as where only one direction passes this host): accept them.";
    remedies.push(
        kernel::setting(patient, text.to_owned(), &[("net.netfilter.nf_conntrack_tcp_be_liberal", 1)]).risk(
            "forged segments outside the window pass the firewall, up to the host they are for, which drops them",
        ),
    );
    remedies
}

pub(super) fn firewall_drop(patient: &Patient<'_>) -> Vec<Remedy> {
    let mut remedies = vec![
        Remedy::new("See which rule drops it: its counter goes up with each copy of the FIN.")
            .command(format!("{0}nft list ruleset; {0}iptables-save -c", patient.here()))
            .place(patient.place())
            .risk(ONLY_LOOKS),
    ];
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
