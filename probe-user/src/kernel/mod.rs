//! The running kernel: what it can do, how our programs are attached to it, and what comes out of them.
//!
//! Facts are read once ([`Facts::read`], in `facts`), a pure [`plan`] says which mechanism serves each hook, [`Probes::attach`] (in `attach`)
//! loads the programs, tries it, and returns a [`Coverage`](crate::model::Coverage) that says what became of every hook. Coverage is part of
//! every report: a hook that is not attached is said, with what it costs, never passed over. What the programs tell from then on is read by `read`.

mod attach;
mod facts;
mod plan;
mod read;

pub use attach::{AttachError, FilterError, LoadOptions, OpenError, Probes, check_filter};
pub use facts::{
    BtfError, ConntrackLayout, Facts, FactsError, Faults, FormatError, Function, Layout, Modules, Names, Point,
    Privileges, TracepointArguments, TracepointFormat, field_named, is_loaded,
};
pub use plan::{HookPlan, Plan, PlanFacts, plan};
pub use read::{IdleScanner, Lifecycle, Ring, RingError, Scanner, Statistics, Totals};
