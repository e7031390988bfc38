//! What is handed out to be asked of the metrics (`docs/operations`) is held against what is exported.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use promql_parser::{
    label::{MatchOp, Matcher},
    parser::{self, AggregateExpr, BinaryExpr, Expr, LabelModifier, VectorMatchCardinality, VectorSelector},
    util::{ExprVisitor, walk_expr},
};
use serde::Deserialize;
use serde_json::Value;

use super::{LONGEST_CONNECTION, MOST_CONNECTIONS, Metrics, MetricsSpec, Server};
use crate::{
    report::{record, tests::records_of_every_type},
    sink::queue::Queue,
};

const ALERTS: &str = include_str!("../../../../docs/operations/alerts.yml");
const ALERTS_AT_WORK: &str = include_str!("../../../../docs/operations/alerts_test.yml");
const DASHBOARD: &str = include_str!("../../../../docs/operations/grafana.json");
const MANUAL: &str = include_str!("../../../../docs/operations.md");
const DAEMON: &str = include_str!("../../../../docs/daemon.md");

/// Labels that Prometheus itself gives to each series.
const OF_PROMETHEUS: [&str; 2] = ["job", "instance"];

#[derive(Deserialize)]
struct Alerts {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Alert>,
}

#[derive(Deserialize)]
struct Alert {
    alert: String,
    expr: String,
}

fn alerts() -> Vec<Alert> {
    let alerts: Alerts = serde_saphyr::from_str(ALERTS).unwrap();
    alerts.groups.into_iter().flat_map(|group| group.rules).collect()
}

/// The labels of each metric, of which there is one series at least.
fn exported() -> BTreeMap<String, BTreeSet<String>> {
    let mut metrics = Metrics::new(Duration::from_secs(60));
    records_of_every_type().iter().for_each(|record| metrics.take(record));
    let text = metrics.text();
    let series = text.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap().0);
    let mut exported = BTreeMap::from([("up".to_owned(), BTreeSet::new())]);
    for selector in series.flat_map(|series| Asked::of(series).selectors) {
        let labels = selector.matchers.matchers.into_iter().map(|label| label.name);
        exported.entry(selector.name.unwrap()).or_insert_with(BTreeSet::new).extend(labels);
    }
    exported
}

/// What an expression asks for.
#[derive(Default)]
struct Asked {
    selectors: Vec<VectorSelector>,
    /// Labels by which series are put together or apart.
    grouped_by: Vec<String>,
}

impl Asked {
    fn of(expression: &str) -> Self {
        let mut asked = Self::default();
        let parsed = parser::parse(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
        walk_expr(&mut asked, &parsed).unwrap();
        asked
    }

    fn group(&mut self, modifier: Option<&LabelModifier>) {
        self.grouped_by.extend(modifier.into_iter().flat_map(|modifier| modifier.labels().labels.clone()));
    }
}

impl ExprVisitor for Asked {
    type Error = Infallible;

    fn pre_visit(&mut self, expression: &Expr) -> Result<bool, Infallible> {
        match expression {
            Expr::VectorSelector(selector) => self.selectors.push(selector.clone()),
            Expr::MatrixSelector(matrix) => self.selectors.push(matrix.vs.clone()),
            Expr::Aggregate(AggregateExpr { modifier, .. }) => self.group(modifier.as_ref()),
            Expr::Binary(BinaryExpr { modifier: Some(modifier), .. }) => {
                self.group(modifier.matching.as_ref());
                if let VectorMatchCardinality::ManyToOne(labels) | VectorMatchCardinality::OneToMany(labels) =
                    &modifier.card
                {
                    self.grouped_by.extend(labels.labels.clone());
                }
            }
            _ => {}
        }
        Ok(true)
    }
}

/// The values that the contract has for a field of this name.
fn values(name: &str, schema: &Value, found: &mut BTreeSet<String>) {
    let listed = schema.pointer(&format!("/properties/{name}/enum")).and_then(Value::as_array);
    found.extend(listed.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned));
    match schema {
        Value::Object(fields) => fields.values().for_each(|field| values(name, field, found)),
        Value::Array(entries) => entries.iter().for_each(|entry| values(name, entry, found)),
        _ => {}
    }
}

/// What is wrong with an expression, as far as names go.
fn wrong(expression: &str, exported: &BTreeMap<String, BTreeSet<String>>, schema: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut known: BTreeSet<&str> = OF_PROMETHEUS.into();
    let Asked { selectors, grouped_by } = Asked::of(expression);
    assert!(!selectors.is_empty(), "{expression} asks for nothing");
    for selector in &selectors {
        let name = selector.name.as_deref().unwrap_or_default();
        let Some(labels) = exported.get(name) else {
            wrong.push(format!("no metric {name}"));
            continue;
        };
        known.extend(labels.iter().map(String::as_str));
        let matchers = selector.matchers.matchers.iter().chain(selector.matchers.or_matchers.iter().flatten());
        for Matcher { op, name: label, value } in matchers.filter(|label| !OF_PROMETHEUS.contains(&label.name.as_str()))
        {
            if !labels.contains(label) {
                wrong.push(format!("{name} has no label {label}"));
            }
            let mut possible = BTreeSet::new();
            values(label, schema, &mut possible);
            let asked = match op {
                MatchOp::Equal | MatchOp::NotEqual => vec![value.as_str()],
                MatchOp::Re(_) | MatchOp::NotRe(_) => value.split('|').collect(),
            };
            wrong.extend(
                asked
                    .into_iter()
                    .filter(|value| !possible.contains(*value))
                    .map(|value| format!("{label} is never {value}")),
            );
        }
    }
    wrong.extend(
        grouped_by.iter().filter(|label| !known.contains(label.as_str())).map(|label| format!("no label {label}")),
    );
    wrong
}

/// All values of fields of this name.
fn fields<'a>(name: &str, value: &'a Value, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(fields_here) => {
            found.extend(fields_here.get(name));
            fields_here.values().for_each(|field| fields(name, field, found));
        }
        Value::Array(entries) => entries.iter().for_each(|entry| fields(name, entry, found)),
        _ => {}
    }
}

/// What the dashboard asks for: in its panels, and for its choices.
fn dashboard_queries(dashboard: &Value) -> Vec<String> {
    let (mut queries, mut choices) = (Vec::new(), Vec::new());
    fields("expr", dashboard, &mut queries);
    fields("definition", dashboard, &mut choices);
    let choices = choices.into_iter().map(|choice| {
        let (metric, label) =
            choice.as_str().unwrap().strip_prefix("label_values(").unwrap().rsplit_once(", ").unwrap();
        format!("count by ({}) ({metric})", label.trim_end_matches(')'))
    });
    queries.into_iter().map(|query| query.as_str().unwrap().to_owned()).chain(choices).collect()
}

#[test]
fn alerts_and_dashboard_ask_only_for_what_is_exported() {
    let (exported, schema) = (exported(), record::schema());
    let dashboard = serde_json::from_str(DASHBOARD).unwrap();
    let queries: Vec<String> =
        alerts().into_iter().map(|alert| alert.expr).chain(dashboard_queries(&dashboard)).collect();
    for query in &queries {
        assert_eq!(wrong(query, &exported, &schema), Vec::<String>::new(), "{query}");
    }
    let asked: BTreeSet<_> =
        queries.iter().flat_map(|query| Asked::of(query).selectors).filter_map(|selector| selector.name).collect();
    let unasked: Vec<_> = exported.keys().filter(|name| !asked.contains(*name)).collect();
    assert!(unasked.is_empty(), "exported, and on no panel: {unasked:?}");
}

#[test]
fn a_name_that_is_not_exported_is_found() {
    let (exported, schema) = (exported(), record::schema());
    for (expression, expected) in [
        ("sum by (verdict) (connprobe_open_findings{confidence=\"confirmed\"})", vec![]),
        ("connprobe_findings", vec!["no metric connprobe_findings"]),
        (
            "rate(connprobe_hook_emitted_total{place=\"ring\"}[5m])",
            vec!["connprobe_hook_emitted_total has no label place"],
        ),
        ("sum by (sink) (connprobe_open_cases)", vec!["no label sink"]),
        ("connprobe_hook_status{status=~\"ok|fine\"}", vec!["status is never fine"]),
        ("up / on (host) connprobe_open_cases", vec!["no label host"]),
    ] {
        assert_eq!(wrong(expression, &exported, &schema), expected, "{expression}");
    }
}

#[test]
fn every_metric_is_told_of_where_the_daemon_is() {
    for name in exported().keys().filter(|name| *name != "up") {
        assert!(DAEMON.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn every_alert_is_seen_at_work_and_has_a_section_that_says_what_to_do() {
    let alerts = alerts();
    assert!(!alerts.is_empty());
    for Alert { alert, .. } in alerts {
        assert!(MANUAL.contains(&format!("\n### {alert}\n")), "docs/operations.md has no section {alert}");
        let fires = ALERTS_AT_WORK.contains(&format!("- alertname: {alert}\n"));
        let stays_silent = ALERTS_AT_WORK.contains(&format!("{{alertname: {alert}, "));
        assert!(fires && stays_silent, "{alert} is not seen at work in alerts_test.yml");
    }
}

#[test]
fn panels_of_the_dashboard_have_numbers_of_their_own_and_do_not_overlap() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{}", panel["title"]);
        let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        for (x, y) in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
            assert!(x < 24 && cells.insert((x, y)), "{}", panel["title"]);
        }
    }
}

/// What is answered on one connection, which the server closes.
fn ask(address: SocketAddr, request: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LONGEST_CONNECTION * 10))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map(|_| answer)
}

#[tokio::test]
async fn who_holds_all_connections_open_keeps_nobody_out_for_long() {
    let server =
        Server::bind(MetricsSpec { listen: ([127, 0, 0, 1], 0).into(), heartbeat_every: Duration::from_secs(60) });
    let server = server.unwrap();
    let address = server.listener.local_addr().unwrap();
    let queue = Queue::new();
    let serving = server.serve(queue.reader(&Arc::default()));
    let asking = tokio::task::spawn_blocking(move || {
        let idle = || TcpStream::connect(address).unwrap();
        let unfinished = || {
            let mut stream = idle();
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n").unwrap();
            stream
        };
        let each = |number: usize| if number.is_multiple_of(2) { idle() } else { unfinished() };
        let held: Vec<_> = (0..MOST_CONNECTIONS).map(each).collect();
        let begun = Instant::now();
        let answer = ask(address, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let waited = begun.elapsed();
        drop(held);
        (answer, waited)
    });
    let (answer, waited) = tokio::select! {
        result = serving => panic!("it serves on: {result:?}"),
        answer = asking => answer.unwrap(),
    };
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("connection: close\r\n"), "{answer}");
    assert!(waited > LONGEST_CONNECTION / 2 && waited < LONGEST_CONNECTION * 2, "{waited:?}");
}
