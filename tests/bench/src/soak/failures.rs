//! Connections that fail, one kind after the other.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result};
use connprobe_tests::{lab::Lab, labs::routed::Routed};

use super::traffic::Over;
use crate::stalled::Connections;

/// How many fail at once.
const CONNECTIONS: usize = 50;
const WRITES_A_SECOND: f64 = 500.0;
/// How long what has recovered goes on before it is closed.
const SEEN_TO_GO_ON: Duration = Duration::from_secs(4);

/// What becomes of connections whose path is cut, or whose peer does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// The path is healed, and they go on.
    Recovers,
    /// The kernel gives them up.
    GivenUp,
    /// Their program closes them, and nobody acknowledges their FIN.
    Closed,
    /// Their peer does not read for a while.
    WindowShut,
}

const FAILURES: [Failure; 4] = [Failure::Recovers, Failure::GivenUp, Failure::Closed, Failure::WindowShut];

/// Goes through all kinds, again and again.
pub(super) fn run(over: &Over) -> Result<()> {
    let own = Lab::new("failures")?;
    let lab = Routed::new(&own)?;
    // Given up 12.8 s after the first segment, and 6.4 s after the FIN where there is no program any more.
    lab.client.sysctl("net.ipv4.tcp_retries2", "5")?;
    lab.client.sysctl("net.ipv4.tcp_orphan_retries", "4")?;
    // A window is soon full.
    lab.client.sysctl("net.ipv4.tcp_wmem", "4096 16384 16384")?;
    lab.server.sysctl("net.ipv4.tcp_rmem", "4096 16384 16384")?;
    for failure in FAILURES.iter().cycle() {
        if !over.sleep(Duration::from_millis(500)) {
            break;
        }
        happen(*failure, &lab, over)?;
    }
    own.close()
}

fn happen(failure: Failure, lab: &Routed, over: &Over) -> Result<()> {
    let connections = Connections::open(lab, CONNECTIONS)?;
    let cut_for = |time: Duration| {
        over.sleep(time);
        lab.heal()
    };
    match failure {
        Failure::Recovers | Failure::GivenUp => {
            lab.cut()?;
            connections.write(WRITES_A_SECOND)?;
            cut_for(Duration::from_secs(if failure == Failure::Recovers { 7 } else { 15 }))?;
        }
        Failure::Closed => {
            lab.cut()?;
            drop(connections.clients);
            cut_for(Duration::from_secs(9))?;
        }
        Failure::WindowShut => {
            each(&connections.clients, |mut client| client.write(&[1; 1 << 12]))?;
            over.sleep(Duration::from_secs(12));
            each(&connections.servers, |mut server| server.read(&mut [0; 1 << 16]))?;
        }
    }
    over.sleep(SEEN_TO_GO_ON);
    Ok(())
}

/// Does this with each stream until that would have to wait.
fn each(streams: &[TcpStream], act: impl Fn(&TcpStream) -> io::Result<usize>) -> Result<()> {
    for stream in streams {
        stream.set_nonblocking(true)?;
        loop {
            match act(stream) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("a connection whose window is shut"),
            }
        }
    }
    Ok(())
}
