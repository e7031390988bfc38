//! What a storm passes through: decode, tracker, judge. `cargo bench -p connprobe` times them and counts their allocations;
//! `cargo xtask instructions` counts their instructions, which no other load of the machine changes.
//!
//! Events are made from the bytes of the kernel programs' records, as in a run.

use std::hint::black_box;

use connprobe::{
    case::{Output, Tracker},
    decode::{Units, decode},
    judge::{Attempt, Evidence, EvidenceKind, History, Thresholds, judge},
    model::{ConnectionEvent, Event, Knowledge, Vantage},
};
use connprobe_common::{
    abi::{ABI_VERSION, SocketRecord, hook},
    fields::Field,
};
use divan::{AllocProfiler, Bencher, counter::ItemsCount};
use zerocopy::{FromZeros as _, IntoBytes as _};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

/// `TCP_ESTABLISHED` (`include/net/tcp_states.h`).
const ESTABLISHED: u8 = 1;
/// Ticks a second of the machine that the records are of.
const HZ: u32 = 250;
const UNITS: Units = Units { hz: HZ, sock_dead_bit: Some(0), sock_keepopen_bit: Some(3), sock_done_bit: Some(1) };
const START_NS: u64 = 1_000_000_000_000;

fn main() {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        // Under callgrind: one path, so often, with everything it needs made before.
        (Some("--run"), Some(path)) => run(&path, arguments.next().and_then(|times| times.parse().ok()).unwrap_or(0)),
        _ => divan::main(),
    }
}

/// The record of the `count`th timeout in a row of the `connection`th connection.
fn record(connection: u32, count: u8) -> SocketRecord {
    let waited_ms = 200 * ((1u64 << count) - 1);
    let mut record = SocketRecord::new_zeroed();
    record.abi_version = ABI_VERSION;
    record.hook = hook::TCP_RETRANSMIT_SKB;
    record.size = u32::try_from(size_of::<SocketRecord>()).unwrap_or(0);
    record.ktime_ns = START_NS + waited_ms * 1_000_000 + u64::from(connection);
    record.jiffies = 4_300_000_000 + waited_ms / 4;
    record.cookie = u64::from(connection) + 1;
    let [a, b, c, d] = connection.to_be_bytes();
    record.local_address = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, a, b];
    record.remote_address = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 0, 1];
    (record.local_port, record.remote_port) = (u16::from_be_bytes([c, d]), 5672);
    record.netns = 4_026_531_840;
    (record.old_state, record.new_state) = (ESTABLISHED, ESTABLISHED);
    (record.retransmits, record.backoff) = (count, count - 1);
    (record.tcp_retries2, record.net_keepalive_probes) = (15, 9);
    record.rto_jiffies = (HZ / 5) << (count - 1);
    record.rto_max_jiffies = 120 * HZ;
    (record.snd_una, record.snd_nxt, record.write_seq) = (1_000_000, 1_000_512, 1_000_512);
    (record.snd_wnd, record.packets_out, record.total_retrans) = (64_256, 1, u32::from(count));
    record.retrans_stamp = u32::try_from(START_NS / 1_000_000).unwrap_or(0).wrapping_add(200);
    record.rcv_tstamp_jiffies = 4_299_999;
    record.lrcvtime_jiffies = 4_299_900;
    (record.ingress_ifindex, record.egress_ifindex) = (2, 2);
    (record.net_keepalive_time_jiffies, record.net_keepalive_intvl_jiffies) = (7_200 * HZ, 75 * HZ);
    record.inode = 1_000_000 + u64::from(connection);
    record.available = !(Field::ReqNumTimeout.bit() | Field::ReqNumRetrans.bit() | Field::TpTcpMstamp.bit());
    record
}

fn event(connection: u32, count: u8) -> ConnectionEvent {
    decode(record(connection, count).as_bytes(), UNITS).unwrap_or_else(|why| unreachable_record(&why.to_string()))
}

#[expect(clippy::panic, reason = "a record that cannot be decoded is a mistake here")]
fn unreachable_record(why: &str) -> ! {
    panic!("the record cannot be decoded: {why}")
}

/// What a connection's first timeouts leave: cases without a finding.
fn tracker_with(cases: u32) -> Tracker {
    let mut tracker = Tracker::new();
    for connection in 0..cases {
        tracker.handle_event(Event::Connection(event(connection, 1)));
    }
    tracker
}

/// Takes what the tracker has to say, as the event loop does.
fn drain(tracker: &mut Tracker) -> usize {
    let mut findings = 0;
    while let Some(output) = tracker.poll_output() {
        findings += usize::from(matches!(black_box(output), Output::Finding(_)));
    }
    findings
}

#[divan::bench]
fn decode_timeout(bencher: Bencher<'_, '_>) {
    let record = record(7, 3);
    bencher.counter(ItemsCount::new(1u32)).bench(|| decode(black_box(record.as_bytes()), UNITS));
}

#[divan::bench]
fn judge_six_timeouts(bencher: Bencher<'_, '_>) {
    let evidence = six_timeouts();
    bencher.counter(ItemsCount::new(1u32)).bench(|| judge_timeouts(black_box(&evidence)));
}

/// So many connections open their cases.
#[divan::bench(args = [10_000, 1_000_000], sample_count = 5, sample_size = 1)]
fn tracker_opens(bencher: Bencher<'_, '_>, cases: u32) {
    bencher.counter(ItemsCount::new(cases)).bench(|| tracker_with(cases));
}

/// So many are open, and half of what comes is about one of them, half about a new one.
#[divan::bench(args = [10_000, 500_000], sample_count = 5, sample_size = 1)]
fn tracker_mixed(bencher: Bencher<'_, '_>, cases: u32) {
    bencher.counter(ItemsCount::new(2 * cases)).with_inputs(|| (tracker_with(cases), mixed(cases))).bench_values(
        |(mut tracker, events)| {
            for event in events {
                tracker.handle_event(Event::Connection(event));
            }
            tracker
        },
    );
}

/// In no order that a cache could guess: a second timeout of an open case, then the first of a new one.
fn mixed(cases: u32) -> Vec<ConnectionEvent> {
    /// Coprime to any number of cases here.
    const STEP: u32 = 7_919;
    let known =
        (0..cases).map(|index| u32::try_from(u64::from(index) * u64::from(STEP) % u64::from(cases)).unwrap_or(0));
    let mut events = Vec::new();
    for (index, known) in known.enumerate() {
        events.push(event(known, 2));
        events.push(event(cases + u32::try_from(index).unwrap_or(0), 1));
    }
    events
}

/// Each connection from its first timeout to a finding, and its questions.
#[divan::bench(args = [1_000], sample_count = 10, sample_size = 1)]
fn tracker_to_finding(bencher: Bencher<'_, '_>, cases: u32) {
    bencher.counter(ItemsCount::new(6 * cases)).with_inputs(|| to_findings(cases)).bench_values(|events| {
        let mut tracker = Tracker::new();
        take_to_findings(&mut tracker, events);
        tracker
    });
}

fn to_findings(cases: u32) -> Vec<ConnectionEvent> {
    (1..=6).flat_map(|count| (0..cases).map(move |connection| event(connection, count))).collect()
}

fn take_to_findings(tracker: &mut Tracker, events: Vec<ConnectionEvent>) {
    for event in events {
        tracker.handle_timeout(event.at);
        tracker.handle_event(Event::Connection(event));
        black_box(drain(tracker));
    }
}

fn six_timeouts() -> Vec<Evidence> {
    let attempt = |count| {
        let event = event(7, count);
        let attempt = Attempt { send_result: Some(0), socket: event.socket };
        Evidence { at: event.at, kind: EvidenceKind::RetransmissionTimeout(attempt) }
    };
    (1..=6).map(attempt).collect()
}

fn judge_timeouts(evidence: &[Evidence]) -> bool {
    let event = event(7, 6);
    let history = History {
        key: &event.key,
        vantage: Vantage::Endpoint,
        socket: &event.socket,
        evidence,
        path: &Knowledge::NotAsked,
        conntrack: &Knowledge::NotAsked,
        service: &Knowledge::NotAsked,
        thresholds: &Thresholds::default(),
        events_lost: 0,
    };
    judge(&history).is_some()
}

/// What callgrind counts, by its name, and nothing else (`--toggle-collect`).
#[inline(never)]
fn counted(work: &mut dyn FnMut()) {
    work();
}

fn run(path: &str, times: u32) {
    match path {
        "decode" => {
            let record = record(7, 3);
            counted(&mut || {
                for _ in 0..times {
                    let _ = black_box(decode(black_box(record.as_bytes()), UNITS));
                }
            });
        }
        "judge" => {
            let evidence = six_timeouts();
            counted(&mut || {
                for _ in 0..times {
                    black_box(judge_timeouts(black_box(&evidence)));
                }
            });
        }
        "open" => {
            let mut events: Vec<_> = (0..times).map(|connection| event(connection, 1)).collect();
            let mut tracker = Tracker::new();
            counted(&mut || {
                for event in events.drain(..) {
                    tracker.handle_event(Event::Connection(event));
                }
            });
        }
        "mixed" => {
            let (mut tracker, mut events) = (tracker_with(times / 2), mixed(times / 2));
            counted(&mut || {
                for event in events.drain(..) {
                    tracker.handle_event(Event::Connection(event));
                }
            });
        }
        "to_finding" => {
            let mut events = to_findings(times / 6);
            let mut tracker = Tracker::new();
            counted(&mut || take_to_findings(&mut tracker, std::mem::take(&mut events)));
        }
        _ => unreachable_record("no such path"),
    }
}
