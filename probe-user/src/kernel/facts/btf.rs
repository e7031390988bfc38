//! Offsets of fields and arguments of tracepoints, read from BTF. Pure: the BTF is an argument.

use std::collections::{BTreeMap, BTreeSet};

use btf_rs::{Btf, BtfType, Struct, Type};
use connprobe_common::{
    fields::{Field, Location, UNAVAILABLE, location},
    settings::Registers,
};

use super::{
    fields::{FieldPath, NESTING, Shape, newer_path, path, spelled},
    modules::{ConntrackLayout, Modules, has_open_vswitch_reasons},
    names::Names,
};
use crate::model::{DropReason, Hook};

/// Why BTF could not be read or does not say what is needed.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The bytes are no BTF: the file is damaged or something else.
    #[error("not readable as BTF: {0}")]
    Damaged(String),
    /// The kernel lays out its sockets in a way this program does not know.
    #[error("struct {outer} does not begin with its member {member}: this kernel's socket layout is not supported")]
    Nesting {
        /// The outer structure.
        outer: &'static str,
        /// The member that should be at offset 0.
        member: &'static str,
    },
}

/// What a kernel's BTF says about everything the programs read.
#[derive(Clone, Debug)]
pub struct Layout {
    /// By [`Field::index`]; [`UNAVAILABLE`] where the kernel has no such field of the expected shape.
    pub locations: [Location; Field::COUNT],
    /// Why each unavailable field is.
    pub missing: BTreeMap<Field, String>,
    /// Arguments of the BTF tracepoints this kernel has.
    pub tracepoints: BTreeMap<Hook, TracepointArguments>,
    /// Those functions of [`Names::functions`] that the kernel's BTF describes, which trampolines attach by.
    pub functions: BTreeSet<String>,
    /// Where kprobes find arguments and results; `None` on an architecture this program does not know.
    pub registers: Option<Registers>,
    /// Bit number of `SOCK_DEAD` in `sk_flags`.
    pub sock_dead_bit: Option<u32>,
    /// Bit number of `SOCK_DONE` in `sk_flags`.
    pub sock_done_bit: Option<u32>,
    /// Bit number of `SOCK_KEEPOPEN` in `sk_flags` (`SO_KEEPALIVE`).
    pub sock_keepopen_bit: Option<u32>,
    /// The number of the reason for dropping a SYN on a synchronized connection.
    pub invalid_syn_reason: Option<u32>,
    /// This kernel's numbers of the reasons for dropping a packet that are told of; without those it does not have.
    pub drop_reasons: BTreeMap<DropReason, u32>,
    /// Whether this kernel has a place for drop reasons of Open vSwitch, be that loaded or not.
    pub has_open_vswitch_reasons: bool,
    /// What is read when connection tracking holds a packet for invalid.
    pub conntrack: ConntrackLayout,
}

/// The arguments a BTF tracepoint passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TracepointArguments {
    /// How many, without the tracepoint's own first one.
    pub count: usize,
}

impl TracepointArguments {
    /// Whether `hook`'s tracepoint passes a result (`tcp_retransmit_skb`, from Linux 6.17).
    pub fn tell_result(self, hook: Hook) -> bool {
        hook == Hook::TcpRetransmitSkb && self.count >= 3
    }

    /// Whether `hook`'s tracepoint passes the socket that a dropped packet was meant for (`kfree_skb`, from Linux 6.11).
    pub fn tell_receiver(self, hook: Hook) -> bool {
        hook == Hook::KfreeSkb && self.count >= 4
    }
}

impl Layout {
    /// Resolves everything from the BTF bytes of a kernel (`/sys/kernel/btf/vmlinux`) and those of its modules.
    ///
    /// # Errors
    ///
    /// When the bytes are no BTF or sockets are nested otherwise than the programs assume. A single missing field is no
    /// error: it is listed in [`Layout::missing`].
    pub fn resolve(bytes: &[u8], modules: &Modules, names: &Names) -> Result<Self, BtfError> {
        let btf = Btf::from_bytes(bytes).map_err(|error| BtfError::Damaged(error.to_string()))?;
        for (outer, member) in NESTING {
            match member_of(&btf, outer, &[member]) {
                Ok(found) if found.bit_offset == 0 => {}
                Ok(_) | Err(_) => return Err(BtfError::Nesting { outer, member }),
            }
        }
        let mut locations = [UNAVAILABLE; Field::COUNT];
        let mut missing = BTreeMap::new();
        for (field, slot) in Field::ALL.into_iter().zip(&mut locations) {
            match locate(&btf, field) {
                Ok(found) => *slot = found,
                Err(why) => {
                    missing.insert(field, why);
                }
            }
        }
        let tracepoints = Hook::ALL
            .into_iter()
            .filter_map(|hook| Some((hook, tracepoint_arguments(&btf, &names.tracepoint(hook))?)))
            .collect();
        let functions = Hook::ALL
            .into_iter()
            .flat_map(|hook| names.functions(hook))
            .map(|(symbol, _)| symbol)
            .filter(|symbol| has_function(&btf, symbol))
            .collect();
        Ok(Self {
            locations,
            missing,
            tracepoints,
            functions,
            registers: registers(&btf),
            sock_dead_bit: enum_value(&btf, "sock_flags", "SOCK_DEAD"),
            sock_done_bit: enum_value(&btf, "sock_flags", "SOCK_DONE"),
            sock_keepopen_bit: enum_value(&btf, "sock_flags", "SOCK_KEEPOPEN"),
            invalid_syn_reason: drop_reason(&btf, "TCP_INVALID_SYN"),
            drop_reasons: DropReason::ALL
                .into_iter()
                .filter(|reason| !reason.is_of_open_vswitch())
                .filter_map(|reason| Some((reason, drop_reason(&btf, reason.kernel_name())?)))
                .chain(modules.open_vswitch_reasons(&btf))
                .collect(),
            has_open_vswitch_reasons: has_open_vswitch_reasons(&btf),
            conntrack: ConntrackLayout::resolve(&btf, modules),
        })
    }

    /// Moves a field away from its place, for tests.
    pub(super) fn shift(&mut self, field: Field, bytes: u32) {
        if let Some(slot) = self.locations.get_mut(field.index()) {
            *slot = slot.saturating_add(bytes);
        }
    }

    /// Whether the programs can read `field`.
    pub fn has(&self, field: Field) -> bool {
        !self.missing.contains_key(&field)
    }

    /// Whether `kfree_skb` passes the socket that a packet was meant for (from Linux 6.11).
    pub fn drop_has_socket(&self) -> bool {
        let hook = Hook::KfreeSkb;
        self.tracepoints.get(&hook).is_some_and(|arguments| arguments.tell_receiver(hook))
    }

    /// Whether `tcp_retransmit_skb` passes the result of sending (from Linux 6.17).
    pub fn retransmit_has_result(&self) -> bool {
        let hook = Hook::TcpRetransmitSkb;
        self.tracepoints.get(&hook).is_some_and(|arguments| arguments.tell_result(hook))
    }
}

pub(super) struct FoundMember {
    pub(super) bit_offset: u32,
    bit_width: Option<u32>,
    pub(super) type_: Type,
}

fn locate(btf: &Btf, field: Field) -> Result<Location, String> {
    if let Some(newer) = newer_path(field).and_then(|path| locate_at(btf, field, path).ok()) {
        return Ok(newer);
    }
    locate_at(btf, field, path(field))
}

fn locate_at(btf: &Btf, field: Field, path: FieldPath) -> Result<Location, String> {
    let found = member_of(btf, path.structure, path.members)?;
    let packed = match path.shape {
        Shape::Bytes(expected) => {
            let actual = size_of_type(btf, &found.type_);
            if found.bit_width.is_some_and(|width| width != 0) || actual != Some(expected) {
                return Err(format!("{} is not {expected} bytes wide here", spelled(field)));
            }
            location(found.bit_offset / 8, 0, 0)
        }
        Shape::PointerTo(target) => {
            if !points_to(btf, &found.type_, target) {
                return Err(format!("{} is not a pointer to struct {target} here", spelled(field)));
            }
            location(found.bit_offset / 8, 0, 0)
        }
        Shape::Bits => match found.bit_width {
            // A field of at most 8 bits that does not cross a byte border: one byte holds it.
            Some(width) if width > 0 && found.bit_offset % 8 + width <= 8 => {
                location(found.bit_offset / 8, found.bit_offset % 8, width)
            }
            Some(_) | None => return Err(format!("{} is no bit-field within one byte here", spelled(field))),
        },
    };
    packed.ok_or_else(|| format!("{} lies too far into its structure", spelled(field)))
}

/// Follows member names from a structure, adding up offsets.
pub(super) fn member_of(btf: &Btf, structure: &str, members: &[&str]) -> Result<FoundMember, String> {
    let mut current =
        structure_named(btf, structure).ok_or_else(|| format!("this kernel has no struct {structure}"))?;
    let mut bit_offset = 0;
    let mut members = members.iter().peekable();
    let mut spelled = structure.to_owned();
    while let Some(name) = members.next() {
        spelled = format!("{spelled}.{name}");
        let found = find_member(btf, &current, name, 0).ok_or_else(|| format!("this kernel has no {spelled}"))?;
        bit_offset += found.bit_offset;
        if members.peek().is_none() {
            return Ok(FoundMember { bit_offset, ..found });
        }
        current = match found.type_ {
            Type::Struct(inner) | Type::Union(inner) => inner,
            _ => return Err(format!("{spelled} is no structure here")),
        };
    }
    Err(format!("{spelled}: empty path"))
}

/// How deep anonymous members are searched; the kernel nests three deep in `sock_common`.
const MAX_ANONYMOUS_DEPTH: u32 = 8;

fn find_member(btf: &Btf, structure: &Struct, name: &str, depth: u32) -> Option<FoundMember> {
    for member in &structure.members {
        let member_name = btf.resolve_name(member).unwrap_or_default();
        let type_ = without_qualifiers(btf, btf.resolve_chained_type(member).ok()?)?;
        if member_name == name {
            return Some(FoundMember { bit_offset: member.bit_offset(), bit_width: member.bitfield_size(), type_ });
        }
        if member_name.is_empty()
            && depth < MAX_ANONYMOUS_DEPTH
            && let Type::Struct(inner) | Type::Union(inner) = &type_
            && let Some(found) = find_member(btf, inner, name, depth + 1)
        {
            return Some(FoundMember { bit_offset: member.bit_offset() + found.bit_offset, ..found });
        }
    }
    None
}

fn structure_named(btf: &Btf, name: &str) -> Option<Struct> {
    btf.resolve_types_by_name(name).ok()?.into_iter().find_map(|type_| match type_ {
        Type::Struct(structure) if !structure.members.is_empty() => Some(structure),
        _ => None,
    })
}

/// Strips typedefs, `const`, `volatile`, `restrict` and type tags.
fn without_qualifiers(btf: &Btf, mut type_: Type) -> Option<Type> {
    // A chain of qualifiers is short; the bound only guards against BTF that refers to itself.
    for _ in 0..32 {
        type_ = match &type_ {
            Type::Typedef(inner) => btf.resolve_chained_type(inner).ok()?,
            Type::Const(inner) | Type::Volatile(inner) | Type::Restrict(inner) => {
                btf.resolve_chained_type(inner).ok()?
            }
            Type::TypeTag(inner) => btf.resolve_chained_type(inner).ok()?,
            _ => return Some(type_),
        };
    }
    None
}

pub(super) fn size_of_type(btf: &Btf, type_: &Type) -> Option<u32> {
    let bytes = match type_ {
        Type::Int(int) => int.size(),
        Type::Enum(enumeration) => enumeration.size(),
        Type::Enum64(enumeration) => enumeration.size(),
        Type::Struct(structure) | Type::Union(structure) => structure.size(),
        Type::Ptr(_) => 8,
        Type::Array(array) => {
            let element = without_qualifiers(btf, btf.resolve_chained_type(array).ok()?)?;
            array.len().checked_mul(usize::try_from(size_of_type(btf, &element)?).ok()?)?
        }
        _ => return None,
    };
    u32::try_from(bytes).ok()
}

fn points_to(btf: &Btf, type_: &Type, target: &str) -> bool {
    let Type::Ptr(pointer) = type_ else { return false };
    let Some(Type::Struct(structure)) =
        btf.resolve_chained_type(pointer).ok().and_then(|pointee| without_qualifiers(btf, pointee))
    else {
        return false;
    };
    btf.resolve_name(&structure).is_ok_and(|name| name == target)
}

/// The arguments of a BTF tracepoint: the prototype behind the typedef `btf_trace_NAME`, less its first (`void *__data`).
fn tracepoint_arguments(btf: &Btf, tracepoint: &str) -> Option<TracepointArguments> {
    let name = format!("btf_trace_{tracepoint}");
    let typedef = btf.resolve_types_by_name(&name).ok()?.into_iter().find_map(|type_| match type_ {
        Type::Typedef(typedef) => Some(typedef),
        _ => None,
    })?;
    let Type::Ptr(pointer) = btf.resolve_chained_type(&typedef).ok()? else { return None };
    let Type::FuncProto(prototype) = btf.resolve_chained_type(&pointer).ok()? else { return None };
    Some(TracepointArguments { count: prototype.parameters.len().checked_sub(1)? })
}

fn has_function(btf: &Btf, symbol: &str) -> bool {
    btf.resolve_types_by_name(symbol).is_ok_and(|types| types.iter().any(|type_| matches!(type_, Type::Func(_))))
}

/// Where `struct pt_regs` keeps what the calling convention passes in registers, here in the order of the arguments.
#[cfg(target_arch = "x86_64")]
fn registers(btf: &Btf) -> Option<Registers> {
    let offset = |name: &str| Some(member_of(btf, "pt_regs", &[name]).ok()?.bit_offset / 8);
    Some(Registers {
        arguments: [offset("di")?, offset("si")?, offset("dx")?, offset("cx")?, offset("r8")?],
        result: offset("ax")?,
        stack_pointer: offset("sp")?,
        return_address_bytes: 8,
    })
}

/// Where `struct pt_regs` keeps x0, x1, … and the stack pointer.
#[cfg(target_arch = "aarch64")]
fn registers(btf: &Btf) -> Option<Registers> {
    let offset = |name: &str| Some(member_of(btf, "pt_regs", &[name]).ok()?.bit_offset / 8);
    let first = offset("regs")?;
    Some(Registers {
        arguments: [first, first + 8, first + 16, first + 24, first + 32],
        result: first,
        stack_pointer: offset("sp")?,
        return_address_bytes: 0,
    })
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const fn registers(_: &Btf) -> Option<Registers> {
    None
}

fn drop_reason(btf: &Btf, name: &str) -> Option<u32> {
    enum_value(btf, "skb_drop_reason", &format!("SKB_DROP_REASON_{name}"))
}

pub(super) fn enum_value(btf: &Btf, enumeration: &str, name: &str) -> Option<u32> {
    btf.resolve_types_by_name(enumeration).ok()?.into_iter().find_map(|type_| match type_ {
        Type::Enum(found) => found
            .members
            .iter()
            .find(|member| btf.resolve_name(*member as &dyn BtfType).is_ok_and(|spelled| spelled == name))
            .map(btf_rs::EnumMember::val),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_btf_are_an_error_not_a_panic() {
        for bytes in [&b""[..], b"not btf", &[0; 64], &[0x9f, 0xeb, 1, 0, 24, 0, 0, 0]] {
            assert!(matches!(
                Layout::resolve(bytes, &Modules::default(), &Names::default()),
                Err(BtfError::Damaged(_) | BtfError::Nesting { .. })
            ));
        }
    }

    #[test]
    fn this_kernels_btf_resolves_every_field_it_must_have() {
        let Ok(bytes) = std::fs::read("/sys/kernel/btf/vmlinux") else { return };
        let layout = Layout::resolve(&bytes, &Modules::default(), &Names::default()).unwrap();
        for field in crate::kernel::facts::fields::INDISPENSABLE {
            assert!(layout.has(field), "{}", layout.missing[&field]);
        }
        assert_eq!((layout.sock_dead_bit, layout.sock_done_bit), (Some(0), Some(1)));
        assert!(layout.tracepoints.contains_key(&Hook::TcpRetransmitSkb));
    }
}
