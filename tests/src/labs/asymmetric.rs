//! A compute node whose segments to a controller go through a stateful firewall, while the controller answers directly.

use std::net::SocketAddr;

use anyhow::Result;

use crate::{
    lab::Lab,
    link::{End, veth},
    netns::Netns,
};

/// Compute node, firewall and controller. The controller has a second interface, on the compute node's own network, by which it
/// answers: the firewall sees only what the compute node sends.
#[derive(Debug)]
pub struct Asymmetric {
    /// `10.78.1.1`, on the device `uplink`.
    pub compute: Netns,
    /// Forwards from the compute node's network to the controller's; on the devices `inside` and `outside`.
    pub firewall: Netns,
    /// `10.78.2.1` on the device `service`, `10.78.1.2` on the device `shared`.
    pub controller: Netns,
}

impl Asymmetric {
    /// Makes the namespaces, their links and routes. Reverse paths are filtered nowhere yet.
    ///
    /// # Errors
    /// When the machine lacks namespaces, veth devices, bridges or iproute2.
    pub fn new(lab: &Lab) -> Result<Self> {
        let (compute, firewall, controller) = (lab.netns("compute")?, lab.netns("firewall")?, lab.netns("controller")?);
        let switch = lab.netns("switch")?;
        veth(&End::new(&compute, "uplink", &["10.78.1.1/24"]), &End::new(&switch, "compute", &[]))?;
        veth(&End::new(&firewall, "inside", &["10.78.1.254/24"]), &End::new(&switch, "firewall", &[]))?;
        veth(&End::new(&controller, "shared", &["10.78.1.2/24"]), &End::new(&switch, "controller", &[]))?;
        switch.bridge("br0", &["compute", "firewall", "controller"], &[])?;
        veth(
            &End::new(&firewall, "outside", &["10.78.2.254/24"]),
            &End::new(&controller, "service", &["10.78.2.1/24"]),
        )?;
        firewall.forward()?;
        firewall.sysctl("net.ipv4.conf.all.send_redirects", "0")?;
        firewall.sysctl("net.ipv4.conf.inside.send_redirects", "0")?;
        compute.ip("route add default via 10.78.1.254\n")?;
        controller.ip("route add default via 10.78.2.254\n")?;
        for (netns, device) in [(&compute, "uplink"), (&controller, "shared"), (&controller, "service")] {
            netns.sysctl("net.ipv4.conf.all.rp_filter", "0")?;
            netns.sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "0")?;
        }
        Ok(Self { compute, firewall, controller })
    }

    /// The address that the compute node connects to, with this port.
    #[must_use]
    pub fn controller_address(port: u16) -> SocketAddr {
        ([10, 78, 2, 1], port).into()
    }

    /// Has connection tracking of the firewall at work, and drops nothing.
    ///
    /// # Errors
    /// With the message of `nft`.
    pub fn track(&self) -> Result<()> {
        self.firewall.nft(
            "table inet track { chain forward { type filter hook forward priority -1; ct state established accept; }; }\n",
        )
    }

    /// The firewall drops what belongs to no connection whose handshake it has seen: with one direction of it, the final ACK.
    ///
    /// # Errors
    /// With the message of `nft`.
    pub fn drop_final_ack(&self) -> Result<()> {
        self.firewall.nft(
            "table inet firewall { chain forward { type filter hook forward priority 0; \
             meta l4proto != tcp accept; ct state established accept; \
             tcp flags & (fin|syn|rst|ack) == syn ct state new accept; drop; }; }\n",
        )
    }

    /// The firewall lets the segments of a connection pass for so many seconds after its SYN, unless it sees a SYN-ACK: the embryonic
    /// timeout of a firewall that does not look at sequence numbers.
    ///
    /// # Errors
    /// With the message of `nft`.
    pub fn expire_embryonic(&self, seconds: u32) -> Result<()> {
        self.firewall.nft(&format!(
            "table inet firewall {{ \
             set embryonic {{ type ipv4_addr . inet_service; flags timeout; size 1024; }}; \
             set complete {{ type ipv4_addr . inet_service; flags dynamic; size 1024; }}; \
             chain forward {{ type filter hook forward priority 0; meta l4proto != tcp accept; \
             tcp flags & (fin|syn|rst|ack) == (syn|ack) add @complete {{ ip daddr . tcp dport }}; \
             tcp flags & (fin|syn|rst|ack) == syn add @embryonic {{ ip saddr . tcp sport timeout {seconds}s }} accept; \
             ip daddr . tcp dport @complete accept; ip saddr . tcp sport @complete accept; \
             ip saddr . tcp sport @embryonic accept; drop; }}; }}\n"
        ))
    }

    /// The controller answers by the interface where requests come in.
    ///
    /// # Errors
    /// With the message of `ip`.
    pub fn answer_the_same_way(&self) -> Result<()> {
        self.controller.ip("rule add from 10.78.2.1 table 100\nroute add default via 10.78.2.254 table 100\n")
    }
}
