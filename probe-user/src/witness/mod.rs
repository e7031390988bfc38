//! Answers to the tracker's questions, by looking at the host. One file per witness.
//!
//! A question never blocks who asks: it is queued for one thread, which asks the witnesses in turn. Every question gets one
//! answer, also when the witness cannot say.

pub mod netns;
mod process;
mod socket;

use std::{
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

use anyhow::Context as _;
use tokio::sync::mpsc::{Sender, channel};

use crate::model::{Answer, Question};

/// Questions waiting at once. Each takes about a millisecond, looking for an owner some dozen; with more than this waiting,
/// answers would come too late to be of use, and the tracker asks again by itself.
const MAX_WAITING: usize = 256;

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
        let (questions, asked) = sync_channel(MAX_WAITING);
        // One place more than questions can be under way: sending an answer never waits.
        let (answered, answers) = channel(MAX_WAITING + 2);
        thread::Builder::new()
            .name("witness".to_owned())
            .spawn(move || answer_all(&asked, &answered))
            .context("the witness thread cannot be started")?;
        Ok(Self { questions, answers, in_flight: 0 })
    }

    /// Puts a question; `false` when too many are waiting.
    pub fn ask(&mut self, question: Question) -> bool {
        let asked = self.questions.try_send(question).is_ok();
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

fn answer_all(questions: &Receiver<Question>, answers: &Sender<Answer>) {
    let mut namespaces = netns::Namespaces::default();
    // Ends when the other side is dropped.
    for question in questions {
        let answer = match question {
            Question::Socket { key, cookie } => {
                Answer::Socket { key, lookup: socket::look_up(&mut namespaces, &key, cookie) }
            }
            Question::Owner { key, inode } => Answer::Owner { key, owner: process::owner_of_socket(inode) },
        };
        if answers.blocking_send(answer).is_err() {
            return;
        }
    }
}
