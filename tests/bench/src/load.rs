//! Short healthy connections over loopback, both ends in one thread: whatever the kernel does for them, its soft interrupts included, is
//! done in that thread's time, so that its processor time is what a connection costs.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use connprobe_tests::netns::Netns;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// Until caches and branch predictors know what is attached.
const WARM_UP: Duration = Duration::from_millis(100);
/// Connections between two looks at the clock.
const BATCH: u64 = 64;

/// What was made, by all threads together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Made {
    /// Connections, each with two ends on this host, that were made while it was measured.
    pub(crate) connections: u64,
    /// Connections made before, to warm up.
    pub(crate) before: u64,
    /// Processor time of the measured ones.
    pub(crate) cpu: Duration,
    /// How long it took.
    pub(crate) wall: Duration,
}

impl Made {
    /// Microseconds of processor time that a connection took.
    pub(crate) fn cpu_us(&self) -> f64 {
        micros(self.cpu) / count(self.connections)
    }

    /// Connections a second.
    pub(crate) fn rate(&self) -> f64 {
        count(self.connections) / self.wall.as_secs_f64()
    }

    /// All connections, measured or not.
    pub(crate) fn all(&self) -> u64 {
        self.connections + self.before
    }
}

pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// A count as a number to divide by. Exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^53")]
pub(crate) fn count(count: u64) -> f64 {
    count as f64
}

/// Sets a namespace up for it: all ports, and nothing left of ended connections, so that no run is slower for the one before.
pub(crate) fn prepare(netns: &Netns) -> Result<()> {
    netns.sysctl("net.ipv4.ip_local_port_range", "1024 65535")?;
    netns.sysctl("net.ipv4.tcp_max_tw_buckets", "0")
}

/// Makes as many connections as one thread on each of the first `cores` processors can, one after the other.
pub(crate) fn run(netns: &Netns, cores: usize, duration: Duration) -> Result<Made> {
    let each = thread::scope(|scope| -> Result<Vec<Made>> {
        let threads: Vec<_> = (0..cores).map(|core| scope.spawn(move || netns.run(|| one(core, duration))?)).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a load thread panicked"))?).collect()
    })?;
    Ok(each.into_iter().fold(Made::default(), |sum, made| Made {
        connections: sum.connections + made.connections,
        before: sum.before + made.before,
        cpu: sum.cpu + made.cpu,
        wall: sum.wall.max(made.wall),
    }))
}

fn one(core: usize, duration: Duration) -> Result<Made> {
    let mut processor = CpuSet::new();
    processor.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &processor).with_context(|| format!("cannot stay on processor {core}"))?;
    let address = Ipv4Addr::new(127, 77, 1, u8::try_from(core).context("so many processors")?);
    let listener = TcpListener::bind((address, 0)).context("cannot listen")?;
    let to = listener.local_addr()?;
    let (before, _, _) = measure(&listener, to, WARM_UP)?;
    let (connections, cpu, wall) = measure(&listener, to, duration)?;
    Ok(Made { connections, before, cpu, wall })
}

fn measure(listener: &TcpListener, to: SocketAddr, duration: Duration) -> Result<(u64, Duration, Duration)> {
    let (start, cpu) = (Instant::now(), thread_time()?);
    let mut made = 0;
    while start.elapsed() < duration {
        for _ in 0..BATCH {
            connection(listener, to)?;
        }
        made += BATCH;
    }
    Ok((made, thread_time()?.saturating_sub(cpu), start.elapsed()))
}

/// A request, an answer, and an orderly close by the client.
fn connection(listener: &TcpListener, to: SocketAddr) -> Result<()> {
    let mut buffer = [0; 256];
    let mut client = TcpStream::connect(to).context("cannot connect")?;
    let (mut server, _) = listener.accept().context("cannot accept")?;
    client.write_all(&[1; 64])?;
    ensure!(server.read(&mut buffer)? == 64, "a request came in parts");
    server.write_all(&[2; 128])?;
    ensure!(client.read(&mut buffer)? == 128, "an answer came in parts");
    drop(client);
    ensure!(server.read(&mut buffer)? == 0, "no end of file came");
    Ok(())
}

fn thread_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}
