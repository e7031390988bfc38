//! One file per verdict. Each says which evidence it requires, where that comes from, and what is *not* this verdict.

pub(super) mod asymmetric_handshake;
pub(super) mod half_open;
pub(super) mod retransmit_stalled;
pub(super) mod silently_dropped_fin;
pub(super) mod zero_window_stalled;

#[cfg(test)]
pub(in crate::judge) mod scene;
