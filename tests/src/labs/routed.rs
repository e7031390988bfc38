//! A client and a server with a router between them that can forget how to forward.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Result, bail};

use crate::{
    firewall::mangles_fins,
    lab::Lab,
    link::{End, veth},
    netns::Netns,
};

/// What the router drops while it is cut: every TCP segment, in both directions, without a word to either end.
const CUT: &str = "table inet cut { chain forward { type filter hook forward priority 0; meta l4proto tcp drop; }; }\n";

/// Client, router and server, each in a namespace of its own, linked by veth pairs.
///
/// Neither end's link goes down when the router is cut: as with a firewall that has forgotten a connection, or a host that
/// has lost its power behind a switch, segments leave and nothing comes back.
#[derive(Debug)]
pub struct Routed {
    /// `10.77.1.1` and `fd77:1::1`.
    pub client: Netns,
    /// Forwards between the two.
    pub router: Netns,
    /// `10.77.2.1` and `fd77:2::1`.
    pub server: Netns,
}

impl Routed {
    /// A virtual address that the client may have beside its own.
    pub const VIP: &str = "10.77.1.100";

    /// Makes the three namespaces and their links.
    ///
    /// # Errors
    /// When the machine lacks namespaces, veth devices or iproute2.
    pub fn new(lab: &Lab) -> Result<Self> {
        let (client, router, server) = (lab.netns("client")?, lab.netns("router")?, lab.netns("server")?);
        veth(
            &End::new(&client, "uplink", &["10.77.1.1/24", "fd77:1::1/64"]),
            &End::new(&router, "client", &["10.77.1.254/24", "fd77:1::254/64"]),
        )?;
        veth(
            &End::new(&server, "uplink", &["10.77.2.1/24", "fd77:2::1/64"]),
            &End::new(&router, "server", &["10.77.2.254/24", "fd77:2::254/64"]),
        )?;
        router.forward()?;
        client.ip("route add default via 10.77.1.254\nroute add default via fd77:1::254\n")?;
        server.ip("route add default via 10.77.2.254\nroute add default via fd77:2::254\n")?;
        Ok(Self { client, router, server })
    }

    /// Waits until IPv6 gets from the client to the server and back. The first packets wait for neighbour discovery, which
    /// can take seconds; a connection made meanwhile would have an RTO as long, and hand it on to later ones
    /// (`tcp_metrics`).
    ///
    /// # Errors
    /// When it does not.
    pub fn warm_up_v6(&self) -> Result<()> {
        // Nobody listens on the discard port: the answer is a reset, which leaves no trace in the metrics.
        match self.client.run(|| TcpStream::connect_timeout(&Self::server_v6(9), Duration::from_secs(20)))? {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            other => bail!("no reset came back: {other:?}"),
        }
    }

    /// Lets no TCP segment through any more.
    ///
    /// # Errors
    /// With the message of `nft`.
    pub fn cut(&self) -> Result<()> {
        self.router.nft(CUT)
    }

    /// Lets segments through again.
    ///
    /// # Errors
    /// With the message of `nft`.
    pub fn heal(&self) -> Result<()> {
        self.router.nft("delete table inet cut\n")
    }

    /// Answers every TCP segment of the client with an ICMP error: host unreachable.
    ///
    /// # Errors
    /// With the message of `nft`.
    pub fn refuse(&self) -> Result<()> {
        self.router.nft(
            "table inet refuse { chain forward { type filter hook forward priority 0; \
             ip daddr 10.77.2.0/24 meta l4proto tcp reject with icmp type host-unreachable; }; }\n",
        )
    }

    /// How long a [`Routed::firewall`] remembers an idle connection.
    pub const FIREWALL_REMEMBERS: Duration = Duration::from_secs(3);

    /// Sets up a stateful firewall in one of the namespaces, on these hooks of its packet filter: what is tracked may pass, and what
    /// begins with a SYN; the rest is dropped without a word. It forgets an idle connection soon.
    ///
    /// # Errors
    /// With the message of `nft`, or when connection tracking has no such settings.
    pub fn firewall(&self, netns: &Netns, hooks: &[&str]) -> Result<()> {
        const STATEFUL: &str = "ct state established,related accept; meta l4proto != tcp accept; \
                                tcp flags & (syn|ack) == syn ct state new accept; drop;";
        let chains: String = hooks
            .iter()
            .map(|hook| format!("chain {hook} {{ type filter hook {hook} priority 0; {STATEFUL} }}; "))
            .collect();
        netns.nft(&format!("table inet firewall {{ {chains} }}\n"))?;
        netns.sysctl("net.netfilter.nf_conntrack_tcp_loose", "0")?;
        let seconds = Self::FIREWALL_REMEMBERS.as_secs().to_string();
        netns.sysctl("net.netfilter.nf_conntrack_tcp_timeout_established", &seconds)
    }

    /// Lets connection tracking of the router know each connection from its beginning. Else it holds a FIN for invalid, and which word of
    /// that is heard depends on the kernel.
    ///
    /// # Errors
    /// With the message of `nft`.
    pub fn track(&self) -> Result<()> {
        self.router.nft(
            "table inet tracks { chain forward { type filter hook forward priority -10; ct state established counter; }; }\n",
        )
    }

    /// Changes each FIN of the server on its way to the client, before the router's connection tracking sees it: `statement` says how, in
    /// the language of nftables.
    ///
    /// # Errors
    /// With the message of `nft`.
    pub fn mangle_fins(&self, statement: &str) -> Result<()> {
        // Else a packet crosses without its checksum ever being computed.
        self.server.tx_offload_off("uplink")?;
        self.router.tx_offload_off("client")?;
        self.router.nft(&mangles_fins("server", statement))
    }

    /// Swallows what is sent to `10.77.9.0/24`, addresses that are nobody's, so that SYNs may be forged from them: no answer draws a reset.
    ///
    /// # Errors
    /// With the message of `nft` or `ip`.
    pub fn swallow_forged(&self) -> Result<()> {
        self.router.nft(
            "table inet forged { chain forward { type filter hook forward priority 0; ip daddr 10.77.9.0/24 drop; }; }\n",
        )?;
        self.router.ip("route add 10.77.9.0/24 via 10.77.1.1\n")
    }

    /// Drops so many of a hundred forwarded packets, at random.
    ///
    /// # Errors
    /// With the message of `nft`.
    pub fn lose(&self, percent: u32) -> Result<()> {
        self.router.nft(&format!(
            "table inet lossy {{ chain forward {{ type filter hook forward priority 0; \
             numgen random mod 100 < {percent} drop; }}; }}\n"
        ))
    }

    /// A server's address with this port.
    #[must_use]
    pub fn server_v4(port: u16) -> SocketAddr {
        ([10, 77, 2, 1], port).into()
    }

    /// A server's address with this port.
    #[must_use]
    pub fn server_v6(port: u16) -> SocketAddr {
        (std::net::Ipv6Addr::new(0xfd77, 2, 0, 0, 0, 0, 0, 1), port).into()
    }
}
