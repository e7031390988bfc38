//! What may go wrong later, after what is wrong now.

use std::collections::HashSet;

use super::{BODY, Writer};
use crate::{
    judge::{
        risk::{LookedBy, Risk, Risks},
        risk_remedies,
    },
    model::{counted, span},
    report::{handbook::Topic, sentences},
};

impl Writer {
    /// Writes the risks; nothing when they were not asked for.
    pub(super) fn risks(&mut self, risks: Option<&Risks>) {
        let Some(risks) = risks else { return };
        self.blank();
        let connections: usize = risks.risks.iter().map(|risk| risk.count).sum();
        let remarks = remarks(risks);
        let heading = match connections {
            0 if remarks.is_empty() => "No risk seen among the idle connections.".to_owned(),
            0 => "No risk seen, but not everything could be looked at:".to_owned(),
            1 => "1 connection at risk: nothing is wrong with it yet.".to_owned(),
            _ => format!("{connections} connections at risk: nothing is wrong with them yet."),
        };
        self.line("", self.bold(&heading));
        let mut told = HashSet::new();
        for risk in &risks.risks {
            self.blank();
            self.risk(risk, &mut told);
        }
        if !risks.risks.is_empty() {
            self.blank();
        }
        for remark in remarks {
            self.hanging("  - ", "    ", remark);
        }
        if !risks.risks.is_empty() {
            self.line("  ", self.dim(&format!("more: connprobe explain {}", Topic::Risks)));
        }
    }

    /// What was `told` to be done about another risk is not repeated.
    fn risk(&mut self, risk: &Risk, told: &mut HashSet<String>) {
        let mut heading = self.bold(&sentences::heading(risk));
        heading.push(format!(" ({})", risk.kind.name()));
        self.line(" * ", heading);
        self.line(BODY, format!("network namespace {}, {}", risk.netns, sentences::holder(risk)));
        self.line(BODY, sentences::risk(risk));
        for example in &risk.examples {
            self.hanging("     ", "       ", format!("{}, idle for {}", example.key, span(example.idle_for)));
        }
        let left_out = risk.count.saturating_sub(risk.examples.len());
        if left_out > 0 {
            self.line("     ", format!("({left_out} more)"));
        }
        self.line(BODY, self.dim("what to do"));
        let mut remedies = risk_remedies(risk);
        let all = remedies.len();
        remedies.retain(|remedy| told.insert(remedy.text.clone()));
        let repeated = remedies.len() < all;
        self.remedies(remedies);
        if repeated {
            self.line("     - ", "what is said above");
        }
    }
}

/// What the look did not see.
fn remarks(risks: &Risks) -> Vec<String> {
    let mut remarks = Vec::new();
    if risks.left_out > 0 {
        remarks.push(format!(
            "left out, those with the fewest connections: {}, {} together",
            counted(risks.left_out, "risk"),
            counted(risks.connections_left_out, "connection")
        ));
    }
    if risks.not_judged > 0 {
        remarks.push(format!("not judged, being too many: {}", counted(risks.not_judged, "idle connection")));
    }
    if risks.keepalive_unknown > 0 {
        remarks.push(format!(
            "of {} it is not known whether keepalive asks in time",
            counted(risks.keepalive_unknown, "idle connection")
        ));
    }
    if risks.looked_by == LookedBy::SockDiag && !risks.risks.is_empty() {
        remarks.push(
            "keepalive probes that the peers send are not seen this way (sock_diag); they keep a connection known, too"
                .to_owned(),
        );
    }
    remarks.extend(risks.gaps.iter().cloned());
    if risks.gaps_left_out > 0 {
        remarks.push(format!("so it is with {} more", risks.gaps_left_out));
    }
    remarks
}
