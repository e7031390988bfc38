//! Devices, addresses and routes. What changes several of them at once runs one `ip -batch` for each namespace.

use std::fmt::Write as _;
use std::process::Command;

use anyhow::{Context, Result};

use crate::netlink;
use crate::netns::Netns;

/// One end of a veth pair.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Where the device lives.
    pub netns: &'a Netns,
    /// Its name, at most 15 bytes.
    pub device: &'a str,
    /// Its addresses with prefix lengths, such as `10.0.0.1/24` or `fd00::1/64`; none for a port of a bridge.
    pub addresses: &'a [&'a str],
}

impl<'a> End<'a> {
    /// The device of that name in that namespace, with these addresses.
    #[must_use]
    pub fn new(netns: &'a Netns, device: &'a str, addresses: &'a [&'a str]) -> Self {
        Self { netns, device, addresses }
    }
}

/// Makes a veth pair and brings both ends up; traffic can flow at once (IPv6 without duplicate address detection).
///
/// # Errors
/// With the message of `ip`, for example when a device of that name exists.
pub fn veth(left: &End<'_>, right: &End<'_>) -> Result<()> {
    let pair = format!(
        "link add name {} type veth peer name {} netns {}\n{}",
        left.device,
        right.device,
        right.netns.name(),
        configure(left)
    );
    left.netns.ip(&pair)?;
    right.netns.ip(&configure(right))
}

impl Netns {
    /// Runs commands of `ip`, one a line and without the word `ip`, in one process. The first that fails ends it.
    ///
    /// # Errors
    /// With the message of `ip`.
    pub fn ip(&self, batch: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["-batch", "-"]);
        self.check_output(command, batch).map(drop).with_context(|| batch.trim_end().to_owned())
    }

    /// Makes a bridge that forwards at once, gives it addresses and makes the devices its ports.
    ///
    /// # Errors
    /// With the message of `ip`.
    pub fn bridge(&self, device: &str, ports: &[&str], addresses: &[&str]) -> Result<()> {
        let mut batch = format!("link add name {device} type bridge stp_state 0 forward_delay 0\n");
        for port in ports {
            let _ = writeln!(batch, "link set {port} master {device} up");
        }
        batch.push_str(&configure(&End::new(self, device, addresses)));
        self.ip(&batch)
    }

    /// Switches a device on.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn link_up(&self, device: &str) -> Result<()> {
        self.run(|| netlink::set_link(device, true))?
    }

    /// Switches a device off: the other end of a veth pair loses its carrier. The kernel removes the device's routes; those
    /// to its own networks come back with [`Netns::link_up`], gateways do not. To lose packets and nothing else, drop them
    /// with [`Netns::nft`], or switch off a device between two others.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn link_down(&self, device: &str) -> Result<()> {
        self.run(|| netlink::set_link(device, false))?
    }

    /// Adds an address with prefix length.
    ///
    /// # Errors
    /// With the message of `ip`.
    pub fn add_address(&self, device: &str, address: &str) -> Result<()> {
        self.ip(&add_address(device, address))
    }

    /// Takes an address away, given with prefix length.
    ///
    /// # Errors
    /// With the message of `ip`.
    pub fn del_address(&self, device: &str, address: &str) -> Result<()> {
        self.ip(&format!("address del {address} dev {device}\n"))
    }

    /// Adds a route in the words of `ip route add`, such as `default via 10.0.0.1`; IPv6 is recognised by a colon.
    ///
    /// # Errors
    /// With the message of `ip`.
    pub fn add_route(&self, route: &str) -> Result<()> {
        self.ip(&format!("{}route add {route}\n", family(route)))
    }

    /// Takes a route away, in the words of `ip route del`.
    ///
    /// # Errors
    /// With the message of `ip`.
    pub fn del_route(&self, route: &str) -> Result<()> {
        self.ip(&format!("{}route del {route}\n", family(route)))
    }

    /// Makes the namespace a router: it forwards IPv4 and, where the kernel has it, IPv6.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn forward(&self) -> Result<()> {
        self.sysctl("net.ipv4.ip_forward", "1")?;
        if self.has_sysctl("net.ipv6.conf.all.forwarding")? {
            self.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        }
        Ok(())
    }
}

fn configure(end: &End<'_>) -> String {
    let addresses: String = end.addresses.iter().map(|address| add_address(end.device, address)).collect();
    format!("{addresses}link set {} up\n", end.device)
}

fn add_address(device: &str, address: &str) -> String {
    // Duplicate address detection keeps an IPv6 address unusable for about a second.
    let nodad = if address.contains(':') { " nodad" } else { "" };
    format!("address add {address} dev {device}{nodad}\n")
}

fn family(route: &str) -> &'static str {
    if route.contains(':') { "-6 " } else { "" }
}
