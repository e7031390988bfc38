//! One connection: what it waits for, and what it does when that comes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::poll::PollFlags;
use serde_json::{Value, json};

use crate::arguments::{Mode, Traffic};
use crate::{event, socket};

/// Bytes read or written at once.
const CHUNK: usize = 64 * 1024;
/// Bytes a slow reader reads at once, and how long it then rests.
const SLOW_CHUNK: usize = 1024;
const SLOW_REST: Duration = Duration::from_millis(100);

/// A connection from the moment its socket exists until it is closed.
///
/// Drive it so: poll [`Connection::socket`] for [`Connection::interest`] until [`Connection::due`], hand what came to
/// [`Connection::ready`] and the time to [`Connection::tick`].
pub(crate) struct Connection {
    stream: TcpStream,
    local: SocketAddr,
    remote: SocketAddr,
    traffic: Traffic,
    quiet: bool,
    connecting: bool,
    /// Bytes still to be sent back.
    echo: Vec<u8>,
    /// Bytes of no meaning still to be written.
    filler: u64,
    sent: u64,
    received: u64,
    eof: bool,
    /// The error that ended it.
    errno: Option<i32>,
    /// Nothing more can come: it is not polled any longer.
    finished: bool,
    next_write: Option<Instant>,
    next_read: Instant,
}

impl Connection {
    pub(crate) fn accepted(stream: TcpStream, remote: SocketAddr, traffic: Traffic, quiet: bool) -> Result<Self> {
        stream.set_nonblocking(true).context("cannot make a socket non-blocking")?;
        let mut connection = Self::new(stream, remote, traffic, quiet)?;
        connection.connecting = false;
        connection.start("accepted")?;
        Ok(connection)
    }

    pub(crate) fn connecting(stream: TcpStream, remote: SocketAddr, traffic: Traffic) -> Result<Self> {
        let connection = Self::new(stream, remote, traffic, false)?;
        connection.tell("connecting", json!({}))?;
        Ok(connection)
    }

    fn new(stream: TcpStream, remote: SocketAddr, traffic: Traffic, quiet: bool) -> Result<Self> {
        let local = stream.local_addr().context("the socket has no address")?;
        Ok(Self {
            stream,
            local,
            remote,
            traffic,
            quiet,
            connecting: true,
            echo: Vec::new(),
            filler: 0,
            sent: 0,
            received: 0,
            eof: false,
            errno: None,
            finished: false,
            next_write: None,
            next_read: Instant::now(),
        })
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Whether the peer has closed its half and everything owed was sent.
    pub(crate) fn is_done(&self) -> bool {
        self.eof && self.echo.is_empty() && self.filler == 0
    }

    /// What to poll for; `None`: do not poll. Errors are always reported by poll.
    pub(crate) fn interest(&self, now: Instant) -> Option<PollFlags> {
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::POLLIN, self.wants_to_read(now));
        interest.set(PollFlags::POLLOUT, self.connecting || self.filler > 0 || !self.echo.is_empty());
        (!self.finished).then_some(interest)
    }

    /// When [`Connection::tick`] or another poll is due at the latest.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        let rests = self.traffic.mode == Mode::Slow && !self.eof && self.next_read > now;
        let due = self.next_write.into_iter().chain(rests.then_some(self.next_read)).min();
        due.filter(|_| !self.finished)
    }

    /// Begins the next of the repeated writes if its time has come.
    pub(crate) fn tick(&mut self, now: Instant) {
        if let (Some(next), Some(every)) = (self.next_write, self.traffic.write_every)
            && next <= now
        {
            self.filler += self.traffic.write_bytes;
            self.next_write = Some(next + every);
        }
    }

    /// Acts on what poll has reported.
    pub(crate) fn ready(&mut self, flags: PollFlags, now: Instant) -> Result<()> {
        if flags.contains(PollFlags::POLLERR)
            && let Some(error) = self.stream.take_error().context("cannot read SO_ERROR")?
        {
            return self.fail(&error);
        }
        if self.connecting && flags.contains(PollFlags::POLLOUT) {
            self.connecting = false;
            self.start("connected")?;
        }
        if flags.contains(PollFlags::POLLIN) && self.wants_to_read(now) {
            self.read(now)?;
        }
        if flags.contains(PollFlags::POLLOUT) {
            self.write()?;
        }
        // Reported whether wanted or not: after it, poll would return at once for ever.
        if flags.contains(PollFlags::POLLHUP) && !self.wants_to_read(now) {
            self.finished = true;
        }
        Ok(())
    }

    /// Asks for this many bytes to be written; false if it cannot be.
    pub(crate) fn add_filler(&mut self, bytes: u64) -> bool {
        if !self.finished {
            self.filler += bytes;
        }
        !self.finished
    }

    /// Closes this half: a FIN after what is still unsent in the kernel.
    pub(crate) fn shutdown(&mut self) -> Result<()> {
        match self.stream.shutdown(Shutdown::Write) {
            Ok(()) => self.tell("shutdown", json!({})),
            Err(error) => self.fail(&error),
        }
    }

    /// Closes the socket, by a reset if `abort`.
    pub(crate) fn close(self, abort: bool) -> Result<()> {
        if abort {
            socket::reset_on_close(&self.stream)?;
        }
        let fields = self.counts();
        let quiet = self.quiet;
        drop(self.stream);
        if quiet { Ok(()) } else { event::emit(if abort { "aborted" } else { "closed" }, fields) }
    }

    /// Addresses and counts for an event.
    pub(crate) fn counts(&self) -> Value {
        json!({
            "local": self.local, "remote": self.remote, "sent": self.sent, "received": self.received,
            "pending": self.filler + self.echo.len() as u64, "eof": self.eof, "errno": self.errno,
        })
    }

    fn start(&mut self, name: &str) -> Result<()> {
        self.next_write = self.traffic.write_every.map(|every| Instant::now() + every);
        self.tell(name, json!({}))
    }

    fn wants_to_read(&self, now: Instant) -> bool {
        let open = !self.connecting && !self.eof && !self.finished;
        open && match self.traffic.mode {
            Mode::Sink => true,
            Mode::Echo => self.echo.is_empty(),
            Mode::Mute => false,
            Mode::Slow => self.next_read <= now,
        }
    }

    fn read(&mut self, now: Instant) -> Result<()> {
        let mut buffer = vec![0; if self.traffic.mode == Mode::Slow { SLOW_CHUNK } else { CHUNK }];
        match self.stream.read(&mut buffer) {
            Ok(0) => {
                self.eof = true;
                self.tell("eof", json!({}))
            }
            Ok(length) => {
                self.received += length as u64;
                self.next_read = now + SLOW_REST;
                if self.traffic.mode == Mode::Echo {
                    buffer.truncate(length);
                    self.echo = buffer;
                }
                Ok(())
            }
            Err(error) => self.fail(&error),
        }
    }

    fn write(&mut self) -> Result<()> {
        if !self.echo.is_empty() {
            match self.stream.write(&self.echo) {
                Ok(length) => {
                    self.sent += length as u64;
                    self.echo.drain(..length);
                }
                Err(error) => return self.fail(&error),
            }
        } else if self.filler > 0 {
            let length = usize::try_from(self.filler).map_or(CHUNK, |filler| filler.min(CHUNK));
            match self.stream.write(&vec![b'.'; length]) {
                Ok(length) => {
                    self.sent += length as u64;
                    self.filler -= length as u64;
                    if self.filler == 0 && self.next_write.is_none() {
                        self.tell("written", json!({ "sent": self.sent }))?;
                    }
                }
                Err(error) => return self.fail(&error),
            }
        }
        Ok(())
    }

    fn fail(&mut self, error: &io::Error) -> Result<()> {
        if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) {
            return Ok(());
        }
        self.errno = error.raw_os_error();
        self.finished = true;
        let addresses = json!({
            "local": self.local, "remote": self.remote, "errno": self.errno, "message": error.to_string(),
            "during": if self.connecting { "connect" } else { "connection" },
        });
        event::emit("error", addresses)
    }

    fn tell(&self, name: &str, fields: Value) -> Result<()> {
        if self.quiet {
            return Ok(());
        }
        let mut all = json!({ "local": self.local, "remote": self.remote });
        if let (Some(all), Value::Object(fields)) = (all.as_object_mut(), fields) {
            all.extend(fields);
        }
        event::emit(name, all)
    }
}
