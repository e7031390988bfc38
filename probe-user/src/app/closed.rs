//! Connections that are over, on their way from the kernel to who tells of them. They pass the tracker by: nothing is judged by them.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    case::FindingId,
    model::{ClosedConnection, ConnectionKey, HookCount, LossPlace, MonoTime},
    report::ConnectionCounts,
    witness::Cgroups,
};

/// Findings that are remembered until their connection is over. The oldest is forgotten first; then a connection that ends names it no
/// more.
const MOST_FINDINGS: usize = 20_000;
/// Findings of one connection that are named: one that stalls and recovers all year has more.
const MOST_OF_ONE: usize = 16;

/// What is needed to tell of connections that are over.
#[derive(Debug, Default)]
pub(super) struct ClosedConnections {
    pub(super) cgroups: Cgroups,
    findings: Remembered,
    counts: ConnectionCounts,
    /// What the kernel's counters stood at when losses were last told, and where programs before these had got to.
    told: Option<HookCount>,
    /// From when on the attached programs tell; what they told before, others have told, too.
    from: MonoTime,
}

/// The findings about connections that are not over.
#[derive(Debug, Default)]
struct Remembered {
    findings: BTreeMap<ConnectionKey, Vec<FindingId>>,
    /// In the order in which their first finding was opened; as many again may be over.
    order: VecDeque<ConnectionKey>,
}

impl ClosedConnections {
    /// Remembers a finding until its connection is over.
    pub(super) fn note(&mut self, finding: FindingId) {
        self.findings.note(finding);
    }

    /// Counts a connection, and gives the findings about it; `None` where other programs have told of it.
    pub(super) fn take(&mut self, closed: &ClosedConnection) -> Option<Vec<FindingId>> {
        if closed.at < self.from {
            return None;
        }
        self.counts.told += 1;
        self.counts.opening_unseen += u64::from(closed.opened.is_none());
        Some(self.findings.of(closed))
    }

    /// New programs tell from now on, and count from 0.
    pub(super) fn begin_anew(&mut self, at: MonoTime) {
        (self.from, self.told) = (at, None);
    }

    /// What has been lost since the last call.
    pub(super) fn new_losses(&mut self, now: HookCount) -> Vec<(LossPlace, u64)> {
        let (lost, missed) = now.lost_since(self.told.as_ref());
        self.told = Some(now);
        self.counts.lost += lost;
        self.counts.missed += missed;
        let places = [(LossPlace::ConnectionRing, lost), (LossPlace::ConnectionRecursion, missed)];
        places.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    pub(super) const fn counts(&self) -> ConnectionCounts {
        self.counts
    }
}

impl Remembered {
    fn note(&mut self, finding: FindingId) {
        let key = finding.key;
        let of_connection = self.findings.entry(key).or_default();
        if of_connection.contains(&finding) {
            return;
        }
        if of_connection.is_empty() {
            self.order.push_back(key);
        }
        if of_connection.len() == MOST_OF_ONE {
            of_connection.remove(0);
        }
        of_connection.push(finding);
        while self.findings.len() > MOST_FINDINGS
            && let Some(oldest) = self.order.pop_front()
        {
            self.findings.remove(&oldest);
        }
        if self.order.len() > 2 * MOST_FINDINGS {
            self.order.retain(|key| self.findings.contains_key(key));
        }
    }

    /// Those about the connection: its tuple may have been another's before.
    fn of(&mut self, closed: &ClosedConnection) -> Vec<FindingId> {
        let mut findings = self.findings.remove(&closed.key).unwrap_or_default();
        findings.retain(|finding| {
            let is_of_its_time = closed.opened.is_none_or(|opened| finding.opened_at >= opened);
            let is_of_its_socket = match (finding.cookie, closed.cookie) {
                (Some(one), Some(other)) => one == other,
                (Some(_) | None, None) | (None, Some(_)) => true,
            };
            is_of_its_time && is_of_its_socket
        });
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Hook, SocketCookie, TcpState};

    fn key(port: u16) -> ConnectionKey {
        ConnectionKey { netns: 7, local: ([10, 0, 0, 1], port).into(), remote: ([10, 0, 0, 2], 80).into() }
    }

    fn finding(port: u16, at: u64, cookie: u64) -> FindingId {
        let cookie = Some(SocketCookie(cookie));
        FindingId { key: key(port), cookie, opened_at: MonoTime::from_ns(at), case: 1 }
    }

    fn closed(port: u16, opened: u64, cookie: u64) -> ClosedConnection {
        ClosedConnection {
            cookie: Some(SocketCookie(cookie)),
            opened: Some(MonoTime::from_ns(opened)),
            ..ClosedConnection::unseen(MonoTime::from_ns(100), key(port), TcpState::LastAck)
        }
    }

    #[test]
    fn a_connection_names_its_own_findings_and_none_of_an_earlier_one() {
        let mut connections = ClosedConnections::default();
        connections.note(finding(1, 10, 5));
        connections.note(finding(1, 10, 5));
        connections.note(finding(2, 10, 5));
        connections.note(finding(3, 10, 6));
        assert_eq!(connections.take(&closed(1, 5, 5)), Some(vec![finding(1, 10, 5)]));
        assert_eq!(connections.take(&closed(1, 5, 5)), Some(Vec::new()), "told once");
        assert_eq!(connections.take(&closed(2, 50, 5)), Some(Vec::new()), "of one before it");
        assert_eq!(connections.take(&closed(3, 5, 5)), Some(Vec::new()), "of another socket");
    }

    #[test]
    fn what_other_programs_have_told_is_not_told_again() {
        let mut connections = ClosedConnections::default();
        connections.begin_anew(MonoTime::from_ns(101));
        assert_eq!(connections.take(&closed(1, 5, 5)), None);
        assert_eq!(connections.counts(), ConnectionCounts::default());
    }

    #[test]
    fn findings_are_remembered_for_so_many_connections() {
        let mut remembered = Remembered::default();
        for port in 1..=u16::MAX {
            remembered.note(finding(port, 10, 5));
        }
        assert_eq!((remembered.findings.len(), remembered.order.len()), (MOST_FINDINGS, MOST_FINDINGS));
    }

    #[test]
    fn each_loss_is_told_once() {
        let mut connections = ClosedConnections::default();
        let now = HookCount { lost: 3, missed: 1, ..HookCount::none(Hook::InetSockSetState) };
        let expected = [(LossPlace::ConnectionRing, 3), (LossPlace::ConnectionRecursion, 1)];
        assert_eq!(connections.new_losses(now), expected);
        assert_eq!(connections.new_losses(now), []);
        connections.begin_anew(MonoTime::from_ns(1));
        assert_eq!(connections.new_losses(HookCount { lost: 1, ..now }).len(), 2);
        assert_eq!(connections.counts().lost, 4);
    }
}
