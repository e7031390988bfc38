//! Records of connections that are over: each once, with who ended it, what went over it and whose it was.

mod amounts;
mod attaching;
mod endings;
mod volume;

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::Result;
use connprobe::model::Mechanism;
use connprobe_tests::{
    daemon::Daemon,
    netns::Netns,
    require::Requirement::{Attaching, Ipv6},
    runner::{Test, TestContext},
    watching::{SOON, WATCHING},
    wire::{self, Body, Closed, Record},
};
use serde_json::Value;

use amounts::amounts;
use attaching::{by_tracepoint, check, off};
use endings::{endings, failures, resets};
use volume::{churn, lost};

pub(crate) fn tests() -> Vec<Test> {
    let with_v6 = [WATCHING, &[Ipv6]].concat().leak();
    let by = |name: &str, mechanism, function: fn(&TestContext) -> Result<()>| {
        Test::new(name, [WATCHING, &[Attaching(mechanism)]].concat().leak(), function)
    };
    vec![
        Test::new("each connection that ends is told once, with who ended it and whose it was", with_v6, endings)
            .within(Duration::from_secs(300))
            .on_every_kernel(),
        Test::new(
            "what went over a connection is what TCP_INFO said of it, and who closes it is its owner",
            WATCHING,
            amounts,
        )
        .not_shared(),
        Test::new("connections that the network ends are told with the kernel's error", WATCHING, failures)
            .not_shared(),
        Test::new("a connection that this end resets after its FIN was acknowledged is told as that", WATCHING, resets)
            .not_shared(),
        Test::new("of thousands of short connections each is told once, also while settings change", WATCHING, churn)
            .alone()
            .within(Duration::from_secs(120))
            .not_shared(),
        Test::new("records of connections that find no room are counted", WATCHING, lost).alone().not_shared(),
        Test::new("nothing is loaded for connections that end unless that is asked for", WATCHING, off).not_shared(),
        by("the ends of connections are told by classic tracepoints", Mechanism::Tracepoint, |_| by_tracepoint()),
        by("the ends of connections are told by kprobes", Mechanism::Kprobe, |test| check(test, "kprobe")),
        by("the ends of connections are told by trampolines", Mechanism::Fentry, |test| check(test, "fentry")),
    ]
}

/// What a daemon is told that tells of every connection that ends.
const TELLING: &str = "lifecycle = true";

/// The next connection that was over at this endpoint, as that end's record has it.
fn closed_at(daemon: &Daemon, local: SocketAddr) -> Result<Closed> {
    let port = local.port();
    let record = daemon.probe.wait_record(SOON, |record| {
        at(record, "/type") == "connection" && at(record, "/connection/local/port") == port
    })?;
    match wire::read(&record)?.body {
        Body::Connection(closed) => Ok(*closed),
        other => anyhow::bail!("{other:?}"),
    }
}

fn closed_of(records: &[Record]) -> Vec<&Closed> {
    let mut all = Vec::new();
    for record in records {
        if let Body::Connection(closed) = &record.body {
            all.push(closed.as_ref());
        }
    }
    all
}

/// What is there in a record; nothing where it is not.
fn at<'a>(record: &'a Value, path: &str) -> &'a Value {
    record.pointer(path).unwrap_or(&Value::Null)
}

/// Both ends in one process, and one thread: what one does is there before the other does anything.
fn pair(netns: &Netns) -> Result<(TcpStream, TcpStream)> {
    netns.run(|| -> Result<_> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        Ok((client, listener.accept()?.0))
    })?
}
