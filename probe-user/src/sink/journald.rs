//! systemd's journal, by its native protocol: a sentence for people, and the record with its most wanted fields apart.

use std::io;

use libsystemd::logging::{Priority, journal_send};

use super::headline::{Urgency, community_id, ends, message, socket, urgency};
use crate::report::record::{Body, Record};

/// Writes one record.
pub(super) fn write(record: &Record, line: &str) -> io::Result<()> {
    let mut fields = vec![
        ("SYSLOG_IDENTIFIER", "connprobe".to_owned()),
        ("CONNPROBE_TYPE", record.envelope.kind.to_owned()),
        ("CONNPROBE_SEQ", record.envelope.seq.to_string()),
        ("CONNPROBE_RECORD", line.trim_end().to_owned()),
    ];
    if let Body::Finding(finding) = &record.body {
        let (from, to) = ends(finding);
        fields.extend([
            ("CONNPROBE_FINDING_ID", finding.finding_id.to_string()),
            ("CONNPROBE_STATE", finding.state.to_owned()),
            ("CONNPROBE_VERDICT", finding.verdict.to_owned()),
            ("CONNPROBE_CAUSE", finding.cause.to_owned()),
            ("CONNPROBE_CONFIDENCE", finding.confidence.to_owned()),
            ("CONNPROBE_VANTAGE", finding.vantage.to_owned()),
            ("CONNPROBE_COMMUNITY_ID", community_id(finding).to_owned()),
            ("CONNPROBE_LOCAL", from),
            ("CONNPROBE_REMOTE", to),
        ]);
    }
    if let Body::Connection(closed) = &record.body {
        fields.extend([
            ("CONNPROBE_OUTCOME", closed.outcome.to_owned()),
            ("CONNPROBE_COMMUNITY_ID", closed.connection.community_id.clone()),
            ("CONNPROBE_LOCAL", socket(&closed.connection.local)),
            ("CONNPROBE_REMOTE", socket(&closed.connection.remote)),
        ]);
    }
    journal_send(priority(urgency(record)), &message(record), fields.into_iter()).map_err(io::Error::other)
}

fn priority(urgency: Urgency) -> Priority {
    match urgency {
        Urgency::Debug => Priority::Debug,
        Urgency::Information => Priority::Info,
        Urgency::Notice => Priority::Notice,
        Urgency::Warning => Priority::Warning,
    }
}
