//! What this host sends does not leave it.

use super::{ONLY_LOOKS, Patient, Remedy, silent};

pub(super) fn source_address_lost(patient: &Patient<'_>) -> Vec<Remedy> {
    let local = patient.key.local.ip();
    let mut remedies = vec![
        Remedy::new(format!(
            "See whether {local} is still gone, and which host has it now. keepalived, Pacemaker or a cloud that moves a virtual \
             address does not move the connections that were made from it; only when they end do their owners reconnect."
        ))
        .command(format!("{}ip address show to {local}", patient.here()))
        .place(patient.place())
        .risk(ONLY_LOOKS),
    ];
    remedies.extend(patient.end_now());
    if !patient.is_over {
        remedies.push(
            Remedy::new(format!(
                "End all connections from {local} at once: without the address none of them gets anywhere."
            ))
            .command(format!("{}ss -tK src {}", patient.here(), patient.local()))
            .place(patient.place())
            .risk(format!(
                "cuts every connection from {local} in that namespace, whoever holds it, and their peers may not be told: first see \
                     that the address is still gone; needs CONFIG_INET_DIAG_DESTROY"
            )),
        );
    }
    remedies.extend(silent::sooner(patient));
    remedies
}

pub(super) fn local_send_failure(patient: &Patient<'_>) -> Vec<Remedy> {
    let (here, local, remote) = (patient.here(), patient.key.local.ip(), patient.key.remote.ip());
    let mut remedies = vec![
        Remedy::new(format!(
            "See whether {local} is still an address of this host. If it has moved to another host, end what goes on writing from \
             it."
        ))
        .command(format!("{here}ip address show to {local}"))
        .place(patient.place())
        .risk(ONLY_LOOKS),
        Remedy::new(format!("See whether there is a route to {remote}."))
            .command(patient.route_get())
            .place(patient.place())
            .risk(ONLY_LOOKS),
        Remedy::new(
            "See whether a rule of this host's firewall or a queue of its interface drops what is sent: which counters grow with \
             each retransmission?",
        )
        .command(format!("{here}nft list ruleset; {here}tc -s qdisc show"))
        .place(patient.place())
        .risk(ONLY_LOOKS),
    ];
    remedies.extend(patient.end_now());
    remedies
}
