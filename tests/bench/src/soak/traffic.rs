//! Everything that happens meanwhile: a thread for each kind.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use connprobe_tests::{lab::Lab, labs::routed::Routed, netns::Netns};

use super::failures;
use crate::load;
use crate::stalled::transfer;

/// Prefixes of the addresses that are used here, and should be nowhere else: the churn's, the labs', and those of namespaces that come and
/// go.
pub(super) const ADDRESSES: [&str; 3] = ["127.77.1.0/24", "10.77.0.0/16", "127.7.0.0/16"];
const PASSING: Ipv4Addr = Ipv4Addr::new(127, 7, 0, 1);

/// How many namespaces that come and go there are at once; each second one comes.
const NAMESPACES: usize = 5;

/// Threads that make it. They end when this is dropped.
pub(super) struct Traffic {
    over: Over,
    threads: Vec<(&'static str, JoinHandle<Result<()>>)>,
}

/// Whether it is time to stop.
#[derive(Clone, Debug, Default)]
pub(super) struct Over(Arc<AtomicBool>);

impl Over {
    /// Sleeps, but not beyond the end; whether it is not yet over then.
    pub(super) fn sleep(&self, time: Duration) -> bool {
        let start = Instant::now();
        while !self.0.load(Ordering::Relaxed) && start.elapsed() < time {
            thread::sleep(Duration::from_millis(50).min(time.saturating_sub(start.elapsed())));
        }
        !self.0.load(Ordering::Relaxed)
    }
}

impl Traffic {
    /// Begins with all of it. Records are read at `socket`.
    pub(super) fn start(socket: PathBuf) -> Self {
        let over = Over::default();
        let thread = |name, run: Box<dyn FnOnce(Over) -> Result<()> + Send>| {
            let over = over.clone();
            (name, thread::spawn(move || run(over)))
        };
        let threads = vec![
            thread("short connections", Box::new(|over| churn(&over))),
            thread("a lossy path", Box::new(|over| losses(&over))),
            thread("failures", Box::new(|over| failures::run(&over))),
            thread("namespaces that come and go", Box::new(|over| namespaces(&over))),
            thread("readers that come and go", Box::new(move |over| readers(&over, &socket))),
        ];
        Self { over, threads }
    }

    /// Whether all of it still goes on.
    pub(super) fn goes_on(&self) -> bool {
        self.threads.iter().all(|(_, thread)| !thread.is_finished())
    }

    /// Ends it, and says what went wrong.
    pub(super) fn stop(mut self) -> Result<()> {
        self.over.0.store(true, Ordering::Relaxed);
        let ended = self
            .threads
            .drain(..)
            .map(|(name, thread)| thread.join().map_err(|_| anyhow!("it panicked")).flatten().context(name));
        // Each is waited for, whatever has become of the others.
        ended.collect::<Vec<_>>().into_iter().collect()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.over.0.store(true, Ordering::Relaxed);
        for (_, thread) in self.threads.drain(..) {
            // What went wrong first is already on its way to whoever asked.
            let _ = thread.join();
        }
    }
}

/// Short connections as fast as they go, for a fifth of the time.
fn churn(over: &Over) -> Result<()> {
    let lab = Lab::new("churn")?;
    let netns = lab.netns("churn")?;
    load::prepare(&netns)?;
    while over.sleep(Duration::from_millis(800)) {
        load::run(&netns, 1, Duration::from_millis(100))?;
    }
    lab.close()
}

/// Transfers over a path that loses segments, for a fifth of the time.
fn losses(over: &Over) -> Result<()> {
    let own = Lab::new("losses")?;
    let lab = Routed::new(&own)?;
    lab.lose(2)?;
    while over.sleep(Duration::from_secs(8)) {
        transfer(&lab, 4, Duration::from_secs(2), || Ok(()))?;
    }
    own.close()
}

/// Network namespaces with connections that are closed, are open, or wait when they go.
fn namespaces(over: &Over) -> Result<()> {
    let mut alive = VecDeque::new();
    while over.sleep(Duration::from_secs(1)) {
        let lab = Lab::new("passing")?;
        let netns = lab.netns("passing")?;
        alive.push_back((inhabit(&netns)?, lab));
        if alive.len() > NAMESPACES
            && let Some((connections, lab)) = alive.pop_front()
        {
            // As when a container is killed: its processes, and with the last of them what it was in.
            drop(connections);
            lab.close()?;
        }
    }
    Ok(())
}

/// Connections in a namespace: ten have been closed, ten are open, and five of those wait for acknowledgments that the packet filter drops.
fn inhabit(netns: &Netns) -> Result<Vec<TcpStream>> {
    // Whatever waits when the namespace goes is given up after six seconds, not after a hundred.
    netns.sysctl("net.ipv4.tcp_orphan_retries", "4")?;
    netns.sysctl("net.ipv4.tcp_retries2", "5")?;
    let mut open = netns.run(|| -> Result<Vec<(TcpStream, TcpStream)>> {
        let listener = TcpListener::bind((PASSING, 0))?;
        let address = listener.local_addr()?;
        let pair = |_| Ok((TcpStream::connect(address)?, listener.accept()?.0));
        drop((0..10).map(pair).collect::<Result<Vec<_>>>()?);
        (0..10).map(pair).collect()
    })??;
    netns.nft("table inet cut { chain input { type filter hook input priority 0; meta l4proto tcp drop; }; }\n")?;
    for (client, _) in open.iter_mut().take(5) {
        client.write_all(&[1; 100])?;
    }
    Ok(open.into_iter().flat_map(|(client, server)| [client, server]).collect())
}

/// Readers of the daemon's socket: one after the other, each for three seconds.
fn readers(over: &Over, socket: &Path) -> Result<()> {
    while over.sleep(Duration::from_secs(1)) {
        let mut reader = UnixStream::connect(socket).context("cannot connect to the daemon's socket")?;
        reader.set_read_timeout(Some(Duration::from_millis(100)))?;
        let (start, mut buffer) = (Instant::now(), vec![0; 1 << 16]);
        while start.elapsed() < Duration::from_secs(3) {
            let _ = reader.read(&mut buffer);
        }
    }
    Ok(())
}
