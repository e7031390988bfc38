use std::net::IpAddr;

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

/// RFC 1122 section 4.2.3.5 asks for at least 100 s before a connection is given up; this gives 102.2 s.
const LOWER_TCP_RETRIES2: u8 = 8;

/// What to do about a ruling, the most useful first. The cause decides; `owner_pid` brings the commands into the network
/// namespace of the process that holds the socket, and what can only be done to a connection that is still there is left out
/// when it `is_over`.
pub fn remedies(key: &ConnectionKey, ruling: &Ruling, owner_pid: Option<u32>, is_over: bool) -> Vec<Remedy> {
    let here = owner_pid.map_or(String::new(), |pid| format!("nsenter -t {pid} -n "));
    match ruling.cause {
        Cause::PeerSilent => peer_silent(key, ruling, &here, is_over),
        Cause::LocalSendFailure => local_send_failure(key, &here),
    }
}

/// An address as `ss` takes it in a filter.
fn in_filter(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

fn peer_silent(key: &ConnectionKey, ruling: &Ruling, here: &str, is_over: bool) -> Vec<Remedy> {
    let (local, remote) = (in_filter(key.local.ip()), in_filter(key.remote.ip()));
    let set_by = ruling.deadline.map(|deadline| deadline.set_by);
    let mut remedies = vec![Remedy {
        text: format!(
            "See on {remote} whether it still has this connection. If it does not, something between the two hosts (a \
                 firewall, NAT, a load balancer) or a restart has made it forget."
        ),
        command: Some(format!("ss -tno dst {local} sport = :{}", key.remote.port())),
        risk: Some("none: it only looks (to be run on the peer)".to_owned()),
    }];
    if !is_over {
        remedies.push(Remedy {
            text: "End the connection now instead of waiting: the application gets an error at once and can reconnect."
                .to_owned(),
            command: Some(format!(
                "{here}ss -K src {local} sport = :{} dst {remote} dport = :{}",
                key.local.port(),
                key.remote.port()
            )),
            risk: Some(
                "unacknowledged data is lost, as it will be at the deadline; needs CONFIG_INET_DIAG_DESTROY".to_owned(),
            ),
        });
    }
    if !matches!(set_by, Some(DeadlineSource::TcpUserTimeout { .. })) {
        remedies.push(Remedy {
            text: "Let the application set TCP_USER_TIMEOUT, or use a heartbeat of its own, so that the next such connection \
                   ends in seconds. Keepalive does not help: it waits while data is unacknowledged."
                .to_owned(),
            command: None,
            risk: Some("too short a timeout ends connections over a brief outage".to_owned()),
        });
    }
    if matches!(set_by, Some(DeadlineSource::TcpRetries2 { retries }) if retries > LOWER_TCP_RETRIES2) {
        remedies.push(Remedy {
            text: format!(
                "Where applications cannot be changed, lower the limit for the whole namespace: with {LOWER_TCP_RETRIES2} the \
                 kernel gives up after some 100 s. Connections that are already stalled follow it, too."
            ),
            command: Some(format!("{here}sysctl -w net.ipv4.tcp_retries2={LOWER_TCP_RETRIES2}")),
            risk: Some(
                "acts on every TCP connection of the namespace, also on those over slow or lossy paths".to_owned(),
            ),
        });
    }
    remedies
}

fn local_send_failure(key: &ConnectionKey, here: &str) -> Vec<Remedy> {
    let (local, remote) = (key.local.ip(), key.remote.ip());
    let looks = || Some("none: it only looks".to_owned());
    vec![
        Remedy {
            text: format!(
                "See whether {local} is still an address of this host. If it has moved to another host, restart what goes on \
                 writing from it."
            ),
            command: Some(format!("{here}ip address show to {local}")),
            risk: looks(),
        },
        Remedy {
            text: format!("See whether there is a route to {remote}."),
            command: Some(format!("{here}ip route get {remote} from {local}")),
            risk: looks(),
        },
    ]
}
