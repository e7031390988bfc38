//! What this kernel and this process are, read once. The readers of BTF and of tracepoint formats are pure.

mod btf;
mod fields;
mod function;
mod missing;
mod modules;
mod names;
mod tracepoint_format;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use connprobe_common::fields::Field;
use nix::time::{ClockId, clock_getres};

pub(super) use fields::spelled;
pub(super) use missing::{missing_fields, missing_indispensable};

pub use btf::{BtfError, Layout, TracepointArguments};
pub use fields::field_named;
pub use function::{Function, Point};
pub use modules::{ConntrackLayout, Modules, is_loaded};
pub use names::Names;
pub use tracepoint_format::{FormatError, TracepointFormat};

use super::plan::PlanFacts;
use crate::model::{Hook, KernelModule};

/// Where a kernel with `CONFIG_DEBUG_INFO_BTF` shows its BTF.
const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Where a kernel with kprobes shows by which number perf knows them (`perf_kprobe`, `kernel/events/core.c`).
const KPROBE_PMU: &str = "/sys/bus/event_source/devices/kprobe/type";

/// What tests pretend to be wrong with this kernel, to see that it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Other names.
    pub names: Names,
    /// A field that is read so many bytes after its place.
    pub shifted_field: Option<(Field, u32)>,
}

/// Why the facts could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// There is no BTF file.
    #[error(
        "cannot observe: {path} cannot be read ({why}); connprobe needs a kernel built with CONFIG_DEBUG_INFO_BTF \
         (every current distribution's), or its BTF by --btf PATH",
        path = path.display()
    )]
    NoBtf {
        /// The file looked for.
        path: PathBuf,
        /// What reading it gave.
        why: io::Error,
    },
    /// The BTF file is of no use.
    #[error("cannot observe: {path}: {why}", path = path.display())]
    Btf {
        /// The file.
        path: PathBuf,
        /// Why.
        why: BtfError,
    },
    /// The kernel does not say how long a tick is.
    #[error("cannot observe: the length of the kernel's tick is unknown ({0})")]
    Tick(String),
}

/// What this process may do, as its effective capabilities tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Privileges {
    /// Load BPF programs and read kernel memory with them: `CAP_BPF` and `CAP_PERFMON`, or `CAP_SYS_ADMIN`.
    pub bpf: bool,
    /// Enter other network namespaces: `CAP_SYS_ADMIN`.
    pub enter_namespaces: bool,
    /// See which process holds a socket: `CAP_SYS_PTRACE` and `CAP_DAC_READ_SEARCH`.
    pub see_owners: bool,
}

impl Privileges {
    const DAC_READ_SEARCH: u32 = 2;
    const SYS_PTRACE: u32 = 19;
    const SYS_ADMIN: u32 = 21;
    const PERFMON: u32 = 38;
    const BPF: u32 = 39;

    /// From an effective capability set (`CapEff` of `/proc/self/status`, `include/uapi/linux/capability.h`).
    pub const fn from_effective(set: u64) -> Self {
        const fn has(set: u64, capability: u32) -> bool {
            set & (1 << capability) != 0
        }
        Self {
            bpf: has(set, Self::SYS_ADMIN) || (has(set, Self::BPF) && has(set, Self::PERFMON)),
            enter_namespaces: has(set, Self::SYS_ADMIN),
            see_owners: has(set, Self::SYS_PTRACE) && has(set, Self::DAC_READ_SEARCH),
        }
    }

    /// This process's.
    ///
    /// # Errors
    ///
    /// When `/proc` is not mounted or not readable.
    pub fn of_this_process() -> Result<Self, procfs::ProcError> {
        Ok(Self::from_effective(procfs::process::Process::myself()?.status()?.capeff))
    }
}

/// What this kernel is.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Release, as `uname -r`.
    pub release: String,
    /// Timer ticks a second (`CONFIG_HZ`): the unit of the kernel's jiffies.
    pub hz: u32,
    /// Offsets, from BTF.
    pub layout: Layout,
    /// What the hooks' places are called.
    pub names: Names,
    /// Whether the kernel itself has BTF, which BTF tracepoints and trampolines attach by.
    pub kernel_has_btf: bool,
    /// Whether the kernel has kprobes (`CONFIG_KPROBE_EVENTS`).
    pub kernel_has_kprobes: bool,
    /// Formats of the classic tracepoints, or why one cannot be read.
    pub formats: BTreeMap<Hook, Result<TracepointFormat, String>>,
    /// Modules that would tell something, and are not loaded.
    pub absent_modules: Vec<KernelModule>,
}

impl Facts {
    /// Reads them. `btf` names another BTF file than the kernel's own; `faults` what tests pretend to be otherwise.
    ///
    /// # Errors
    ///
    /// When there is no usable BTF or the kernel hides the length of its tick.
    pub fn read(btf: Option<&Path>, faults: &Faults) -> Result<Self, FactsError> {
        let path = btf.unwrap_or(Path::new(KERNEL_BTF));
        let bytes = fs::read(path).map_err(|why| FactsError::NoBtf { path: path.to_owned(), why })?;
        // Another kernel's BTF does not fit to this one's modules.
        let modules = if btf.is_none() { Modules::read() } else { Modules::default() };
        let mut layout = Layout::resolve(&bytes, &modules, &faults.names)
            .map_err(|why| FactsError::Btf { path: path.to_owned(), why })?;
        if let Some((field, bytes)) = faults.shifted_field {
            layout.shift(field, bytes);
        }
        let kernel_has_kprobes = Path::new(KPROBE_PMU).exists();
        let would_tell = |module: &KernelModule| match module {
            KernelModule::Conntrack => kernel_has_kprobes,
            KernelModule::OpenVswitch => {
                let is_known = layout.drop_reasons.keys().any(|reason| reason.is_of_open_vswitch());
                layout.has_open_vswitch_reasons && !is_known
            }
        };
        let absent = |module: &KernelModule| would_tell(module) && !is_loaded(*module);
        Ok(Self {
            absent_modules: KernelModule::ALL.into_iter().filter(absent).collect(),
            release: nix::sys::utsname::uname()
                .map_or_else(|_| "unknown".to_owned(), |name| name.release().to_string_lossy().into_owned()),
            hz: ticks_per_second()?,
            layout,
            names: faults.names.clone(),
            kernel_has_btf: Path::new(KERNEL_BTF).exists(),
            kernel_has_kprobes,
            formats: read_formats(&faults.names),
        })
    }

    /// What the attach plan depends on.
    pub fn for_plan(&self) -> PlanFacts<'_> {
        PlanFacts {
            names: self.names.clone(),
            btf_tracepoints: if self.kernel_has_btf { self.layout.tracepoints.clone() } else { BTreeMap::new() },
            btf_functions: if self.kernel_has_btf { self.layout.functions.clone() } else { BTreeSet::new() },
            kprobes: match (self.kernel_has_kprobes, self.layout.registers) {
                (false, _) => Err("this kernel is built without CONFIG_KPROBE_EVENTS"),
                (true, None) => Err("connprobe does not know this architecture's registers"),
                (true, Some(_)) => Ok(()),
            },
            formats: self
                .formats
                .iter()
                .map(|(hook, format)| (*hook, format.as_ref().map_err(String::as_str)))
                .collect(),
        }
    }
}

/// The coarse clock advances by one tick (`KTIME_LOW_RES`, `kernel/time/posix-timers.c`), so its resolution tells HZ
/// without a kernel configuration file.
fn ticks_per_second() -> Result<u32, FactsError> {
    let resolution =
        clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_err(|errno| FactsError::Tick(errno.to_string()))?;
    let tick_ns = resolution.tv_nsec();
    match (resolution.tv_sec(), u32::try_from(tick_ns)) {
        (0, Ok(tick_ns)) if tick_ns > 0 => Ok((1_000_000_000 + tick_ns / 2) / tick_ns),
        (_, _) => Err(FactsError::Tick(format!("the coarse clock's resolution is {resolution:?}"))),
    }
}

/// Tracefs, where it is mounted (`/sys/kernel/tracing` by itself, `/sys/kernel/debug/tracing` on older hosts).
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

fn read_formats(names: &Names) -> BTreeMap<Hook, Result<TracepointFormat, String>> {
    let Some(tracefs) = TRACEFS.iter().map(Path::new).find(|path| path.join("events").is_dir()) else {
        return Hook::ALL.into_iter().map(|hook| (hook, Err("tracefs is not mounted".to_owned()))).collect();
    };
    Hook::ALL
        .into_iter()
        .filter_map(|hook| {
            let path = tracefs.join("events").join(hook.subsystem()).join(names.tracepoint(hook)).join("format");
            let format = match fs::read_to_string(&path) {
                Ok(text) => TracepointFormat::parse(&text).map_err(|error| error.to_string()),
                // No such tracepoint: the plan says so by its absence.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
                Err(error) => Err(format!("{}: {error}", path.display())),
            };
            Some((hook, format))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_by_their_kernel_numbers() {
        let none = Privileges::from_effective(0);
        assert!(!none.bpf && !none.enter_namespaces && !none.see_owners);
        assert!(Privileges::from_effective(1 << 21).bpf);
        assert!(Privileges::from_effective(1 << 38 | 1 << 39).bpf);
        assert!(!Privileges::from_effective(1 << 39).bpf);
        assert!(Privileges::from_effective(1 << 19 | 1 << 2).see_owners);
    }

    #[test]
    fn a_tick_is_one_of_the_lengths_kernels_are_built_with() {
        assert!([100, 250, 300, 1000].contains(&ticks_per_second().unwrap()));
    }

    #[test]
    fn a_missing_btf_file_is_named_with_the_way_out() {
        let error = Facts::read(Some(Path::new("/nonexistent/btf")), &Faults::default()).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/btf") && error.contains("--btf"), "{error}");
    }
}
