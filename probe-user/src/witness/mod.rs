//! Answers to the tracker's questions, by looking at the host. One file per witness.
//!
//! A question never blocks who asks: it is queued for one thread, which asks the witnesses in turn. Every question gets one
//! answer, also when the witness cannot say. Answers come in another order than the questions: those about owners that wait
//! together are answered together, after the others, because one walk through `/proc` serves them all.

mod cgroup;
mod conntrack;
pub mod idle;
mod netlink;
pub mod netns;
mod path;
mod process;
mod socket;
pub mod sockets;

pub use process::{Owners, owners_of_sockets};

use std::{
    iter,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

use anyhow::Context as _;
use tokio::sync::mpsc::{Sender, channel};

use crate::model::{Answer, Question};

/// Questions without an answer at once. Each takes about a millisecond, looking for owners some dozen together; with more
/// than this waiting, answers would come too late to be of use, and the tracker asks again by itself.
const MAX_IN_FLIGHT: usize = 256;

/// The thread that asks the witnesses. It ends when this is dropped.
#[derive(Debug)]
pub struct Witnesses {
    questions: SyncSender<Question>,
    answers: tokio::sync::mpsc::Receiver<Answer>,
    in_flight: usize,
}

impl Witnesses {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub fn start() -> anyhow::Result<Self> {
        // As many places each way as questions can be in flight: neither side ever waits for the other.
        let (questions, asked) = sync_channel(MAX_IN_FLIGHT);
        let (answered, answers) = channel(MAX_IN_FLIGHT);
        thread::Builder::new()
            .name("witness".to_owned())
            .spawn(move || answer_all(&asked, &answered))
            .context("the witness thread cannot be started")?;
        Ok(Self { questions, answers, in_flight: 0 })
    }

    /// Puts a question; `false` when too many are waiting.
    pub fn ask(&mut self, question: Question) -> bool {
        let asked = self.in_flight < MAX_IN_FLIGHT && self.questions.try_send(question).is_ok();
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
fn answer_all(questions: &Receiver<Question>, answers: &Sender<Answer>) {
    let mut namespaces = netns::Namespaces::default();
    while let Ok(first) = questions.recv() {
        let mut of_owners = Vec::new();
        // Not more than can be in flight: under steady asking, owners get their turn too.
        for question in iter::once(first).chain(questions.try_iter()).take(MAX_IN_FLIGHT) {
            match question {
                Question::Socket { key, cookie } => {
                    let lookup = socket::look_up(&mut namespaces, &key, cookie);
                    if answers.blocking_send(Answer::Socket { key, lookup }).is_err() {
                        return;
                    }
                }
                Question::Path { key, ingress_ifindex } => {
                    let path = path::look_up(&mut namespaces, &key, ingress_ifindex);
                    if answers.blocking_send(Answer::Path { key, path }).is_err() {
                        return;
                    }
                }
                Question::Conntrack { key } => {
                    let conntrack = conntrack::look_up(&mut namespaces, &key);
                    if answers.blocking_send(Answer::Conntrack { key, conntrack }).is_err() {
                        return;
                    }
                }
                Question::Owner { key, inode } => of_owners.push((key, inode)),
            }
        }
        if of_owners.is_empty() {
            continue;
        }
        let owners = owners_of_sockets(&of_owners.iter().map(|(_, inode)| *inode).collect());
        for (key, inode) in of_owners {
            if answers.blocking_send(Answer::Owner { key, owner: owners.of(inode) }).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ConnectionKey;

    #[test]
    fn every_question_gets_one_answer_and_too_many_are_refused() {
        let mut witnesses = Witnesses::start().unwrap();
        let key =
            |port| ConnectionKey { netns: 1, local: ([127, 0, 0, 1], port).into(), remote: ([127, 0, 0, 1], 1).into() };
        for port in 0..u16::MAX {
            let question = if port % 2 == 0 {
                Question::Socket { key: key(port), cookie: None }
            } else {
                Question::Owner { key: key(port), inode: u64::MAX }
            };
            if !witnesses.ask(question) {
                break;
            }
        }
        assert_eq!(witnesses.in_flight(), MAX_IN_FLIGHT);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut ports: Vec<_> = (0..MAX_IN_FLIGHT)
            .map(|_| match runtime.block_on(witnesses.next_answer()).unwrap() {
                Answer::Socket { key, .. }
                | Answer::Owner { key, .. }
                | Answer::Path { key, .. }
                | Answer::Conntrack { key, .. } => usize::from(key.local.port()),
            })
            .collect();
        ports.sort_unstable();
        assert_eq!(ports, (0..MAX_IN_FLIGHT).collect::<Vec<_>>());
        assert_eq!(witnesses.in_flight(), 0);
        assert!(witnesses.ask(Question::Socket { key: key(1), cookie: None }));
    }
}
