//! systemd's journal, by its native protocol: a sentence for people, and the record with its most wanted fields apart.

use std::io;

use libsystemd::logging::{Priority, journal_send};

use crate::report::record::{Body, EndpointBody, FindingBody, Record, SeenConnectionBody};

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
    journal_send(priority(record), &message(record), fields.into_iter()).map_err(io::Error::other)
}

/// As urgent as what it tells.
fn priority(record: &Record) -> Priority {
    match &record.body {
        Body::Finding(finding) if finding.state == "closed" => Priority::Info,
        Body::Finding(finding) if finding.confidence == "confirmed" => Priority::Warning,
        Body::Finding(_) | Body::Risk(_) => Priority::Notice,
        Body::Loss(_) => Priority::Warning,
        Body::Coverage(coverage) if coverage.degraded => Priority::Notice,
        Body::Heartbeat(heartbeat) if heartbeat.sinks.iter().any(|sink| sink.failing.is_some()) => Priority::Warning,
        Body::Heartbeat(_) | Body::Connection(_) => Priority::Debug,
        Body::Coverage(_) | Body::Summary(_) => Priority::Info,
    }
}

/// A sentence.
fn message(record: &Record) -> String {
    match &record.body {
        Body::Finding(finding) => {
            let (from, to) = ends(finding);
            let owner =
                finding.owner.as_ref().map_or(String::new(), |owner| format!(", {} (pid {})", owner.comm, owner.pid));
            let state = finding.outcome.unwrap_or(finding.state);
            format!("{state}: {}/{} ({}): {from} -> {to}{owner}", finding.verdict, finding.cause, finding.confidence)
        }
        Body::Connection(closed) => {
            let (from, to) = (socket(&closed.connection.local), socket(&closed.connection.remote));
            let owner = closed.owner.comm.as_ref().map_or(String::new(), |comm| format!(", {comm}"));
            format!("{}: {from} -> {to}{owner}", closed.outcome)
        }
        Body::Coverage(coverage) if coverage.degraded => {
            format!("watching on {}, but not everything can be observed", coverage.kernel_release)
        }
        Body::Coverage(coverage) => format!("watching on {}", coverage.kernel_release),
        Body::Heartbeat(heartbeat) => format!(
            "{} connections under suspicion, {} findings open, {} events lost",
            heartbeat.open_cases, heartbeat.open_findings, heartbeat.lost
        ),
        Body::Loss(loss) => format!("{} lost ({})", loss.count, loss.place),
        Body::Risk(risk) => format!("risk: {}: {} connections: {}", risk.kind, risk.connections, risk.text),
        Body::Summary(summary) => {
            format!("stopped watching: {} findings, {} of them unresolved", summary.findings, summary.unresolved)
        }
    }
}

fn socket(end: &EndpointBody) -> String {
    std::net::SocketAddr::new(end.address, end.port).to_string()
}

fn ends(finding: &FindingBody) -> (String, String) {
    match &finding.connection {
        SeenConnectionBody::Endpoint(connection) => (socket(&connection.local), socket(&connection.remote)),
        SeenConnectionBody::Forwarder(connection) => (socket(&connection.initiator), socket(&connection.responder)),
    }
}

fn community_id(finding: &FindingBody) -> &str {
    match &finding.connection {
        SeenConnectionBody::Endpoint(connection) => &connection.community_id,
        SeenConnectionBody::Forwarder(connection) => &connection.community_id,
    }
}
