//! What a watch tells, and what of it a recording takes down.

use super::{Change, Tell, Watch};
use crate::{
    app::{clock, findings::Findings, recording::Recording},
    judge::Verdict,
    model::Filter,
    recording::{Input, Opening},
    sink::SinkError,
};

impl Watch {
    /// Tells only these connections with these verdicts; an empty list means all.
    #[must_use]
    pub fn telling_only(self, filter: Filter, verdicts: Vec<Verdict>) -> Self {
        Self { findings: Findings::only(filter, verdicts), ..self }
    }

    /// Records everything from here on that what is told follows from.
    #[must_use]
    pub fn with_recording(mut self, recording: Recording, opening: Opening) -> Self {
        self.tracker.record_to(recording, opening);
        self
    }

    pub(super) fn tell_coverage(&mut self, tell: &mut impl Tell) -> Result<(), SinkError> {
        let (at, coverage) = (clock::now(), &self.coverage);
        self.tracker.record(|| Input::Coverage { at, coverage: Box::new(coverage.clone()) });
        tell(Change::Coverage { at, coverage })
    }

    pub(super) fn tell_progress(&mut self, tell: &mut impl Tell) -> Result<(), SinkError> {
        let (findings, open) = self.findings.count();
        let clocks = clock::both();
        if let Some(clocks) = clocks {
            self.tracker.record(|| Input::Clocks(clocks));
        }
        tell(Change::Progress { findings, open, clocks })
    }
}
