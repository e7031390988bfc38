//! A run once more, from its recording: the same tracker and the same records, without a kernel.

use std::{io::Read, thread::sleep, time::Instant};

use super::{
    findings::Findings,
    watch::{Change, Tell},
};
use crate::{
    case::{Output, Tracker},
    judge::Verdict,
    model::{Coverage, Event, MonoTime},
    recording::{Closing, Damage, Input, Opening, Reader, SameMoment},
    report::Summary,
    sink::SinkError,
};

/// Why a recording could not be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// Not even its beginning can be read.
    #[error(transparent)]
    Damage(#[from] Damage),
    /// Nothing is in it.
    #[error("the recording holds nothing: the recorder was interrupted before it wrote anything")]
    Empty,
    /// It begins with something else than how its run began.
    #[error("the recording does not say how its run began")]
    NoOpening,
    /// What was found could not be written.
    #[error(transparent)]
    Sink(#[from] SinkError),
}

/// A recording that has been opened.
#[derive(Debug)]
pub struct Replay<R> {
    reader: Reader<R>,
    opening: Opening,
    /// What is left of the frame that was read last.
    inputs: std::vec::IntoIter<Input>,
}

/// A replay that has ended.
#[derive(Debug)]
pub struct Replayed {
    /// What was found.
    pub summary: Summary,
    /// When the run ended.
    pub at: MonoTime,
    /// Both clocks then, where they were read together.
    pub clocks: Option<SameMoment>,
    /// What was observed.
    pub coverage: Coverage,
    /// What is to be told of the recording itself.
    pub remarks: Vec<String>,
}

impl<R: Read> Replay<R> {
    /// Reads how the run began.
    ///
    /// # Errors
    ///
    /// When the recording does not say.
    pub fn new(mut reader: Reader<R>) -> Result<Self, ReplayError> {
        let mut inputs = reader.next_frame()?.ok_or(ReplayError::Empty)?.into_iter();
        match inputs.next() {
            Some(Input::Opening(opening)) => Ok(Self { reader, opening: *opening, inputs }),
            _ => Err(ReplayError::NoOpening),
        }
    }

    /// How the run began.
    pub const fn opening(&self) -> &Opening {
        &self.opening
    }

    /// Hands in everything as it was taken in, and tells every change as it was told. `speed`: so many times as fast as it was; `None`
    /// for as fast as can be. Only findings with these verdicts are told; an empty list means all.
    ///
    /// # Errors
    ///
    /// When a change cannot be told.
    pub fn run(
        mut self,
        speed: Option<f64>,
        verdicts: Vec<Verdict>,
        mut tell: impl Tell,
    ) -> Result<Replayed, ReplayError> {
        let mut run = Run {
            tracker: Tracker::new(),
            findings: Findings::only(self.opening.filter.clone(), verdicts),
            coverage: self.opening.coverage.clone(),
            latest: self.opening.at,
        };
        let mut remarks = Vec::new();
        let (mut gaps, mut closing) = (0_u64, None);
        let started = Instant::now();
        loop {
            let Some(input) = self.inputs.next() else {
                match self.reader.next_frame() {
                    Ok(Some(inputs)) => self.inputs = inputs.into_iter(),
                    Ok(None) => break,
                    Err(damage) => {
                        remarks.push(format!("{damage}: the recorder was interrupted, or the file is damaged"));
                        break;
                    }
                }
                continue;
            };
            run.latest = run.latest.max(input.at().unwrap_or_default());
            if let Some(speed) = speed {
                let due = run.latest.since(self.opening.at).div_f64(speed);
                sleep(due.saturating_sub(started.elapsed()));
            }
            match input {
                Input::Gap { inputs } => gaps = gaps.saturating_add(inputs),
                Input::Closing(last) => closing = Some(*last),
                other => run.take(other, &mut tell)?,
            }
        }
        if gaps > 0 {
            remarks.push(format!(
                "the recording misses {gaps} inputs: the disk was too slow; what follows from them is not told"
            ));
        }
        if closing.is_none() && remarks.is_empty() {
            remarks.push(format!(
                "the recording ends before its run, after {} inputs: the recorder was interrupted",
                self.reader.inputs()
            ));
        }
        let closing = closing.unwrap_or_else(|| Closing {
            at: run.latest,
            clocks: None,
            watched: run.latest.since(self.opening.at),
            hooks: Vec::new(),
            undecodable: 0,
            unasked: 0,
        });
        let Closing { at, clocks, watched, hooks, undecodable, unasked } = closing;
        let (findings, forgotten) = run.findings.finish();
        let summary = Summary { watched, findings, forgotten, hooks, undecodable, unasked, risks: None };
        Ok(Replayed { summary, at, clocks, coverage: run.coverage, remarks })
    }
}

/// What a watch has, without the kernel and the witnesses.
struct Run {
    tracker: Tracker,
    findings: Findings,
    coverage: Coverage,
    /// The latest time handed in.
    latest: MonoTime,
}

impl Run {
    fn take(&mut self, input: Input, tell: &mut impl Tell) -> Result<(), SinkError> {
        match input {
            Input::Event(event) => {
                if let Event::Lost { at, place, count } = *event {
                    tell(Change::Lost { at, place, count })?;
                }
                self.tracker.handle_event(*event);
            }
            Input::Answer { at, answer } => self.tracker.handle_answer(at, *answer),
            Input::Timeout { at } => self.tracker.handle_timeout(at),
            Input::Clocks(clocks) => {
                let (findings, open) = self.findings.count();
                tell(Change::Progress { findings, open, clocks: Some(clocks) })?;
            }
            Input::Coverage { at, coverage } => {
                tell(Change::Coverage { at, coverage: &coverage })?;
                self.coverage = *coverage;
            }
            Input::Opening(_) | Input::Gap { .. } | Input::Closing(_) => {}
        }
        while let Some(output) = self.tracker.poll_output() {
            match output {
                // Its answer is in the recording.
                Output::Question(_) => {}
                Output::Finding(mut finding) => {
                    if self.findings.wants(&mut finding) {
                        tell(Change::Finding(&finding))?;
                        self.findings.take(*finding);
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::{
        recording::{FrameWriter, arbitrary::inputs, header},
        report::{Host, WallClock, record::Recorder, text},
    };

    fn opening() -> Opening {
        Opening {
            filter: crate::model::Filter::default(),
            host: Host { name: "compute-1".to_owned(), machine_id: None, boot_id: Uuid::nil() },
            clocks: SameMoment::new(MonoTime::from_ns(1), Timestamp::UNIX_EPOCH),
            at: MonoTime::from_ns(1),
            coverage: Coverage::of_sock_diag_alone("6.1.0".to_owned(), ""),
            is_anonymized: false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// A recording may come from anybody.
        #[test]
        fn whatever_a_recording_says_replaying_it_is_no_panic(inputs in inputs()) {
            let mut frames = FrameWriter::default();
            frames.add(&Input::Opening(Box::new(opening()))).unwrap();
            inputs.iter().for_each(|input| frames.add(input).unwrap());
            let bytes = [header().into_bytes(), frames.take().unwrap().0].concat();
            let replay = Replay::new(Reader::new(bytes.as_slice()).unwrap()).unwrap();
            let Opening { host, clocks, .. } = replay.opening().clone();
            let mut recorder = Recorder::new(host, WallClock::aligned(clocks.mono, clocks.wall()));
            let replayed = replay.run(None, Vec::new(), |change| {
                match change {
                    Change::Finding(finding) => drop(serde_json::to_vec(&recorder.finding(finding))?),
                    Change::Lost { at, place, count } => drop(serde_json::to_vec(&recorder.loss(at, place, count))?),
                    Change::Coverage { at, coverage } => drop(serde_json::to_vec(&recorder.coverage(at, coverage))?),
                    Change::Progress { clocks: Some(clocks), .. } => recorder.follow(clocks.mono, clocks.wall()),
                    Change::Progress { .. } | Change::Heartbeat(_) | Change::NotAttached | Change::Closed { .. } => {}
                }
                Ok(())
            });
            let Replayed { summary, at, coverage, .. } = replayed.unwrap();
            serde_json::to_vec(&recorder.summary(at, &summary)).unwrap();
            let layout = text::Layout { width: 80, color: false };
            text::report(&summary, &coverage, recorder.clock(), at, layout);
        }
    }
}
