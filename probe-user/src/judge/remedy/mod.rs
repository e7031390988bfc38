//! What to do about a ruling. The cause decides; ports and the process that holds the socket decide which software's settings
//! are named. One file per family of causes, one for the settings of software, one for those of the kernel.

mod dropped;
mod forgotten;
mod forwarded;
mod handshake;
mod kernel;
mod local;
mod reader;
mod risk;
mod silent;
mod software;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

pub use forwarded::{Forwarded, Waiting, forwarded_remedies};
pub use risk::risk_remedies;

use super::{Cause, DeadlineSource, Evidence, Ruling};
use crate::model::{ConnectionKey, Owner};

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remedy {
    /// What to do and why, in a sentence.
    pub text: String,
    /// A command that does or shows it, where there is one.
    pub command: Option<String>,
    /// Where to run it: on this host and in which network namespace, or on which other.
    pub place: Option<String>,
    /// What it may cost.
    pub risk: Option<String>,
    /// Where it has to be set to outlive a restart or to act at all; `None` where there is nothing to keep.
    pub lasting: Option<String>,
}

/// More than this nobody reads at night; what comes last is the least useful.
const MOST_REMEDIES: usize = 5;

/// What to do about a ruling, the most useful first. `owner` is the process that holds the socket and `mark` its `SO_MARK`, where they are known;
/// `evidence` is what was seen; what can only be done to a connection that is still there is left out when it `is_over`.
pub fn remedies(
    key: &ConnectionKey,
    ruling: &Ruling,
    owner: Option<&Owner>,
    mark: Option<u32>,
    is_over: bool,
    evidence: &[Evidence],
) -> Vec<Remedy> {
    let mark = mark.filter(|mark| *mark != 0);
    let patient = Patient { key, ruling: Some(ruling), owner, mark, is_over, is_forwarded: false, evidence };
    let mut remedies = remedies_of(&patient, ruling.cause);
    remedies.truncate(MOST_REMEDIES);
    remedies
}

fn remedies_of(patient: &Patient<'_>, cause: Cause) -> Vec<Remedy> {
    match cause {
        Cause::PeerSilent => silent::peer_silent(patient),
        Cause::PeerUnreachable => silent::peer_unreachable(patient),
        Cause::WindowProbesUnanswered => silent::window_probes_unanswered(patient),
        Cause::KeepaliveUnanswered => forgotten::keepalive_unanswered(patient),
        Cause::PeerReset => forgotten::peer_reset(patient),
        Cause::PeerRestarted => forgotten::peer_restarted(patient),
        Cause::ConntrackExpired => forgotten::conntrack_expired(patient),
        Cause::SourceAddressLost => local::source_address_lost(patient),
        Cause::LocalSendFailure => local::local_send_failure(patient),
        Cause::ConntrackBadChecksum => dropped::conntrack_bad_checksum(patient),
        Cause::ConntrackInvalid => dropped::conntrack_invalid(patient),
        Cause::FirewallDrop => dropped::firewall_drop(patient),
        Cause::StackDrop => dropped::stack_drop(patient),
        Cause::UnacknowledgedFin => dropped::unacknowledged_fin(patient),
        Cause::FinalAckLost => handshake::final_ack_lost(patient),
        Cause::SynackLost => handshake::synack_lost(patient),
        Cause::PathMismatch => handshake::path_mismatch(patient),
        Cause::ReversePathFiltered => handshake::reverse_path_filtered(patient),
        Cause::EmbryonicExpired => handshake::embryonic_expired(patient),
        Cause::PeerWindowShut => reader::peer_window_shut(patient),
    }
}

/// Whose connection it is, and how it is.
struct Patient<'a> {
    key: &'a ConnectionKey,
    /// What is wrong with it; `None` when nothing is, yet.
    ruling: Option<&'a Ruling>,
    owner: Option<&'a Owner>,
    /// `SO_MARK`, where there is one.
    mark: Option<u32>,
    is_over: bool,
    /// Whether this host only forwards it: then its sockets are elsewhere.
    is_forwarded: bool,
    /// What was seen of it.
    evidence: &'a [Evidence],
}

/// One of the two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The local one.
    Here,
    /// The remote one.
    Peer,
}

impl Patient<'_> {
    /// The end that serves, as far as the ports tell: the one with a port of AMQP, or with one that no client is given.
    fn service(&self) -> Option<End> {
        let ports = [self.key.local.port(), self.key.remote.port()];
        let only_one = |serves: fn(u16) -> bool| match ports.map(serves) {
            [true, false] => Some(End::Here),
            [false, true] => Some(End::Peer),
            [true, true] | [false, false] => None,
        };
        only_one(software::is_amqp).or_else(|| only_one(|port| port < FIRST_EPHEMERAL_PORT))
    }

    /// What a command begins with to run in the network namespace of the process that holds the socket.
    fn here(&self) -> String {
        self.owner.map_or(String::new(), |owner| format!("nsenter -t {} -n ", owner.pid))
    }

    /// Where the commands are run that look at the connection's network or change it.
    fn place(&self) -> String {
        let namespace = match self.key.netns {
            0 => "the connection's network namespace".to_owned(),
            inode => format!("network namespace {inode}"),
        };
        match (self.owner, self.is_over) {
            (Some(owner), false) => format!("on this host; pid {} leads into {namespace}", owner.pid),
            (Some(owner), true) => format!(
                "on this host; pid {} leads into {namespace} as long as it is alive, then see `lsns -t net`",
                owner.pid
            ),
            (None, _) => format!("on this host in {namespace} (`lsns -t net` shows which processes are in it)"),
        }
    }

    /// Where the commands are run that ask the software that holds the socket.
    fn beside_owner(&self) -> String {
        let container = self.owner.and_then(|owner| owner.place.container_id.as_deref());
        container.map_or("on this host".to_owned(), |id| format!("on this host in container {id}"))
    }

    fn on_peer(&self) -> String {
        format!("on the peer {}", self.key.remote.ip())
    }

    /// Which way segments go.
    fn route_get(&self) -> String {
        let mark = self.mark.map_or(String::new(), |mark| format!(" mark {mark}"));
        format!("{}ip route get {} from {}{mark}", self.here(), self.key.remote.ip(), self.key.local.ip())
    }

    /// The local address as `ss` takes it in a filter.
    fn local(&self) -> String {
        in_filter(self.key.local.ip())
    }

    /// The peer's address as `ss` takes it in a filter.
    fn remote(&self) -> String {
        in_filter(self.key.remote.ip())
    }

    /// Whether the application has set `TCP_USER_TIMEOUT`, and that is what ends the connection.
    fn has_user_timeout(&self) -> bool {
        let set_by = self.ruling.and_then(|ruling| ruling.deadline).map(|deadline| deadline.set_by);
        matches!(set_by, Some(DeadlineSource::TcpUserTimeout { .. }))
    }

    /// Ends the connection, if it is still there, where what this host sends gets lost: so does the RST by which the kernel tells the peer
    /// (`tcp_abort`, `net/ipv4/tcp.c`).
    fn end_now(&self) -> Option<Remedy> {
        let remedy = self.end_known_to_peer(
            "End the connection now instead of waiting: the application gets an error at once and can reconnect.",
        )?;
        Some(remedy.risk(
            "cuts this one connection: the application gets ECONNABORTED, and unacknowledged data is lost, as it will be at the \
             deadline; where segments are lost on the way, so is the RST that tells the peer, and its end stays open: end that, too; \
             needs CONFIG_INET_DIAG_DESTROY",
        ))
    }

    /// Ends the connection, if it is still there, where the peer is told.
    fn end_known_to_peer(&self, text: &str) -> Option<Remedy> {
        let remedy = || {
            self.kill(text).risk(
                "cuts this one connection: the application gets ECONNABORTED, and unacknowledged data is lost; needs \
                 CONFIG_INET_DIAG_DESTROY",
            )
        };
        (!self.is_over).then(remedy)
    }

    fn kill(&self, text: &str) -> Remedy {
        Remedy::new(text)
            .command(format!(
                "{}ss -tK src {} sport = :{} dst {} dport = :{}",
                self.here(),
                self.local(),
                self.key.local.port(),
                self.remote(),
                self.key.remote.port()
            ))
            .place(self.place())
    }

    /// Shows the peer's end of the connection, where it has one.
    fn look_on_the_peer(&self, text: String) -> Remedy {
        Remedy::new(text)
            .command(format!("ss -tnpo dst {} sport = :{}", self.local(), self.key.remote.port()))
            .place(format!("{}, in the network namespace of what holds its end", self.on_peer()))
            .risk(ONLY_LOOKS)
    }
}

/// An address as `ss` takes it in a filter.
fn in_filter(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// Of the ports that clients get. Linux begins here (`inet_init_net`, `net/ipv4/af_inet.c`), others higher (RFC 6335 section 6).
const FIRST_EPHEMERAL_PORT: u16 = 32_768;

const ONLY_LOOKS: &str = "none: it only looks";

/// Where a broker's own commands are run by who is its client.
const ON_THE_BROKER: &str = "on the broker";

impl Remedy {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), command: None, place: None, risk: None, lasting: None }
    }

    fn command(self, command: impl Into<String>) -> Self {
        Self { command: Some(command.into()), ..self }
    }

    fn place(self, place: impl Into<String>) -> Self {
        Self { place: Some(place.into()), ..self }
    }

    fn risk(self, risk: impl Into<String>) -> Self {
        Self { risk: Some(risk.into()), ..self }
    }

    fn lasting(self, lasting: impl Into<String>) -> Self {
        Self { lasting: Some(lasting.into()), ..self }
    }
}
