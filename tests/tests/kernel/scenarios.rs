//! Every way in which a connection is left waiting, three times over: established before the watch began, established while it
//! was on, and waiting already when it began. Each time verdict, cause, confidence, owner and deadline must be right, and the kernel
//! must give up when it was said to.

use std::{thread::sleep, time::Duration};

use anyhow::{Context as _, Result, ensure};
use connprobe_tests::{
    clocks::{now_wall_seconds, wall_of_event, wall_seconds},
    findings::ensure_is_about,
    labs::routed::Routed,
    peer::{Keepalive, Mode, Options, Peer},
    require::{
        Requirement::{self, Conntrack, SendResult},
        is_guest,
    },
    runner::{Test, TestContext},
    wire::{Body, Finding, Record},
};

use nix::errno::Errno;
use serde_json::Value;

use crate::watching::{PORT, WATCHING, stop, watch};

/// `tcp_retries2` in the client's namespace: with the shortest RTO the kernel gives up after some 25 s instead of a quarter of an
/// hour.
const RETRIES2: &str = "6";
/// How long everything may take, the kernel's giving up included.
const LONG: Duration = Duration::from_secs(60);
/// One step of a timer that has doubled four times. Each ICMP error takes a doubling away (RFC 6069), and errors are limited: how
/// many will come is not to be known.
const ONE_STEP_SECONDS: f64 = 3.5;
/// How long after the failure the last watch begins.
const LATE: Duration = Duration::from_secs(4);

/// A virtual address beside the client's own.
const VIP: &str = "10.77.1.100";

struct Scenario {
    name: &'static str,
    /// Whether it is played where the guests share the list, too: each takes an emulated processor a minute.
    is_shared: bool,
    needs: &'static [Requirement],
    server: Options,
    client: fn() -> Result<Options>,
    /// Before there is a connection.
    prepare: fn(&Routed) -> Result<()>,
    /// With both connections there and idle.
    fail: fn(&Routed) -> Result<()>,
    /// What the clients write then; nothing if empty.
    write: &'static str,
    verdict: &'static str,
    cause: &'static str,
    /// How sure it must become.
    confidence: &'static str,
    /// The timer that ends it and what sets it; `None` when nothing does.
    deadline: Option<(&'static str, &'static str)>,
    /// Within how long after the failure it must be told, and be as sure as that.
    told_within_seconds: f64,
    sure_within_seconds: f64,
    /// How far the kernel's giving up may be from the stated time.
    off_deadline_seconds: f64,
}

impl Scenario {
    fn new(name: &'static str, verdict: &'static str, cause: &'static str) -> Self {
        Self {
            name,
            is_shared: false,
            needs: &[],
            server: Options::default(),
            client: || Ok(Options::default()),
            prepare: |_| Ok(()),
            fail: |_| Ok(()),
            write: "write 100",
            verdict,
            cause,
            confidence: "confirmed",
            deadline: Some(("retransmission", "tcp_retries2")),
            // The fourth timeout comes after 3 s, the sixth after 12.6 s; a scan every 5 s.
            told_within_seconds: 8.0,
            sure_within_seconds: 16.0,
            // A guest that is starved of its processor fires its timers late.
            off_deadline_seconds: 1.0,
        }
    }
}

fn scenarios() -> Vec<Scenario> {
    let stalled = |name, cause| Scenario::new(name, "retransmit_stalled", cause);
    let half_open = |name, cause| Scenario::new(name, "half_open", cause);
    let unsendable = Some(("probe0", "tcp_retries2"));
    vec![
        Scenario { is_shared: true, fail: |lab| lab.cut(), ..stalled("a path that drops everything", "peer_silent") },
        Scenario {
            client: || Ok(Options { keepalive: Some(KEEPALIVE), ..Options::default() }),
            fail: |lab| lab.cut(),
            ..stalled("a path that drops everything, with keepalive on", "peer_silent")
        },
        Scenario {
            client: || Ok(Options { user_timeout: Some(Duration::from_secs(20)), ..Options::default() }),
            fail: |lab| lab.cut(),
            deadline: Some(("retransmission", "tcp_user_timeout")),
            ..stalled("a path that drops everything, with a user timeout", "peer_silent")
        },
        Scenario {
            client: from_vip,
            prepare: |lab| lab.client.add_address("uplink", &format!("{VIP}/32")),
            fail: |lab| lab.client.del_address("uplink", &format!("{VIP}/32")),
            deadline: unsendable,
            ..stalled("a virtual address that is gone before the write", "source_address_lost")
        },
        Scenario {
            needs: &[SendResult],
            fail: |lab| lab.client.ip("route del default via 10.77.1.254\n"),
            deadline: unsendable,
            ..stalled("a route that is withdrawn", "local_send_failure")
        },
        Scenario {
            is_shared: true,
            client: || Ok(Options { keepalive: Some(KEEPALIVE), ..Options::default() }),
            fail: |lab| lab.cut(),
            write: "",
            deadline: Some(("keepalive", "keepalive_probes")),
            told_within_seconds: 12.0,
            sure_within_seconds: 18.0,
            ..half_open("an idle connection whose peer has lost its power", "keepalive_unanswered")
        },
        Scenario {
            is_shared: true,
            fail: |lab| lab.refuse(),
            off_deadline_seconds: ONE_STEP_SECONDS,
            ..half_open("a path that answers with ICMP errors", "peer_unreachable")
        },
        Scenario {
            fail: |lab| {
                lab.router.ip("link set client arp off\n")?;
                lab.client.ip("neighbour flush dev uplink\n")
            },
            off_deadline_seconds: ONE_STEP_SECONDS,
            ..half_open("a next hop that does not answer", "peer_unreachable")
        },
        Scenario {
            needs: &[Conntrack],
            prepare: |lab| lab.firewall(&lab.client, &["output"]),
            fail: |_| forget(),
            deadline: unsendable,
            ..half_open("a firewall of this host that forgets and lets nothing out", "conntrack_expired")
        },
        Scenario {
            is_shared: true,
            needs: &[Conntrack],
            prepare: |lab| lab.firewall(&lab.client, &["input"]),
            fail: |_| forget(),
            confidence: "suspected",
            ..half_open("a firewall of this host that forgets and lets nothing in", "conntrack_expired")
        },
        Scenario {
            needs: &[Conntrack],
            prepare: |lab| lab.firewall(&lab.router, &["forward"]),
            fail: |_| forget(),
            ..stalled("a firewall on the way that forgets", "peer_silent")
        },
        Scenario {
            server: Options { mode: Mode::Mute, ..Options::default() },
            write: "write 20000000",
            deadline: None,
            told_within_seconds: 15.0,
            sure_within_seconds: 45.0,
            ..Scenario::new("a peer that does not read", "zero_window_stalled", "peer_window_shut")
        },
    ]
}

const KEEPALIVE: Keepalive = Keepalive { time_s: 2, interval_s: 3, probes: 5 };

fn from_vip() -> Result<Options> {
    Ok(Options { bind: Some(VIP.parse()?), ..Options::default() })
}

fn forget() -> Result<()> {
    sleep(Routed::FIREWALL_REMEMBERS + Duration::from_secs(2));
    Ok(())
}

pub(crate) fn tests() -> Vec<Test> {
    scenarios()
        .into_iter()
        .map(|scenario| {
            let needs = [WATCHING, scenario.needs].concat();
            let is_shared = scenario.is_shared;
            let name = format!("found in time and whenever the watch began: {}", scenario.name);
            let test = Test::new(name, &needs, move |test| play(test, &scenario));
            if is_shared { test } else { test.not_shared() }
        })
        .collect()
}

fn play(test: &TestContext, scenario: &Scenario) -> Result<()> {
    let own = test.lab()?;
    let lab = Routed::new(&own)?;
    lab.client.sysctl("net.ipv4.tcp_retries2", RETRIES2)?;
    (scenario.prepare)(&lab)?;
    let _control = control(&lab)?;
    let options = (scenario.client)()?;
    let _server = Peer::listen(&lab.server, Routed::server_v4(PORT), &scenario.server)?;
    let connect = || {
        let client = Peer::connect(&lab.client, Routed::server_v4(PORT), &options)?;
        client.command("write 1000")?;
        client.wait_event("written", LONG).map(|_| client)
    };
    let old = connect()?;
    let on = watch(&lab.client, &[])?;
    let new = connect()?;
    sleep(Duration::from_millis(500));
    (scenario.fail)(&lab)?;
    for client in [&old, &new].into_iter().filter(|_| !scenario.write.is_empty()) {
        client.command(scenario.write)?;
    }
    let failed = now_wall_seconds()?;
    sleep(LATE);
    let late = watch(&lab.client, &[])?;
    let mut given_up = Vec::new();
    for client in [&old, &new] {
        given_up.push(match scenario.deadline {
            Some(_) => {
                let error = client.wait_event("error", LONG)?;
                let errno = error.get("errno").and_then(Value::as_i64).context("no errno")?;
                Some((wall_of_event(&error)?, Errno::from_raw(i32::try_from(errno)?)))
            }
            None => None,
        });
    }
    if scenario.deadline.is_none() {
        sleep(Duration::from_secs_f64(scenario.sure_within_seconds - LATE.as_secs_f64()));
    }
    // What ended them is told within a moment.
    sleep(Duration::from_secs(1));
    for (when, probe) in [("on", on), ("late", late)] {
        let (_, records) = stop(probe)?;
        let mut findings = findings(records)?;
        for (client, given_up) in [&old, &new].into_iter().zip(&given_up) {
            let port = client.local()?.port();
            let (ours, others) = findings.into_iter().partition(|told| told.finding.connection.local.port == port);
            findings = others;
            let outcome =
                scenario.check(&ours, client, &lab, *given_up).with_context(|| format!("{when}: {ours:#?}"))?;
            println!(
                "{when}: told {:.1} s after the failure, {} after {:.1} s; given up {:+.3} s from the stated time",
                outcome.told - failed,
                scenario.confidence,
                outcome.sure - failed,
                outcome.off_deadline
            );
            ensure!(when == "late" || outcome.told - failed <= scenario.told_within_seconds, "told too late");
            ensure!(when == "late" || outcome.sure - failed <= scenario.sure_within_seconds, "sure too late");
        }
        ensure!(findings.is_empty(), "{when}: about other connections: {findings:#?}");
    }
    Ok(())
}

/// A healthy connection within the client's namespace, of which nothing must be said; and by it, connection tracking is seen to
/// be at work.
fn control(lab: &Routed) -> Result<(Peer, Peer)> {
    lab.client.ip("link set lo up\n")?;
    let here = ([127, 0, 0, 1], PORT + 1).into();
    let server = Peer::listen(&lab.client, here, &Options { mode: Mode::Echo, ..Options::default() })?;
    let busy = Options { write_every: Some(Duration::from_millis(100)), ..Options::default() };
    Ok((server, Peer::connect(&lab.client, here, &busy)?))
}

/// A finding, and when it was told, in seconds since 1970.
#[derive(Debug)]
struct Told {
    at: f64,
    finding: Finding,
}

fn findings(records: Vec<Record>) -> Result<Vec<Told>> {
    records
        .into_iter()
        .filter_map(|record| match record.body {
            Body::Finding(finding) => Some((record.time, *finding)),
            Body::Forwarded(_)
            | Body::Connection(_)
            | Body::Coverage(_)
            | Body::Loss(_)
            | Body::Risk(_)
            | Body::Heartbeat(_)
            | Body::Summary(_) => None,
        })
        .map(|(time, finding)| Ok(Told { at: wall_seconds(&time)?, finding }))
        .collect()
}

/// When what was told of one connection, in seconds since 1970.
struct Outcome {
    told: f64,
    sure: f64,
    /// How much later than stated the kernel gave up, in seconds.
    off_deadline: f64,
}

impl Scenario {
    fn check(&self, told: &[Told], client: &Peer, lab: &Routed, given_up: Option<(f64, Errno)>) -> Result<Outcome> {
        let first = told.first().context("nothing was found")?;
        for (number, finding) in told.iter().map(|told| &told.finding).enumerate() {
            // A guest's connection tracking may answer too late for the first word, which then says so.
            let is_provisional = is_guest()
                && number + 1 < told.len()
                && finding.missing_evidence.iter().any(|missing| missing.kind == "conntrack_answer");
            if !is_provisional {
                ensure!(
                    (finding.verdict.as_str(), finding.cause.as_str()) == (self.verdict, self.cause),
                    "another cause"
                );
            }
            // A guest may be too slow to name the owner at once; then that comes as an update.
            let is_named_later = is_guest() && finding.owner.is_none() && number + 1 < told.len();
            if !is_named_later {
                ensure_is_about(finding, client, &lab.client)?;
            }
            let deadline =
                finding.deadline.as_ref().map(|deadline| (deadline.timer.as_str(), deadline.set_by.as_str()));
            ensure!(deadline == self.deadline, "another deadline: {deadline:?}");
        }
        let sure = told.iter().find(|told| told.finding.confidence == self.confidence);
        let last = &told.last().context("nothing was found")?.finding;
        let off_deadline = match (given_up, &last.deadline) {
            (Some((given_up, errno)), Some(deadline)) => {
                let open = told.iter().rev().find(|told| told.finding.outcome.is_none());
                let error = open.and_then(|told| told.finding.deadline.as_ref()?.error.clone());
                ensure!(error.is_none_or(|error| error == format!("{errno:?}")), "the application got {errno:?}");
                ensure!(last.outcome.as_deref() == Some("timed_out"), "not closed by the kernel's giving up");
                given_up - wall_seconds(&deadline.time)?
            }
            (_, _) => 0.0,
        };
        ensure!(off_deadline.abs() <= self.off_deadline_seconds, "given up {off_deadline:+.3} s from the stated time");
        Ok(Outcome { told: first.at, sure: sure.context("never so sure")?.at, off_deadline })
    }
}
