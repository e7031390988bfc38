use std::time::Duration;

use serde::{Deserialize, Serialize};

/// From when on something is a suspicion, and when a fact: the settable ones, with defaults that healthy connections do not reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Thresholds {
    /// Retransmission timeouts in a row from which on data without an answer is suspicious. With the shortest RTO (0.2 s) the fourth
    /// comes after 3 s; fewer come with every burst of loss.
    pub retransmits_suspected: u8,
    /// The same from which on it is a fact: with the shortest RTO after 12.6 s.
    pub retransmits_confirmed: u8,
    /// Keepalive probes in a row without an answer, from which on that is suspicious.
    pub probes_suspected: u8,
    /// Window probes in a row without an answer, from which on that is suspicious: they come more closely.
    pub window_probes_suspected: u8,
    /// Probes of either kind from which on it is a fact.
    pub probes_confirmed: u8,
    /// For how long a window stays shut, while the peer answers, before that is suspicious.
    pub window_shut_suspected: Duration,
    /// The same before it is a fact.
    pub window_shut_confirmed: Duration,
    /// How long a peer has been silent that answers with a reset, for it to have forgotten the connection: before, the reset may be its
    /// way to close.
    pub silence_before_reset: Duration,
    /// For how long a receiver waits for a FIN of which one copy was dropped, within the window, before that is a fact: by then a sender
    /// has sent it again.
    pub fin_confirmed: Duration,
    /// Copies of a FIN that were dropped on their way through this host, from which on it is a fact although nothing else tells that none
    /// got through.
    pub fin_copies_confirmed: u8,
    /// How soon after the peer was last heard of a connection stalls that takes two paths, for these to be suspected: a firewall that sees
    /// half of a handshake ends the connection within minutes.
    pub embryonic_within: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            retransmits_suspected: 4,
            retransmits_confirmed: 6,
            probes_suspected: 2,
            window_probes_suspected: 3,
            probes_confirmed: 4,
            window_shut_suspected: Duration::from_secs(6),
            window_shut_confirmed: Duration::from_secs(30),
            silence_before_reset: Duration::from_secs(10),
            fin_confirmed: Duration::from_secs(3),
            fin_copies_confirmed: 3,
            embryonic_within: Duration::from_secs(300),
        }
    }
}

impl Thresholds {
    /// Says what contradicts itself, or would tell of what is healthy.
    ///
    /// # Errors
    ///
    /// With the names of the thresholds.
    pub fn check(&self) -> Result<(), String> {
        let counts = [
            ("retransmits_suspected", self.retransmits_suspected, "retransmits_confirmed", self.retransmits_confirmed),
            ("probes_suspected", self.probes_suspected, "probes_confirmed", self.probes_confirmed),
            ("window_probes_suspected", self.window_probes_suspected, "probes_confirmed", self.probes_confirmed),
        ];
        for (name, suspected, other, confirmed) in counts {
            // The first is ordinary on every path.
            if suspected < 2 {
                return Err(format!("{name} is at least 2: one is ordinary"));
            }
            if confirmed < suspected {
                return Err(format!("{other} ({confirmed}) is less than {name} ({suspected})"));
            }
        }
        if self.window_shut_confirmed < self.window_shut_suspected {
            return Err("window_shut_confirmed is less than window_shut_suspected".to_owned());
        }
        // More are not kept as evidence.
        if !(2..=12).contains(&self.fin_copies_confirmed) {
            return Err("fin_copies_confirmed is from 2 (one copy is no repetition) to 12".to_owned());
        }
        let times = [
            ("window_shut_suspected", self.window_shut_suspected),
            ("silence_before_reset", self.silence_before_reset),
            ("fin_confirmed", self.fin_confirmed),
            ("embryonic_within", self.embryonic_within),
        ];
        if let Some((name, _)) = times.into_iter().find(|(_, time)| *time < Duration::from_secs(1)) {
            return Err(format!("{name} is at least 1s: less is ordinary"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_contradicts_itself_is_refused() {
        let refused = |thresholds: Thresholds| thresholds.check().unwrap_err();
        let default = Thresholds::default();
        default.check().unwrap();
        assert!(refused(Thresholds { retransmits_suspected: 1, ..default }).contains("at least 2"));
        assert!(refused(Thresholds { retransmits_confirmed: 3, ..default }).contains("retransmits_suspected (4)"));
        assert!(refused(Thresholds { probes_confirmed: 2, ..default }).contains("window_probes_suspected"));
        let shut = Thresholds { window_shut_confirmed: Duration::from_secs(1), ..default };
        assert!(refused(shut).contains("window_shut"));
        assert!(refused(Thresholds { fin_copies_confirmed: 1, ..default }).contains("fin_copies"));
        assert!(refused(Thresholds { fin_copies_confirmed: 13, ..default }).contains("to 12"));
        let hasty = Thresholds { silence_before_reset: Duration::ZERO, ..default };
        assert!(refused(hasty).contains("silence_before_reset is at least 1s"));
    }
}
