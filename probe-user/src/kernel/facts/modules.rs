//! What the BTF of kernel modules tells (`/sys/kernel/btf/MODULE`, from 5.11): types that only they have.

use std::{collections::BTreeMap, fs, path::Path};

use btf_rs::Btf;
use connprobe_common::fields::{Location, UNAVAILABLE, location};

use super::btf::{enum_value, member_of, size_of_type};
use crate::model::{DropReason, KernelModule};

/// Where the kernel shows the BTF of its loaded modules.
const FOLDER: &str = "/sys/kernel/btf";

/// Where the kernel shows what is loaded. Of what is part of the kernel itself, only that which has parameters: connection tracking has.
const LOADED: &str = "/sys/module";

/// Whether it is loaded now, or is part of the kernel.
pub fn is_loaded(module: KernelModule) -> bool {
    Path::new(LOADED).join(module.name()).exists()
}

/// The BTF of modules; `None` of one that is not loaded, or is part of the kernel itself.
#[derive(Clone, Debug, Default)]
pub struct Modules {
    /// `nf_conntrack`.
    pub conntrack: Option<Vec<u8>>,
    /// `openvswitch`.
    pub open_vswitch: Option<Vec<u8>>,
}

impl Modules {
    /// Those of the running kernel.
    pub fn read() -> Self {
        let of = |name: &str| fs::read(Path::new(FOLDER).join(name)).ok();
        Self { conntrack: of("nf_conntrack"), open_vswitch: of("openvswitch") }
    }

    /// The numbers of Open vSwitch's drop reasons; none before 6.6. Where it is part of the kernel, its types are, too.
    pub(super) fn open_vswitch_reasons(&self, kernel: &Btf) -> BTreeMap<DropReason, u32> {
        let module = self.open_vswitch.as_deref().and_then(|bytes| Btf::from_split_bytes(bytes, kernel).ok());
        let btf = module.as_ref().unwrap_or(kernel);
        let reasons = DropReason::ALL.into_iter().filter(|reason| reason.is_of_open_vswitch());
        reasons.filter_map(|reason| Some((reason, enum_value(btf, "ovs_drop_reason", reason.kernel_name())?))).collect()
    }
}

/// Whether this kernel can tell drops of Open vSwitch by reasons of its own (`enum skb_drop_reason_subsys`, from 6.6).
pub(super) fn has_open_vswitch_reasons(kernel: &Btf) -> bool {
    enum_value(kernel, "skb_drop_reason_subsys", "SKB_DROP_REASON_SUBSYS_OPENVSWITCH").is_some()
}

/// Where the programs find what belongs to an invalid packet; [`UNAVAILABLE`] where the kernel does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConntrackLayout {
    /// `nf_conn.zone.id`.
    pub zone: Location,
    /// `nf_hook_state.hook`.
    pub hook: Location,
}

impl ConntrackLayout {
    /// Resolves them. Where connection tracking is part of the kernel, its types are, too.
    pub(super) fn resolve(kernel: &Btf, modules: &Modules) -> Self {
        let module = modules.conntrack.as_deref().and_then(|bytes| Btf::from_split_bytes(bytes, kernel).ok());
        let zone = |btf| find(btf, "nf_conn", &["zone", "id"], 2);
        Self {
            zone: module.as_ref().and_then(zone).or_else(|| zone(kernel)).unwrap_or(UNAVAILABLE),
            hook: find(kernel, "nf_hook_state", &["hook"], 1).unwrap_or(UNAVAILABLE),
        }
    }
}

fn find(btf: &Btf, structure: &str, members: &[&str], bytes: u32) -> Option<Location> {
    let found = member_of(btf, structure, members).ok()?;
    let is_as_expected = size_of_type(btf, &found.type_) == Some(bytes) && found.bit_offset.is_multiple_of(8);
    is_as_expected.then(|| location(found.bit_offset / 8, 0, 0)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_the_types_and_a_damaged_module_tell_nothing() {
        let Ok(bytes) = fs::read("/sys/kernel/btf/vmlinux") else { return };
        let kernel = Btf::from_bytes(&bytes).unwrap();
        let damaged = Modules { conntrack: Some(b"no btf".to_vec()), open_vswitch: Some(Vec::new()) };
        assert_eq!(ConntrackLayout::resolve(&kernel, &damaged), ConntrackLayout::resolve(&kernel, &Modules::default()));
        assert_eq!(find(&kernel, "no_such_structure", &["a"], 1), None);
        assert_eq!(find(&kernel, "nf_hook_state", &["hook"], 8), None, "it is one byte");
    }
}
