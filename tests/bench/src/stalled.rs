//! Connections whose path is cut, and transfers over one that loses segments.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use connprobe_tests::labs::routed::Routed;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

const PORT: u16 = 9_000;

/// Connections from a lab's client to its server, both ends held here.
pub(crate) struct Connections {
    pub(crate) clients: Vec<TcpStream>,
    pub(crate) servers: Vec<TcpStream>,
}

impl Connections {
    pub(crate) fn open(lab: &Routed, count: usize) -> Result<Self> {
        allow_descriptors()?;
        let listener = lab.server.run(|| TcpListener::bind(("0.0.0.0", PORT)))??;
        let open = || -> Result<(Vec<_>, Vec<_>)> {
            let pair = || Ok((TcpStream::connect(Routed::server_v4(PORT))?, listener.accept()?.0));
            (0..count).map(|_| pair()).collect()
        };
        let (clients, servers) = lab.client.run(open)?.context("cannot open many connections")?;
        Ok(Self { clients, servers })
    }

    /// Writes to each, so many a second.
    pub(crate) fn write(&self, a_second: f64) -> Result<()> {
        let start = Instant::now();
        for (number, mut client) in self.clients.iter().enumerate() {
            let due = Duration::from_secs_f64(crate::load::count(number as u64) / a_second);
            thread::sleep(due.saturating_sub(start.elapsed()));
            client.write_all(&[1; 100]).context("cannot write")?;
        }
        Ok(())
    }
}

/// Transfers as much as goes through, by so many connections from client to server.
pub(crate) fn transfer(
    lab: &Routed,
    connections: usize,
    duration: Duration,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let listener = lab.server.run(|| TcpListener::bind(("0.0.0.0", PORT)))??;
    let over = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        // Whatever goes wrong: those that have begun come to an end.
        let _over_at_the_end = Over(&over);
        let mut threads = Vec::new();
        for _ in 0..connections {
            let mut client = lab.client.run(|| TcpStream::connect(Routed::server_v4(PORT)))??;
            let mut server = listener.accept()?.0;
            client.set_write_timeout(Some(Duration::from_millis(200)))?;
            server.set_read_timeout(Some(Duration::from_millis(200)))?;
            let over = &over;
            // A timeout is looked into by asking whether it is over.
            threads.push(scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let _ = client.write(&[1; 1 << 16]);
                }
            }));
            threads.push(scope.spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while !over.load(Ordering::Relaxed) {
                    let _ = server.read(&mut buffer);
                }
            }));
        }
        let measured = meanwhile().map(|()| thread::sleep(duration));
        over.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().map_err(|_| anyhow!("a transfer panicked"))?;
        }
        measured
    })
}

/// Says when it is over, at the latest when this goes.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// As many descriptors as this process may have.
pub(crate) fn allow_descriptors() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot open many files")
}
