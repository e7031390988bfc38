//! What a risk says in sentences.

use std::{fmt::Write as _, time::Duration};

use super::owner;
use crate::{
    judge::risk::{KeepaliveTimes, LimitSource, Risk, RiskKind, ServiceDirection},
    model::{OwnerKnowledge, counted, span},
};

/// `37 connections of nova-compute to :5672`
pub(in crate::report) fn heading(risk: &Risk) -> String {
    let mut text = counted(risk.count, "connection");
    match &risk.holder {
        OwnerKnowledge::Process(owner) => {
            let _ = write!(text, " of {}", owner.comm);
        }
        OwnerKnowledge::NoProcess => text.push_str(" of no process"),
        OwnerKnowledge::NotAsked | OwnerKnowledge::Unavailable(_) => text.push_str(" of an unknown owner"),
    }
    let _ = match risk.service.direction {
        ServiceDirection::Outgoing => write!(text, " to :{}", risk.service.port),
        ServiceDirection::Accepted => write!(text, " from clients at :{}", risk.service.port),
    };
    text
}

/// Who holds the sockets.
pub(in crate::report) fn holder(risk: &Risk) -> String {
    if risk.holder == OwnerKnowledge::NoProcess {
        return "held by no process: not accepted yet, or the kernel's own".to_owned();
    }
    let mut text = owner(&risk.holder);
    match risk.processes {
        0 | 1 => {}
        2 => text.push_str(" and another process like it"),
        more => {
            let _ = write!(text, " and {} more processes like it", more - 1);
        }
    }
    text
}

/// What may go wrong and why.
pub(in crate::report) fn risk(risk: &Risk) -> String {
    let (they_are, they, them) = if risk.count == 1 { ("It is", "it", "it") } else { ("They are", "they", "them") };
    let idle = match risk.count {
        1 => format!("for {}", idle_for(risk.longest_idle)),
        _ => format!("for up to {}", idle_for(risk.longest_idle)),
    };
    let forgets = match risk.limit.set_by {
        LimitSource::IdleTimeout => {
            format!(
                "A firewall, NAT or load balancer on the way that forgets connections after {} of silence",
                idle_for(risk.limit.time)
            )
        }
        LimitSource::Conntrack => {
            format!(
                "This namespace's own connection tracking forgets connections after {} of silence, and",
                idle_for(risk.limit.time)
            )
        }
    };
    let mut text = match risk.kind {
        RiskKind::IdleWithoutKeepalive => format!(
            "{they_are} idle {idle}, and keepalive is off. {forgets} drops what comes later without a word, and nobody notices before."
        ),
        RiskKind::KeepaliveTooLate => format!(
            "{they_are} idle {idle}, and keepalive would first ask after {}: too late. {forgets} drops what comes later without a word.",
            risk.keepalive.map_or("an unknown time".to_owned(), times)
        ),
        RiskKind::CloseWaitLeak => format!(
            "The peer has closed {them}, and nothing has come or gone for {}{}; the application has not closed its end. The network is \
             well: the descriptors are lost until it does.",
            if risk.count == 1 { "" } else { "up to " },
            idle_for(risk.longest_idle)
        ),
    };
    if risk.kind != RiskKind::CloseWaitLeak && risk.over_limit > 0 {
        let _ = match (risk.count, risk.over_limit) {
            (1, _) => write!(text, " That time has passed: it may be forgotten already."),
            (count, over) if count == over => write!(text, " That time has passed: {they} may be forgotten already."),
            (_, over) => write!(text, " For {over} of them that time has passed: they may be forgotten already."),
        };
    }
    text
}

fn times(times: KeepaliveTimes) -> String {
    let KeepaliveTimes { shortest, longest, exact } = times;
    let at_least = if exact { "" } else { "at least " };
    if idle_for(shortest) == idle_for(longest) {
        format!("{at_least}{}", idle_for(shortest))
    } else {
        format!("{at_least}{} to {}", idle_for(shortest), idle_for(longest))
    }
}

/// A length of time; a setting of whole seconds, minutes or hours without what is zero.
fn idle_for(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds, duration.subsec_nanos()) {
        (1..60, 0) => format!("{seconds} s"),
        (60..3_600, 0) if seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        (3_600.., 0) if seconds.is_multiple_of(3_600) => format!("{} h", seconds / 3_600),
        _ => span(duration),
    }
}
