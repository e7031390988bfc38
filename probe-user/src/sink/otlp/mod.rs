//! Log records for an OpenTelemetry collector.
//!
//! Records are sent in batches, one after the other. What cannot be sent now is kept: the batch here, and in the queue as many records as
//! that holds for every sink.

mod client;
mod log_record;
mod retry;
mod spec;

use std::{
    io,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use prost::Message as _;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{
    control::{Command, Control},
    queue::{Next, Reader},
};
pub(super) use client::Client;
use client::Outcome;
use retry::Backoff;
pub use spec::{OtlpEndpoint, OtlpSpec};

/// Log records in one request: what OpenTelemetry's own batches hold by default (`OTEL_BLRP_MAX_EXPORT_BATCH_SIZE`).
const MOST_RECORDS: usize = 512;
/// Bytes after which a batch takes no more records: half of what nginx lets through by default (`client_max_body_size`).
const MOST_BYTES: usize = 512 << 10;
/// How long a record waits for others: OpenTelemetry's default (`OTEL_BLRP_SCHEDULE_DELAY`).
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// How long it may take at the end to send what is there: somewhat less than all sinks have.
const AT_THE_END: Duration = Duration::from_secs(4);

/// Records that are sent together.
#[derive(Default)]
struct Batch {
    taken: Vec<Next>,
    log_records: Vec<LogRecord>,
    bytes: usize,
    /// When it is sent at the latest; `None` while it is empty.
    due: Option<Instant>,
}

impl Batch {
    fn push(&mut self, next: Next) {
        let observed = SystemTime::now();
        let loss = next.loss().map(|(loss, _)| log_record::log_record(&loss, observed));
        for log_record in loss.into_iter().chain([log_record::log_record(&next.entry.record, observed)]) {
            self.bytes += log_record.encoded_len();
            self.log_records.push(log_record);
        }
        self.due.get_or_insert_with(|| Instant::now() + LONGEST_WAIT);
        self.taken.push(next);
    }

    const fn is_full(&self) -> bool {
        self.log_records.len() >= MOST_RECORDS || self.bytes >= MOST_BYTES
    }

    /// It as it is sent.
    fn encode(&mut self) -> Bytes {
        let log_records = std::mem::take(&mut self.log_records);
        let host = self.taken.first().map(|next| &next.entry.record.envelope.host);
        host.map(|host| log_record::request(host, log_records).encode_to_vec()).unwrap_or_default().into()
    }
}

/// Sends records, one batch after the other.
pub(super) struct Exporter {
    client: Client,
    backoff: Backoff,
    /// Until when it may go on; `None` while there is no end to it.
    until: Option<Instant>,
    /// Records that there was no time left for.
    lost_at_the_end: usize,
}

impl Exporter {
    pub(super) fn new(spec: OtlpSpec) -> io::Result<Self> {
        Ok(Self { client: Client::new(spec)?, backoff: Backoff::default(), until: None, lost_at_the_end: 0 })
    }

    /// Sends until it is told to end.
    pub(super) async fn run(mut self, mut control: Control, mut reader: Reader) {
        loop {
            let mut batch = self.gather(&mut control, &mut reader).await;
            if batch.taken.is_empty() {
                break;
            }
            self.deliver(&mut batch, &mut control, &mut reader).await;
        }
        if self.lost_at_the_end > 0 {
            let records = self.lost_at_the_end;
            tracing::error!(sink = %control.spec, records, "records could not be sent before the end, and are lost");
        }
    }

    /// The next batch, which is empty when there will be none.
    async fn gather(&mut self, control: &mut Control, reader: &mut Reader) -> Batch {
        let mut batch = Batch::default();
        while !batch.is_full() {
            if self.until.is_some() {
                // All were handed out before the end was told.
                match reader.next_at_hand() {
                    Some(next) => batch.push(next),
                    None => break,
                }
                continue;
            }
            let due = batch.due;
            tokio::select! {
                biased;
                command = control.commands.recv() => self.obey(command, control),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => break,
                next = reader.next() => match next {
                    Some(next) => batch.push(next),
                    None => self.end(),
                },
            }
        }
        batch
    }

    /// Sends a batch, as often as that makes sense.
    async fn deliver(&mut self, batch: &mut Batch, control: &mut Control, reader: &mut Reader) {
        let request = batch.encode();
        loop {
            let asked_for = match self.send(request.clone(), control).await {
                Outcome::Accepted { rejected, message } => {
                    self.backoff.reset();
                    return accepted(batch, rejected, &message, control, reader);
                }
                Outcome::Refused { why } => {
                    self.backoff.reset();
                    control.fails(why);
                    return batch.taken.iter().for_each(|next| reader.give_up(next));
                }
                Outcome::Later { why, asked_for } => {
                    control.fails(why);
                    asked_for
                }
            };
            let random = getrandom::u32().unwrap_or(u32::MAX);
            let until = Instant::now() + self.backoff.next(asked_for, random);
            if !self.wait(until, control).await {
                self.lost_at_the_end += batch.taken.len();
                return batch.taken.iter().for_each(|next| reader.give_up(next));
            }
        }
    }

    /// Sends it once.
    async fn send(&mut self, request: Bytes, control: &mut Control) -> Outcome {
        let mut sending = std::pin::pin!(self.client.clone().send(request));
        while self.until.is_none() {
            tokio::select! {
                outcome = &mut sending => return outcome,
                command = control.commands.recv() => self.obey(command, control),
            }
        }
        let until = self.until.unwrap_or_else(Instant::now);
        let too_late = || Outcome::Later { why: "no response before the end".to_owned(), asked_for: None };
        timeout_at(until, sending).await.unwrap_or_else(|_| too_late())
    }

    /// Waits until then, or something has changed, and says whether there is time for another attempt.
    async fn wait(&mut self, until: Instant, control: &mut Control) -> bool {
        if let Some(end) = self.until {
            sleep_until(until.min(end)).await;
            return until < end;
        }
        tokio::select! {
            () = sleep_until(until) => {}
            command = control.commands.recv() => self.obey(command, control),
        }
        true
    }

    fn obey(&mut self, command: Option<Command>, control: &mut Control) {
        match command {
            // Somebody has looked after things: the next attempt comes at once.
            Some(Command::Reopen) => self.backoff.reset(),
            Some(Command::Collector(collector)) => (control.spec, self.client) = *collector,
            Some(Command::Change(spec)) => control.spec = spec,
            Some(Command::Finish | Command::Stop) | None => self.end(),
        }
    }

    fn end(&mut self) {
        self.until = Some(Instant::now() + AT_THE_END);
        self.backoff.reset();
    }
}

/// Counts what a collector has taken.
fn accepted(batch: &Batch, rejected: u64, message: &str, control: &Control, reader: &mut Reader) {
    let records = batch.taken.len() as u64;
    let rejected = rejected.min(records);
    (rejected..records).for_each(|_| reader.counts().add_written());
    if rejected > 0 {
        reader.lose(rejected);
        control.fails(format!("the collector rejects {rejected} of {records} records: {message}"));
        return;
    }
    if !message.is_empty() {
        tracing::warn!(sink = %control.spec, message, "the collector has taken all records and has something to say");
    }
    control.health.take(&control.spec, Ok(()));
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Read as _, Write as _},
        net::TcpListener,
        thread::sleep,
    };

    use opentelemetry_proto::tonic::{collector::logs::v1::ExportLogsServiceRequest, common::v1::any_value::Value};

    use super::*;
    use crate::{
        model::{LossPlace, MonoTime},
        report::{Host, WallClock, record::Recorder},
        sink::{SinkSpec, Sinks},
    };

    /// Longer than anything takes on a starved machine.
    const LONG: Duration = Duration::from_secs(60);

    fn wait(is_so: impl Fn() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < LONG, "it has not come");
            sleep(Duration::from_millis(10));
        }
    }

    /// Takes requests until so many log records have come.
    fn collect(listener: &TcpListener, wanted: usize) -> Vec<Vec<LogRecord>> {
        let mut batches: Vec<Vec<LogRecord>> = Vec::new();
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut input = BufReader::new(stream.try_clone().unwrap());
        while batches.iter().map(Vec::len).sum::<usize>() < wanted {
            let head: Vec<_> = (&mut input).lines().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
            let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let mut body = vec![0; length.parse().unwrap()];
            input.read_exact(&mut body).unwrap();
            let request = ExportLogsServiceRequest::decode(body.as_slice()).unwrap();
            batches.push(request.resource_logs[0].scope_logs[0].log_records.clone());
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        }
        batches
    }

    fn number(record: &LogRecord, name: &str) -> Option<i64> {
        let value = &record.attributes.iter().find(|attribute| attribute.key == name)?.value;
        match value.as_ref()?.value.as_ref()? {
            Value::IntValue(number) => Some(*number),
            _ => None,
        }
    }

    #[test]
    fn a_collector_that_was_away_for_long_gets_the_latest_and_is_told_how_many_it_missed() {
        const KEPT: usize = 4_096;
        const MORE: usize = 700;
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let endpoint = format!("http://{address}").parse().unwrap();
        let spec = OtlpSpec { endpoint, headers: http::HeaderMap::new(), timeout: LONG };
        let sinks = Sinks::start(&[SinkSpec::Otlp(spec)]).unwrap();
        let host = Host { name: "a".to_owned(), machine_id: None, boot_id: uuid::Uuid::nil() };
        let clock = WallClock::aligned(MonoTime::default(), jiff::Timestamp::UNIX_EPOCH);
        let mut recorder = Recorder::new(host, clock);
        let mut loss = || recorder.loss(MonoTime::default(), LossPlace::Decode, 1);
        sinks.publish(loss()).unwrap();
        // The first batch is in hand.
        wait(|| sinks.health().next().unwrap().1.failing().is_some());
        (0..KEPT + MORE).for_each(|_| sinks.publish(loss()).unwrap());
        let listener = TcpListener::bind(address).unwrap();
        let (collected, batches) = std::sync::mpsc::channel();
        // A thread that panics hands nothing on.
        std::thread::spawn(move || collected.send(collect(&listener, 1 + 1 + KEPT)));
        sinks.reopen();
        let batches = batches.recv_timeout(LONG).unwrap();
        assert!(batches.iter().all(|batch| batch.len() <= MOST_RECORDS + 1), "none is too large");
        let seqs: Vec<_> = batches.concat().iter().map(|record| number(record, "connprobe.seq").unwrap()).collect();
        let missed = MORE as i64;
        let wanted: Vec<_> = [0, missed].into_iter().chain(missed + 1..=missed + KEPT as i64).collect();
        assert_eq!(seqs, wanted);
        assert_eq!(number(&batches[1][0], "connprobe.count"), Some(missed));
        let health = sinks.health().next().unwrap().1;
        wait(|| health.counts.written() > KEPT as u64);
        assert_eq!((health.counts.dropped(), health.failing()), (MORE as u64, None));
        sinks.finish();
    }
}
