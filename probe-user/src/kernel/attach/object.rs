//! The compiled kernel programs, and how they are parametrized before loading.

use std::{borrow::Cow, fs, io, path::PathBuf};

use aya::{Btf, Ebpf, EbpfError, EbpfLoader};
use connprobe_common::{
    abi::hook,
    connection::LIFE_BUCKETS,
    settings::{
        MAX_DROP_REASONS, MAX_FILTER_PORTS, MAX_FILTER_PREFIXES, MAX_SUBSYSTEM_REASONS, Prefix, Settings,
        TOLD_OF_RESETS, TOLD_OF_SYNS,
    },
};
use zerocopy::IntoBytes as _;

use super::filter::prefix;
use crate::{
    kernel::{Facts, read::RING_BYTES},
    model::{DropReason, Filter, Hook},
};

/// The object built from `probe-ebpf` by `cargo xtask ebpf`, committed beside its provenance.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/connprobe.bpf.o"));

/// How to load the programs.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// What to observe.
    pub filter: Filter,
    /// Size of the ring in bytes, a power of two and a multiple of the page size; the programs' own default otherwise.
    pub ring_bytes: Option<u32>,
    /// Of how many established connections any dropped segment is told; the programs' own default otherwise.
    pub suspects: Option<u32>,
    /// Another object file than the built-in one, for testing a rebuilt object.
    pub object: Option<PathBuf>,
    /// Whether the scan goes through `NETLINK_SOCK_DIAG` also where there are iterators, to try it.
    pub scan_by_sock_diag: bool,
    /// Whether idle connections will be looked for.
    pub risks: bool,
    /// Whether connections that are over are told.
    pub lifecycle: bool,
}

/// Parametrizes the object for this kernel, creates its maps, and leaves its programs ready to be loaded. `btf` is the running
/// kernel's, where it has any.
pub(super) fn open(facts: &Facts, options: &LoadOptions, btf: Option<&Btf>) -> Result<Ebpf, OpenError> {
    let bytes = match &options.object {
        None => Cow::Borrowed(OBJECT),
        Some(path) => Cow::Owned(fs::read(path).map_err(|why| OpenError::Object { path: path.clone(), why })?),
    };
    let settings = settings(facts, &options.filter);
    let mut loader = EbpfLoader::new();
    loader.btf(btf).override_global("LOCATIONS", facts.layout.locations.as_slice(), true).override_global(
        "SETTINGS",
        settings.as_bytes(),
        true,
    );
    if let Some(bytes) = options.ring_bytes {
        loader.map_max_entries("EVENTS", bytes);
    }
    loader.map_max_entries("STRAYS", strays());
    if options.lifecycle {
        loader.map_max_entries("CONNECTIONS", options.ring_bytes.unwrap_or(RING_BYTES));
        loader.map_max_entries("LIVES", LIFE_BUCKETS);
    }
    if let Some(entries) = options.suspects {
        loader.map_max_entries("SUSPECTS", entries);
    }
    Ok(loader.load(&bytes)?)
}

/// Room for what all CPUs together look at in a second (`LookedUpDrops` in `probe-ebpf/src/limit.rs`): 0.5 to 8 MB of kernel memory.
fn strays() -> u32 {
    const PER_CPU: u32 = 2_000;
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(cpus).unwrap_or(u32::MAX).saturating_mul(PER_CPU).clamp(4_096, 65_536)
}

/// Why the object could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The object named on the command line cannot be read.
    #[error("{path}: {why}", path = path.display())]
    Object {
        /// The file.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
    /// The kernel refused a map, or the object is none.
    #[error(transparent)]
    Kernel(#[from] EbpfError),
}

fn settings(facts: &Facts, filter: &Filter) -> Settings {
    let classic = |hook: Hook, field: &str, size_bytes: u32| {
        let format = facts.formats.get(&hook).and_then(|format| format.as_ref().ok());
        // 0 is where every record has its common header: the programs take it for "no such field".
        format.and_then(|format| format.offset_of(field, size_bytes)).unwrap_or(0)
    };
    let mut classic_skaddr_offset = [0; hook::COUNT];
    for (hook, slot) in Hook::ALL.into_iter().zip(&mut classic_skaddr_offset) {
        *slot = classic(hook, "skaddr", 8);
    }
    let mut ports = [0; MAX_FILTER_PORTS];
    for (port, slot) in filter.ports.iter().zip(&mut ports) {
        *slot = *port;
    }
    let mut prefixes = [Prefix::default(); MAX_FILTER_PREFIXES];
    for (net, slot) in filter.peers.iter().zip(&mut prefixes) {
        *slot = prefix(net);
    }
    let count = |length: usize, most: usize| u32::try_from(length.min(most)).unwrap_or(u32::MAX);
    Settings {
        netns: filter.netns.unwrap_or(0),
        port_count: count(filter.ports.len(), MAX_FILTER_PORTS),
        prefix_count: count(filter.peers.len(), MAX_FILTER_PREFIXES),
        retransmit_has_result: u32::from(facts.layout.retransmit_has_result()),
        classic_skaddr_offset,
        classic_oldstate_offset: classic(Hook::InetSockSetState, "oldstate", 4),
        classic_newstate_offset: classic(Hook::InetSockSetState, "newstate", 4),
        classic_req_offset: classic(Hook::TcpRetransmitSynack, "req", 8),
        classic_skbaddr_offset: classic(Hook::KfreeSkb, "skbaddr", 8),
        classic_rx_sk_offset: classic(Hook::KfreeSkb, "rx_sk", 8),
        classic_reason_offset: classic(Hook::KfreeSkb, "reason", 4),
        drop_has_socket: u32::from(facts.layout.drop_has_socket()),
        invalid_syn_reason: facts.layout.invalid_syn_reason.unwrap_or(0),
        classic_location_offset: classic(Hook::KfreeSkb, "location", 8),
        classic_err_offset: classic(Hook::TcpRetransmitSkb, "err", 4),
        // Where there are none, the plan keeps kprobes out.
        registers: facts.layout.registers.unwrap_or_default(),
        conntrack_zone: facts.layout.conntrack.zone,
        netfilter_hook: facts.layout.conntrack.hook,
        ports,
        prefixes,
        told_reasons: told_reasons(facts),
        subsystem: subsystem(facts),
        told_subsystem_reasons: told_subsystem_reasons(facts),
    }
}

/// The programs' table of drop reasons, by this kernel's numbers.
fn told_reasons(facts: &Facts) -> [u8; MAX_DROP_REASONS] {
    let mut table = [0; MAX_DROP_REASONS];
    for (reason, number) in &facts.layout.drop_reasons {
        if let Some(slot) = usize::try_from(*number).ok().and_then(|number| table.get_mut(number)) {
            *slot = told(*reason);
        }
    }
    table
}

const fn told(reason: DropReason) -> u8 {
    reason.code()
        | if reason.is_told_of_resets() { TOLD_OF_RESETS } else { 0 }
        | if reason.is_told_of_syns() { TOLD_OF_SYNS } else { 0 }
}

/// The same for Open vSwitch's reasons, by their lowest 16 bits.
fn told_subsystem_reasons(facts: &Facts) -> [u8; MAX_SUBSYSTEM_REASONS] {
    let mut table = [0; MAX_SUBSYSTEM_REASONS];
    for (reason, number) in facts.layout.drop_reasons.iter().filter(|(reason, _)| reason.is_of_open_vswitch()) {
        if let Some(slot) = usize::try_from(number & 0xffff).ok().and_then(|index| table.get_mut(index)) {
            *slot = told(*reason);
        }
    }
    table
}

/// What Open vSwitch's reasons have above their lowest 16 bits; 0 where there are none.
fn subsystem(facts: &Facts) -> u32 {
    let numbers = facts.layout.drop_reasons.iter().filter(|(reason, _)| reason.is_of_open_vswitch());
    numbers.map(|(_, number)| number & !0xffff).next().unwrap_or(0)
}
