//! The running kernel: what it can do, how our programs are attached to it, and what comes out of them.
//!
//! Facts are read once ([`Facts::read`]), a pure [`plan`] says which mechanism serves each hook, [`Probes::attach`] tries
//! it and returns a [`Coverage`](crate::model::Coverage) that says what became of every hook. Coverage is part of every report: a hook that is not
//! attached is said, with what it costs, never passed over.

mod attach;
mod btf;
mod channel;
mod facts;
mod fields;
mod filter;
mod function;
mod lifecycle;
mod memory;
mod missing;
mod modules;
mod names;
mod object;
mod plan;
mod ring;
mod scan;
mod tracepoint_format;

pub use attach::{AttachError, Probes};
pub use btf::{BtfError, Layout, TracepointArguments};
pub use channel::RingError;
pub use facts::{Facts, FactsError, Faults, Privileges};
pub use fields::field_named;
pub use filter::{FilterError, check_filter};
pub use function::{Function, Point};
pub use lifecycle::Lifecycle;
pub use modules::{ConntrackLayout, Modules, is_loaded};
pub use names::Names;
pub use object::{LoadOptions, OpenError};
pub use plan::{HookPlan, Plan, PlanFacts, plan};
pub use ring::{Ring, Statistics, Totals};
pub use scan::{IdleScanner, Scanner};
pub use tracepoint_format::{FormatError, TracepointFormat};
