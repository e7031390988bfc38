//! Records as OpenTelemetry's log records: what `docs/mappings.md` says.

use std::time::SystemTime;

use jiff::Timestamp;
use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
    resource::v1::Resource,
};
use serde_json::Value;

use crate::{
    report::{
        Host,
        record::{Body, Record, SeenConnectionBody},
    },
    sink::headline::{Urgency, message, urgency},
};

/// Version of the instrumentation scope: the major version of the records.
const SCOPE_VERSION: &str = "1";

/// What a log record has a place of its own for: scope, event name, timestamp, resource.
const NO_ATTRIBUTES: [&str; 4] = ["schema", "type", "time", "host"];

/// Fields that have a name in the semantic conventions, or a shorter one of ours. Any other is called `connprobe.` and its place in
/// the record.
const NAMES: [(&str, &str); 23] = [
    ("connection.protocol", "network.transport"),
    ("connection.community_id", "connprobe.community_id"),
    ("connection.local.address", "network.local.address"),
    ("connection.local.port", "network.local.port"),
    ("connection.remote.address", "network.peer.address"),
    ("connection.remote.port", "network.peer.port"),
    ("connection.initiator.address", "client.address"),
    ("connection.initiator.port", "client.port"),
    ("connection.responder.address", "server.address"),
    ("connection.responder.port", "server.port"),
    ("connection.ingress.name", "connprobe.ingress.name"),
    ("connection.egress.name", "connprobe.egress.name"),
    ("connection.tcp_state", "connprobe.tcp_state"),
    ("owner.pid", "process.pid"),
    ("owner.comm", "process.executable.name"),
    ("owner.exe", "process.executable.path"),
    ("owner.container_id", "container.id"),
    ("owner.runtime", "container.runtime"),
    ("owner.pod_uid", "k8s.pod.uid"),
    ("owner.unit", "connprobe.unit"),
    ("deadline.error", "error.type"),
    ("error", "error.type"),
    ("owner.uid", "process.user.id"),
];

/// Log records of one host, ready to be sent.
pub(super) fn request(host: &Host, log_records: Vec<LogRecord>) -> ExportLogsServiceRequest {
    let scope = InstrumentationScope {
        name: "connprobe".to_owned(),
        version: SCOPE_VERSION.to_owned(),
        ..InstrumentationScope::default()
    };
    let scope_logs = vec![ScopeLogs { scope: Some(scope), log_records, schema_url: String::new() }];
    let resource = Some(resource(host));
    ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { resource, scope_logs, schema_url: String::new() }] }
}

fn resource(host: &Host) -> Resource {
    let mut attributes = vec![
        attribute("service.name", text("connprobe")),
        attribute("service.version", text(env!("CARGO_PKG_VERSION"))),
        attribute("host.name", text(&host.name)),
        attribute("connprobe.host.boot_id", text(&host.boot_id.to_string())),
    ];
    attributes.extend(host.machine_id.as_deref().map(|id| attribute("host.id", text(id))));
    Resource { attributes, ..Resource::default() }
}

/// One record.
pub(super) fn log_record(record: &Record, observed: SystemTime) -> LogRecord {
    let (severity, severity_text) = severity(urgency(record));
    LogRecord {
        time_unix_nano: record.envelope.time.parse().map_or(0, unix_nano),
        observed_time_unix_nano: Timestamp::try_from(observed).map_or(0, unix_nano),
        severity_number: severity.into(),
        severity_text: severity_text.to_owned(),
        event_name: format!("connprobe.{}", record.envelope.kind),
        body: Some(text(&message(record))),
        attributes: attributes(record),
        ..LogRecord::default()
    }
}

/// 0 means that it is not known (`logs.proto`).
fn unix_nano(time: Timestamp) -> u64 {
    u64::try_from(time.as_nanosecond()).unwrap_or(0)
}

/// As the log data model maps syslog's severities, by which the journal goes, too.
const fn severity(urgency: Urgency) -> (SeverityNumber, &'static str) {
    match urgency {
        Urgency::Debug => (SeverityNumber::Debug, "DEBUG"),
        Urgency::Information => (SeverityNumber::Info, "INFO"),
        Urgency::Notice => (SeverityNumber::Info2, "INFO2"),
        Urgency::Warning => (SeverityNumber::Warn, "WARN"),
    }
}

fn attributes(record: &Record) -> Vec<KeyValue> {
    let mut attributes = Vec::new();
    if let Ok(Value::Object(fields)) = serde_json::to_value(record) {
        for (name, value) in fields.into_iter().filter(|(name, _)| !NO_ATTRIBUTES.contains(&name.as_str())) {
            add(&mut attributes, name, value);
        }
    }
    attributes.extend(network_type(&record.body).map(|kind| attribute("network.type", text(kind))));
    if let Body::Finding(finding) = &record.body {
        let first = finding.remedies.first();
        attributes.extend(first.map(|remedy| attribute("connprobe.remedy", text(&remedy.text))));
    }
    attributes
}

/// Adds a field and all below it.
fn add(attributes: &mut Vec<KeyValue>, place: String, value: Value) {
    if let Value::Object(fields) = value {
        for (name, value) in fields {
            add(attributes, format!("{place}.{name}"), value);
        }
    } else if let Some(value) = any_value(value) {
        let known = NAMES.iter().find(|(known, _)| *known == place);
        let name = known.map_or_else(|| format!("connprobe.{place}"), |(_, name)| (*name).to_owned());
        attributes.push(attribute(&name, value));
    }
}

/// `None` for what is not known.
fn any_value(value: Value) -> Option<AnyValue> {
    use any_value::Value as Any;
    let value = match value {
        Value::Null => return None,
        Value::Bool(value) => Any::BoolValue(value),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(value), _) => Any::IntValue(value),
            (None, Some(value)) if number.is_f64() => Any::DoubleValue(value),
            // It does not fit.
            (None, _) => Any::StringValue(number.to_string()),
        },
        Value::String(value) => Any::StringValue(value),
        Value::Array(values) => {
            Any::ArrayValue(ArrayValue { values: values.into_iter().filter_map(any_value).collect() })
        }
        Value::Object(fields) => {
            let fields = fields.into_iter();
            let values = fields.filter_map(|(name, value)| Some(attribute(&name, any_value(value)?))).collect();
            Any::KvlistValue(KeyValueList { values })
        }
    };
    Some(AnyValue { value: Some(value) })
}

const fn network_type(body: &Body) -> Option<&'static str> {
    let end = match body {
        Body::Finding(finding) => match &finding.connection {
            SeenConnectionBody::Endpoint(connection) => &connection.local,
            SeenConnectionBody::Forwarder(connection) => &connection.initiator,
        },
        Body::Connection(closed) => &closed.connection.local,
        Body::Coverage(_) | Body::Loss(_) | Body::Risk(_) | Body::Heartbeat(_) | Body::Summary(_) => return None,
    };
    Some(if end.address.is_ipv4() { "ipv4" } else { "ipv6" })
}

fn attribute(key: &str, value: AnyValue) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

fn text(text: &str) -> AnyValue {
    AnyValue { value: Some(any_value::Value::StringValue(text.to_owned())) }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fmt::Write as _};

    use super::*;
    use crate::report::tests::records_of_every_type;

    fn plain(value: &AnyValue) -> Value {
        match value.value.as_ref().unwrap() {
            any_value::Value::StringValue(text) => text.as_str().into(),
            any_value::Value::BoolValue(value) => (*value).into(),
            any_value::Value::IntValue(value) => (*value).into(),
            any_value::Value::DoubleValue(value) => (*value).into(),
            any_value::Value::ArrayValue(array) => array.values.iter().map(plain).collect(),
            any_value::Value::KvlistValue(list) => {
                let fields = list.values.iter().map(|field| (field.key.clone(), plain(field.value.as_ref().unwrap())));
                Value::Object(fields.collect())
            }
            other => panic!("{other:?}"),
        }
    }

    fn plain_attributes(attributes: &[KeyValue]) -> BTreeMap<String, Value> {
        let plain: BTreeMap<_, _> =
            attributes.iter().map(|field| (field.key.clone(), plain(field.value.as_ref().unwrap()))).collect();
        assert_eq!(plain.len(), attributes.len(), "no name comes twice");
        plain
    }

    #[test]
    fn log_records_are_as_the_mapping_says() {
        let observed = SystemTime::UNIX_EPOCH + std::time::Duration::from_nanos(1_763_673_900_000_000_001);
        let records = records_of_every_type();
        let mut said = String::new();
        for (name, value) in plain_attributes(&resource(&records[0].envelope.host).attributes) {
            writeln!(said, "resource {name} = {value}").unwrap();
        }
        for record in &records {
            let log = log_record(record, observed);
            let (severity, text, name) = (log.severity_number, &log.severity_text, &log.event_name);
            let body = plain(log.body.as_ref().unwrap());
            let times = (log.time_unix_nano, log.observed_time_unix_nano);
            writeln!(said, "\n{name} {severity} {text} {times:?}\n  {body}").unwrap();
            for (name, value) in plain_attributes(&log.attributes) {
                let value: String = value.to_string().chars().take(100).collect();
                writeln!(said, "  {name} = {value}").unwrap();
            }
        }
        insta::assert_snapshot!(said);
    }

    /// The values below this place that are known, each with its place.
    fn leaves(place: String, value: &Value, found: &mut Vec<(String, Value)>) {
        match value {
            Value::Null => {}
            Value::Object(fields) => {
                fields.iter().for_each(|(name, value)| leaves(format!("{place}.{name}"), value, found));
            }
            other => found.push((place, other.clone())),
        }
    }

    fn without_nulls(value: Value) -> Value {
        match value {
            Value::Array(values) => values.into_iter().filter(|value| !value.is_null()).map(without_nulls).collect(),
            Value::Object(fields) => {
                let known = fields.into_iter().filter(|(_, value)| !value.is_null());
                Value::Object(known.map(|(name, value)| (name, without_nulls(value))).collect())
            }
            other => other,
        }
    }

    #[test]
    fn everything_in_a_record_is_in_its_log_record() {
        for record in records_of_every_type() {
            let attributes = plain_attributes(&log_record(&record, SystemTime::UNIX_EPOCH).attributes);
            let mut found = Vec::new();
            let Value::Object(fields) = serde_json::to_value(&record).unwrap() else { panic!("no object") };
            for (name, value) in fields.iter().filter(|(name, _)| !NO_ATTRIBUTES.contains(&name.as_str())) {
                leaves(name.clone(), value, &mut found);
            }
            for (place, value) in &found {
                let known = NAMES.iter().find(|(known, _)| known == place).map(|(_, name)| (*name).to_owned());
                let name = known.unwrap_or_else(|| format!("connprobe.{place}"));
                assert_eq!(attributes.get(&name), Some(&without_nulls(value.clone())), "{place}");
            }
            let added = attributes.len() - found.len();
            assert!(added <= 2, "{added} more than there is, beside network.type and connprobe.remedy");
        }
    }

    #[test]
    fn the_document_has_every_name() {
        let document = include_str!("../../../../docs/mappings.md");
        for name in NAMES.map(|(_, name)| name).iter().chain(&["network.type", "connprobe.remedy", "service.version"]) {
            assert!(document.contains(&format!("`{name}`")), "{name}");
        }
    }
}
