//! The peer, or something between, has forgotten a connection that was idle.

use super::{End, Patient, Remedy, kernel, silent, software};

pub(super) fn keepalive_unanswered(patient: &Patient<'_>) -> Vec<Remedy> {
    let mut remedies = vec![silent::look_whether_known(patient)];
    remedies.extend(patient.end_now());
    remedies.extend(noticed_earlier(patient));
    remedies
}

pub(super) fn peer_reset(patient: &Patient<'_>) -> Vec<Remedy> {
    let (remote, port) = (patient.remote(), patient.key.remote.port());
    let who = match patient.service() {
        Some(End::Peer) => format!("what listens on port {port}"),
        Some(End::Here) => "the client".to_owned(),
        None => "what held the other end".to_owned(),
    };
    let mut remedies = vec![Remedy::new(format!(
        "See on {remote} whether {who} was restarted since, or ended idle connections, and whether the address has moved there from \
         another host (a virtual address): its new holder knows none of the old connections. Else look at the idle timeouts of what is \
         between: firewalls, load balancers, in HAProxy `timeout client`, `timeout server` and `timeout tunnel`."
    ))];
    remedies.extend(noticed_earlier(patient));
    remedies
}

pub(super) fn peer_restarted(patient: &Patient<'_>) -> Vec<Remedy> {
    let mut remedies = vec![
        Remedy::new(format!(
            "See on {} why it let go of the old connection without a word: a crash, a power cut, a killed virtual machine, or a NAT \
             that gives its port to another client.",
            patient.remote()
        ))
        .command(format!("{}nstat -az TcpExtTCPSYNChallenge TcpExtTCPChallengeACK", patient.here()))
        .place(format!("{}: it counts the SYNs that were challenged", patient.place()))
        .risk(super::ONLY_LOOKS),
    ];
    // Where the peer's reset does not come through, it goes on asking in vain.
    let text = "End the old connection: until it is gone, the peer gets no new one from that port.";
    remedies.extend(patient.end_known_to_peer(text));
    remedies.extend(noticed_earlier(patient));
    remedies
}

pub(super) fn conntrack_expired(patient: &Patient<'_>) -> Vec<Remedy> {
    let (here, local, remote) = (patient.here(), patient.key.local, patient.key.remote);
    let mut remedies = vec![
        Remedy::new(
            "See which rule of this host drops what connection tracking does not know (`ct state invalid`, or new without a \
             SYN).",
        )
        .command(format!(
            "{here}conntrack -L -p tcp --src {} --sport {} --dst {} --dport {}; {here}nft list ruleset",
            local.ip(),
            local.port(),
            remote.ip(),
            remote.port()
        ))
        .place(patient.place())
        .risk(super::ONLY_LOOKS),
    ];
    remedies.extend(patient.end_now());
    remedies.push(kernel::remember_idle_connections(patient));
    remedies.extend(noticed_earlier(patient));
    remedies
}

/// What keeps an idle connection known on the way, or makes its loss known before it is needed.
fn noticed_earlier(patient: &Patient<'_>) -> Vec<Remedy> {
    let mut remedies = software::notice_idle_loss(patient);
    if remedies.is_empty() {
        remedies.push(
            Remedy::new(
                "Let the application send heartbeats more often than the shortest idle timeout on the way, so that a lost \
                 connection is noticed before it is needed.",
            )
            .risk("some packets more on idle connections"),
        );
    }
    remedies.push(kernel::keepalive(patient));
    remedies
}
