//! A record in a sentence, and how urgent it is: for sinks whose readers have a line for each.

use crate::{
    model::counted,
    report::{
        Printable,
        record::{Body, EndpointBody, FindingBody, Record, SeenConnectionBody},
    },
};

/// How urgent a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    Debug,
    Information,
    Notice,
    Warning,
}

/// As urgent as what it tells.
pub(super) fn urgency(record: &Record) -> Urgency {
    match &record.body {
        Body::Finding(finding) if finding.state == "closed" => Urgency::Information,
        Body::Finding(finding) if finding.confidence == "confirmed" => Urgency::Warning,
        Body::Finding(_) | Body::Risk(_) => Urgency::Notice,
        Body::Loss(_) => Urgency::Warning,
        Body::Coverage(coverage) if coverage.degraded => Urgency::Notice,
        Body::Heartbeat(heartbeat) if heartbeat.sinks.iter().any(|sink| sink.failing.is_some()) => Urgency::Warning,
        Body::Heartbeat(_) | Body::Connection(_) => Urgency::Debug,
        Body::Coverage(_) | Body::Summary(_) => Urgency::Information,
    }
}

/// A sentence, as a terminal may show it: `journalctl` prints one with control characters as a blob.
pub(super) fn message(record: &Record) -> String {
    let message = match &record.body {
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
            "{} under suspicion, {} open, {} lost",
            counted(heartbeat.open_cases, "connection"),
            counted(heartbeat.open_findings, "finding"),
            counted(heartbeat.lost, "event")
        ),
        Body::Loss(loss) => format!("{} lost ({})", loss.count, loss.place),
        Body::Risk(risk) => format!("risk: {}: {}: {}", risk.kind, counted(risk.connections, "connection"), risk.text),
        Body::Summary(summary) => {
            format!("stopped watching: {}, {} unresolved", counted(summary.findings, "finding"), summary.unresolved)
        }
    };
    Printable::from(message).into_string()
}

/// Whose ends: this host's first, or who began it.
pub(super) fn ends(finding: &FindingBody) -> (String, String) {
    match &finding.connection {
        SeenConnectionBody::Endpoint(connection) => (socket(&connection.local), socket(&connection.remote)),
        SeenConnectionBody::Forwarder(connection) => (socket(&connection.initiator), socket(&connection.responder)),
    }
}

/// Address and port, as they are written everywhere.
pub(super) fn socket(end: &EndpointBody) -> String {
    std::net::SocketAddr::new(end.address, end.port).to_string()
}

/// What both hosts' records of the connection have in common.
pub(super) fn community_id(finding: &FindingBody) -> &str {
    match &finding.connection {
        SeenConnectionBody::Endpoint(connection) => &connection.community_id,
        SeenConnectionBody::Forwarder(connection) => &connection.community_id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::records_of_every_type;

    #[test]
    fn no_name_acts_on_the_terminal_of_who_reads_the_journal() {
        let records = records_of_every_type().into_iter().map(|mut record| {
            if let Body::Finding(finding) = &mut record.body
                && let Some(owner) = &mut finding.owner
            {
                owner.comm = "\x1b[2J\nx".to_owned();
            }
            message(&record)
        });
        let messages: Vec<_> = records.collect();
        assert!(messages.iter().any(|message| message.ends_with(r", \u{1b}[2J\nx (pid 812)")), "{messages:?}");
        assert!(!messages.iter().any(|message| message.contains(char::is_control)), "{messages:?}");
    }
}
