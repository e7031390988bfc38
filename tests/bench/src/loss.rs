//! Records of connections that end, as fast as connections can be made.

use std::time::Duration;

use anyhow::{Context as _, Result};
use connprobe_tests::netns::Netns;
use serde_json::Value;

use crate::effort::{Effort, progress};
use crate::load::{self, Made};
use crate::peer::{PEERS, Peer};
use crate::table::Table;
use crate::watcher::{LINE, Reading, Watcher};

/// Makes connections on one core, then on all.
pub(crate) fn measure(netns: &Netns, effort: Effort) -> Result<Table> {
    let processors = std::thread::available_parallelism()?.get();
    let duration = Duration::from_secs(if effort.quick { 3 } else { 10 });
    let mut rows = Vec::new();
    let mut busy = vec![1, 2.min(processors)];
    busy.dedup();
    for &cores in &busy {
        progress(&format!("loss: {cores} of {processors} cores make connections"));
        let (made, told) = run(netns, cores, duration)?;
        // Each end is a socket, whose end is told.
        let expected = 2 * made.all();
        let accounted = told.written + told.lost_in_kernel + told.dropped_by_sink;
        rows.push(vec![
            format!("connprobe-lifecycle, {cores} of {processors} cores busy"),
            "0".to_owned(),
            format!("{:.0}", 2.0 * made.rate()),
            expected.to_string(),
            share(told.lost_in_kernel, expected),
            share(told.missed, expected),
            share(told.dropped_by_sink, expected),
            if accounted == expected { "all".to_owned() } else { format!("{accounted}") },
        ]);
    }
    let mut notes = Vec::new();
    for (peer, lines) in PEERS.iter().filter_map(|peer| Some((peer, peer.lines_a_connection?))) {
        for cores in &busy {
            progress(&format!("loss: {}, {cores} of {processors} cores", peer.name));
            match run_peer(netns, peer, *cores, duration) {
                Ok((made, written)) => {
                    let expected = lines * made.all();
                    rows.push(vec![
                        format!("{}, {cores} of {processors} cores busy", peer.name),
                        String::new(),
                        format!("{:.0}", load::count(lines) * made.rate()),
                        expected.to_string(),
                        share(expected.saturating_sub(written), expected),
                        String::new(),
                        String::new(),
                        written.to_string(),
                    ]);
                }
                Err(error) => notes.push(format!("{} does not run here: {error:#}", peer.name)),
            }
        }
    }
    Ok(Table {
        title: "Records lost at the highest rate",
        how: "The same connections, with a record of each end of each; a reader of standard output counts them. Of other tools, which tell a line for each end (tcplife) or \
              each change of state (tcpstates), what is not read is lost.".to_owned(),
        head: vec![
            "watcher",
            "target",
            "records a second",
            "expected",
            "lost in the kernel",
            "of those, program was running",
            "dropped by the sink",
            "written, lost or dropped",
        ],
        rows,
        notes,
    })
}

/// What became of the records.
struct Told {
    written: u64,
    lost_in_kernel: u64,
    missed: u64,
    dropped_by_sink: u64,
}

fn run(netns: &Netns, cores: usize, duration: Duration) -> Result<(Made, Told)> {
    let watcher = Watcher::daemon(netns, &["--lifecycle", "true", "--heartbeat-every", "1s"], Reading::Counted)?;
    let made = load::run(netns, cores, duration)?;
    // One may have been under way.
    watcher.next_heartbeat()?;
    let heartbeat = watcher.next_heartbeat()?;
    let number = |pointer: &str| -> Result<u64> {
        let found = heartbeat.pointer(pointer).and_then(Value::as_u64);
        found.with_context(|| format!("a heartbeat without {pointer}: {heartbeat}"))
    };
    let (lost, missed) = (number("/connections/lost")?, number("/connections/missed")?);
    let dropped_by_sink = number("/sinks/0/dropped")?;
    let written = watcher.records("connection").count;
    watcher.stop()?;
    Ok((made, Told { written, lost_in_kernel: lost + missed, missed, dropped_by_sink }))
}

fn run_peer(netns: &Netns, peer: &Peer, cores: usize, duration: Duration) -> Result<(Made, u64)> {
    let watcher = Watcher::peer(netns, peer, Reading::Lines)?.context("it is no process")?;
    let made = load::run(netns, cores, duration)?;
    // What is on its way through its buffers.
    std::thread::sleep(Duration::from_secs(2));
    Ok((made, watcher.stop_and_count(LINE)?))
}

fn share(part: u64, of: u64) -> String {
    if part == 0 {
        return "0".to_owned();
    }
    format!("{part} ({:.2} %)", 100.0 * load::count(part) / load::count(of))
}
