//! The words every room shares: times, connections, events, questions. No IO, no clock, no policy.
//!
//! Everything here is plain data. It may be named by any room and names none.

#![deny(clippy::disallowed_methods, clippy::wildcard_enum_match_arm)]

mod connection;
mod coverage;
mod event;
mod question;
mod socket;
mod time;

pub use connection::{CommunityId, ConnectionKey, SocketCookie, TcpState};
pub use coverage::{Coverage, HookStatus, Mechanism, MissingField, cost_of_missing};
pub use event::{ConnectionEvent, Event, EventKind, Hook, LossPlace};
pub use question::{Answer, Owner, Question, SocketLookup, SocketStatus, SocketTimer};
pub use socket::{Keepalive, SocketView, Ticks};
pub use time::MonoTime;
