//! `peer_unreachable`: data in retransmission, and an ICMP error for it (`tcp_v4_err`, remembered in `sk_err_soft`; a soft error by
//! RFC 1122 section 4.2.3.9, which does not end the connection). A next hop that does not answer makes the same error on this host
//! itself (`arp_error_report`, `ipv4_link_failure`).

use std::time::Duration;

use nix::errno::Errno;

use crate::{
    judge::{
        Attempt, Cause, Evidence, History, Ruling, deadline,
        rules::retransmit_stalled::{gave_up, peer_is_heard},
    },
    model::SocketView,
};

pub(super) fn assess(history: &History<'_>) -> Option<Ruling> {
    let sight = Evidence::latest_sight(history.evidence)?;
    let socket = sight.socket;
    if !socket.has_stalled_data()
        || !(is_refused(socket) || history.path.silent_next_hop().is_some())
        || fails_here(history)
        || peer_is_heard(socket)
    {
        return None;
    }
    let retransmits = socket.retransmits?;
    let gave_up = gave_up(history, &sight);
    if retransmits < history.thresholds.retransmits_suspected && !gave_up {
        return None;
    }
    let missing = history.missing_timeouts(retransmits).filter(|_| !gave_up);
    let since = sight.at.before(socket.retransmitting_for.unwrap_or(Duration::ZERO));
    let deadline = deadline::of_retransmission(&sight, is_refused(socket));
    Some(Ruling { deadline, ..Ruling::new(Cause::PeerUnreachable, since, missing.into_iter().collect()) })
}

/// Whether the kernel remembers an error that `icmp_err_convert` (`net/ipv4/icmp.c`) makes of destination unreachable.
fn is_refused(socket: &SocketView) -> bool {
    socket.soft_error.is_some_and(|soft_error| {
        matches!(
            Errno::from_raw(soft_error),
            Errno::EHOSTUNREACH
                | Errno::ENETUNREACH
                | Errno::EHOSTDOWN
                | Errno::ENONET
                | Errno::ECONNREFUSED
                | Errno::ENOPROTOOPT
        )
    })
}

/// Whether the error is this host's own: where routing fails, the kernel remembers that in `sk_err_soft`, too
/// (`inet_sk_rebuild_header`, `net/ipv4/af_inet.c`).
fn fails_here(history: &History<'_>) -> bool {
    history.path.address_is_gone()
        || history.path.has_no_route()
        || Evidence::latest_attempt(history.evidence).is_some_and(Attempt::failed_locally)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        judge::rules::scene::{Scene, stalled},
        model::NeighbourState,
    };

    fn refused(retransmits: u8) -> SocketView {
        SocketView { soft_error: Some(Errno::EHOSTUNREACH as i32), ..stalled(retransmits) }
    }

    #[test]
    fn an_icmp_error_for_data_in_retransmission_is_an_unreachable_peer() {
        assert_eq!(Scene::scanned(refused(5)).judge().unwrap().cause, Cause::PeerUnreachable);
        assert_eq!(Scene::scanned(refused(3)).judge(), None);
        assert_eq!(Scene::scanned(stalled(5)).judge().unwrap().cause, Cause::PeerSilent);
    }

    #[test]
    fn the_same_error_of_this_hosts_own_routing_is_not() {
        let failed = Scene::timed_out(refused(5), Some(-(Errno::EHOSTUNREACH as i32)));
        assert_eq!(failed.judge().unwrap().cause, Cause::LocalSendFailure);
    }

    #[test]
    fn a_peer_that_goes_on_sending_data_can_be_reached() {
        let heard = SocketView { last_data_ago: Some(Duration::from_secs(1)), ..refused(9) };
        assert_eq!(Scene::scanned(heard).judge(), None);
    }

    #[test]
    fn a_next_hop_that_does_not_answer_makes_the_peer_unreachable() {
        let scene = Scene::scanned(stalled(5)).path(true, None).neighbour(NeighbourState::Failed);
        assert_eq!(scene.judge().unwrap().cause, Cause::PeerUnreachable);
    }
}
