//! How a watch ends.

use std::time::Duration;

use tokio::time::timeout;

use super::{Programs, Tell, Watch, WatchError};
use crate::{
    app::{clock, recording::Recorded},
    model::{Coverage, MonoTime},
    recording::SameMoment,
    report::Summary,
};

/// How long answers that are on their way are waited for at the end: searches for owners and entries rest for half a second at most.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

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
    _programs: Option<Programs>,
}

impl Watch {
    pub(super) async fn finish(mut self, tell: &mut impl Tell) -> Result<Ended, WatchError> {
        self.read_ring();
        self.hand_on(tell)?;
        self.read_all_closed(tell)?;
        let ended = clock::now();
        let _ = timeout(LAST_ANSWERS, async {
            while self.witnesses.in_flight() > 0 {
                let Some(answer) = self.witnesses.next_answer().await else { break };
                self.tracker.handle_answer(clock::now(), answer);
                // An answer about the socket leads to a question about its owner.
                if self.hand_on(tell).is_err() {
                    break;
                }
            }
        })
        .await;
        self.hand_on(tell)?;
        self.count_losses(tell)?;
        if let Some(state) = &mut self.long.state {
            state.write_all();
        }
        let totals = self.programs.as_mut().map(Programs::totals).transpose()?;
        // Last, for it may take seconds in which nobody reads the ring.
        let risks = match self.risks {
            Some(look) => Some(look.run().await),
            None => None,
        };
        let (findings, forgotten) = self.findings.finish();
        let summary = Summary {
            watched: ended.since(self.started),
            findings,
            forgotten,
            hooks: self.losses.hook_counts(totals),
            undecodable: self.losses.undecodable_total(),
            unasked: u64::try_from(self.tracker.questions_waiting()).unwrap_or(u64::MAX),
            risks,
        };
        let (clocks, at) = (clock::both(), clock::now());
        let recorded = self.tracker.finish(at, clocks, &summary);
        Ok(Ended { summary, at, clocks, recorded, coverage: self.coverage, _programs: self.programs })
    }
}
