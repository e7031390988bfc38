//! The command line.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Makes TCP traffic for tests.
#[derive(Debug, Parser)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) task: Task,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Accepts connections
    Listen(Listen),
    /// Makes connections and keeps them
    Connect(Connect),
    /// Makes short connections one after the other: connect, send, read the echo, close
    Churn(Churn),
}

#[derive(Args, Debug)]
pub(crate) struct Listen {
    #[command(flatten)]
    pub(crate) end: End,
    #[command(flatten)]
    pub(crate) traffic: Traffic,
    #[command(flatten)]
    pub(crate) options: Options,
    /// Keep a connection open after the peer has closed its half
    #[arg(long)]
    pub(crate) keep_open: bool,
    /// No events for single connections except errors
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Connect {
    #[command(flatten)]
    pub(crate) end: End,
    #[command(flatten)]
    pub(crate) traffic: Traffic,
    #[command(flatten)]
    pub(crate) options: Options,
    /// How many connections to make
    #[arg(long, default_value_t = 1)]
    pub(crate) count: usize,
    /// Local address, with or without a port
    #[arg(long, value_parser = parse_bind)]
    pub(crate) bind: Option<SocketAddr>,
    /// What the process calls itself, at most 15 bytes
    #[arg(long)]
    pub(crate) comm: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Churn {
    #[command(flatten)]
    pub(crate) end: End,
    /// How many connections
    #[arg(long)]
    pub(crate) count: u64,
    /// Bytes sent and read back on each
    #[arg(long, default_value_t = 64)]
    pub(crate) bytes: usize,
}

/// Address and port: the own ones of a listener, else the other end's.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct End {
    #[arg(long)]
    pub(crate) addr: IpAddr,
    #[arg(long)]
    pub(crate) port: u16,
}

impl End {
    pub(crate) fn address(self) -> SocketAddr {
        SocketAddr::new(self.addr, self.port)
    }
}

/// What happens on an established connection.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Traffic {
    /// What is done with arriving data
    #[arg(long, value_enum, default_value = "sink")]
    pub(crate) mode: Mode,
    /// Write again and again, each so many milliseconds
    #[arg(long, value_parser = parse_milliseconds)]
    pub(crate) write_every: Option<Duration>,
    /// Bytes of each such write
    #[arg(long, default_value_t = 1)]
    pub(crate) write_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Reads and forgets
    Sink,
    /// Sends back
    Echo,
    /// Never reads
    Mute,
    /// Reads a little now and then, through a small buffer
    Slow,
}

/// Socket options, set before connecting or listening.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// `TCP_USER_TIMEOUT` in milliseconds
    #[arg(long)]
    pub(crate) user_timeout_ms: Option<u32>,
    /// Keepalive: seconds idle, seconds between probes, number of probes
    #[arg(long, value_parser = parse_keepalive, value_name = "TIME,INTVL,PROBES")]
    pub(crate) keepalive: Option<Keepalive>,
    /// `IP_TRANSPARENT`: the local address need not be one of this host
    #[arg(long)]
    pub(crate) transparent: bool,
    /// `TCP_DEFER_ACCEPT` in seconds
    #[arg(long)]
    pub(crate) defer_accept_s: Option<u32>,
    /// `TCP_FASTOPEN_CONNECT`
    #[arg(long)]
    pub(crate) fast_open: bool,
    /// `SO_MARK`
    #[arg(long)]
    pub(crate) mark: Option<u32>,
    /// `SO_BINDTODEVICE`
    #[arg(long)]
    pub(crate) device: Option<OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keepalive {
    pub(crate) time_s: u32,
    pub(crate) interval_s: u32,
    pub(crate) probes: u32,
}

fn parse_keepalive(text: &str) -> Result<Keepalive, String> {
    let numbers: Result<Vec<u32>, _> = text.split(',').map(str::parse).collect();
    match numbers.map_err(|error| error.to_string())?.as_slice() {
        &[time_s, interval_s, probes] => Ok(Keepalive { time_s, interval_s, probes }),
        _ => Err("three numbers are wanted".to_owned()),
    }
}

fn parse_bind(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    text.parse().map(|address| SocketAddr::new(address, 0)).map_err(|_| "not an address".to_owned())
}

fn parse_milliseconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(0) => Err("at least one millisecond".to_owned()),
        Ok(milliseconds) => Ok(Duration::from_millis(milliseconds)),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keepalive_is_three_numbers() {
        assert_eq!(parse_keepalive("10,2,3"), Ok(Keepalive { time_s: 10, interval_s: 2, probes: 3 }));
        assert!(parse_keepalive("10,2").is_err() && parse_keepalive("a,2,3").is_err());
    }

    #[test]
    fn a_bind_address_needs_no_port() {
        assert_eq!(parse_bind("10.0.0.1"), Ok("10.0.0.1:0".parse().unwrap()));
        assert_eq!(parse_bind("[fd00::1]:7"), Ok("[fd00::1]:7".parse().unwrap()));
        assert!(parse_bind("host").is_err());
    }
}
