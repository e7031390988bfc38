//! One file per verdict. Each says which evidence it requires, where that comes from, and what is *not* this verdict.

pub(super) mod retransmit_stalled;
