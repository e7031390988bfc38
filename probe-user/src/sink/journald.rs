//! systemd's journal, by its native protocol: a sentence for people, and the record with its most wanted fields apart.

use std::io;

use libsystemd::logging::{Priority, journal_send};

use super::{
    headline::{Urgency, community_id, ends, message, socket, urgency},
    queue::Next,
};
use crate::report::record::{Body, Record};

/// Writes a record, and before it what was lost, which then is lost no more.
pub(super) fn write(next: &mut Next) -> io::Result<()> {
    write_by(next, send)
}

fn write_by(next: &mut Next, send: impl Fn(&Record, &str) -> io::Result<()>) -> io::Result<()> {
    if let Some((loss, line)) = next.loss() {
        send(&loss, &line)?;
        // Whatever becomes of the record: this is told, and not to be told again with it.
        next.lost = 0;
    }
    send(&next.entry.record, &next.entry.line)
}

/// Sends one record.
fn send(record: &Record, line: &str) -> io::Result<()> {
    let mut fields = vec![
        ("SYSLOG_IDENTIFIER", "connprobe".to_owned()),
        ("CONNPROBE_TYPE", record.envelope.kind.to_owned()),
        ("CONNPROBE_SEQ", record.envelope.seq.to_string()),
        ("CONNPROBE_RECORD", line.trim_end().to_owned()),
    ];
    if let Body::Finding(finding) = &record.body {
        let (from, to) = ends(finding);
        fields.extend([
            ("CONNPROBE_FINDING_ID", finding.finding_id.to_string()),
            ("CONNPROBE_STATE", finding.state.to_owned()),
            ("CONNPROBE_VERDICT", finding.verdict.to_owned()),
            ("CONNPROBE_CAUSE", finding.cause.to_owned()),
            ("CONNPROBE_CONFIDENCE", finding.confidence.to_owned()),
            ("CONNPROBE_VANTAGE", finding.vantage.to_owned()),
            ("CONNPROBE_COMMUNITY_ID", community_id(finding).to_owned()),
            ("CONNPROBE_LOCAL", from),
            ("CONNPROBE_REMOTE", to),
        ]);
    }
    if let Body::Connection(closed) = &record.body {
        fields.extend([
            ("CONNPROBE_OUTCOME", closed.outcome.to_owned()),
            ("CONNPROBE_COMMUNITY_ID", closed.connection.community_id.clone()),
            ("CONNPROBE_LOCAL", socket(&closed.connection.local)),
            ("CONNPROBE_REMOTE", socket(&closed.connection.remote)),
        ]);
    }
    journal_send(priority(urgency(record)), &message(record), fields.into_iter()).map_err(io::Error::other)
}

fn priority(urgency: Urgency) -> Priority {
    match urgency {
        Urgency::Debug => Priority::Debug,
        Urgency::Information => Priority::Info,
        Urgency::Notice => Priority::Notice,
        Urgency::Warning => Priority::Warning,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        model::{LossPlace, MonoTime},
        report::{Host, WallClock, record::Recorder},
        sink::queue::{Counts, Queue},
    };

    #[tokio::test]
    async fn a_loss_that_was_told_is_not_told_again_with_the_record_after_it() {
        let host = Host { name: "a".to_owned(), machine_id: None, boot_id: uuid::Uuid::nil() };
        let mut recorder = Recorder::new(host, WallClock::aligned(MonoTime::default(), jiff::Timestamp::UNIX_EPOCH));
        let (queue, counts) = (Queue::new(), Arc::<Counts>::default());
        let mut reader = queue.reader(&counts);
        (0..4).for_each(|_| queue.publish(recorder.loss(MonoTime::default(), LossPlace::Decode, 1)).unwrap());
        let is_loss = |record: &Record| matches!(&record.body, Body::Loss(loss) if loss.place == "sink");
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let mut lost = Vec::new();
        for takes_losses in [false, false, true, true] {
            let mut next = reader.next().await.unwrap();
            lost.push(next.lost);
            let send = |record: &Record, _: &str| if takes_losses && is_loss(record) { Ok(()) } else { Err(full()) };
            write_by(&mut next, send).unwrap_err();
            reader.give_up(&next);
        }
        // The third was told of the two before it; the fourth is told of the third alone.
        assert_eq!((lost, counts.dropped()), (vec![0, 1, 2, 1], 4));
    }
}
