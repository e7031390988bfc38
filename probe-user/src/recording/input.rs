use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    model::{Answer, Coverage, Event, Filter, HookCount, MonoTime},
    report::Host,
};

/// Something that a run has taken in. From these, in their order, follows everything that it tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// How the run began; the first input.
    Opening(Box<Opening>),
    /// What is observed has changed.
    Coverage {
        /// When that was noticed.
        at: MonoTime,
        /// What is observed now.
        coverage: Box<Coverage>,
    },
    /// Something happened, or events were lost.
    Event(Box<Event>),
    /// A witness has answered.
    Answer {
        /// When the answer was taken in.
        at: MonoTime,
        /// What it says.
        answer: Box<Answer>,
    },
    /// A timer of the tracker was due.
    Timeout {
        /// When it was handed in.
        at: MonoTime,
    },
    /// Both clocks were read.
    Clocks(SameMoment),
    /// Inputs are missing here: the disk was too slow for them.
    Gap {
        /// How many.
        inputs: u64,
    },
    /// How the run ended; the last input.
    Closing(Box<Closing>),
}

/// The same moment by the kernel's clock and by the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SameMoment {
    /// By the kernel's.
    pub mono: MonoTime,
    /// By the wall clock: nanoseconds since 1970 (UTC).
    wall_ns: i64,
}

impl SameMoment {
    /// Both readings.
    pub fn new(mono: MonoTime, wall: Timestamp) -> Self {
        // The years 1677 to 2262; a wall clock beyond is a wrong one.
        let wall_ns = i64::try_from(wall.as_nanosecond()).unwrap_or(i64::MAX);
        Self { mono, wall_ns }
    }

    /// By the wall clock.
    pub fn wall(self) -> Timestamp {
        Timestamp::from_nanosecond(self.wall_ns.into()).unwrap_or(Timestamp::MAX)
    }
}

/// How a run began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// The host.
    pub host: Host,
    /// Both clocks.
    pub clocks: SameMoment,
    /// When the watch began to be told of.
    pub at: MonoTime,
    /// What is observed.
    pub coverage: Coverage,
    /// Which connections were asked for.
    #[serde(default)]
    pub filter: Filter,
    /// Whether addresses and names are replaced.
    pub is_anonymized: bool,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// When.
    pub at: MonoTime,
    /// Both clocks, where they could be read together.
    pub clocks: Option<SameMoment>,
    /// How long was watched.
    pub watched: Duration,
    /// What the hooks did.
    pub hooks: Vec<HookCount>,
    /// Records that could not be decoded.
    pub undecodable: u64,
    /// Questions that were never asked.
    pub unasked: u64,
}

impl Input {
    /// When it was taken in; `None` of a gap.
    pub fn at(&self) -> Option<MonoTime> {
        match self {
            Self::Opening(opening) => Some(opening.at),
            Self::Event(event) => Some(match event.as_ref() {
                Event::Connection(event) => event.at,
                Event::Lost { at, .. } => *at,
            }),
            Self::Coverage { at, .. } | Self::Answer { at, .. } | Self::Timeout { at } => Some(*at),
            Self::Clocks(clocks) => Some(clocks.mono),
            Self::Closing(closing) => Some(closing.at),
            Self::Gap { .. } => None,
        }
    }
}
