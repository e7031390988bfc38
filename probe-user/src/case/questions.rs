use std::{
    collections::{HashMap, VecDeque},
    mem::{Discriminant, discriminant},
};

use foldhash::fast::RandomState;

use super::MAX_SERIOUS_CASES;
use crate::model::{ConnectionKey, Question};

/// How many kinds of questions there are: a case has at most one of each open, and only a serious one has any.
const KINDS: usize = 10;
/// Questions that may wait before those of closed cases are thrown out: twice as many as all open ones can have, so that this is
/// seldom.
const MOST_WAITING: usize = 2 * KINDS * MAX_SERIOUS_CASES;

/// What is asked about what.
type Subject = (ConnectionKey, Discriminant<Question>);

/// What is to be asked: first come, first asked. Of one kind about one connection only the latest waits.
#[derive(Debug, Default)]
pub(super) struct Questions {
    order: VecDeque<Subject>,
    waiting: HashMap<Subject, Question, RandomState>,
}

impl Questions {
    /// Adds a question. Beyond the bound, those go whose connection `is_open` does not know.
    pub(super) fn add(&mut self, question: Question, is_open: impl Fn(&ConnectionKey) -> bool) {
        let subject = subject(&question);
        if self.waiting.insert(subject, question).is_none() {
            self.order.push_back(subject);
        }
        if self.order.len() > MOST_WAITING {
            self.order.retain(|(key, _)| is_open(key));
            self.waiting.retain(|(key, _), _| is_open(key));
        }
    }

    /// Puts a question back that could not be asked: it is the next one again.
    pub(super) fn put_back(&mut self, question: Question) {
        let subject = subject(&question);
        if self.waiting.insert(subject, question).is_none() {
            self.order.push_front(subject);
        }
    }

    /// Takes out the next question.
    pub(super) fn next(&mut self) -> Option<Question> {
        self.waiting.remove(&self.order.pop_front()?)
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }
}

fn subject(question: &Question) -> Subject {
    (*question.key(), discriminant(question))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conntrack(netns: u32) -> Question {
        let key = ConnectionKey { netns, local: ([10, 0, 0, 1], 1).into(), remote: ([10, 0, 0, 2], 2).into() };
        Question::Conntrack { key }
    }

    fn owner(netns: u32, inode: u64) -> Question {
        Question::Owner { key: *conntrack(netns).key(), inode }
    }

    #[test]
    fn each_waits_for_its_turn_once_and_the_latest_counts() {
        let mut questions = Questions::default();
        for question in [owner(1, 7), conntrack(1), conntrack(2), owner(1, 8), conntrack(2)] {
            questions.add(question, |_| true);
        }
        let first = questions.next().unwrap();
        assert_eq!(first, owner(1, 8));
        questions.put_back(first);
        let all: Vec<_> = std::iter::from_fn(|| questions.next()).collect();
        assert_eq!(all, [owner(1, 8), conntrack(1), conntrack(2)]);
    }

    #[test]
    fn questions_of_connections_that_come_and_go_do_not_pile_up() {
        let mut questions = Questions::default();
        let open = *conntrack(0).key();
        for netns in 0..=u32::try_from(MOST_WAITING).unwrap() {
            questions.add(conntrack(netns), |key| *key == open);
            assert!(questions.len() <= MOST_WAITING);
        }
        assert_eq!((questions.next(), questions.next()), (Some(conntrack(0)), None));
    }
}
