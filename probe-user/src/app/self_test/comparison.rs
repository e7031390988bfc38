//! What was told of the self-test's connection, held against what was done to it. Pure.

use std::{fmt, time::Duration};

use super::connection::{Expected, KEEPALIVE, LOOPBACK_IFINDEX, USER_TIMEOUT, WRITTEN_BYTES};
use crate::model::{ConnectionEvent, EventKind, TcpState};

/// A value that is not what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    /// What was read, by the kernel's name.
    what: &'static str,
    /// What it reads as.
    actual: String,
    /// What it must be.
    expected: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is read as {} where it is {}", self.what, self.actual, self.expected)
    }
}

/// Compares every event of the client's socket; returns how many kinds of value were compared, and those that differ.
pub(super) fn compare(expected: &Expected, events: &[ConnectionEvent]) -> (usize, Vec<Mismatch>) {
    let mut comparison = Comparison::default();
    for event in events {
        // The server's end is in the same namespace; of it nothing is asked.
        if event.key.local == expected.key.remote && event.key.remote == expected.key.local {
            continue;
        }
        // Of a dropped segment the programs tell the packet, not the socket.
        if matches!(event.kind, EventKind::SegmentDropped(_) | EventKind::SegmentInvalid(_)) {
            continue;
        }
        comparison.identity(expected, event);
        match event.kind {
            EventKind::RetransmissionTimeout { .. } => comparison.stalled(expected, event),
            EventKind::Scanned
            | EventKind::ProbeSent { .. }
            | EventKind::SynReceived
            | EventKind::SynAckReceived
            | EventKind::ResetReceived
            | EventKind::StateChange { .. }
            | EventKind::SynAckRetransmission
            | EventKind::ResetSent
            | EventKind::SegmentDropped(_)
            | EventKind::SegmentInvalid(_)
            | EventKind::SocketError => {}
        }
    }
    (comparison.compared.len(), comparison.mismatches)
}

#[derive(Default)]
struct Comparison {
    compared: std::collections::BTreeSet<&'static str>,
    mismatches: Vec<Mismatch>,
}

impl Comparison {
    fn identity(&mut self, expected: &Expected, event: &ConnectionEvent) {
        self.equal("the tuple", Some(event.key.to_string()), expected.key.to_string());
        self.equal("the network namespace", Some(event.key.netns), expected.key.netns);
        self.equal("skc_cookie", event.socket.cookie, expected.cookie);
    }

    fn stalled(&mut self, expected: &Expected, event: &ConnectionEvent) {
        const BRIEF: Duration = Duration::from_secs(60);
        let socket = &event.socket;
        self.equal("skc_state", socket.state, TcpState::Established);
        self.equal("snd_nxt - snd_una", socket.unacknowledged(), WRITTEN_BYTES);
        self.equal("write_seq - snd_nxt", socket.unsent(), 0);
        self.equal("packets_out", socket.packets_out, 1);
        self.equal("icsk_probes_out", socket.probes_out, 0);
        self.equal("sk_err", socket.error, 0);
        self.equal("icsk_user_timeout", socket.user_timeout, USER_TIMEOUT);
        self.equal("keepalive_time, keepalive_intvl, keepalive_probes, SOCK_KEEPOPEN", socket.keepalive, KEEPALIVE);
        self.equal("SOCK_DEAD", socket.orphaned, false);
        // Over the loopback device some kernels leave it unset.
        self.within("sk_rx_dst_ifindex", socket.ingress_ifindex, 0..=LOOPBACK_IFINDEX);
        self.equal("sk_dst_cache->dev->ifindex", socket.egress_ifindex, LOOPBACK_IFINDEX);
        if let Some(retries) = expected.tcp_retries2 {
            self.equal("sysctl_tcp_retries2", socket.tcp_retries2, retries);
        }
        // The timer may have fired more than once before it was told, on a slow host.
        self.within("icsk_retransmits", socket.retransmits, 1..=8);
        self.within("icsk_backoff", socket.backoff, 0..=8);
        // A tail loss probe may have come first.
        self.within("total_retrans", socket.total_retransmits, 1..=16);
        self.within("snd_wnd", socket.snd_wnd_bytes, 1..=1 << 30);
        self.within("icsk_rto", socket.rto, Duration::from_millis(5)..=BRIEF);
        self.within("icsk_rto_max", socket.rto_max, Duration::from_secs(1)..=Duration::from_secs(120));
        self.within("retrans_stamp", socket.retransmitting_for, Duration::ZERO..=BRIEF);
        self.within("rcv_tstamp", socket.last_ack_ago, Duration::from_millis(4)..=BRIEF);
    }

    fn equal<T: PartialEq + fmt::Debug>(&mut self, what: &'static str, actual: Option<T>, expected: T) {
        self.compare(what, actual, |actual| *actual == expected, || format!("{expected:?}"));
    }

    fn within<T: PartialOrd + fmt::Debug>(
        &mut self,
        what: &'static str,
        actual: Option<T>,
        range: std::ops::RangeInclusive<T>,
    ) {
        let expected = || format!("from {:?} to {:?}", range.start(), range.end());
        self.compare(what, actual, |actual| range.contains(actual), expected);
    }

    /// What this kernel does not have is not compared: the coverage lists it.
    fn compare<T: fmt::Debug>(
        &mut self,
        what: &'static str,
        actual: Option<T>,
        is_right: impl FnOnce(&T) -> bool,
        expected: impl FnOnce() -> String,
    ) {
        let Some(actual) = actual else { return };
        self.compared.insert(what);
        let already_told = self.mismatches.iter().any(|mismatch| mismatch.what == what);
        if !is_right(&actual) && !already_told {
            self.mismatches.push(Mismatch { what, actual: format!("{actual:?}"), expected: expected() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ConnectionKey, MonoTime, SocketCookie, SocketView};

    fn expected() -> Expected {
        let key = ConnectionKey {
            netns: 7,
            local: "127.0.0.1:1000".parse().unwrap(),
            remote: "127.0.0.1:2000".parse().unwrap(),
        };
        Expected { key, cookie: SocketCookie(5), tcp_retries2: Some(15) }
    }

    fn event(socket: SocketView) -> ConnectionEvent {
        let kind = EventKind::RetransmissionTimeout { send_result: None };
        ConnectionEvent { at: MonoTime::from_ns(1), key: expected().key, socket, kind }
    }

    #[test]
    fn what_is_as_it_was_made_passes_and_is_counted_once() {
        let socket = SocketView {
            cookie: Some(SocketCookie(5)),
            user_timeout: Some(USER_TIMEOUT),
            retransmits: Some(1),
            ..SocketView::default()
        };
        let (compared, mismatches) = compare(&expected(), &[event(socket.clone()), event(socket)]);
        assert_eq!((compared, mismatches), (5, Vec::new()));
    }

    #[test]
    fn a_wrong_value_is_named_with_both_values() {
        let socket = SocketView { user_timeout: Some(Duration::from_secs(3)), ..SocketView::default() };
        let (_, mismatches) = compare(&expected(), &[event(socket)]);
        let texts: Vec<String> = mismatches.iter().map(Mismatch::to_string).collect();
        assert_eq!(texts, ["icsk_user_timeout is read as 3s where it is 45.678s"]);
    }

    #[test]
    fn the_other_end_is_not_compared() {
        let mut other = event(SocketView { packets_out: Some(9), ..SocketView::default() });
        (other.key.local, other.key.remote) = (other.key.remote, other.key.local);
        assert_eq!(compare(&expected(), &[other]), (0, Vec::new()));
    }
}
