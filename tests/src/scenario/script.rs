//! How a scenario is written down: a topology, who is in it, and what happens.

use std::{any::Any, fmt, net::SocketAddr, thread::sleep, time::Duration};

use anyhow::{Context as _, Result};

use super::{Expectation, Scenario, View};
use crate::{
    lab::Lab,
    labs::{asymmetric::Asymmetric, compute_node::ComputeNode, routed::Routed},
    netns::Netns,
    peer::{Mode, Options, Peer},
    require::Requirement::{self, Bridge, OpenVswitch},
    watching::{PORT, SOON, WATCHING},
    wire::{HookCount, Summary},
};

/// From where a connection is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seat {
    /// Who connects.
    Client,
    /// Who forwards.
    Middle,
    /// Who accepts.
    Server,
}

impl Seat {
    /// Every seat, along the way of a connection.
    pub const ALL: [Self; 3] = [Self::Client, Self::Middle, Self::Server];

    /// Its name on the command line and in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Middle => "middle",
            Self::Server => "server",
        }
    }
}

impl fmt::Display for Seat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A scenario that has been set up, and its connections. Dropping it ends who is in it; its namespaces go with the lab.
pub trait Stage: Send {
    /// The namespace of this seat.
    fn netns(&self, seat: Seat) -> &Netns;

    /// Makes a connection that carries some data.
    ///
    /// # Errors
    /// When it does not come about.
    fn connect(&mut self) -> Result<()>;

    /// Lets it happen. What is then to be told has begun when this returns.
    ///
    /// # Errors
    /// When it could not be made to happen.
    fn act(&mut self) -> Result<()>;

    /// Undoes it; nothing where it cannot be undone.
    ///
    /// # Errors
    /// When it could not be undone.
    fn heal(&mut self) -> Result<()>;

    /// Who holds the connections' clients, one each.
    fn clients(&self) -> &[Peer];

    /// Who holds the connections' other ends; `None` where no peer of ours does.
    fn server(&self) -> Option<&Peer>;
}

/// What the programs of each seat have seen in a whole watch.
#[derive(Debug)]
pub(super) struct Counts<'a>(pub(super) Vec<(Seat, &'a Summary)>);

impl Counts<'_> {
    /// Events told at this seat.
    pub(super) fn seen(&self, seat: Seat) -> u64 {
        self.sum(seat, |hook| hook.seen)
    }

    /// Events told at this seat by one hook.
    pub(super) fn seen_by(&self, seat: Seat, name: &str) -> u64 {
        self.sum(seat, |hook| if hook.hook == name { hook.seen } else { 0 })
    }

    /// Events held back at this seat by a limit.
    pub(super) fn suppressed(&self, seat: Seat) -> u64 {
        self.sum(seat, |hook| hook.suppressed)
    }

    fn sum(&self, seat: Seat, count: impl Fn(&HookCount) -> u64) -> u64 {
        let summaries = self.0.iter().filter(|(of, _)| *of == seat);
        summaries.flat_map(|(_, summary)| &summary.hooks).map(count).sum()
    }
}

/// A topology that has a client, a server, and something between.
pub(super) trait Topology: Sized + Send + 'static {
    /// What it needs of the machine beside what every watch needs.
    const NEEDS: &'static [Requirement];
    /// Where the server listens.
    const SERVER: fn(u16) -> SocketAddr;

    fn new(lab: &Lab) -> Result<Self>;
    fn netns(&self, seat: Seat) -> &Netns;
}

impl Topology for Routed {
    const NEEDS: &'static [Requirement] = &[];
    const SERVER: fn(u16) -> SocketAddr = Self::server_v4;

    fn new(lab: &Lab) -> Result<Self> {
        Self::new(lab)
    }

    fn netns(&self, seat: Seat) -> &Netns {
        match seat {
            Seat::Client => &self.client,
            Seat::Middle => &self.router,
            Seat::Server => &self.server,
        }
    }
}

impl Topology for Asymmetric {
    const NEEDS: &'static [Requirement] = &[Bridge];
    const SERVER: fn(u16) -> SocketAddr = Self::controller_address;

    fn new(lab: &Lab) -> Result<Self> {
        Self::new(lab)
    }

    fn netns(&self, seat: Seat) -> &Netns {
        match seat {
            Seat::Client => &self.compute,
            Seat::Middle => &self.firewall,
            Seat::Server => &self.controller,
        }
    }
}

impl Topology for ComputeNode {
    const NEEDS: &'static [Requirement] = &[OpenVswitch];
    const SERVER: fn(u16) -> SocketAddr = Self::server;

    fn new(lab: &Lab) -> Result<Self> {
        Self::new(lab)
    }

    fn netns(&self, seat: Seat) -> &Netns {
        match seat {
            Seat::Client => &self.machine,
            Seat::Middle => &self.node,
            Seat::Server => &self.server,
        }
    }
}

/// Something that happens on a stage.
type Act<T> = fn(&mut Cast<T>) -> Result<()>;

/// A scenario as it is written down. Fields that are left out are as [`Script::new`] has them.
pub(super) struct Script<T> {
    pub(super) name: &'static str,
    pub(super) summary: &'static str,
    /// What it needs beside what its topology needs.
    pub(super) needs: &'static [Requirement],
    pub(super) views: Vec<(Seat, Option<Expectation>)>,
    /// Before there is a server or a connection.
    pub(super) prepare: fn(&T) -> Result<()>,
    /// The peer that listens; `None` for none.
    pub(super) server: Option<Options>,
    pub(super) client: fn() -> Result<Options>,
    /// Whether connections are made before it happens.
    pub(super) connects_first: bool,
    pub(super) act: Act<T>,
    pub(super) heal: Option<Act<T>>,
    /// What must hold beside.
    pub(super) also: fn(&Counts<'_>) -> Result<()>,
    /// Whether it keeps the machine so busy that others' times would suffer.
    pub(super) is_alone: bool,
    /// Whether guests of the matrix play it where they share the tests: each play takes an emulated processor a minute.
    pub(super) is_shared: bool,
    /// How long it may take.
    pub(super) limit: Duration,
}

impl<T: Topology> Script<T> {
    pub(super) fn new(name: &'static str, summary: &'static str) -> Self {
        Self {
            name,
            summary,
            needs: &[],
            views: Vec::new(),
            prepare: |_| Ok(()),
            server: Some(Options::default()),
            client: || Ok(Options::default()),
            connects_first: true,
            act: |_| Ok(()),
            heal: None,
            also: |_| Ok(()),
            is_alone: false,
            is_shared: false,
            limit: Duration::from_secs(120),
        }
    }

    /// A healthy workload, watched from these seats, which makes its connections itself.
    pub(super) fn control(name: &'static str, summary: &'static str, seats: &[Seat]) -> Self {
        let views = seats.iter().map(|seat| (*seat, None)).collect();
        Self { views, connects_first: false, is_shared: true, ..Self::new(name, summary) }
    }

    pub(super) fn scenario(self) -> Scenario {
        let Self { name, summary, views, prepare, server, client, act, heal, .. } = self;
        let seats: Vec<_> = views.iter().map(|(seat, _)| *seat).collect();
        Scenario {
            name,
            summary,
            needs: [WATCHING, T::NEEDS, self.needs].concat(),
            views: views.into_iter().map(|(seat, expected)| View { seat, expected }).collect(),
            connects_first: self.connects_first,
            can_be_healed: heal.is_some(),
            is_alone: self.is_alone,
            is_shared: self.is_shared,
            limit: self.limit,
            also: self.also,
            set: Box::new(move |lab| {
                let topology = T::new(lab)?;
                prepare(&topology)?;
                let healthy = seats.iter().map(|seat| healthy(topology.netns(*seat))).collect::<Result<Vec<_>>>()?;
                let server = server
                    .as_ref()
                    .map(|options| Peer::listen(topology.netns(Seat::Server), T::SERVER(PORT), options))
                    .transpose()?;
                let cast =
                    Cast { lab: topology, server, clients: Vec::new(), options: client()?, kept: Vec::new(), healthy };
                Ok(Box::new(Set { cast, act, heal }))
            }),
        }
    }
}

/// A healthy connection within a namespace, of which nothing must be said; and by it, connection tracking is seen to be at work there.
fn healthy(netns: &Netns) -> Result<(Peer, Peer)> {
    let here = ([127, 0, 0, 1], PORT + 1).into();
    let server = Peer::listen(netns, here, &Options { mode: Mode::Echo, ..Options::default() })?;
    let busy = Options { write_every: Some(Duration::from_millis(100)), ..Options::default() };
    Ok((server, Peer::connect(netns, here, &busy)?))
}

/// Who and what is on a stage.
pub(super) struct Cast<T> {
    pub(super) lab: T,
    pub(super) clients: Vec<Peer>,
    pub(super) options: Options,
    server: Option<Peer>,
    /// What the scenario has made and nobody else holds.
    kept: Vec<Box<dyn Any + Send>>,
    #[expect(dead_code, reason = "they live as long as the stage")]
    healthy: Vec<(Peer, Peer)>,
}

impl<T: Topology> Cast<T> {
    pub(super) fn connect(&mut self) -> Result<()> {
        let client = self.connect_silently()?;
        client.command("write 1000")?;
        client.wait_event("written", SOON)?;
        self.clients.push(client);
        Ok(())
    }

    /// A connection that has carried no data yet.
    pub(super) fn connect_silently(&self) -> Result<Peer> {
        Peer::connect(self.lab.netns(Seat::Client), T::SERVER(PORT), &self.options)
    }

    /// As [`Cast::connect_silently`], to be one of the clients.
    pub(super) fn establish(&mut self) -> Result<()> {
        let client = self.connect_silently()?;
        self.clients.push(client);
        Ok(())
    }

    /// Begins to connect.
    pub(super) fn begin(&mut self) -> Result<()> {
        let client = Peer::start_connect(self.lab.netns(Seat::Client), None, T::SERVER(PORT), &self.options)?;
        self.clients.push(client);
        Ok(())
    }

    pub(super) fn server(&self) -> Result<&Peer> {
        self.server.as_ref().context("this scenario has no server")
    }

    /// So many short connections, one after the other, to a server that sends back.
    pub(super) fn churn(&mut self, count: u64, limit: Duration) -> Result<()> {
        let client = Peer::churn(self.lab.netns(Seat::Client), T::SERVER(PORT), count)?;
        client.wait_event("churned", limit)?;
        self.keep(client);
        Ok(())
    }

    /// A command for every client.
    pub(super) fn clients_say(&self, command: &str) -> Result<()> {
        self.clients.iter().try_for_each(|client| client.command(command))
    }

    /// A command for the server's ends of all connections.
    pub(super) fn server_says(&self, command: &str) -> Result<()> {
        self.server()?.command(command)
    }

    /// Lets something live as long as the stage.
    pub(super) fn keep(&mut self, thing: impl Any + Send) {
        self.kept.push(Box::new(thing));
    }
}

struct Set<T> {
    cast: Cast<T>,
    act: Act<T>,
    heal: Option<Act<T>>,
}

impl<T: Topology> Stage for Set<T> {
    fn netns(&self, seat: Seat) -> &Netns {
        self.cast.lab.netns(seat)
    }

    fn connect(&mut self) -> Result<()> {
        self.cast.connect()
    }

    fn act(&mut self) -> Result<()> {
        // Acknowledgments of what went before are in.
        sleep(Duration::from_millis(500));
        (self.act)(&mut self.cast)
    }

    fn heal(&mut self) -> Result<()> {
        self.heal.map_or(Ok(()), |heal| heal(&mut self.cast))
    }

    fn clients(&self) -> &[Peer] {
        &self.cast.clients
    }

    fn server(&self) -> Option<&Peer> {
        self.cast.server.as_ref()
    }
}
