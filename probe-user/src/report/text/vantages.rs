use super::{BODY, Writer};
use crate::{
    case::Finding,
    model::{MonoTime, Vantage},
    report::{
        WallClock,
        sentences::{held, what},
    },
};

impl Writer {
    /// What else is seen of the connection that was told just before.
    pub(super) fn other_vantages(&mut self, others: &[&Finding], clock: &WallClock, now: MonoTime) {
        if others.is_empty() {
            return;
        }
        self.blank();
        self.line(BODY, self.dim("the same connection, seen from elsewhere on this host"));
        for finding in others {
            let place = match finding.vantage() {
                Vantage::Endpoint => format!("at its end {}", finding.id.key.local),
                Vantage::Forwarder => "on its way".to_owned(),
            };
            let ruling = &finding.ruling;
            let text = format!(
                "{place}, network namespace {}, {}: {}, {} ({}). {}",
                finding.id.key.netns,
                held(finding),
                ruling.verdict.name(),
                ruling.cause.name(),
                ruling.confidence.name(),
                what(finding, clock, now)
            );
            self.hanging("     - ", "       ", text);
        }
    }
}
