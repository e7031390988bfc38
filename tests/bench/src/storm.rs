//! Retransmission storms: what each retransmission costs, and which of them are told.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::sys::{Stats, enable_stats};
use connprobe_tests::{lab::Lab, labs::routed::Routed};
use serde_json::Value;

use crate::counters::Counters;
use crate::effort::{Effort, progress};
use crate::load::{count, micros};
use crate::programs;
use crate::stalled::{Connections, transfer};
use crate::table::Table;
use crate::watcher::{Reading, Watcher};

/// The hook that fires for each, as records name it, and the beginning of its program's name.
const HOOK: &str = "tcp_retransmit_skb";

/// Two kinds of storm: transfers over a lossy path, which go on, and connections over a path that was cut, which do not.
pub(crate) fn measure(effort: Effort) -> Result<Table> {
    let rows = vec![lossy(effort)?, stalled(effort)?];
    Ok(Table {
        title: "Retransmission storm",
        how: "Between two namespaces with a router: transfers while the router loses 3 % of all segments, and connections that write after the router was cut. \
              Timeouts are the kernel's count (TcpExtTCPTimeouts); everything else on the way is retransmitted fast or probes for a lost tail."
            .to_owned(),
        head: vec![
            "storm",
            "target",
            "retransmissions a second",
            "of those, timeouts",
            "events emitted",
            "lost",
            "its program, µs a run",
            "all programs, µs a retransmission",
            "watcher's own CPU, %",
        ],
        rows,
        notes: Vec::new(),
    })
}

fn lossy(effort: Effort) -> Result<Vec<String>> {
    progress("storm: a lossy path");
    let own = Lab::new("lossy")?;
    let lab = Routed::new(&own)?;
    let observed = Observed::begin(&lab)?;
    lab.lose(3)?;
    let duration = Duration::from_secs(if effort.quick { 5 } else { 15 });
    transfer(&lab, 8, duration, || Ok(()))?;
    observed.end(&lab, "lossy path", "only timeouts, ≤ 0.5 µs")
}

fn stalled(effort: Effort) -> Result<Vec<String>> {
    let connections = if effort.quick { 4_000 } else { 9_500 };
    progress(&format!("storm: {connections} connections over a path that was cut"));
    let own = Lab::new("cut")?;
    let lab = Routed::new(&own)?;
    let connections = Connections::open(&lab, connections)?;
    let observed = Observed::begin(&lab)?;
    lab.cut()?;
    connections.write(1_500.0)?;
    thread::sleep(Duration::from_secs(1));
    observed.end(&lab, "cut path", "≤ 0.5 µs")
}

/// What is counted during a storm.
struct Observed {
    watcher: Watcher,
    start: Instant,
    cpu: Duration,
    held: std::collections::BTreeSet<u32>,
    programs: std::collections::BTreeMap<u32, programs::Program>,
    counters: Counters,
    emitted: u64,
    _counting: std::os::fd::OwnedFd,
}

impl Observed {
    fn begin(lab: &Routed) -> Result<Self> {
        let watcher = Watcher::daemon(&lab.client, &["--heartbeat-every", "1s"], Reading::Counted)?;
        // The scan of the start is no part of it.
        thread::sleep(Duration::from_secs(1));
        let counting = enable_stats(Stats::RunTime).context("the kernel does not count run time of its programs")?;
        let held = programs::held_by(watcher.pid())?;
        let emitted = number(&watcher.next_heartbeat()?, "emitted")?;
        let (cpu, programs, counters) = (watcher.cpu()?, programs::look_up(&held), Counters::read(&lab.client)?);
        Ok(Self { watcher, start: Instant::now(), cpu, held, programs, counters, emitted, _counting: counting })
    }

    fn end(self, lab: &Routed, name: &str, target: &str) -> Result<Vec<String>> {
        // The daemon's count first, and the kernel's right after it: retransmissions go on.
        let heartbeat = self.watcher.next_heartbeat()?;
        let (ran, counters) =
            (programs::between(&self.programs, &programs::look_up(&self.held)), Counters::read(&lab.client)?);
        let (wall, cpu) = (self.start.elapsed().as_secs_f64(), self.watcher.cpu()?.saturating_sub(self.cpu));
        let (retransmissions, timeouts) =
            (counters.since(&self.counters, "Tcp.RetransSegs"), counters.since(&self.counters, "TcpExt.TCPTimeouts"));
        // The kernel keeps the first 15 characters of a program's name.
        let its = ran.iter().find(|program| !program.name.is_empty() && HOOK.starts_with(&program.name));
        let its =
            its.map_or("–".to_owned(), |program| format!("{:.2}", micros(program.run_time) / count(program.runs)));
        let all: f64 = ran.iter().map(|program| micros(program.run_time)).sum();
        let emitted = number(&heartbeat, "emitted")?.saturating_sub(self.emitted);
        let lost = number(&heartbeat, "lost")? + number(&heartbeat, "missed")?;
        self.watcher.stop()?;
        Ok(vec![
            name.to_owned(),
            target.to_owned(),
            format!("{:.0}", count(retransmissions) / wall),
            timeouts.to_string(),
            emitted.to_string(),
            lost.to_string(),
            its,
            format!("{:.2}", all / count(retransmissions)),
            format!("{:.1}", 100.0 * cpu.as_secs_f64() / wall),
        ])
    }
}

/// What a heartbeat counts of the hook.
fn number(heartbeat: &Value, name: &str) -> Result<u64> {
    let hooks = heartbeat.pointer("/hooks").and_then(Value::as_array).context("a heartbeat without hooks")?;
    let hook = hooks.iter().find(|hook| hook.get("hook").is_some_and(|name| name == HOOK));
    hook.and_then(|hook| hook.get(name)?.as_u64()).context("the hook is not counted")
}
