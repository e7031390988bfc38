//! What a watch takes in.

use super::recording::{Recorded, Recording};
use crate::{
    case::{Finding, Output, Tracker},
    judge::Thresholds,
    model::{Answer, Event, MonoTime, Question},
    recording::{Closing, Input, Opening, SameMoment},
    report::Summary,
};

/// The tracker; where a recording was asked for, everything that it takes in is recorded.
#[derive(Debug, Default)]
pub(super) struct Intake {
    tracker: Tracker,
    recording: Option<Recording>,
}

impl Intake {
    /// Records everything from here on.
    pub(super) fn record_to(&mut self, mut recording: Recording, opening: Opening) {
        recording.put(Input::Opening(Box::new(opening)));
        self.recording = Some(recording);
    }

    /// Records an input of the report.
    pub(super) fn record(&mut self, input: impl FnOnce() -> Input) {
        if let Some(recording) = &mut self.recording {
            recording.put(input());
        }
    }

    /// Ends the recording with how the watch ended.
    pub(super) fn finish(&mut self, at: MonoTime, clocks: Option<SameMoment>, summary: &Summary) -> Option<Recorded> {
        let Summary { watched, hooks, undecodable, unasked, .. } = summary;
        let (watched, undecodable, unasked) = (*watched, *undecodable, *unasked);
        let closing = Closing { at, clocks, watched, hooks: hooks.clone(), undecodable, unasked };
        self.recording.take().map(|recording| recording.finish(closing))
    }

    pub(super) fn handle_event(&mut self, event: Event) {
        self.record(|| Input::Event(Box::new(event.clone())));
        self.tracker.handle_event(event);
    }

    pub(super) fn handle_answer(&mut self, now: MonoTime, answer: Answer) {
        self.record(|| Input::Answer { at: now, answer: Box::new(answer.clone()) });
        self.tracker.handle_answer(now, answer);
    }

    pub(super) fn handle_timeout(&mut self, now: MonoTime) {
        self.record(|| Input::Timeout { at: now });
        self.tracker.handle_timeout(now);
    }

    /// Judges by these from now on. What sets them records nothing.
    pub(super) fn set_thresholds(&mut self, thresholds: Thresholds) {
        self.tracker.set_thresholds(thresholds);
    }

    /// Goes on with a finding of the run before. A recording does not hold it: none is made where findings are kept.
    pub(super) fn resume(&mut self, now: MonoTime, finding: Finding) -> bool {
        self.tracker.resume(now, finding)
    }

    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.tracker.poll_output()
    }

    pub(super) fn poll_timeout(&self) -> Option<MonoTime> {
        self.tracker.poll_timeout()
    }

    pub(super) fn put_back(&mut self, question: Question) {
        self.tracker.put_back(question);
    }

    pub(super) fn open_cases(&self) -> usize {
        self.tracker.open_cases()
    }

    pub(super) fn questions_waiting(&self) -> usize {
        self.tracker.questions_waiting()
    }
}
