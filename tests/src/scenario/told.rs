//! What was told of a connection, from whichever end, and whether it is right.

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use serde::Serialize;

use super::{Deadline, Expectation, Seat, Stage, play::Watch};
use crate::{
    clocks::wall_seconds,
    peer::Peer,
    require::is_guest,
    wire::{self, Body, Finding, Missing, Owner, Record},
};

/// A record about a finding.
#[derive(Clone, Debug)]
pub struct Told {
    /// When it was told, in seconds since 1970.
    pub at: f64,
    /// `verdict/cause`.
    pub cause: String,
    netns: u32,
    /// Of both ends.
    ports: [u16; 2],
    confidence: String,
    outcome: Option<String>,
    deadline: Option<wire::Deadline>,
    owner: Option<Owner>,
    missing: Vec<Missing>,
}

/// What a correct telling comes to, in seconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Outcome {
    /// From what happened to the first word.
    pub told_seconds: f64,
    /// From what happened to the word that is as sure as it must be.
    pub sure_seconds: f64,
    /// How much later than stated the kernel gave up.
    pub off_deadline_seconds: Option<f64>,
}

/// How the kernel gave a connection up.
#[derive(Clone, Copy, Debug)]
pub(super) struct GivenUp {
    /// When, in seconds since 1970.
    pub(super) at: f64,
    /// What the application got.
    pub(super) errno: Errno,
}

impl Told {
    /// All that was told of findings.
    pub(super) fn all(records: Vec<Record>) -> Result<Vec<Self>> {
        records
            .into_iter()
            .filter_map(|record| {
                let at = wall_seconds(&record.time);
                match record.body {
                    Body::Finding(finding) => {
                        let (netns, ends) = (finding.connection.netns, &finding.connection);
                        let ports = [ends.local.port, ends.remote.port];
                        Some(at.map(|at| Self::new(at, netns, ports, *finding)))
                    }
                    Body::Forwarded(finding) => {
                        let (netns, ends) = (finding.connection.netns, &finding.connection);
                        let ports = [ends.initiator.port, ends.responder.port];
                        Some(at.map(|at| Self::new(at, netns, ports, *finding)))
                    }
                    Body::Connection(_)
                    | Body::Coverage(_)
                    | Body::Loss(_)
                    | Body::Risk(_)
                    | Body::Heartbeat(_)
                    | Body::Summary(_) => None,
                }
            })
            .collect()
    }

    fn new<C>(at: f64, netns: u32, ports: [u16; 2], finding: Finding<C>) -> Self {
        let Finding { verdict, cause, confidence, outcome, deadline, owner, missing_evidence: missing, .. } = finding;
        let cause = format!("{verdict}/{cause}");
        Self { at, cause, netns, ports, confidence, outcome, deadline, owner, missing }
    }

    /// Whether it is about this client's connection.
    pub(super) fn is_about(&self, client: &Peer) -> Result<bool> {
        Ok(self.ports.contains(&client.local()?.port()))
    }
}

impl Expectation {
    /// Holds what was told of one connection, seen from `seat`, against what must be; `acted` is when it had happened.
    pub(super) fn check(
        &self,
        told: &[Told],
        (stage, seat, watch): (&dyn Stage, Seat, Watch),
        client: &Peer,
        acted: f64,
        given_up: Option<GivenUp>,
    ) -> Result<Outcome> {
        let first = told.first().context("nothing was told")?;
        let latest = told.last().unwrap_or(first);
        let holder = match seat {
            Seat::Client => Some(client),
            Seat::Middle => None,
            Seat::Server => stage.server(),
        };
        let expected = format!("{}/{}", self.verdict, self.cause);
        let told_in_all = told.len();
        for (number, told) in (1..).zip(told) {
            let is_corrected = number < told_in_all;
            ensure!(told.netns == stage.netns(seat).inode(), "another namespace");
            // A guest may be too slow to have all answers for the first word, which then says so.
            let lacks_answer = told.missing.iter().any(|missing| missing.kind == "conntrack_answer");
            if !(is_guest() && is_corrected && lacks_answer) {
                ensure!(told.cause == expected, "told as {}", told.cause);
            }
            match (holder, &told.owner) {
                (Some(holder), Some(owner)) => {
                    ensure!(owner.pid == holder.pid(), "owner {owner:?}, but it is {}", holder.pid());
                }
                (Some(_), None) => ensure!(is_guest() && is_corrected, "no owner: {told:?}"),
                (None, _) => {}
            }
            self.check_deadline(told)?;
        }
        let confidence = match watch {
            Watch::On => self.confidence,
            Watch::Late => self.confidence_late,
        };
        let is_as_sure = |told: &&Told| confidence.contains(&told.confidence.as_str());
        let sure = told.iter().find(is_as_sure);
        let sure = sure.filter(|_| is_as_sure(&latest)).with_context(|| format!("not {}", confidence.join(" or ")))?;
        let off_deadline_seconds = given_up.map(|given_up| self.check_giving_up(told, latest, given_up)).transpose()?;
        Ok(Outcome { told_seconds: first.at - acted, sure_seconds: sure.at - acted, off_deadline_seconds })
    }

    fn check_deadline(&self, told: &Told) -> Result<()> {
        let stated = told.deadline.as_ref().map(|deadline| (deadline.timer.as_str(), deadline.set_by.as_str()));
        match self.deadline {
            Deadline::Nothing => ensure!(stated.is_none(), "a deadline: {stated:?}"),
            Deadline::GivesUp { timer, set_by } => {
                ensure!(stated == Some((timer, set_by)), "another deadline: {stated:?}");
            }
            Deadline::NotLookedAt => {}
        }
        Ok(())
    }

    /// How much later than last stated the kernel gave up, in seconds.
    fn check_giving_up(&self, told: &[Told], latest: &Told, given_up: GivenUp) -> Result<f64> {
        let GivenUp { at, errno } = given_up;
        let open = told.iter().rev().find(|told| told.outcome.is_none());
        let error = open.and_then(|told| told.deadline.as_ref()?.error.clone());
        ensure!(error.is_none_or(|error| error == format!("{errno:?}")), "the application got {errno:?}");
        ensure!(latest.outcome.as_deref() == Some("timed_out"), "not closed by the kernel's giving up");
        let stated = wall_seconds(&latest.deadline.as_ref().context("no deadline")?.time)?;
        let off = at - stated;
        ensure!(off.abs() <= self.off_deadline_seconds, "given up {off:+.3} s from the stated time");
        Ok(off)
    }
}
