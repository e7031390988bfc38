//! The look for risks: once, at the end of a watch, on a thread of its own, namespace after namespace.

use std::{
    collections::HashSet,
    io, thread,
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, time::timeout};

use super::clock;
use crate::{
    decode::{Units, decode},
    judge::risk::{Groups, Idle, LookedBy, Probing, Risks, Risky, idle_from, limit, service},
    kernel::IdleScanner,
    model::{ConnectionEvent, Filter, LocalConntrack, OwnerKnowledge},
    witness::{
        idle,
        netns::{Netns, Roster},
        owners_of_sockets,
    },
};

/// Idle connections judged in one look, some 150 bytes each until their owners are known. Where there are more, those beyond are
/// counted; the risks told are the same ones, with smaller numbers.
const MOST_JUDGED: usize = 200_000;
/// A million sockets and their owners take some seconds. What takes longer is not waited for.
const LONGEST_LOOK: Duration = Duration::from_secs(60);

/// How idle connections are looked for.
pub(super) enum Way {
    /// By a BPF iterator, whose records are in these units.
    Iterator(IdleScanner, Units),
    /// Through `NETLINK_SOCK_DIAG`.
    SockDiag,
}

impl Way {
    const fn looked_by(&self) -> LookedBy {
        match self {
            Self::Iterator(..) => LookedBy::Iterator,
            Self::SockDiag => LookedBy::SockDiag,
        }
    }

    /// Hands over the connections of the namespace this thread is in that have been idle for so long; others too, where the kernel
    /// does not choose.
    fn each(&self, netns: &Netns, idle_for: Duration, mut each: impl FnMut(&ConnectionEvent)) -> io::Result<()> {
        match self {
            Self::Iterator(scanner, units) => scanner.each(idle_for, |record| match decode(record, *units) {
                Ok(event) => each(&event),
                Err(error) => tracing::warn!(%error, "a record of an idle connection could not be decoded"),
            }),
            Self::SockDiag => idle::open_connections(netns.inode, clock::now, |event| each(&event)),
        }
    }
}

/// A look that was asked for.
pub(super) struct RiskLook {
    pub(super) way: Way,
    pub(super) filter: Filter,
    /// After how long what is on the way forgets an idle connection, as the operator has it.
    pub(super) idle_timeout: Duration,
}

impl RiskLook {
    /// Looks, without keeping the event loop waiting.
    pub(super) async fn run(self) -> Risks {
        let mut without = Risks::new(clock::now(), self.way.looked_by(), self.idle_timeout);
        let (send, receive) = oneshot::channel();
        let started = thread::Builder::new().name("risks".to_owned()).spawn(move || send.send(self.look()));
        if let Err(error) = started {
            without.gap(format!("no thread could be started to look for risks: {error}"));
            return without;
        }
        match timeout(LONGEST_LOOK, receive).await {
            Ok(Ok(risks)) => risks,
            Ok(Err(_)) => {
                without.gap("the look for risks has failed".to_owned());
                without
            }
            Err(_) => {
                without.gap(format!("the look for risks took longer than {} s", LONGEST_LOOK.as_secs()));
                without
            }
        }
    }

    fn look(&self) -> Risks {
        let mut risks = Risks::new(clock::now(), self.way.looked_by(), self.idle_timeout);
        let mut risky = Vec::new();
        let mut roster = Roster::new(self.filter.netns);
        roster.for_each(Instant::now(), |netns| {
            let looked = netns.run(|| self.look_in(netns, &mut risks, &mut risky)).and_then(|result| result);
            if let Err(error) = looked {
                risks.gap(format!("network namespace {} could not be looked at: {error}", netns.inode));
            }
        });
        let mut groups = Groups::default();
        let owners = owners_of_sockets(&risky.iter().filter_map(|risky: &Risky| risky.idle.inode).collect());
        for risky in &risky {
            let holder = match risky.idle.inode {
                None => OwnerKnowledge::Unavailable("this kernel does not tell the socket's file".to_owned()),
                // Not accepted yet.
                Some(0) => OwnerKnowledge::NoProcess,
                Some(inode) => owners.of(inode).into(),
            };
            groups.add(risky, holder);
        }
        groups.tell(&mut risks);
        risks
    }

    /// Looks at the namespace this thread is in.
    fn look_in(&self, netns: &Netns, risks: &mut Risks, risky: &mut Vec<Risky>) -> io::Result<()> {
        // Only where connection tracking forgets sooner than what the operator thinks of does it matter what it knows.
        let sooner = idle::conntrack_timeout().filter(|timeout| *timeout < self.idle_timeout);
        let shortest = idle_from(sooner.unwrap_or(self.idle_timeout));
        let mut found = Vec::new();
        self.way.each(netns, shortest, |event| {
            if let Some(idle) = Idle::of(event).filter(|idle| idle.idle_for >= shortest)
                && self.filter.passes(&idle.key)
            {
                if risky.len() + found.len() < MOST_JUDGED {
                    found.push(idle);
                } else {
                    risks.not_judged += 1;
                }
            }
        })?;
        if found.is_empty() {
            return Ok(());
        }
        let conntrack = sooner.and_then(|timeout| {
            Self::ask_conntrack(timeout, &found)
                .inspect_err(|error| {
                    risks.gap(format!(
                        "connection tracking of network namespace {} could not be asked ({error}), so that --idle-timeout \
                         stands for its {} s",
                        netns.inode,
                        timeout.as_secs()
                    ));
                })
                .ok()
        });
        let ports = idle::local_ports();
        for idle in found {
            let Some(limit) = limit(&idle, self.idle_timeout, conntrack.as_ref()) else { continue };
            if let Some(kind) = idle.kind(limit) {
                risky.push(Risky { kind, idle, limit, service: service(&ports, &idle.key) });
            } else if idle.probing == Probing::Unknown && idle.idle_for >= limit.idle_from() {
                risks.keepalive_unknown += 1;
            }
        }
        Ok(())
    }

    fn ask_conntrack(timeout: Duration, found: &[Idle]) -> io::Result<LocalConntrack> {
        let wanted: HashSet<_> = found.iter().map(|idle| (idle.key.local, idle.key.remote)).collect();
        idle::in_conntrack(timeout, &wanted)
    }
}
