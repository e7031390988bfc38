//! A compute node of a cloud: a virtual machine's interface and a tunnel to a network node are ports of Open vSwitch, whose flows
//! let connection tracking look at all TCP and drop what it holds for invalid.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::{
    firewall::mangles_fins,
    lab::Lab,
    link::{End, veth},
    netns::Netns,
    openvswitch::OpenVswitch,
};

/// Machine, compute node, network node and a server beyond it.
#[derive(Debug)]
pub struct ComputeNode {
    /// Stands for a virtual machine: `10.80.0.1`.
    pub machine: Netns,
    /// Bridges between the machine's interface and the tunnel.
    pub node: Netns,
    /// Routes between the tunnel and the server.
    pub network: Netns,
    /// `10.81.0.1`.
    pub server: Netns,
    switch: OpenVswitch,
    #[expect(dead_code, reason = "it goes with its owner, after the switch")]
    folder: TempDir,
}

impl ComputeNode {
    /// The port that leads to the machine, named as Neutron names it.
    pub const TAP: &str = "tap1a2b3c4d-5e";
    /// The port of the tunnel, as Open vSwitch names its device in the kernel.
    pub const TUNNEL: &str = "genev_sys_6081";
    /// Connection tracking's zone of the machine's connections.
    pub const ZONE: u16 = 7;

    /// Makes the namespaces, the tunnel and the switch, whose files are kept in a folder of its own.
    ///
    /// # Errors
    /// When the machine lacks namespaces, veth devices, Geneve, iproute2 or Open vSwitch.
    pub fn new(lab: &Lab) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a folder for Open vSwitch")?;
        let (machine, node) = (lab.netns("machine")?, lab.netns("node")?);
        let (network, server) = (lab.netns("network")?, lab.netns("server")?);
        veth(&End::new(&machine, "eth0", &["10.80.0.1/24"]), &End::new(&node, Self::TAP, &[]))?;
        veth(&End::new(&node, "underlay", &["10.79.0.1/24"]), &End::new(&network, "underlay", &["10.79.0.2/24"]))?;
        veth(&End::new(&server, "uplink", &["10.81.0.1/24"]), &End::new(&network, "server", &["10.81.0.254/24"]))?;
        network.ip(&format!(
            "link add name tunnel type geneve id {vni} remote 10.79.0.1\n\
             address add 10.80.0.254/24 dev tunnel\nlink set tunnel up\n",
            vni = Self::VNI
        ))?;
        network.forward()?;
        // The tunnel takes fifty bytes of each packet.
        machine.ip("link set eth0 mtu 1450\nroute add default via 10.80.0.254\n")?;
        server.ip("route add default via 10.81.0.254\n")?;

        let switch = OpenVswitch::start(&node, folder.path())?;
        switch.configure(&format!(
            "add-br br-int -- set bridge br-int fail_mode=secure -- add-port br-int {tap} -- add-port br-int tunnel \
             -- set interface tunnel type=geneve options:remote_ip=10.79.0.2 options:key={vni}",
            tap = Self::TAP,
            vni = Self::VNI
        ))?;
        switch.add_flows(
            "br-int",
            &format!(
                "table=0,priority=10,arp,actions=NORMAL\n\
                 table=0,priority=5,tcp,actions=ct(zone={zone},table=1)\n\
                 table=1,priority=10,ct_state=+trk+inv,actions=drop\n\
                 table=1,priority=5,ct_state=+trk+new,tcp,actions=ct(commit,zone={zone}),NORMAL\n\
                 table=1,priority=1,ct_state=+trk+est,actions=NORMAL\n",
                zone = Self::ZONE
            ),
        )?;
        Ok(Self { machine, node, network, server, switch, folder })
    }

    /// The tunnel's virtual network.
    const VNI: u32 = 7;

    /// Changes each FIN of the server before it goes into the tunnel: `statement` says how, in the language of nftables.
    ///
    /// # Errors
    /// With the message of `nft`.
    pub fn mangle_fins(&self, statement: &str) -> Result<()> {
        // Else a packet crosses without its checksum ever being computed.
        self.server.tx_offload_off("uplink")?;
        self.network.nft(&mangles_fins("server", statement))
    }

    /// Lets the server's FINs pass unchanged again.
    ///
    /// # Errors
    /// With the message of `nft`.
    pub fn mend_fins(&self) -> Result<()> {
        self.network.nft("delete table inet mangle\n")
    }

    /// What Open vSwitch's daemon answers to the words of `ovs-appctl`.
    ///
    /// # Errors
    /// With its message.
    pub fn ask_switch(&self, words: &str) -> Result<String> {
        self.switch.ask(words)
    }

    /// A server's address with this port.
    #[must_use]
    pub fn server(port: u16) -> SocketAddr {
        ([10, 81, 0, 1], port).into()
    }
}
