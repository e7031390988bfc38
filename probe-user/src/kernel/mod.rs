//! The running kernel: what it can do, how our programs are attached to it, and what comes out of them.
//!
//! Facts are read once ([`Facts::read`]), a pure [`plan`] says which mechanism serves each hook, [`Probes::attach`] tries
//! it and returns a [`Coverage`](crate::model::Coverage) that says what became of every hook. Coverage is part of every report: a hook that is not
//! attached is said, with what it costs, never passed over.

mod attach;
mod btf;
mod facts;
mod fields;
mod filter;
mod missing;
mod object;
mod plan;
mod ring;
mod tracepoint_format;

pub use attach::{AttachError, Probes};
pub use btf::{BtfError, Layout, TracepointArguments};
pub use facts::{Facts, FactsError, Privileges};
pub use filter::{Filter, FilterError};
pub use object::{LoadOptions, OpenError};
pub use plan::{HookPlan, Plan, PlanFacts, plan};
pub use ring::{HookTotals, Ring, RingError, Totals};
pub use tracepoint_format::{FormatError, TracepointFormat};
