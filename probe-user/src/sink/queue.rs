//! What lies between the probe and its sinks: one bounded queue of records, of which each sink reads at its own pace.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::broadcast::{
    self,
    error::{RecvError, TryRecvError},
};

use crate::report::{
    Printable,
    record::{Body, Record},
};

/// Records kept for sinks that are behind, some 4 kB each. A sink that falls behind by more loses the oldest.
const CAPACITY: usize = 4_096;
/// The same of connections that are over, some 2 kB each: they come by the thousand, and take no other record's place.
const CONNECTIONS: usize = 8_192;

/// A record, and its line.
#[derive(Debug)]
pub(super) struct Entry {
    /// The record.
    pub(super) record: Record,
    /// It as JSON, with the line's end.
    pub(super) line: String,
    /// The `seq` of the record before it of the same kind: connections that are over, or all others.
    previous: Option<u64>,
}

fn line(record: &Record) -> serde_json::Result<String> {
    let mut line = Printable::json(&serde_json::to_string(record)?).into_string();
    line.push('\n');
    Ok(line)
}

/// The probe's end: writing never waits.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    records: Sender,
    connections: Sender,
}

#[derive(Clone, Debug)]
struct Sender {
    sender: broadcast::Sender<Arc<Entry>>,
    /// How many records there were, with all of other kinds, when the latest was sent; 0 before the first.
    sent: Arc<AtomicU64>,
}

impl Sender {
    fn new(capacity: usize) -> Self {
        Self { sender: broadcast::Sender::new(capacity), sent: Arc::default() }
    }
}

impl Queue {
    pub(super) fn new() -> Self {
        Self { records: Sender::new(CAPACITY), connections: Sender::new(CONNECTIONS) }
    }

    /// Hands a record to all sinks. Without any it goes nowhere.
    pub(super) fn publish(&self, record: Record) -> serde_json::Result<()> {
        let line = line(&record)?;
        let Sender { sender, sent } =
            if matches!(record.body, Body::Connection(_)) { &self.connections } else { &self.records };
        let previous = sent.swap(record.envelope.seq.saturating_add(1), Ordering::Relaxed).checked_sub(1);
        // Fails only when no sink reads.
        let _ = sender.send(Arc::new(Entry { record, line, previous }));
        Ok(())
    }

    /// A sink's end, which gets what is published from now on.
    pub(super) fn reader(&self, counts: &Arc<Counts>) -> Reader {
        let lane = |from: &Sender| Lane::new(from.sender.subscribe(), Arc::clone(counts));
        Reader { records: lane(&self.records), connections: lane(&self.connections), counts: Arc::clone(counts) }
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
    records: Lane,
    connections: Lane,
    counts: Arc<Counts>,
}

/// Its end for one kind of record.
#[derive(Debug)]
struct Lane {
    receiver: broadcast::Receiver<Arc<Entry>>,
    counts: Arc<Counts>,
    /// Taken, and not given to the sink yet.
    ahead: Option<Arc<Entry>>,
    /// Records lost since the last that was written.
    behind: u64,
    has_ended: bool,
}

/// What a sink is to write next.
#[derive(Clone, Debug)]
pub(super) struct Next {
    /// The record.
    pub(super) entry: Arc<Entry>,
    /// How many of its kind before it the sink has lost.
    pub(super) lost: u64,
}

impl Lane {
    fn new(receiver: broadcast::Receiver<Arc<Entry>>, counts: Arc<Counts>) -> Self {
        Self { receiver, counts, ahead: None, behind: 0, has_ended: false }
    }

    /// Takes the next record of those that are there already.
    fn look(&mut self) {
        while self.ahead.is_none() && !self.has_ended {
            match self.receiver.try_recv() {
                Ok(entry) => self.ahead = Some(entry),
                Err(TryRecvError::Lagged(count)) => self.lose(count),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Closed) => self.has_ended = true,
            }
        }
    }

    /// Waits until there is something to look at; for ever when nothing will be. Cancel-safe.
    async fn wait(&mut self) {
        if self.has_ended {
            std::future::pending::<()>().await;
        }
        match self.receiver.recv().await {
            Ok(entry) => self.ahead = Some(entry),
            Err(RecvError::Lagged(count)) => self.lose(count),
            Err(RecvError::Closed) => self.has_ended = true,
        }
    }

    fn lose(&mut self, count: u64) {
        self.behind += count;
        self.counts.dropped.fetch_add(count, Ordering::Relaxed);
    }

    fn seq(&self) -> Option<u64> {
        self.ahead.as_ref().map(|entry| entry.record.envelope.seq)
    }

    fn take(&mut self) -> Option<Next> {
        let entry = self.ahead.take()?;
        Some(Next { entry, lost: std::mem::take(&mut self.behind) })
    }
}

impl Reader {
    /// The next record; `None` when there will be none.
    pub(super) async fn next(&mut self) -> Option<Next> {
        loop {
            if let Some(next) = self.next_at_hand() {
                return Some(next);
            }
            if self.records.has_ended && self.connections.has_ended {
                return None;
            }
            tokio::select! {
                () = self.records.wait() => {}
                () = self.connections.wait() => {}
            }
        }
    }

    /// The next record of those that are there already, in the order of their `seq`.
    pub(super) fn next_at_hand(&mut self) -> Option<Next> {
        self.records.look();
        self.connections.look();
        // Whatever was published before a connection that is there now is there by now, too; what comes now may come behind another
        // connection.
        if self.connections.seq().is_some() {
            self.records.look();
        }
        match (self.records.seq(), self.connections.seq()) {
            (Some(record), Some(connection)) if connection < record => self.connections.take(),
            (Some(_), _) => self.records.take(),
            (None, _) => self.connections.take(),
        }
    }

    /// What was taken could not be written.
    pub(super) fn give_up(&mut self, next: &Next) {
        let is_connection = matches!(next.entry.record.body, Body::Connection(_));
        let lane = if is_connection { &mut self.connections } else { &mut self.records };
        lane.behind += next.lost;
        lane.lose(1);
    }

    /// So many of what was taken were not kept; of which kind they were is not told.
    pub(super) fn lose(&mut self, count: u64) {
        self.records.lose(count);
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
        let record = self.entry.record.sink_loss(self.entry.previous?, self.lost);
        let line = line(&record).ok()?;
        Some((record, line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{ClosedConnection, ConnectionKey, LossPlace, MonoTime, TcpState},
        report::{Host, WallClock, record::Recorder},
    };

    fn closed() -> ClosedConnection {
        let end = ([10, 0, 0, 1], 80).into();
        let key = ConnectionKey { netns: 7, local: end, remote: end };
        ClosedConnection::unseen(MonoTime::default(), key, TcpState::LastAck)
    }

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

    #[tokio::test]
    async fn connections_that_end_take_no_other_records_place() {
        let (queue, mut recorder) = (Queue::new(), recorder());
        let counts = Arc::default();
        let mut reader = queue.reader(&counts);
        queue.publish(recorder.loss(MonoTime::default(), LossPlace::Decode, 1)).unwrap();
        for _ in 0..CONNECTIONS + 3 {
            queue.publish(recorder.connection(&closed(), None, &[])).unwrap();
        }
        queue.publish(recorder.loss(MonoTime::default(), LossPlace::Decode, 2)).unwrap();
        let first = reader.next().await.unwrap();
        assert_eq!((first.entry.record.envelope.seq, first.lost), (0, 0));
        let second = reader.next().await.unwrap();
        assert_eq!((second.entry.record.envelope.seq, second.lost), (4, 3));
        let (loss, _) = second.loss().unwrap();
        assert_eq!(loss.envelope.seq, 3);
        drop(queue);
        let mut seqs = Vec::new();
        while let Some(next) = reader.next().await {
            seqs.push(next.entry.record.envelope.seq);
        }
        assert!(seqs.is_sorted(), "in the order of their numbers");
        assert_eq!(seqs.len(), CONNECTIONS);
    }
}
