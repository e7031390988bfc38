//! Answers to the tracker's questions, by looking at the host. One file per witness.
//!
//! A question never blocks who asks: it is queued for one thread, which asks the witnesses in turn. Every question gets one
//! answer, also when the witness cannot say. What is asked together is answered together: when an address goes with a thousand
//! connections, their namespace is entered once a witness, not once a question. Answers come in another order than the questions:
//! those about owners and about connection tracking come later. For them all of `/proc` or the whole table may have to be gone
//! through, which serves all that wait, and then rests for a while.

mod cgroup;
mod cgroups;
mod conntrack;
mod flow;
mod function;
pub mod idle;
mod netlink;
pub mod netns;
mod path;
mod place;
mod process;
mod rtnetlink;
mod ruleset;
mod service;
mod socket;
pub mod sockets;
mod xtables;

pub use cgroups::Cgroups;
pub use process::{Owners, owners_of_sockets};

use std::{
    collections::BTreeMap,
    iter,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender as Asking, channel as line},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::sync::mpsc::{Sender, channel};

use crate::model::{Answer, ConnectionKey, InZone, Question, SocketCookie, Tuple};

/// Questions without an answer at once: four for each of the tracker's cases, more than it has open in practice; what is refused it
/// asks again. A thousand are answered in a fraction of a second.
const MAX_IN_FLIGHT: usize = 1 << 16;
/// Questions taken in before those that wait for a search get their turn.
const MAX_TOGETHER: usize = 4096;
/// After a search the searching rests for so many times as long as it took,
const REST: u32 = 4;
/// but no longer than this: a first judgment waits two seconds for its answers. A search that takes an eighth of a second or less thus
/// costs a fifth of a processor; on a host with so many descriptors that it takes longer, it costs more for as long as it is asked.
const LONGEST_REST: Duration = Duration::from_millis(500);

/// The threads that ask the witnesses. They end when this is dropped.
#[derive(Debug)]
pub struct Witnesses {
    questions: Asking<Question>,
    /// Names of functions and rules are looked for by a thread of their own: the kernel takes some dozen milliseconds to write its symbols
    /// down, on a slow machine seconds, and `nft` takes its time with many rules.
    functions: Asking<Question>,
    answers: tokio::sync::mpsc::Receiver<Answer>,
    in_flight: usize,
}

impl Witnesses {
    /// Starts the threads.
    ///
    /// # Errors
    ///
    /// When the system gives none.
    pub fn start() -> anyhow::Result<Self> {
        // `ask` bounds both: neither side ever waits for the other.
        let (questions, asked) = line();
        let (functions, functions_asked) = line();
        let (answered, answers) = channel(MAX_IN_FLIGHT);
        let start = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let thread = thread::Builder::new().name(name.to_owned()).spawn(work);
            thread.map(drop).context("a witness thread cannot be started")
        };
        let named = answered.clone();
        start("witness", Box::new(move || answer_all(&asked, &answered)))?;
        start("functions", Box::new(move || name_functions(&functions_asked, &named)))?;
        Ok(Self { questions, functions, answers, in_flight: 0 })
    }

    /// Puts a question; `false` when too many are waiting.
    pub fn ask(&mut self, question: Question) -> bool {
        let send = || match question {
            Question::Function { .. } | Question::DropPlace { .. } => self.functions.send(question).is_ok(),
            Question::Socket { .. }
            | Question::Owner { .. }
            | Question::Path { .. }
            | Question::Conntrack { .. }
            | Question::Service { .. }
            | Question::ForwardPath { .. }
            | Question::FlowConntrack { .. }
            | Question::FlowEnds { .. } => self.questions.send(question).is_ok(),
        };
        let asked = self.in_flight < MAX_IN_FLIGHT && send();
        self.in_flight += usize::from(asked);
        asked
    }

    /// The next answer; `None` when the thread has ended. Cancel-safe.
    pub async fn next_answer(&mut self) -> Option<Answer> {
        let answer = self.answers.recv().await?;
        self.in_flight = self.in_flight.saturating_sub(1);
        Some(answer)
    }

    /// How many questions are not answered yet.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }
}

/// Ends when the other side is dropped.
fn name_functions(asked: &Receiver<Question>, answers: &Sender<Answer>) {
    let mut places = place::Places::default();
    while let Ok(question) = asked.recv() {
        let answer = match question {
            Question::Function { key, address } => {
                Answer::Function { key, address, function: places.function(address) }
            }
            Question::DropPlace { key, trace } => Answer::DropPlace { key, place: places.look_up(&key, &trace) },
            // The other thread's.
            Question::Socket { .. }
            | Question::Owner { .. }
            | Question::Path { .. }
            | Question::Conntrack { .. }
            | Question::Service { .. }
            | Question::ForwardPath { .. }
            | Question::FlowConntrack { .. }
            | Question::FlowEnds { .. } => continue,
        };
        if answers.blocking_send(answer).is_err() {
            return;
        }
    }
}

/// Ends when the other side is dropped.
fn answer_all(questions: &Receiver<Question>, answers: &Sender<Answer>) {
    let mut namespaces = netns::Namespaces::default();
    let mut roster = netns::Roster::new(None);
    let mut waiting = Waiting::default();
    let mut search_due = Instant::now();
    loop {
        let first = if waiting.is_empty() {
            questions.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            questions.recv_timeout(search_due.saturating_duration_since(Instant::now()))
        };
        let first = match first {
            Ok(first) => Some(first),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let together = first.into_iter().flat_map(|first| iter::once(first).chain(questions.try_iter()));
        let mut asked = Asked::default();
        for question in together.take(MAX_TOGETHER) {
            match question {
                Question::Socket { key, cookie } => asked.sockets.add(key, cookie),
                Question::Path { key, ingress_ifindex } => asked.paths.add(key, ingress_ifindex),
                Question::Conntrack { key } => waiting.conntrack.add(key, ()),
                Question::Service { key } => waiting.services.add(key, ()),
                Question::Owner { key, inode } => waiting.owners.push((key, inode)),
                Question::ForwardPath { key, ingress_ifindex, destination_mac } => {
                    waiting.flow_paths.add(key, (ingress_ifindex, destination_mac));
                }
                Question::FlowConntrack { key, zone } => waiting.flow_conntrack.add(key, zone),
                Question::FlowEnds { key, receiver, sender } => waiting.flow_ends.push((key, [receiver, sender])),
                // The other thread's.
                Question::Function { .. } | Question::DropPlace { .. } => {}
            }
        }
        let mut found = asked.answers(&mut namespaces);
        let start = Instant::now();
        if !waiting.is_empty() && start >= search_due {
            found.extend(std::mem::take(&mut waiting).answers(&mut namespaces, &mut roster));
            let took = start.elapsed();
            tracing::debug!(?took, "search for owners and connection tracking entries");
            search_due = Instant::now() + took.saturating_mul(REST).min(LONGEST_REST);
        }
        for answer in found {
            if answers.blocking_send(answer).is_err() {
                return;
            }
        }
    }
}

/// What was asked of connections, by their namespaces.
#[derive(Debug)]
struct ByNetns<T>(BTreeMap<u32, Vec<(ConnectionKey, T)>>);

impl<T> Default for ByNetns<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> ByNetns<T> {
    fn add(&mut self, key: ConnectionKey, what: T) {
        self.0.entry(key.netns).or_default().push((key, what));
    }
}

/// What is answered at once.
#[derive(Debug, Default)]
struct Asked {
    sockets: ByNetns<Option<SocketCookie>>,
    paths: ByNetns<Option<u32>>,
}

impl Asked {
    fn answers(self, namespaces: &mut netns::Namespaces) -> Vec<Answer> {
        let mut answers = Vec::new();
        for (netns, asked) in self.sockets.0 {
            let lookups = socket::look_up_all(namespaces, netns, &asked);
            answers.extend(asked.iter().zip(lookups).map(|((key, _), lookup)| Answer::Socket { key: *key, lookup }));
        }
        for (netns, asked) in self.paths.0 {
            let paths = path::look_up_all(namespaces, netns, &asked);
            answers.extend(asked.iter().zip(paths).map(|((key, _), path)| Answer::Path { key: *key, path }));
        }
        answers
    }
}

/// What waits for the next search.
#[derive(Debug, Default)]
struct Waiting {
    owners: Vec<(ConnectionKey, u64)>,
    conntrack: ByNetns<()>,
    flow_paths: ByNetns<flow::Arrival>,
    flow_conntrack: ByNetns<InZone>,
    flow_ends: Vec<(ConnectionKey, [Tuple; 2])>,
    services: ByNetns<()>,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.owners.is_empty()
            && self.conntrack.0.is_empty()
            && self.services.0.is_empty()
            && self.flow_paths.0.is_empty()
            && self.flow_conntrack.0.is_empty()
            && self.flow_ends.is_empty()
    }

    fn answers(self, namespaces: &mut netns::Namespaces, roster: &mut netns::Roster) -> Vec<Answer> {
        let mut answers = Vec::new();
        for (netns, asked) in self.flow_paths.0 {
            let paths = flow::look_up_paths(namespaces, roster, netns, &asked);
            answers.extend(asked.iter().zip(paths).map(|((key, _), path)| Answer::ForwardPath { key: *key, path }));
        }
        for (netns, asked) in self.flow_conntrack.0 {
            let found = conntrack::look_up_flows(namespaces, netns, &asked);
            let answer =
                |((key, _), conntrack): (&(ConnectionKey, _), _)| Answer::FlowConntrack { key: *key, conntrack };
            answers.extend(asked.iter().zip(found).map(answer));
        }
        let ends = flow::look_up_ends(roster, &self.flow_ends);
        answers.extend(self.flow_ends.iter().zip(ends).map(|((key, _), ends)| Answer::FlowEnds { key: *key, ends }));
        for (netns, asked) in self.conntrack.0 {
            let keys: Vec<_> = asked.into_iter().map(|(key, ())| key).collect();
            let entries = conntrack::look_up_all(namespaces, netns, &keys);
            answers.extend(keys.iter().zip(entries).map(|(key, conntrack)| Answer::Conntrack { key: *key, conntrack }));
        }
        for (netns, asked) in self.services.0 {
            let keys: Vec<_> = asked.into_iter().map(|(key, ())| key).collect();
            let services = service::look_up_all(namespaces, netns, &keys);
            answers.extend(keys.iter().zip(services).map(|(key, service)| Answer::Service { key: *key, service }));
        }
        if !self.owners.is_empty() {
            let owners = owners_of_sockets(&self.owners.iter().map(|(_, inode)| *inode).collect());
            answers
                .extend(self.owners.iter().map(|(key, inode)| Answer::Owner { key: *key, owner: owners.of(*inode) }));
        }
        answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ConnectionKey;

    #[test]
    fn every_question_gets_one_answer_and_too_many_are_refused() {
        let mut witnesses = Witnesses::start().unwrap();
        let key = |number: usize| {
            let port = u16::try_from(number % 60_000).unwrap();
            let netns = if number.is_multiple_of(3) { 0 } else { 1 };
            ConnectionKey { netns, local: ([127, 0, 0, 1], port).into(), remote: ([127, 0, 0, 1], 1).into() }
        };
        for number in 0..2 * MAX_IN_FLIGHT {
            let key = key(number);
            let (local, remote) = (key.local, key.remote);
            let asked = witnesses.ask(match number % 9 {
                0 => Question::Socket { key, cookie: None },
                1 => Question::Owner { key, inode: u64::MAX },
                2 => Question::Path { key, ingress_ifindex: None },
                3 => Question::Function { key, address: 0 },
                4 => Question::ForwardPath { key, ingress_ifindex: 1, destination_mac: None },
                5 => Question::FlowConntrack { key, zone: InZone::Any },
                6 => Question::FlowEnds { key, receiver: (local, remote), sender: (remote, local) },
                7 => Question::Service { key },
                _ => Question::Conntrack { key },
            });
            assert_eq!(asked, number < MAX_IN_FLIGHT);
        }
        assert_eq!(witnesses.in_flight(), MAX_IN_FLIGHT);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut of_kinds = [0; 9];
        for _ in 0..MAX_IN_FLIGHT {
            let kind = match runtime.block_on(witnesses.next_answer()).unwrap() {
                Answer::Socket { .. } => 0,
                Answer::Owner { .. } => 1,
                Answer::Path { .. } => 2,
                Answer::Function { .. } => 3,
                Answer::ForwardPath { .. } => 4,
                Answer::FlowConntrack { .. } => 5,
                Answer::FlowEnds { .. } => 6,
                Answer::Service { .. } => 7,
                Answer::Conntrack { .. } => 8,
                Answer::DropPlace { .. } => panic!("not asked"),
            };
            of_kinds[kind] += 1;
        }
        let kinds = [0, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(of_kinds, kinds.map(|kind| (kind..MAX_IN_FLIGHT).step_by(9).count()));
        assert_eq!(witnesses.in_flight(), 0);
        assert!(witnesses.ask(Question::Socket { key: key(1), cookie: None }));
    }
}
