//! `zero_window_stalled`: the peer's application does not read.

use std::{thread::sleep, time::Duration};

use anyhow::{Result, ensure};
use connprobe_tests::{
    findings::{ensure_is_about, wait as finding},
    labs::routed::Routed,
    peer::{Mode, Options, Peer},
    runner::{Test, TestContext},
    watching::{PORT, SOON, WATCHING, stop, watch},
};

/// More than any buffer takes.
const FLOOD: &str = "write 20000000";

pub(crate) fn tests() -> Vec<Test> {
    let test = |name: &str, function: fn(&TestContext) -> Result<()>| Test::new(name, WATCHING, function);
    vec![
        test("a peer that does not read is told from a network that does not carry", stuck_reader),
        test("a stuck reader that loses its power becomes half open", lost_reader),
    ]
}

fn connect(lab: &Routed, mode: Mode) -> Result<(Peer, Peer)> {
    let reader = Options { mode, ..Options::default() };
    let server = Peer::listen(&lab.server, Routed::server_v4(PORT), &reader)?;
    let client = Peer::connect(&lab.client, Routed::server_v4(PORT), &Options::default())?;
    Ok((server, client))
}

fn stuck_reader(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (server, client) = connect(&lab, Mode::Mute)?;
    let probe = watch(&lab.client, &[])?;
    client.command(FLOOD)?;
    let opened = finding(&probe, "opened", SOON)?;
    ensure!(
        (opened.verdict.as_str(), opened.cause.as_str()) == ("zero_window_stalled", "peer_window_shut"),
        "{opened:?}"
    );
    ensure!(opened.deadline.is_none(), "nothing ends it: {opened:?}");
    ensure!(opened.socket.send_window_bytes == Some(0), "{:?}", opened.socket);
    ensure_is_about(&opened, &client, &lab.client)?;
    server.command("abort")?;
    let closed = finding(&probe, "closed", SOON)?;
    ensure!(closed.outcome.as_deref() == Some("reset"), "{closed:?}");
    stop(probe)?;
    Ok(())
}

fn lost_reader(test: &TestContext) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    let (_server, client) = connect(&lab, Mode::Mute)?;
    let probe = watch(&lab.client, &[])?;
    client.command(FLOOD)?;
    sleep(Duration::from_secs(1));
    lab.cut()?;
    let half_open = |state: &str| -> Result<bool> {
        let found = finding(&probe, state, Duration::from_secs(60))?;
        Ok((found.verdict.as_str(), found.cause.as_str()) == ("half_open", "window_probes_unanswered"))
    };
    let mut told = half_open("opened")?;
    while !told {
        told = half_open("updated")?;
    }
    stop(probe)?;
    Ok(())
}
