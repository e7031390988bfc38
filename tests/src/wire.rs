//! The records of `connprobe`, declared a second time, independently and without room for anything unknown: were the program
//! to rename, drop or add a field, reading its output here would fail. A field is added here when it is added to the contract.

#![expect(missing_docs, reason = "the program's own record types document the fields")]

mod closed;
mod coverage;
mod forwarded;
mod heartbeat;
mod risk;

use std::sync::OnceLock;

use anyhow::{Context as _, Result, anyhow, ensure};
use jsonschema::Validator;
use serde::Deserialize;
use serde_json::{Map, Value};

pub use closed::{Closed, ClosedOwner};
pub use coverage::{Coverage, Hook, Lifecycle, MissingField, Module, Scan, SelfTest};
pub use forwarded::{End, ForwardedConnection, Port, PortOwner, Translated};
pub use heartbeat::{ConnectionCounts, Cost, Heartbeat, Sink};
pub use risk::{Example, KeepaliveTimes, Risk, Risks};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    pub name: String,
    pub machine_id: Option<String>,
    pub boot_id: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding<C = Connection> {
    pub finding_id: String,
    pub state: String,
    pub outcome: Option<String>,
    pub verdict: String,
    pub cause: String,
    pub confidence: String,
    pub vantage: String,
    pub connection: C,
    pub related: Vec<String>,
    pub owner: Option<Owner>,
    pub owner_unavailable: Option<String>,
    pub since: String,
    pub deadline: Option<Deadline>,
    pub socket: Socket,
    pub path: Option<Path>,
    pub evidence: Vec<Evidence>,
    pub evidence_left_out: u64,
    pub missing_evidence: Vec<Missing>,
    pub remedies: Vec<Remedy>,
    pub truncated: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    pub netns: u32,
    pub protocol: String,
    pub local: Endpoint,
    pub remote: Endpoint,
    pub role: Option<String>,
    pub tcp_state: Option<String>,
    pub community_id: String,
    pub cookie: Option<String>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    pub address: std::net::IpAddr,
    pub port: u16,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    pub pid: u32,
    pub comm: String,
    pub other_holders: u32,
    pub exe: Option<String>,
    pub cgroup: Option<String>,
    pub container_id: Option<String>,
    pub runtime: Option<String>,
    pub pod_uid: Option<String>,
    pub unit: Option<String>,
    pub vm: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deadline {
    pub time: String,
    pub in_seconds: f64,
    pub timer: String,
    pub set_by: String,
    pub setting: u64,
    pub error: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Socket {
    pub snd_una: Option<u32>,
    pub snd_nxt: Option<u32>,
    pub unacknowledged_bytes: Option<u32>,
    pub unsent_bytes: Option<u32>,
    pub send_window_bytes: Option<u32>,
    pub packets_out: Option<u32>,
    pub total_retransmits: Option<u32>,
    pub retransmits: Option<u8>,
    pub backoff: Option<u8>,
    pub probes_out: Option<u8>,
    pub rto_us: Option<u64>,
    pub last_ack_ago_us: Option<u64>,
    pub retransmitting_for_us: Option<u64>,
    pub user_timeout_ms: Option<u64>,
    pub keepalive: Option<Keepalive>,
    pub orphaned: Option<bool>,
    pub ingress_ifindex: Option<u32>,
    pub egress_ifindex: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Path {
    pub local_address: bool,
    pub mark: Option<u32>,
    pub transparent: Option<bool>,
    pub egress_interface: Option<String>,
    pub gateway: Option<std::net::IpAddr>,
    pub next_hop: Option<String>,
    pub route_errno: Option<i32>,
    pub ingress_interface: Option<String>,
    pub asymmetric: Option<bool>,
    pub reverse_path_filter: Option<u8>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keepalive {
    pub enabled: bool,
    pub idle_ms: Option<u64>,
    pub interval_ms: Option<u64>,
    pub probes: Option<u8>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    pub time: String,
    pub kind: String,
    pub text: String,
    pub data: Map<String, Value>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Missing {
    pub kind: String,
    pub text: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remedy {
    pub text: String,
    pub command: Option<String>,
    pub place: Option<String>,
    pub risk: Option<String>,
    pub lasting: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loss {
    pub place: String,
    pub hook: Option<String>,
    pub count: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    pub watched_seconds: f64,
    pub findings: usize,
    pub unresolved: usize,
    pub highest_confidence: Option<String>,
    pub lost: u64,
    pub undecodable: u64,
    pub unasked: u64,
    pub risks: Option<Risks>,
    pub hooks: Vec<HookCount>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookCount {
    pub hook: String,
    pub seen: u64,
    pub emitted: u64,
    pub lost: u64,
    pub suppressed: u64,
    pub missed: u64,
}

/// The data of evidence `drop_place`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropPlace {
    pub site: Option<String>,
    pub hook: Option<String>,
    pub functions: Vec<String>,
    pub rules: Option<Vec<FilterRule>>,
    pub rules_left_out: usize,
    pub rules_unavailable: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterRule {
    pub family: String,
    pub table: String,
    pub chain: String,
    pub handle: Option<u64>,
    pub text: String,
}

/// What a record says beside its envelope.
#[derive(Clone, Debug)]
pub enum Body {
    Finding(Box<Finding>),
    /// A finding about a connection that is only forwarded.
    Forwarded(Box<Finding<ForwardedConnection>>),
    Connection(Box<Closed>),
    Coverage(Coverage),
    Loss(Loss),
    Risk(Box<Risk>),
    Heartbeat(Heartbeat),
    Summary(Summary),
}

/// One record.
#[derive(Clone, Debug)]
pub struct Record {
    pub time: String,
    pub host: Host,
    pub run_id: String,
    pub seq: u64,
    pub body: Body,
}

/// Reads one record.
///
/// # Errors
/// When it is not exactly what the contract says.
pub fn read(record: &Value) -> Result<Record> {
    follows_schema(record).and_then(|()| read_parts(record)).with_context(|| format!("in the record {record}"))
}

/// Holds it against the committed JSON Schema.
fn follows_schema(record: &Value) -> Result<()> {
    static SCHEMA: OnceLock<Result<Validator, String>> = OnceLock::new();
    let schema = SCHEMA.get_or_init(|| {
        let text = include_str!("../../docs/schema/connprobe-1.schema.json");
        let schema: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        jsonschema::options().should_validate_formats(true).build(&schema).map_err(|error| error.to_string())
    });
    let schema = schema.as_ref().map_err(|error| anyhow!("the committed schema is none: {error}"))?;
    schema.validate(record).map_err(|error| anyhow!("against the schema, at {}: {error}", error.instance_path))
}

fn read_parts(record: &Value) -> Result<Record> {
    let mut fields = record.as_object().cloned().context("a record is an object")?;
    let mut take = |name: &str| fields.remove(name).with_context(|| format!("no field {name}"));
    let schema: String = serde_json::from_value(take("schema")?)?;
    ensure!(schema == "connprobe/1", "schema {schema}");
    let kind: String = serde_json::from_value(take("type")?)?;
    let time: String = serde_json::from_value(take("time")?)?;
    ensure!(is_time(&time), "time {time}");
    let host = serde_json::from_value(take("host")?)?;
    let run_id = serde_json::from_value(take("run_id")?)?;
    let seq = serde_json::from_value(take("seq")?)?;
    let rest = Value::Object(fields);
    let body = match kind.as_str() {
        "finding" if rest.get("vantage").is_some_and(|vantage| vantage == "forwarder") => {
            Body::Forwarded(serde_json::from_value(rest)?)
        }
        "finding" => Body::Finding(serde_json::from_value(rest)?),
        "connection" => Body::Connection(serde_json::from_value(rest)?),
        "coverage" => Body::Coverage(serde_json::from_value(rest)?),
        "loss" => Body::Loss(serde_json::from_value(rest)?),
        "risk" => Body::Risk(Box::new(serde_json::from_value(rest)?)),
        "heartbeat" => Body::Heartbeat(serde_json::from_value(rest)?),
        "summary" => Body::Summary(serde_json::from_value(rest)?),
        other => anyhow::bail!("type {other}"),
    };
    match &body {
        Body::Finding(finding) => {
            ensure!(finding.vantage == "endpoint", "vantage {}", finding.vantage);
            check(finding)?;
        }
        Body::Forwarded(finding) => {
            ensure!(finding.owner.is_none() && finding.deadline.is_none() && finding.path.is_none(), "{finding:?}");
            check(finding)?;
        }
        Body::Risk(risk) => check_risk(risk)?,
        Body::Connection(closed) => check_closed(closed)?,
        Body::Coverage(_) | Body::Loss(_) | Body::Heartbeat(_) | Body::Summary(_) => {}
    }
    Ok(Record { time, host, run_id, seq, body })
}

/// Reads the records of a whole run, which count from 0 without a gap.
///
/// # Errors
/// As [`read`], and when one is missing.
pub fn read_all(records: &[Value]) -> Result<Vec<Record>> {
    let records = records.iter().map(read).collect::<Result<Vec<_>>>()?;
    for (expected, record) in (0u64..).zip(&records) {
        ensure!(record.seq == expected, "record {expected} has the number {}", record.seq);
    }
    Ok(records)
}

/// `2026-11-20T21:24:01.123456789Z`
fn is_time(text: &str) -> bool {
    let shape = |byte: u8| if byte.is_ascii_digit() { b'0' } else { byte };
    text.bytes().map(shape).eq(*b"0000-00-00T00:00:00.000000000Z")
}

fn check<C>(finding: &Finding<C>) -> Result<()> {
    let times = finding.evidence.iter().map(|evidence| &evidence.time);
    ensure!(times.clone().all(|time| is_time(time)) && times.is_sorted(), "evidence is in time order");
    ensure!(is_time(&finding.since), "since {}", finding.since);
    ensure!(["opened", "updated", "closed", "left_open"].contains(&finding.state.as_str()), "state {}", finding.state);
    ensure!((finding.state == "closed") == finding.outcome.is_some(), "only a closed finding has an outcome");
    ensure!(finding.owner.is_some() != finding.owner_unavailable.is_some(), "an owner, or why there is none");
    ensure!(
        (finding.confidence == "confirmed")
            <= finding.missing_evidence.iter().all(|missing| ["socket", "drop_rule"].contains(&missing.kind.as_str())),
        "nothing is missing from what is confirmed"
    );
    ensure!(!finding.remedies.is_empty(), "every finding says what to do");
    Ok(())
}

fn check_closed(closed: &Closed) -> Result<()> {
    let times = [&closed.opened, &closed.established];
    ensure!(times.into_iter().flatten().all(|time| is_time(time)), "{closed:?}");
    ensure!(closed.opened.is_some() == closed.duration_seconds.is_some(), "{closed:?}");
    ensure!(closed.opened.is_some() == closed.connection.role.is_some(), "{closed:?}");
    ensure!(closed.reset_by.is_none() || closed.outcome == "reset", "only who sent a RST has reset it: {closed:?}");
    ensure!(closed.owner.pid.is_some() == closed.owner.known_by.is_some(), "{closed:?}");
    Ok(())
}

fn check_risk(risk: &Risk) -> Result<()> {
    ensure!(risk.owner.is_some() != risk.owner_unavailable.is_some(), "an owner, or why there is none");
    ensure!(risk.owner.is_some() == (risk.processes > 0), "who has an owner has processes");
    ensure!(
        risk.connections == risk.examples.len() + risk.examples_left_out,
        "every connection is an example or left out"
    );
    ensure!(!risk.examples.is_empty() && risk.over_limit <= risk.connections, "{risk:?}");
    ensure!(risk.examples.iter().all(|example| example.idle_seconds <= risk.longest_idle_seconds), "{risk:?}");
    ensure!((risk.kind == "keepalive_too_late") == risk.keepalive.is_some(), "{risk:?}");
    ensure!(!risk.remedies.is_empty(), "every risk says what to do");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    fn names(schema: &Value, names: &mut BTreeSet<String>) {
        match schema {
            Value::Object(fields) => {
                if let Some(Value::Object(properties)) = fields.get("properties") {
                    names.extend(properties.keys().cloned());
                }
                fields.values().for_each(|field| self::names(field, names));
            }
            Value::Array(items) => items.iter().for_each(|item| self::names(item, names)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn every_field_of_the_schema_is_in_the_manual() {
        let schema = serde_json::from_str(include_str!("../../docs/schema/connprobe-1.schema.json")).unwrap();
        let manual = include_str!("../../docs/events.md");
        let mut fields = BTreeSet::new();
        names(&schema, &mut fields);
        assert!(fields.len() > 100, "{fields:?}");
        let missing: Vec<_> = fields.iter().filter(|name| !manual.contains(&format!("`{name}`"))).collect();
        assert!(missing.is_empty(), "docs/events.md does not speak of {missing:?}");
    }

    #[test]
    fn a_record_that_is_not_as_the_contract_says_is_refused() {
        let host = json!({ "name": "a", "machine_id": null, "boot_id": "00000000-0000-0000-0000-000000000007" });
        let loss = json!({
            "schema": "connprobe/1", "type": "loss", "time": "2026-11-20T21:24:14.000000000Z", "host": host,
            "run_id": "00000000-0000-0000-0000-000000000008", "seq": 1,
            "place": "ring", "hook": "tcp_retransmit_skb", "count": 4
        });
        read(&loss).unwrap();
        let mut more = loss.clone();
        more["more"] = 1.into();
        assert!(read(&more).is_err(), "no field may be added unnoticed");
        for (field, value) in [
            ("place", json!("elsewhere")),
            ("count", json!("4")),
            ("time", json!("yesterday")),
            ("type", json!("finding")),
            ("schema", json!("connprobe/2")),
            ("hook", json!(null)),
        ] {
            let mut wrong = loss.clone();
            wrong[field] = value.clone();
            assert_eq!(read(&wrong).is_ok(), field == "hook", "{field}: {value}");
        }
    }

    #[test]
    fn times_have_one_shape() {
        assert!(is_time("2026-11-20T21:24:01.123456789Z"));
        assert!(!is_time("2026-11-20T21:24:01.123Z") && !is_time("2026-11-20 21:24:01.123456789Z"));
    }
}
