//! Lines a child prints, collected while it runs.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::registry::lock;

/// Lines kept of one stream: far above what a test reads, far below what would hurt the machine.
const MAX_LINES: usize = 200_000;

/// The lines of one stream, read by a thread of its own until the end of the stream.
#[derive(Clone, Debug)]
pub(crate) struct Lines {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    collected: Mutex<Collected>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Collected {
    lines: Vec<Line>,
    /// Lines beyond [`MAX_LINES`].
    discarded: usize,
    ended: bool,
}

/// One line without its line break.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) text: String,
    /// The line as JSON, if it is a JSON object.
    pub(crate) object: Option<Value>,
    taken: bool,
}

/// Why no line was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missed {
    /// The time is over.
    Timeout,
    /// The stream ended before.
    Ended,
}

impl Lines {
    /// Begins to read.
    pub(crate) fn collect(stream: impl Read + Send + 'static) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let writer = Arc::clone(&shared);
        let read = move || {
            let mut reader = BufReader::new(stream);
            let mut bytes = Vec::new();
            // An error of a pipe is its end.
            while matches!(reader.read_until(b'\n', &mut bytes), Ok(1..)) {
                writer.add(String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']));
                bytes.clear();
            }
            lock(&writer.collected).ended = true;
            writer.changed.notify_all();
        };
        thread::Builder::new().name("lines".to_owned()).spawn(read).context("cannot start a thread")?;
        Ok(Self { shared })
    }

    /// The first line that is wanted and was not taken before; waits for it. Lines not wanted stay for later calls.
    pub(crate) fn take(&self, timeout: Duration, mut wanted: impl FnMut(&Line) -> bool) -> Result<Line, Missed> {
        let start = Instant::now();
        let mut looked_at = 0;
        let mut collected = lock(&self.shared.collected);
        loop {
            for line in collected.lines.iter_mut().skip(looked_at) {
                if !line.taken && wanted(line) {
                    line.taken = true;
                    return Ok(line.clone());
                }
            }
            looked_at = collected.lines.len();
            let left = timeout.saturating_sub(start.elapsed());
            if collected.ended {
                return Err(Missed::Ended);
            }
            if left.is_zero() {
                return Err(Missed::Timeout);
            }
            let waited = self.shared.changed.wait_timeout(collected, left);
            collected = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for the end of the stream; false if it has not come in time.
    pub(crate) fn wait_end(&self, timeout: Duration) -> bool {
        self.take(timeout, |_| false).err() == Some(Missed::Ended)
    }

    /// The JSON objects so far, taken or not.
    pub(crate) fn objects(&self) -> Vec<Value> {
        lock(&self.shared.collected).lines.iter().filter_map(|line| line.object.clone()).collect()
    }

    /// Everything so far, each line with its line break.
    pub(crate) fn text(&self) -> String {
        let collected = lock(&self.shared.collected);
        let mut text: String = collected.lines.iter().flat_map(|line| [line.text.as_str(), "\n"]).collect();
        if collected.discarded > 0 {
            text.push_str(&format!("[{} more lines were discarded]\n", collected.discarded));
        }
        text
    }

    /// The last lines, for an error message.
    pub(crate) fn tail(&self, count: usize) -> String {
        let collected = lock(&self.shared.collected);
        let skipped = collected.lines.len().saturating_sub(count);
        let lines: Vec<&str> = collected.lines.iter().skip(skipped).map(|line| line.text.as_str()).collect();
        lines.join("\n")
    }
}

impl Shared {
    fn add(&self, text: &str) {
        let object = serde_json::from_str::<Value>(text).ok().filter(Value::is_object);
        let mut collected = lock(&self.collected);
        if collected.lines.len() < MAX_LINES {
            collected.lines.push(Line { text: text.to_owned(), object, taken: false });
        } else {
            collected.discarded += 1;
        }
        drop(collected);
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn a_line_is_taken_once_and_others_stay() {
        let lines = Lines::collect("a\n{\"n\":1}\na\n".as_bytes()).unwrap();
        assert_eq!(lines.take(LONG, |line| line.object.is_some()).unwrap().text, "{\"n\":1}");
        assert_eq!(lines.take(LONG, |line| line.text == "a").unwrap().text, "a");
        assert_eq!(lines.take(LONG, |line| line.text == "a").unwrap().text, "a");
        assert_eq!(lines.take(LONG, |line| line.text == "a").unwrap_err(), Missed::Ended);
        assert_eq!(lines.text(), "a\n{\"n\":1}\na\n");
        assert_eq!(lines.tail(2), "{\"n\":1}\na");
    }

    #[test]
    fn a_line_that_does_not_come_is_missed_in_time() {
        let (reader, writer) = std::io::pipe().unwrap();
        let lines = Lines::collect(reader).unwrap();
        assert_eq!(lines.take(Duration::from_millis(20), |_| true).unwrap_err(), Missed::Timeout);
        drop(writer);
        assert!(lines.wait_end(LONG));
    }
}
