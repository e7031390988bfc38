//! What to do where this host only forwards the connection.

use std::net::SocketAddr;

use super::{MOST_REMEDIES, Patient, Remedy, dropped, handshake, remedies_of};
use crate::{
    judge::{Evidence, Ruling, Verdict},
    model::{ConnectionKey, FlowKey, Owner},
};

/// The end that waits for what was dropped, where it is a socket of this host.
#[derive(Clone, Copy, Debug)]
pub struct Waiting<'a> {
    /// Inode number of its network namespace.
    pub netns: u32,
    /// The process that holds it, where that is known.
    pub owner: Option<&'a Owner>,
}

/// What to do about a ruling on a connection that this host only forwards, the most useful first. `sender` is the end whose segment was
/// dropped.
pub fn forwarded_remedies(
    flow: &FlowKey,
    sender: SocketAddr,
    waiting: Option<Waiting<'_>>,
    ruling: &Ruling,
    is_over: bool,
    evidence: &[Evidence],
) -> Vec<Remedy> {
    let receiver = if sender == flow.initiator { flow.responder } else { flow.initiator };
    let key = ConnectionKey { netns: flow.netns, local: receiver, remote: sender };
    let (owner, mark, is_forwarded) = (None, None, true);
    let patient = Patient { key: &key, ruling: Some(ruling), owner, mark, is_over, is_forwarded, evidence };
    if ruling.verdict == Verdict::AsymmetricHandshake {
        return handshake::forwarded(&patient, ruling.cause);
    }
    let mut remedies = remedies_of(&patient, ruling.cause);
    if !is_over {
        let end = match waiting {
            Some(Waiting { netns, owner }) => {
                let key = ConnectionKey { netns, ..key };
                dropped::end(&Patient { key: &key, owner, ..patient })
            }
            None => {
                let place = format!("on {}, which this host only forwards to", receiver.ip());
                Remedy { place: Some(place), ..dropped::end(&patient) }
            }
        };
        remedies.insert(remedies.len().min(1), end);
    }
    remedies.truncate(MOST_REMEDIES);
    remedies
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        judge::{Cause, Confidence},
        model::MonoTime,
    };

    #[test]
    fn the_connection_is_ended_at_the_end_that_waits() {
        let (initiator, responder) = (([10, 0, 0, 1], 40_000).into(), ([10, 0, 0, 2], 5672).into());
        let flow = FlowKey { netns: 7, zone: None, initiator, responder };
        for cause in [Cause::ConntrackBadChecksum, Cause::ConntrackInvalid, Cause::FirewallDrop, Cause::StackDrop] {
            let ruling = Ruling {
                verdict: Verdict::SilentlyDroppedFin,
                cause,
                confidence: Confidence::Confirmed,
                since: MonoTime::default(),
                deadline: None,
                missing: Vec::new(),
            };
            let of = |waiting, is_over| forwarded_remedies(&flow, responder, waiting, &ruling, is_over, &[]);
            let end = of(Some(Waiting { netns: 8, owner: None }), false).swap_remove(1);
            assert_eq!(end.command.unwrap(), "ss -K src 10.0.0.1 sport = :40000 dst 10.0.0.2 dport = :5672");
            assert!(end.place.unwrap().contains("namespace 8 "));
            let owner = Owner { pid: 77, ..Owner::default() };
            let end = of(Some(Waiting { netns: 8, owner: Some(&owner) }), false).swap_remove(1);
            assert!(end.command.unwrap().starts_with("nsenter -t 77 -n ss -K "));
            assert!(of(None, false)[1].place.as_ref().unwrap().starts_with("on 10.0.0.1"));
            assert!(of(None, true).iter().all(|remedy| !remedy.text.starts_with("End the connection")));
        }
    }
}
