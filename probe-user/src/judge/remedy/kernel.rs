//! Settings of the kernel, each for a network namespace, and how to keep them.

use std::time::Duration;

use super::{DeadlineSource, Patient, Remedy};

/// RFC 1122 section 4.2.3.5 asks for at least 100 s before a connection is given up; this gives 102.2 s.
const LOWER_TCP_RETRIES2: u8 = 8;

/// Below the idle timeouts of an hour that firewalls have, and a quarter of an hour until a lost peer is noticed.
const KEEPALIVE_TIME_S: u32 = 600;
const KEEPALIVE_INTERVAL_S: u32 = 60;
const KEEPALIVE_PROBES: u32 = 5;

/// The kernel's own default (`tcp_timeouts`, `net/netfilter/nf_conntrack_proto_tcp.c`).
const FIVE_DAYS_S: u32 = 432_000;

/// A lower `net.ipv4.tcp_retries2`, where that decides and can be lowered.
pub(super) fn give_up_sooner(patient: &Patient<'_>) -> Option<Remedy> {
    let set_by = patient.ruling.and_then(|ruling| ruling.deadline).map(|deadline| deadline.set_by);
    let decides = matches!(set_by, Some(DeadlineSource::TcpRetries2 { retries }) if retries > LOWER_TCP_RETRIES2);
    decides.then(|| {
        let text = format!(
            "Where applications cannot be changed, lower the limit for the whole namespace: with {LOWER_TCP_RETRIES2} the kernel \
             gives up after some 100 s. Connections that are already stalled follow it, too."
        );
        setting(patient, text, &[("net.ipv4.tcp_retries2", u32::from(LOWER_TCP_RETRIES2))])
            .risk("acts on every TCP connection of the namespace, also on those over slow or lossy paths")
    })
}

/// Times of keepalive that fit firewalls.
pub(super) fn keepalive(patient: &Patient<'_>) -> Remedy {
    let text = "Where the application turns keepalive on (SO_KEEPALIVE) and sets no times of its own, make it probe more often than \
                the shortest idle timeout on the way; the kernel's default is two hours.";
    keepalive_times(patient, text.to_owned(), KEEPALIVE_TIME_S).risk(
        "acts only on sockets with SO_KEEPALIVE, and never while data is unacknowledged, which silences keepalive; some packets \
         more on idle connections",
    )
}

/// Times of keepalive that fit what forgets idle connections after `limit`.
pub(super) fn keepalive_within(patient: &Patient<'_>, text: String, limit: Duration) -> Remedy {
    // Half of it: the probe must come in time, and one may be lost.
    let half_s = u32::try_from(limit.as_secs() / 2).unwrap_or(u32::MAX);
    keepalive_times(patient, text, half_s.clamp(1, KEEPALIVE_TIME_S))
}

fn keepalive_times(patient: &Patient<'_>, text: String, time_s: u32) -> Remedy {
    let settings = [
        ("net.ipv4.tcp_keepalive_time", time_s),
        ("net.ipv4.tcp_keepalive_intvl", KEEPALIVE_INTERVAL_S.min(time_s)),
        ("net.ipv4.tcp_keepalive_probes", KEEPALIVE_PROBES),
    ];
    setting(patient, text, &settings)
}

/// Connection tracking that remembers idle connections.
pub(super) fn remember_idle_connections(patient: &Patient<'_>) -> Remedy {
    let text = "Let idle connections be remembered for longer than they are idle: the kernel's default is five days.";
    let name = "net.netfilter.nf_conntrack_tcp_timeout_established";
    let remedy = setting(patient, text.to_owned(), &[(name, FIVE_DAYS_S)])
        .risk("acts on new and refreshed entries; forgotten ones do not come back; a larger table");
    let lasting = remedy.lasting.as_deref().map(|lasting| {
        format!("{lasting}; nf_conntrack must be loaded by then: its name in /etc/modules-load.d/conntrack.conf")
    });
    Remedy { lasting, ..remedy }
}

pub(super) fn setting(patient: &Patient<'_>, text: String, settings: &[(&str, u32)]) -> Remedy {
    let (mut command, mut lines) = (format!("{}sysctl -w", patient.here()), Vec::new());
    for (name, value) in settings {
        command.push_str(&format!(" {name}={value}"));
        lines.push(format!("`{name} = {value}`"));
    }
    Remedy::new(text).command(command).place(patient.place()).lasting(lasting(patient, &lines))
}

/// Files below `/etc/sysctl.d` are read for the namespace of the host, once; others begin with the kernel's defaults.
fn lasting(patient: &Patient<'_>, lines: &[String]) -> String {
    let mut text = format!("{} in /etc/sysctl.d/60-connections.conf", lines.join(", "));
    if let Some(owner) = patient.owner {
        if owner.place.pod_uid.is_some() {
            text.push_str(
                "; for a pod with a network of its own in its `securityContext.sysctls`, which the kubelet may have to allow \
                 (`--allowed-unsafe-sysctls`)",
            );
        } else if owner.place.container_id.is_some() {
            text.push_str("; for a container with a network of its own by `--sysctl` when it is made");
        } else {
            text.push_str(
                "; that is read for the host's own network namespace, in any other it has to be set when that is made",
            );
        }
    }
    text
}
