use super::{Cause, DeadlineSource, Ruling};
use crate::model::ConnectionKey;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remedy {
    /// What to do and why, in a sentence.
    pub text: String,
    /// A command that does or shows it, where there is one.
    pub command: Option<String>,
    /// What it may cost.
    pub risk: Option<String>,
}

/// What to do about a ruling, the most useful first. Derived from the cause alone: the same cause always gives the same advice.
pub fn remedies(key: &ConnectionKey, ruling: &Ruling) -> Vec<Remedy> {
    match ruling.cause {
        Cause::PeerSilent => peer_silent(key, ruling),
        Cause::LocalSendFailure => local_send_failure(key),
    }
}

fn peer_silent(key: &ConnectionKey, ruling: &Ruling) -> Vec<Remedy> {
    let remote = key.remote.ip();
    let mut remedies = vec![
        Remedy {
            text: format!(
                "See whether {remote} is up and still has this connection: run connprobe or `ss` there. If it is up and \
                 knows nothing of it, something between the two hosts (a firewall, NAT, a load balancer) has forgotten \
                 the connection."
            ),
            command: Some(format!("ss -tno dst {} sport = :{}", key.local.ip(), key.remote.port())),
            risk: Some("none: it only looks (run it on the peer)".to_owned()),
        },
        Remedy {
            text: "End the connection now instead of waiting: the application gets an error at once and can reconnect."
                .to_owned(),
            command: Some(format!(
                "ss -K src {} sport = :{} dst {remote} dport = :{}",
                key.local.ip(),
                key.local.port(),
                key.remote.port()
            )),
            risk: Some(
                "unacknowledged data is lost, as it will be at the deadline; needs CONFIG_INET_DIAG_DESTROY".to_owned(),
            ),
        },
    ];
    if !matches!(ruling.deadline.map(|deadline| deadline.set_by), Some(DeadlineSource::TcpUserTimeout { .. })) {
        remedies.push(Remedy {
            text:
                "Let the application set TCP_USER_TIMEOUT (or use its own heartbeat) so that the next such connection \
                   ends in seconds. Keepalive does not help here: it waits while data is unacknowledged."
                    .to_owned(),
            command: None,
            risk: Some("too short a timeout ends connections over a brief outage".to_owned()),
        });
        remedies.push(Remedy {
            text:
                "Where applications cannot be changed, lower the limit for the whole namespace (8 gives about 100 s)."
                    .to_owned(),
            command: Some("sysctl -w net.ipv4.tcp_retries2=8".to_owned()),
            risk: Some(
                "acts on every TCP connection of the namespace, also on those over slow or lossy paths".to_owned(),
            ),
        });
    }
    remedies
}

fn local_send_failure(key: &ConnectionKey) -> Vec<Remedy> {
    vec![
        Remedy {
            text: format!(
                "See whether {} is still an address of this host. If it has moved to another host, restart what goes on \
                 writing from it.",
                key.local.ip()
            ),
            command: Some(format!("ip address show to {}", key.local.ip())),
            risk: Some("none: it only looks".to_owned()),
        },
        Remedy {
            text: format!("See whether there is a route to {}.", key.remote.ip()),
            command: Some(format!("ip route get {} from {}", key.remote.ip(), key.local.ip())),
            risk: Some("none: it only looks".to_owned()),
        },
    ]
}
