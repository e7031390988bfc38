//! What lies between the probe and its sinks: one bounded queue of records, of which each sink reads at its own pace.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::broadcast::{
    self,
    error::{RecvError, TryRecvError},
};

use crate::report::record::Record;

/// Records kept for sinks that are behind, some 4 kB each. A sink that falls behind by more loses the oldest.
const CAPACITY: usize = 4_096;

/// A record, and its line.
#[derive(Debug)]
pub(super) struct Entry {
    /// The record.
    pub(super) record: Record,
    /// It as JSON, with the line's end.
    pub(super) line: String,
}

/// The probe's end: writing never waits.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    sender: broadcast::Sender<Arc<Entry>>,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self { sender: broadcast::Sender::new(CAPACITY) }
    }

    /// Hands a record to all sinks. Without any it goes nowhere.
    pub(super) fn publish(&self, record: Record) -> serde_json::Result<()> {
        let mut line = serde_json::to_string(&record)?;
        line.push('\n');
        // Fails only when no sink reads.
        let _ = self.sender.send(Arc::new(Entry { record, line }));
        Ok(())
    }

    /// A sink's end, which gets what is published from now on.
    pub(super) fn reader(&self, counts: &Arc<Counts>) -> Reader {
        Reader { receiver: self.sender.subscribe(), counts: Arc::clone(counts), behind: 0 }
    }
}

/// What a sink has done.
#[derive(Debug, Default)]
pub struct Counts {
    written: AtomicU64,
    dropped: AtomicU64,
    errors: AtomicU64,
}

impl Counts {
    /// Records written; by a sink with several readers to any of them.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Records not written, for the sink was behind or failed.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// How often writing failed.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    pub(super) fn add_written(&self) {
        self.written.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }
}

/// A sink's end of the queue.
#[derive(Debug)]
pub(super) struct Reader {
    receiver: broadcast::Receiver<Arc<Entry>>,
    counts: Arc<Counts>,
    /// Records lost since the last that was written.
    behind: u64,
}

/// What a sink is to write next.
#[derive(Clone, Debug)]
pub(super) struct Next {
    /// The record.
    pub(super) entry: Arc<Entry>,
    /// How many before it the sink has lost.
    pub(super) lost: u64,
}

impl Reader {
    /// The next record; `None` when there will be none.
    pub(super) async fn next(&mut self) -> Option<Next> {
        loop {
            let received = self.receiver.recv().await;
            if let Some(next) = self.take(received) {
                return next;
            }
        }
    }

    /// The next record of those that are there already.
    pub(super) fn next_at_hand(&mut self) -> Option<Next> {
        loop {
            match self.receiver.try_recv() {
                Ok(entry) => return Some(Next { entry, lost: std::mem::take(&mut self.behind) }),
                Err(TryRecvError::Lagged(count)) => self.lose(count),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
            }
        }
    }

    fn take(&mut self, received: Result<Arc<Entry>, RecvError>) -> Option<Option<Next>> {
        match received {
            Ok(entry) => Some(Some(Next { entry, lost: std::mem::take(&mut self.behind) })),
            Err(RecvError::Closed) => Some(None),
            Err(RecvError::Lagged(count)) => {
                self.lose(count);
                None
            }
        }
    }

    /// What was taken could not be written.
    pub(super) fn give_up(&mut self, next: &Next) {
        self.behind += next.lost;
        self.lose(1);
    }

    /// So many of what was taken were not kept.
    pub(super) fn lose(&mut self, count: u64) {
        self.behind += count;
        self.counts.dropped.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }
}

impl Next {
    /// What is to be written: before the record one that says what was lost, if anything was.
    pub(super) fn lines(&self) -> String {
        match self.loss() {
            Some((_, line)) => line + &self.entry.line,
            None => self.entry.line.clone(),
        }
    }

    /// A record in place of those that were lost, and its line.
    pub(super) fn loss(&self) -> Option<(Record, String)> {
        if self.lost == 0 {
            return None;
        }
        let record = self.entry.record.sink_loss(self.lost)?;
        let line = serde_json::to_string(&record).ok()? + "\n";
        Some((record, line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{LossPlace, MonoTime},
        report::{Host, WallClock, record::Recorder},
    };

    fn recorder() -> Recorder {
        let host = Host { name: "a".to_owned(), machine_id: None, boot_id: uuid::Uuid::nil() };
        Recorder::new(host, WallClock::aligned(MonoTime::default(), jiff::Timestamp::UNIX_EPOCH))
    }

    #[tokio::test]
    async fn a_sink_that_falls_behind_is_told_what_it_has_lost_and_keeps_nobody_waiting() {
        const MORE: usize = 10;
        let (queue, mut recorder) = (Queue::new(), recorder());
        let counts = Arc::default();
        let mut reader = queue.reader(&counts);
        for _ in 0..CAPACITY + MORE {
            queue.publish(recorder.loss(MonoTime::default(), LossPlace::Decode, 1)).unwrap();
        }
        let next = reader.next().await.unwrap();
        assert_eq!((next.lost, counts.dropped()), (10, 10));
        let lines = next.lines();
        let (loss, record) = lines.split_once('\n').unwrap();
        let loss: serde_json::Value = serde_json::from_str(loss).unwrap();
        assert_eq!((&loss["place"], &loss["count"], &loss["seq"]), (&"sink".into(), &10.into(), &9.into()));
        assert!(record.contains("\"seq\":10,"), "{record}");
        reader.give_up(&next);
        assert_eq!(reader.next().await.unwrap().lost, 11);
        drop(queue);
        let mut rest = 0;
        while reader.next().await.is_some() {
            rest += 1;
        }
        assert_eq!((rest, counts.dropped()), (CAPACITY - 2, 11));
    }
}
