//! Scans on a thread of their own: namespace after namespace, one scan at a time.

use std::{
    io,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::clock;
use crate::{
    kernel::Scanner,
    model::{ConnectionEvent, Filter},
    witness::{
        netns::{Netns, Roster},
        sockets,
    },
};

/// How often the sockets are scanned unless the operator says otherwise.
pub const SCAN_EVERY: Duration = Duration::from_secs(5);

/// How long to wait after a scan that took so long: as long as was meant, or longer, so that no host spends more than a fiftieth of
/// one processor on it.
pub(super) fn pause(every: Duration, took: Duration) -> Duration {
    every.max(took.saturating_mul(49))
}

/// How sockets are scanned.
pub(super) enum Way {
    /// By a BPF iterator.
    Iterator(Scanner),
    /// Through `NETLINK_SOCK_DIAG`.
    SockDiag,
}

/// What one scan over all its namespaces has brought.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    /// The iterator's records of each namespace in which something waits.
    pub(super) records: Vec<Vec<u8>>,
    /// What sock_diag tells of each socket that waits.
    pub(super) events: Vec<ConnectionEvent>,
    /// How long the scan took.
    pub(super) took: Duration,
}

/// The thread that scans. It ends when this is dropped.
pub(super) struct Scans {
    requests: SyncSender<()>,
    results: tokio::sync::mpsc::Receiver<Scanned>,
}

impl Scans {
    /// Starts the thread: scans the filter's namespace, or all there are.
    pub(super) fn start(way: Way, filter: Filter) -> anyhow::Result<Self> {
        // One request waits while another is served: a third would bring nothing new.
        let (requests, requested) = sync_channel(1);
        let (found, results) = tokio::sync::mpsc::channel(1);
        thread::Builder::new()
            .name("scan".to_owned())
            .spawn(move || serve(&way, &filter, &requested, &found))
            .context("the scanning thread cannot be started")?;
        Ok(Self { requests, results })
    }

    /// Asks for a scan, if none is waiting to begin.
    pub(super) fn request(&self) {
        let _ = self.requests.try_send(());
    }

    /// The next result; `None` when the thread has ended. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Scanned> {
        self.results.recv().await
    }
}

fn serve(way: &Way, filter: &Filter, requests: &Receiver<()>, found: &tokio::sync::mpsc::Sender<Scanned>) {
    let mut roster = Roster::new(filter.netns);
    while requests.recv().is_ok() {
        let start = Instant::now();
        let mut scanned = Scanned::default();
        let mut namespaces = 0u32;
        roster.for_each(start, |netns| {
            if let Err(error) = scan(way, netns, filter, &mut scanned) {
                tracing::warn!(netns = netns.inode, %error, "a network namespace could not be scanned");
            }
            namespaces += 1;
        });
        scanned.took = start.elapsed();
        tracing::debug!(namespaces, took = ?scanned.took, "scan");
        if found.blocking_send(scanned).is_err() {
            return;
        }
    }
}

fn scan(way: &Way, netns: &Netns, filter: &Filter, scanned: &mut Scanned) -> io::Result<()> {
    match way {
        Way::Iterator(scanner) => {
            let records = netns.run(|| scanner.read())??;
            scanned.records.extend((!records.is_empty()).then_some(records));
        }
        Way::SockDiag => {
            let events = netns.run(|| sockets::waiting(netns.inode, clock::now))??;
            scanned.events.extend(events.into_iter().filter(|event| filter.passes(&event.key)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scans_that_take_long_come_less_often() {
        let every = Duration::from_secs(5);
        assert_eq!(pause(every, Duration::from_millis(40)), every);
        assert_eq!(pause(every, Duration::from_millis(200)), Duration::from_millis(9_800));
    }
}
