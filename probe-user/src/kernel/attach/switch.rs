//! A hook that is attached only while it is needed.

use std::sync::{Arc, Mutex, PoisonError};

use aya::{
    Ebpf,
    maps::HashMap,
    programs::{
        BtfTracePoint, ProgramError,
        tp_btf::{BtfTracePointLink, BtfTracePointLinkId},
    },
};

use super::Probes;
use crate::model::Hook;

/// What is remembered of a socket under suspicion (`Watch` in `probe-ebpf/src/limit.rs`).
type Watch = [u8; 24];

/// A loaded program for a BTF tracepoint, and its link while it is attached. To attach and detach it is to change a list of the kernel's,
/// without waiting for anything (`bpf_probe_register`, `bpf_probe_unregister`; `kernel/trace/bpf_trace.c`); trampolines and kprobes wait for all CPUs, and so
/// stay where they are.
pub(super) struct Switch {
    ebpf: Arc<Mutex<Ebpf>>,
    hook: Hook,
    link: Option<BtfTracePointLink>,
}

impl Switch {
    /// Of a program that is attached.
    pub(super) fn new(ebpf: Arc<Mutex<Ebpf>>, hook: Hook, link: BtfTracePointLinkId) -> Self {
        let mut switch = Self { ebpf, hook, link: None };
        switch.link = switch.with_program(|program| program.take_link(link)).ok();
        switch
    }

    fn set(&mut self, is_on: bool) -> Result<(), ProgramError> {
        if !is_on {
            self.link = None;
            self.forget_sockets();
        } else if self.link.is_none() {
            self.link = Some(self.with_program(|program| {
                let link = program.attach()?;
                program.take_link(link)
            })?);
        }
        Ok(())
    }

    /// Nobody sees them close from now on, and their addresses are used again.
    fn forget_sockets(&self) {
        let mut ebpf = self.ebpf.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Ok(mut watched)) = ebpf.map_mut("WATCHED").map(HashMap::<_, u64, Watch>::try_from) else { return };
        let sockets: Vec<_> = watched.keys().flatten().collect();
        for socket in sockets {
            // One may have gone by itself.
            let _ = watched.remove(&socket);
        }
    }

    fn with_program<T>(
        &self,
        act: impl FnOnce(&mut BtfTracePoint) -> Result<T, ProgramError>,
    ) -> Result<T, ProgramError> {
        let mut ebpf = self.ebpf.lock().unwrap_or_else(PoisonError::into_inner);
        let program = ebpf.program_mut(self.hook.name()).ok_or(ProgramError::NotLoaded)?;
        act(program.try_into()?)
    }
}

impl Probes {
    /// Whether [`watch_state_changes`](Self::watch_state_changes) does anything.
    pub const fn can_switch_state_changes(&self) -> bool {
        self.state_changes.is_some()
    }

    /// Attaches or detaches the hook at every change of a socket's state, which tells how connections under suspicion go on. Where it is not
    /// attached by a BTF tracepoint, it stays attached.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to attach it again.
    pub fn watch_state_changes(&mut self, is_on: bool) -> Result<(), ProgramError> {
        match &mut self.state_changes {
            Some(switch) => switch.set(is_on),
            None => Ok(()),
        }
    }
}
