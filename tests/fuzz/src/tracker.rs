#![expect(clippy::expect_used, reason = "a fuzz target fails by panicking")]

use std::io::Read;

use connprobe::{
    app::{Change, Replay, Replayed},
    model::{Coverage, Filter, MonoTime},
    recording::{FrameWriter, Input, Opening, Reader, SameMoment, header},
    report::{
        Host, WallClock,
        record::Recorder,
        text::{self, Layout},
    },
};
use jiff::Timestamp;
use uuid::Uuid;

/// More make a run slower than what they may still find is worth.
const MOST_INPUTS: usize = 1_000;

/// Makes a recording of what the bytes hold, and replays it.
pub(crate) fn take_in(mut data: &[u8]) {
    let mut frames = FrameWriter::default();
    frames.add(&Input::Opening(Box::new(opening()))).expect("an opening can be written");
    for _ in 0..MOST_INPUTS {
        let Ok(input) = ciborium::from_reader::<Input, _>(&mut data) else { break };
        frames.add(&input).expect("what was read can be written");
    }
    let (frame, _) = frames.take().expect("there is an input at least");
    let bytes = [header().into_bytes(), frame].concat();
    replay(Reader::new(bytes.as_slice()).expect("a recording of ours can be read"));
}

/// Replays a recording to its end, and tells everything in every form.
pub(crate) fn replay(reader: Reader<impl Read>) {
    let Ok(replay) = Replay::new(reader) else { return };
    let Opening { host, clocks, .. } = replay.opening().clone();
    let mut recorder = Recorder::new(host, WallClock::aligned(clocks.mono, clocks.wall()));
    let replayed = replay.run(None, Vec::new(), |change| {
        match change {
            Change::Finding(finding) => drop(serde_json::to_vec(&recorder.finding(finding))?),
            Change::Lost { at, place, count } => drop(serde_json::to_vec(&recorder.loss(at, place, count))?),
            Change::Coverage { at, coverage } => drop(serde_json::to_vec(&recorder.coverage(at, coverage))?),
            Change::Progress { clocks: Some(clocks), .. } => recorder.follow(clocks.mono, clocks.wall()),
            Change::Progress { .. } | Change::Heartbeat(_) | Change::NotAttached => {}
        }
        Ok(())
    });
    let Replayed { summary, at, coverage, .. } = replayed.expect("nothing stands in the way of telling it");
    serde_json::to_vec(&recorder.summary(at, &summary)).expect("a summary is JSON");
    text::report(&summary, &coverage, recorder.clock(), at, Layout { width: 80, color: false });
}

fn opening() -> Opening {
    Opening {
        filter: Filter::default(),
        host: Host { name: "compute-1".to_owned(), machine_id: None, boot_id: Uuid::nil() },
        clocks: SameMoment::new(MonoTime::from_ns(1), Timestamp::UNIX_EPOCH),
        at: MonoTime::from_ns(1),
        coverage: Coverage::of_sock_diag_alone("6.1.0".to_owned(), ""),
        is_anonymized: false,
    }
}
