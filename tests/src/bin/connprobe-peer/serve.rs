//! The loop: one thread waits for standard input, the listener, every connection and the next due time at once.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::read;
use serde_json::{Value, json};

use crate::arguments::{Connect, Listen, Traffic};
use crate::connection::Connection;
use crate::{event, socket};

/// Accepts connections until standard input ends.
pub(crate) fn listen(arguments: &Listen) -> Result<()> {
    let listener = socket::listener(arguments)?;
    event::emit("listening", json!({ "local": listener.local_addr()?, "pid": std::process::id() }))?;
    let mut peer = Peer::new(arguments.traffic);
    peer.listener = Some(listener);
    peer.quiet = arguments.quiet;
    peer.closes_after_eof = !arguments.keep_open;
    peer.run()
}

/// Makes connections and obeys until standard input ends.
pub(crate) fn connect(arguments: &Connect) -> Result<()> {
    if let Some(name) = &arguments.comm {
        std::fs::write("/proc/self/comm", name).context("cannot take this name")?;
    }
    let mut peer = Peer::new(arguments.traffic);
    for _ in 0..arguments.count {
        let stream = socket::connecting(arguments)?;
        peer.connections.push(Connection::connecting(stream, arguments.end.address(), arguments.traffic)?);
    }
    peer.run()
}

/// Commands concern every open connection.
struct Peer {
    listener: Option<TcpListener>,
    connections: Vec<Connection>,
    traffic: Traffic,
    quiet: bool,
    closes_after_eof: bool,
    /// Connections accepted so far.
    accepted: u64,
    /// What standard input has brought of an unfinished line.
    line: Vec<u8>,
}

/// What poll has reported.
struct Ready {
    input: bool,
    listener: bool,
    /// One for each connection.
    connections: Vec<PollFlags>,
}

impl Peer {
    fn new(traffic: Traffic) -> Self {
        Self {
            listener: None,
            connections: Vec::new(),
            traffic,
            quiet: false,
            closes_after_eof: false,
            accepted: 0,
            line: Vec::new(),
        }
    }

    fn run(&mut self) -> Result<()> {
        loop {
            let ready = self.wait()?;
            let now = Instant::now();
            for (connection, flags) in self.connections.iter_mut().zip(&ready.connections) {
                connection.ready(*flags, now)?;
                connection.tick(now);
            }
            if self.closes_after_eof {
                let (done, open) = std::mem::take(&mut self.connections).into_iter().partition(Connection::is_done);
                self.connections = open;
                close(done, false)?;
            }
            if ready.listener {
                self.accept()?;
            }
            if ready.input && !self.obey_input()? {
                return Ok(());
            }
        }
    }

    fn wait(&self) -> Result<Ready> {
        let now = Instant::now();
        let input = std::io::stdin();
        // Sockets that are not polled keep their place, so that the answers stay in step.
        let interests: Vec<_> = self.connections.iter().map(|connection| connection.interest(now)).collect();
        let mut polled = vec![PollFd::new(input.as_fd(), PollFlags::POLLIN)];
        polled.extend(self.listener.as_ref().map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN)));
        for (connection, interest) in self.connections.iter().zip(&interests) {
            polled.extend(interest.map(|flags| PollFd::new(connection.socket(), flags)));
        }
        let due = self.connections.iter().filter_map(|connection| connection.due(now)).min();
        match poll(&mut polled, timeout(due, now)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot poll"),
        }
        let mut answers = polled.iter().map(|polled| polled.revents().unwrap_or(PollFlags::empty()));
        let mut next = || answers.next().unwrap_or(PollFlags::empty());
        Ok(Ready {
            input: !next().is_empty(),
            listener: self.listener.is_some() && !next().is_empty(),
            connections: interests.iter().map(|interest| interest.map_or(PollFlags::empty(), |_| next())).collect(),
        })
    }

    fn accept(&mut self) -> Result<()> {
        while let Some(listener) = &self.listener {
            match listener.accept() {
                Ok((stream, remote)) => {
                    self.accepted += 1;
                    self.connections.push(Connection::accepted(stream, remote, self.traffic, self.quiet)?);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The other end was faster in giving up.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error).context("cannot accept"),
            }
        }
        Ok(())
    }

    /// Reads what there is; false at the end of the input.
    fn obey_input(&mut self) -> Result<bool> {
        let mut buffer = [0; 4096];
        let length = read(std::io::stdin(), &mut buffer).context("cannot read standard input")?;
        self.line.extend(buffer.iter().take(length));
        while let Some(end) = self.line.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            self.obey(String::from_utf8_lossy(&line).trim())?;
        }
        Ok(length > 0)
    }

    fn obey(&mut self, command: &str) -> Result<()> {
        match command.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["write", bytes] if let Ok(bytes) = bytes.parse() => {
                let mut written = false;
                for connection in &mut self.connections {
                    written |= connection.add_filler(bytes);
                }
                if written { Ok(()) } else { refuse(command, "no open connection") }
            }
            ["shutdown"] => self.connections.iter_mut().try_for_each(Connection::shutdown),
            ["close"] => close(std::mem::take(&mut self.connections), false),
            ["abort"] => close(std::mem::take(&mut self.connections), true),
            ["close-listener"] => {
                self.listener = None;
                event::emit("listener_closed", json!({}))
            }
            ["status"] => {
                let connections: Vec<Value> = self.connections.iter().map(Connection::counts).collect();
                event::emit("status", json!({ "accepted": self.accepted, "connections": connections }))
            }
            _ => refuse(command, "no such command"),
        }
    }
}

fn close(connections: Vec<Connection>, abort: bool) -> Result<()> {
    connections.into_iter().try_for_each(|connection| connection.close(abort))
}

fn refuse(command: &str, why: &str) -> Result<()> {
    event::emit("refused", json!({ "command": command, "message": why }))
}

/// Milliseconds until the due time, rounded up: rounded down, the last one would be spent spinning.
fn timeout(due: Option<Instant>, now: Instant) -> PollTimeout {
    let Some(due) = due else { return PollTimeout::NONE };
    let left = due.saturating_duration_since(now) + Duration::from_micros(999);
    PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX)
}
