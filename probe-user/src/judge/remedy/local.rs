//! What this host sends does not leave it.

use super::{ONLY_LOOKS, Patient, Remedy, silent};

pub(super) fn source_address_lost(patient: &Patient<'_>) -> Vec<Remedy> {
    let local = patient.key.local.ip();
    let mut remedies = vec![
        Remedy::new(format!(
            "See where {local} is now. A virtual address that keepalived, Pacemaker or a cloud has moved comes back with it; the \
             connections that were made from it do not follow, and only an end makes their owners reconnect."
        ))
        .command(format!("{}ip address show to {local}", patient.here()))
        .risk(ONLY_LOOKS),
    ];
    remedies.extend(patient.end_now());
    remedies.extend(silent::sooner(patient));
    remedies
}

pub(super) fn local_send_failure(patient: &Patient<'_>) -> Vec<Remedy> {
    let (here, local, remote) = (patient.here(), patient.key.local.ip(), patient.key.remote.ip());
    let mut remedies = vec![
        Remedy::new(format!(
            "See whether {local} is still an address of this host. If it has moved to another host, restart what goes on writing \
             from it."
        ))
        .command(format!("{here}ip address show to {local}"))
        .risk(ONLY_LOOKS),
        Remedy::new(format!("See whether there is a route to {remote}."))
            .command(format!("{here}ip route get {remote} from {local}"))
            .risk(ONLY_LOOKS),
        Remedy::new(
            "See whether a rule of this host's firewall or a queue of its interface drops what is sent: which counters grow with \
             each retransmission?",
        )
        .command(format!("{here}nft list ruleset; {here}tc -s qdisc show"))
        .risk(ONLY_LOOKS),
    ];
    remedies.extend(patient.end_now());
    remedies
}
