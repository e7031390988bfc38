//! What a watch tells beside findings, what of it a recording takes down, and how a watch has ended.

use super::{Change, Programs, Watch};
use crate::{
    app::{
        clock,
        recording::{Recorded, Recording},
    },
    model::{Coverage, MonoTime},
    recording::{Input, Opening, SameMoment},
    report::Summary,
    sink::SinkError,
};

/// A watch that has ended. The programs stay attached as long as this lives: taking a trampoline or a kprobe away waits for the
/// kernel each time, which the report need not wait for.
pub struct Ended {
    /// What was found.
    pub summary: Summary,
    /// When it ended.
    pub at: MonoTime,
    /// Both clocks then, where they could be read together.
    pub clocks: Option<SameMoment>,
    /// What became of the recording, where one was asked for.
    pub recorded: Option<Recorded>,
    /// What was observed.
    pub coverage: Coverage,
    pub(super) _programs: Option<Programs>,
}

impl Watch {
    /// Records everything from here on that what is told follows from.
    #[must_use]
    pub fn with_recording(mut self, mut recording: Recording, opening: Opening) -> Self {
        recording.put(Input::Opening(Box::new(opening)));
        self.tracker.recording = Some(recording);
        self
    }

    pub(super) fn tell_coverage(
        &mut self,
        tell: &mut impl FnMut(Change<'_>) -> Result<(), SinkError>,
    ) -> Result<(), SinkError> {
        let (at, coverage) = (clock::now(), &self.coverage);
        self.tracker.record(|| Input::Coverage { at, coverage: Box::new(coverage.clone()) });
        tell(Change::Coverage { at, coverage })
    }

    pub(super) fn tell_progress(
        &mut self,
        tell: &mut impl FnMut(Change<'_>) -> Result<(), SinkError>,
    ) -> Result<(), SinkError> {
        let (findings, open) = self.findings.count();
        let clocks = clock::both();
        if let Some(clocks) = clocks {
            self.tracker.record(|| Input::Clocks(clocks));
        }
        tell(Change::Progress { findings, open, clocks })
    }
}
