//! What several files of these tests share: two joined namespaces, peers, and what they have received.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use connprobe_tests::lab::Lab;
use connprobe_tests::link::{End, veth};
use connprobe_tests::netns::Netns;
use connprobe_tests::peer::{Mode, Options, Peer};
use connprobe_tests::runner::TestContext;
use serde_json::Value;

/// Long enough for a slow guest.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Drops every TCP segment that arrives.
pub(crate) const DROP_TCP: &str =
    "table inet cut { chain input { type filter hook input priority 0; meta l4proto tcp drop; }; }\n";

/// Two namespaces joined by a veth pair: 10.9.0.1 and 10.9.0.2.
pub(crate) struct Pair {
    pub(crate) client: Netns,
    pub(crate) server: Netns,
    _lab: Lab,
}

pub(crate) fn pair(test: &TestContext) -> Result<Pair> {
    let lab = test.lab()?;
    let (client, server) = (lab.netns("client")?, lab.netns("server")?);
    veth(&End::new(&client, "left", &["10.9.0.1/24"]), &End::new(&server, "right", &["10.9.0.2/24"]))?;
    Ok(Pair { client, server, _lab: lab })
}

pub(crate) fn address(text: &str) -> Result<SocketAddr> {
    text.parse().with_context(|| text.to_owned())
}

pub(crate) fn echo() -> Options {
    Options { mode: Mode::Echo, ..Options::default() }
}

/// A listener at this address and a connection to it.
pub(crate) fn connected(client: &Netns, server: &Netns, at: &str, client_options: &Options) -> Result<(Peer, Peer)> {
    let listener = Peer::listen(server, address(at)?, &echo())?;
    let peer = Peer::connect(client, listener.local()?, client_options)?;
    let local = peer.local()?.to_string();
    listener.wait_event_where("accepted", SOON, |event| event.get("remote").is_some_and(|remote| *remote == local))?;
    Ok((listener, peer))
}

/// Bytes the first connection of a peer has received.
pub(crate) fn received(peer: &Peer) -> Result<u64> {
    let status = peer.status()?;
    let bytes = status.pointer("/connections/0/received").and_then(Value::as_u64);
    bytes.ok_or_else(|| anyhow!("no connection: {status}"))
}

pub(crate) fn wait_received(peer: &Peer, bytes: u64) -> Result<()> {
    for _ in 0..1500 {
        if received(peer)? >= bytes {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Err(anyhow!("{bytes} bytes have not come: {}", peer.status()?))
}

pub(crate) fn number(event: &Value, name: &str) -> Result<i64> {
    event.get(name).and_then(Value::as_i64).ok_or_else(|| anyhow!("no {name} in {event}"))
}
