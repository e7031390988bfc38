//! Nothing is wrong yet: what keeps it so.

use super::{MOST_REMEDIES, ONLY_LOOKS, Patient, Remedy, kernel, software};
use crate::judge::risk::{LimitSource, Risk, RiskKind, ServiceDirection};

/// What to do about a risk, the most useful first.
pub fn risk_remedies(risk: &Risk) -> Vec<Remedy> {
    // Every risk has an example; without one there would be nothing to do anything about.
    let Some(example) = risk.examples.first() else { return Vec::new() };
    let owner = risk.holder.process();
    let (is_over, is_forwarded) = (false, false);
    let patient = Patient { key: &example.key, ruling: None, owner, mark: None, is_over, is_forwarded, evidence: &[] };
    let mut remedies = match risk.kind {
        RiskKind::IdleWithoutKeepalive => idle_without_keepalive(risk, &patient),
        RiskKind::KeepaliveTooLate => keepalive_too_late(risk, &patient),
        RiskKind::CloseWaitLeak => close_wait_leak(risk, &patient),
    };
    remedies.truncate(MOST_REMEDIES);
    remedies
}

fn idle_without_keepalive(risk: &Risk, patient: &Patient<'_>) -> Vec<Remedy> {
    let mut remedies = software::notice_idle_loss(patient);
    if remedies.is_empty() {
        remedies.push(
            Remedy::new(format!(
                "Let the application turn keepalive on (SO_KEEPALIVE, with TCP_KEEPIDLE below {} s), or send heartbeats of its own.",
                risk.limit.time.as_secs()
            ))
            .risk("some packets more on idle connections"),
        );
    }
    remedies.push(
        kernel::keepalive_within(
            patient,
            "The kernel's times of keepalive act only on sockets with SO_KEEPALIVE, which these have not. Once the application turns \
             it on and sets no times of its own, let the first probe come in time; the default is two hours."
                .to_owned(),
            risk.limit.time,
        )
        .risk("some packets more on idle connections"),
    );
    remedies.extend(remember(risk, patient));
    remedies.push(see(risk, patient, "established", "See them; those with `timer:(keepalive` are not meant."));
    remedies
}

fn keepalive_too_late(risk: &Risk, patient: &Patient<'_>) -> Vec<Remedy> {
    let mut remedies = vec![
        kernel::keepalive_within(
            patient,
            "Let the first probe come in time. This acts on sockets that set no TCP_KEEPIDLE of their own, on those that are there \
             when their timer next fires."
                .to_owned(),
            risk.limit.time,
        )
        .risk("some packets more on idle connections"),
        Remedy::new(format!(
            "Where the application sets TCP_KEEPIDLE, let it set less than {} s.",
            risk.limit.time.as_secs()
        )),
    ];
    remedies.extend(software::notice_idle_loss(patient));
    remedies.extend(remember(risk, patient));
    remedies.push(see(risk, patient, "established", "See them, each with the time until its timer fires."));
    remedies
}

/// Where it is this host that forgets.
fn remember(risk: &Risk, patient: &Patient<'_>) -> Option<Remedy> {
    (risk.limit.set_by == LimitSource::Conntrack).then(|| kernel::remember_idle_connections(patient))
}

fn close_wait_leak(risk: &Risk, patient: &Patient<'_>) -> Vec<Remedy> {
    let mut remedies = vec![see(
        risk,
        patient,
        "close-wait",
        "See the sockets. With `Recv-Q` 0 the process has read the end of file and still not closed; with more it has not even read \
         that far.",
    )];
    if let Some(owner) = patient.owner {
        remedies.push(
            Remedy::new(format!(
                "This is a fault of {}: it has been told of the end of the connection (read returns 0, poll says POLLRDHUP) and does \
                 not close its descriptor. See how many it holds and may hold, and report it to whoever makes it.",
                owner.comm
            ))
            .command(format!(
                "ls /proc/{pid}/fd | wc -l; grep 'Max open files' /proc/{pid}/limits",
                pid = owner.pid
            ))
            .risk(ONLY_LOOKS),
        );
        remedies.push(
            Remedy::new(format!(
                "Until it is mended, only its end closes them: restart {}.",
                owner.place.unit.as_deref().unwrap_or(&owner.comm)
            ))
            .risk("its other connections end, too"),
        );
    } else {
        remedies.push(Remedy::new(
            "No process is known to hold them: connections may wait that were never accepted. See whether the listener still \
             accepts, and what its `Recv-Q` is (`ss -ltn`).",
        ));
    }
    remedies
}

/// Shows the sockets.
fn see(risk: &Risk, patient: &Patient<'_>, state: &str, text: &str) -> Remedy {
    let end = match risk.service.direction {
        ServiceDirection::Outgoing => "dport",
        ServiceDirection::Accepted => "sport",
    };
    Remedy::new(text)
        .command(format!("{}ss -tnpoe state {state} {end} = :{}", patient.here(), risk.service.port))
        .risk(ONLY_LOOKS)
}
