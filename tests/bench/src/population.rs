//! A hundred thousand idle connections, with both their ends on this host. A process may have so many descriptors only: several hold them.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use connprobe_tests::child::ManagedChild;
use connprobe_tests::netns::Netns;
use nix::sys::resource::{Resource, getrlimit};

use crate::effort::progress;
use crate::stalled::allow_descriptors;

/// Descriptors of a process that are no connections.
const OTHERS: u64 = 500;

/// Processes that hold connections. Dropping it ends them.
pub(crate) struct Population {
    _holders: Vec<ManagedChild>,
}

impl Population {
    /// Makes so many connections in a namespace.
    pub(crate) fn make(netns: &Netns, connections: u64) -> Result<Self> {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let each = most.saturating_sub(OTHERS) / 2;
        ensure!(each > 0, "a process may have {most} descriptors, which is too few");
        let mut holders = Vec::new();
        let mut made = 0;
        while made < connections {
            let count = each.min(connections - made);
            progress(&format!("idle connections: {made} of {connections}"));
            holders.push(hold_in_child(netns, count)?);
            made += count;
        }
        Ok(Self { _holders: holders })
    }
}

fn hold_in_child(netns: &Netns, count: u64) -> Result<ManagedChild> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--hold", &count.to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let child = netns.spawn(command)?;
    let mut line = String::new();
    BufReader::new(child.take_stdout().context("a holder has no standard output")?).read_line(&mut line)?;
    ensure!(line == READY, "a holder of connections did not get ready");
    Ok(child)
}

const READY: &str = "ready\n";

/// What such a process does: makes connections to an address of its own, says so, and waits for the end of its input.
#[expect(clippy::print_stdout, reason = "the line is what the other process waits for")]
pub(crate) fn hold(count: u64) -> Result<()> {
    allow_descriptors()?;
    // Another for each process, so that each has all ports.
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let listener = TcpListener::bind((Ipv4Addr::new(127, 1, high, low), 0)).context("cannot listen")?;
    let address = listener.local_addr()?;
    let pair = |_| Ok((TcpStream::connect(address)?, listener.accept()?.0));
    let held = (0..count).map(pair).collect::<std::io::Result<Vec<_>>>().context("cannot hold so many connections")?;
    print!("{READY}");
    std::io::Write::flush(&mut std::io::stdout())?;
    let _ = std::io::stdin().read(&mut [0]);
    drop(held);
    Ok(())
}
