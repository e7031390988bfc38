//! Findings that a run before has left open.

use super::Tracker;
use crate::{
    case::{finding::Finding, flow::Flow, open_case::Case},
    judge::EvidenceKind,
    model::{ConnectionKey, MonoTime},
};

impl Tracker {
    /// Goes on with a finding that an earlier run on this boot has left open, under the same [`FindingId`](crate::case::FindingId). What became of its connection is
    /// asked: it is reported as updated, or closed, when the answers are in. One that is over, or about a connection that has a case
    /// already, is not taken; `false` then.
    pub fn resume(&mut self, now: MonoTime, finding: Finding) -> bool {
        self.advance(now);
        // A flow is known by the packet that was dropped, whichever names its finding has.
        let is_there = match &finding.flow {
            Some(flow) => {
                let (sender, receiver) = flow.packet;
                self.flows.contains(&ConnectionKey { netns: flow.key.netns, local: receiver, remote: sender })
            }
            None => self.cases.contains(&finding.id.key),
        };
        if finding.is_over() || is_there {
            return false;
        }
        let (number, lost_before) = (self.cases_opened, self.standards.events_lost);
        self.cases_opened += 1;
        if finding.flow.is_some() {
            let Some(mut flow) = Flow::resume(number, finding, self.now, lost_before) else { return false };
            flow.note(self.now, EvidenceKind::WatchResumed);
            self.ask_about_flow(&mut flow);
            self.judge_flow(flow);
            return true;
        }
        let mut case = Box::new(Case::resume(number, finding, self.now, lost_before));
        case.note(self.now, EvidenceKind::WatchResumed);
        self.ask_socket(&mut case);
        for question in case.questions() {
            self.ask(question);
        }
        self.hold(case);
        self.cases.settle();
        true
    }
}
