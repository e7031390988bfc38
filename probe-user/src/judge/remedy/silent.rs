//! The peer does not answer what waits for it.

use super::{ONLY_LOOKS, Patient, Remedy, kernel, software};

pub(super) fn peer_silent(patient: &Patient<'_>) -> Vec<Remedy> {
    let mut remedies = vec![look_whether_known(patient)];
    remedies.extend(patient.end_now());
    remedies.extend(sooner(patient));
    remedies
}

pub(super) fn peer_unreachable(patient: &Patient<'_>) -> Vec<Remedy> {
    let (here, remote) = (patient.here(), patient.key.remote.ip());
    let mut remedies = vec![
        Remedy::new(format!(
            "See which way {remote} is and which neighbours do not answer on it; the router that sends the error is the last one \
             that answers `tracepath -n {remote}`."
        ))
        .command(format!("{}; {here}ip neighbour show nud failed nud incomplete", patient.route_get()))
        .place(patient.place())
        .risk(ONLY_LOOKS),
    ];
    remedies.extend(patient.end_now());
    remedies.extend(sooner(patient));
    remedies
}

pub(super) fn window_probes_unanswered(patient: &Patient<'_>) -> Vec<Remedy> {
    peer_silent(patient)
}

pub(super) fn look_whether_known(patient: &Patient<'_>) -> Remedy {
    patient.look_on_the_peer(format!(
        "See on {} whether it still has this connection. If it does not, something between the two hosts (a firewall, NAT, a \
         load balancer) or a restart has made it forget.",
        patient.remote()
    ))
}

/// What makes the next such connection end in seconds.
pub(super) fn sooner(patient: &Patient<'_>) -> Vec<Remedy> {
    if patient.has_user_timeout() {
        return Vec::new();
    }
    let mut remedies = software::end_stalled_sooner(patient);
    if remedies.is_empty() {
        remedies.push(
            Remedy::new(
                "Let the application set TCP_USER_TIMEOUT, or use a heartbeat of its own, so that the next such connection ends \
                 in seconds. Keepalive does not help: it waits while data waits.",
            )
            .risk("too short a timeout ends connections over a brief outage"),
        );
    }
    remedies.extend(kernel::give_up_sooner(patient));
    remedies
}
