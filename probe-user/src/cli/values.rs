//! Values as they are typed, on the command line and in a file of settings alike.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::Error as _};

/// A port.
pub(super) fn port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| "a port is a number from 1 to 65535".to_owned())
}

/// More makes no sense, and clocks cannot add just anything.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// How often to scan; `None` for never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ScanEvery(pub(super) Option<Duration>);

impl FromStr for ScanEvery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        /// A scan locks every socket for a moment; a host with many takes a fifth of a second.
        const SHORTEST: Duration = Duration::from_millis(500);
        if text == "never" {
            return Ok(Self(None));
        }
        match humantime::parse_duration(text) {
            Ok(time) if (SHORTEST..=LONGEST).contains(&time) => Ok(Self(Some(time))),
            Ok(_) => Err("scans come at least half a second apart, and at most a year".to_owned()),
            Err(error) => Err(format!("{error}; give a number with a unit, for example 5s, or never")),
        }
    }
}

/// A prefix, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PeerPrefix(pub(super) IpNet);

impl FromStr for PeerPrefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let prefix = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        prefix.map(Self).map_err(|_| {
            "not an address prefix; give for example 10.3.0.0/24, 2001:db8::/32, or a single address".to_owned()
        })
    }
}

impl<'de> Deserialize<'de> for PeerPrefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A time of at least a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Period(pub(super) Duration);

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match humantime::parse_duration(text) {
            Ok(time) if (Duration::from_secs(1)..=LONGEST).contains(&time) => Ok(Self(time)),
            Ok(_) => Err("at least 1s, at most a year".to_owned()),
            Err(error) => Err(format!("{error}; give a number with a unit, for example 30s or 5m")),
        }
    }
}

/// Where to listen; `None` for nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listen(pub(super) Option<SocketAddr>);

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        let address = text.parse().map_err(|_| {
            "not an address and a port; give for example 127.0.0.1:9758, [::1]:9758, or none".to_owned()
        })?;
        Ok(Self(Some(address)))
    }
}

/// A size in bytes; `None` for never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) Option<u64>);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "never" {
            return Ok(Self(None));
        }
        match text.parse::<bytesize::ByteSize>() {
            Ok(size) if size.as_u64() > 0 => Ok(Self(Some(size.as_u64()))),
            Ok(_) | Err(_) => Err("not a size; give for example 100MiB, 500kB, or never".to_owned()),
        }
    }
}
