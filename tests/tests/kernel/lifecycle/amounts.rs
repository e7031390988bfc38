//! What went over a connection, and whose it was.

use std::{
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Result, ensure};
use connprobe_tests::{daemon::Daemon, runner::TestContext};
use nix::sys::socket::{setsockopt, sockopt};

use super::{TELLING, closed_at, pair};

pub(super) fn amounts(test: &TestContext) -> Result<()> {
    const BYTES: usize = 300_000;
    let own = test.lab()?;
    let netns = own.netns("amounts")?;
    let daemon = Daemon::start(&netns, TELLING)?;
    let (mut client, mut server) = pair(&netns)?;
    let (local, remote) = (client.local_addr()?, client.peer_addr()?);
    let reader = std::thread::spawn(move || server.read_exact(&mut [0; BYTES]).map(|()| server));
    client.write_all(&[7; BYTES])?;
    let mut server = reader.join().map_err(|_| anyhow::anyhow!("the reader has failed"))??;
    server.write_all(&[8; 1_000])?;
    client.read_exact(&mut [0; 1_000])?;
    sleep(Duration::from_millis(300));
    let mut ss = Command::new("ss");
    ss.args(["-tinOH", "src", &local.to_string()]).stdout(Stdio::piped());
    let said = netns.run(|| ss.output())??;
    let said = String::from_utf8(said.stdout)?;
    // A reset changes nothing of what was counted.
    setsockopt(&client, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
    drop(client);
    let told = closed_at(&daemon, local)?;
    ensure!(told.bytes_sent == Some(u64::try_from(BYTES)?) && told.bytes_received == Some(1_000), "{told:?}");
    for (name, value) in [
        ("bytes_sent", told.bytes_sent),
        ("bytes_acked", told.bytes_acked),
        ("bytes_received", told.bytes_received),
        ("segs_out", told.segments_sent.map(u64::from)),
        ("segs_in", told.segments_received.map(u64::from)),
        ("rtt", told.rtt_us),
        ("minrtt", told.min_rtt_us),
    ] {
        ensure!(value.is_some() && shown(&said, name) == value, "{name}: {value:?} is told, and ss says: {said}");
    }
    drop(server);
    closed_at(&daemon, remote)?;

    // A server that hands what it accepts to a process of its own.
    let (client, server) = pair(&netns)?;
    let remote = client.peer_addr()?;
    let mut worker = Command::new("sleep").arg("0.2").stdin(OwnedFd::from(server)).spawn()?;
    worker.wait()?;
    let told = closed_at(&daemon, remote)?;
    let owner = &told.owner;
    ensure!(owner.pid == Some(worker.id()) && owner.comm.as_deref() == Some("sleep"), "{owner:?}");
    ensure!(owner.known_by.as_deref() == Some("close"), "{owner:?}");
    Ok(())
}

/// A number of `ss -ti`, as `bytes_sent:100` or `rtt:0.05/0.02`, in thousandths where it has a fraction.
fn shown(line: &str, name: &str) -> Option<u64> {
    let word = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix(':'))?;
    let number = word.split('/').next()?;
    match number.split_once('.') {
        None => number.parse().ok(),
        Some((whole, fraction)) => format!("{whole}{:0<3}", fraction).parse().ok(),
    }
}
