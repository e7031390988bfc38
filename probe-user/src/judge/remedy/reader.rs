//! The peer's application does not read.

use super::{Patient, Remedy, software};

pub(super) fn peer_window_shut(patient: &Patient<'_>) -> Vec<Remedy> {
    let mut remedies = vec![patient.look_on_the_peer(format!(
        "See on {} what the process that holds the other end does: it has not read for that long. Its receive queue is full. The \
         network is well.",
        patient.remote()
    ))];
    remedies.extend(software::why_it_does_not_read(patient));
    if !patient.is_over {
        let else_by = if patient.has_user_timeout() {
            " before TCP_USER_TIMEOUT does"
        } else {
            ": nothing else will, as long as it answers"
        };
        let text = format!("If the reader cannot be brought back, end the connection{else_by}.");
        remedies.push(Remedy {
            risk: Some(
                "cuts this one connection: what waits is lost, though the peer would take it once it reads; needs \
                 CONFIG_INET_DIAG_DESTROY"
                    .to_owned(),
            ),
            ..patient.kill(&text)
        });
    }
    remedies
}
