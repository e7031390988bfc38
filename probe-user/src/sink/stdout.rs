use std::io::{self, Write as _};

use crate::report::{Printable, record::Record};

/// Why something could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The reader has gone away.
    #[error("standard output was closed by its reader; nothing more can be reported")]
    Closed,
    /// Writing failed, for example on a full disk.
    #[error("standard output cannot be written: {0}")]
    Write(io::Error),
    /// A record could not be turned into JSON.
    #[error("a record could not be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl From<io::Error> for SinkError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::Closed } else { Self::Write(error) }
    }
}

/// Standard output. Everything is flushed as it is written: a reader sees it when it happens.
#[derive(Debug, Default)]
pub struct Stdout;

impl Stdout {
    /// Writes one record as one line.
    ///
    /// # Errors
    ///
    /// When the line could not be written whole.
    pub fn record(&mut self, record: &Record) -> Result<(), SinkError> {
        let mut line = serde_json::to_string(record)?;
        line.push('\n');
        self.text(&Printable::json(&line))
    }

    /// Writes records as one JSON array.
    ///
    /// # Errors
    ///
    /// When the array could not be written whole.
    pub fn array(&mut self, records: &[Record]) -> Result<(), SinkError> {
        let mut text = serde_json::to_string_pretty(records)?;
        text.push('\n');
        self.text(&Printable::json(&text))
    }

    /// Writes text for people.
    ///
    /// # Errors
    ///
    /// When it could not be written whole.
    pub fn text(&mut self, text: &Printable) -> Result<(), SinkError> {
        self.bytes(text.as_bytes())
    }

    /// Writes a file for other programs as it is: none holds a name that is not the program's own.
    ///
    /// # Errors
    ///
    /// When it could not be written whole.
    pub fn document(&mut self, text: &str) -> Result<(), SinkError> {
        self.bytes(text.as_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        Ok(stdout.flush()?)
    }
}
