//! The words every room shares: times, connections, events, questions. No IO, no clock, no policy.
//!
//! Everything here is plain data. It may be named by any room and names none.

#![deny(clippy::disallowed_methods, clippy::wildcard_enum_match_arm)]

mod closed;
mod connection;
mod conntrack;
mod coverage;
mod drop_reason;
mod event;
mod filter;
mod flow;
mod invalid;
mod local;
mod module;
mod owner;
mod padding;
mod path;
mod place;
mod question;
mod segment;
mod socket;
mod spoken;
mod tcp_timing;
mod time;

pub use closed::{Amounts, Cgroup, ClosedConnection, Ending, Halves, OwnerCall, Role, SeenProcess, Side};
pub use connection::{CommunityId, ConnectionKey, SocketCookie, TcpState};
pub use conntrack::{ConntrackEntry, ConntrackSettings, ConntrackState, ConntrackStatus};
pub use coverage::{
    COST_OF_SOCK_DIAG, Coverage, HookCount, HookStatus, LifecycleStatus, Mechanism, MissingField, RunCost, ScanStatus,
    SelfTest, cost_of_missing, runs_for,
};
pub use drop_reason::DropReason;
pub use event::{ConnectionEvent, Event, EventKind, Hook, LossPlace};
pub use filter::Filter;
pub use flow::{
    Behind, Direction, FlowConntrack, FlowEnds, FlowKey, ForwardPath, HostEnd, Machine, Port, TrackedFlow, Translation,
    Tuple, Vantage, WaitingEnd,
};
pub use invalid::InvalidSegment;
pub use local::{LocalConntrack, LocalPorts};
pub use module::{KernelModule, ModuleStatus};
pub use owner::{ContainerRuntime, Owner, OwnerKnowledge, Place};
pub use path::{Interface, NeighbourState, PathStatus, Route, SocketRouting};
pub use place::{DropPlace, DropTrace, FilterRule, FilterRules, NetfilterHook, Site, Stack};
pub use question::{Answer, InZone, Knowledge, Question, ServiceStatus, SocketLookup};
#[cfg(test)]
pub(crate) use segment::dropped_fin;
pub use segment::{Checksum, ControlMessage, DroppedSegment, LinkAddress, Origin};
pub use socket::{Keepalive, PendingTimer, SocketStatus, SocketTimer, SocketView, Ticks};
pub(crate) use spoken::{counted, span};
pub use tcp_timing::{COARSEST_TICK, RTO_MAX, RTO_MIN, are_timed, may_be_timed};
pub use time::MonoTime;
