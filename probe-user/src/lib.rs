//! connprobe: which TCP connections of this host are in limbo, why, since when, how long the kernel will go on waiting, and
//! what to do.
//!
//! The rooms, in the order data flows through them:
//!
//! | room | does IO | knows |
//! |---|---|---|
//! | [`cli`] | yes | arguments as typed, then as resolved; exit codes |
//! | [`app`] | yes | the one event loop, the one clock, shutdown |
//! | [`kernel`] | yes | facts about this kernel, the attach plan, loading, rings, counters, scans |
//! | [`decode`] | no | bytes become events |
//! | [`case`] | no | the tracker: connections under suspicion, their evidence and timers |
//! | [`judge`] | no | verdicts, causes, confidence; one file per verdict |
//! | [`witness`] | yes | answers to the tracker's questions |
//! | [`recording`] | no | what was taken in, as a file, and without what it should not tell |
//! | [`report`] | no | the public records and the text report |
//! | [`sink`] | yes | where records go |
//! | [`model`] | no | the words all of them share |

pub mod app;
pub mod case;
pub mod cli;
pub mod decode;
mod error;
pub mod judge;
pub mod kernel;
pub mod model;
pub mod recording;
pub mod report;
pub mod sink;
pub mod witness;
