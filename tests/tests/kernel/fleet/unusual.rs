//! Records that come twice, late, cut or not at all, those of a later version, and hosts that fall silent or begin anew.

use anyhow::{Context as _, Result, ensure};
use connprobe_tests::store::Store;
use serde_json::Value;

use super::{column, text};

/// What a fleet's records are like now and then.
pub(super) fn unusual(store: &Store, written: &[String]) -> Result<()> {
    const STATES: &str = "SELECT * EXCEPT (received) FROM connprobe.current_findings ORDER BY finding_id";
    const CONNECTIONS: &str = "SELECT * FROM connprobe.connections ORDER BY community_id";
    // When they came is what has changed.
    const HOSTS: &str =
        "SELECT * EXCEPT (last_heartbeat, last_coverage, late_seconds) FROM connprobe.hosts ORDER BY host";
    let state = || Ok::<_, anyhow::Error>((store.rows(STATES)?, store.rows(CONNECTIONS)?, store.rows(HOSTS)?));
    let before = state()?;
    let last_first: Vec<String> = written.iter().rev().cloned().collect();
    store.insert(&last_first)?;
    ensure!(before == state()?, "out of order and again, it is the same");

    let finding = |host: &str| -> Result<Value> {
        let of = |record: &Value| record.pointer("/host/name").is_some_and(|name| name == host);
        let stalled = ["retransmit_stalled", "asymmetric_handshake"];
        let records = written.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut findings = records.filter(|record| of(record) && stalled.contains(&text(record, "verdict").as_str()));
        findings.next_back().with_context(|| format!("no finding of {host}"))
    };
    // Fields of a later version, and records of one, beside what is no record at all; and the end comes before what was before it.
    let mut closed = finding("compute-1")?;
    let id = text(&closed, "finding_id");
    set(&mut closed, &[("/state", "closed".into()), ("/outcome", "recovered".into()), ("/seq", 1001.into())])?;
    let mut late = finding("compute-1")?;
    set(&mut late, &[("/state", "updated".into()), ("/seq", 1000.into()), ("/connection/netns", Value::Null)])?;
    for (field, value) in [("novelty", serde_json::json!({"of": ["a later version"]})), ("owner", Value::Null)] {
        late.as_object_mut().context("no object")?.insert(field.to_owned(), value);
    }
    let novel =
        r#"{"schema":"connprobe/1","type":"novelty","time":"2026-11-20T21:24:01Z","host":{"name":"novel-1"},"seq":7}"#;
    let later = novel.replace("connprobe/1", "connprobe/10");
    // In the place of what a sink has lost stands a record that says so.
    let lost = r#"{"schema":"connprobe/1","type":"coverage","time":"2026-11-20T21:24:01Z","host":{"name":"losing-1"},"seq":0}
{"schema":"connprobe/1","type":"loss","place":"sink","time":"2026-11-20T21:24:02Z","host":{"name":"losing-1"},"seq":1}
{"schema":"connprobe/1","type":"summary","time":"2026-11-20T21:24:03Z","host":{"name":"losing-1"},"seq":2}"#;
    let mut lines = vec![closed.to_string(), late.to_string(), "no record".to_owned(), "{\"cut\": tr".to_owned()];
    lines.extend([novel.to_owned(), later.clone()].into_iter().chain(lost.lines().map(str::to_owned)));
    store.insert(&lines)?;
    let state = column(
        store,
        &format!("SELECT concat(status, ' ', outcome) FROM connprobe.current_findings WHERE finding_id = '{id}'"),
    )?;
    ensure!(state == ["closed recovered"], "{state:?}");
    let kept = column(store, "SELECT host FROM connprobe.records WHERE type = 'novelty'")?;
    ensure!(kept == ["novel-1"], "{kept:?}");
    let rejected = column(store, "SELECT line FROM connprobe.rejected ORDER BY line")?;
    ensure!(rejected == ["no record", "{\"cut\": tr", later.as_str()], "{rejected:?}");
    let missing = column(
        store,
        "SELECT concat(host, if(missing > 900, ' lacks many', ' lacks few')) FROM connprobe.missing_records ORDER BY host",
    )?;
    ensure!(missing == ["compute-1 lacks many", "losing-1 lacks few"], "{missing:?}");

    // The daemon of a host begins anew without a last word, once without what it knew and once with it.
    let id = "00000000-0000-4000-8000-000000000090";
    let run = |number: u8| Value::from(format!("00000000-0000-4000-8000-0000000001{number:02}"));
    let mut begins_anew = finding("compute-1")?;
    let host = ("/host/name", Value::from("anew-1"));
    set(&mut begins_anew, &[host, ("/finding_id", id.into()), ("/state", "opened".into()), ("/run_id", run(1))])?;
    let coverage = format!(
        r#"{{"schema":"connprobe/1","type":"coverage","time":"2100-01-01T00:00:00Z","host":{{"name":"anew-1"}},"run_id":{},"seq":0}}"#,
        run(2)
    );
    let status = format!("SELECT concat(status, ' ', state) FROM connprobe.current_findings WHERE finding_id = '{id}'");
    store.insert(&[begins_anew.to_string(), coverage])?;
    ensure!(column(store, &status)? == ["abandoned opened"], "{:?}", column(store, &status)?);
    let now = column(store, "SELECT formatDateTime(now('UTC') + INTERVAL 1 MINUTE, '%FT%TZ')")?.concat();
    let again = [("/state", "updated".into()), ("/run_id", run(2)), ("/seq", 1.into()), ("/time", now.into())];
    set(&mut begins_anew, &again)?;
    store.insert(&[begins_anew.to_string()])?;
    ensure!(column(store, &status)? == ["open updated"], "{:?}", column(store, &status)?);

    // Two on the way translate: three names of one connection. The same ports at another time are another connection.
    let mut lines = Vec::new();
    let mut add = |from: &str, host: &str, number: u8, changes: &[(&str, Value)]| -> Result<()> {
        let mut record = finding(from)?;
        let id = format!("00000000-0000-4000-8000-0000000000{number:02}");
        set(&mut record, &[("/host/name", host.into()), ("/finding_id", id.into())])?;
        set(&mut record, changes)?;
        lines.push(record.to_string());
        Ok(())
    };
    let name = |name: &str| ("/connection/community_id", Value::from(name));
    let translated = |name: &str| ("/connection/translated", serde_json::json!({"community_id": name}));
    add("compute-1", "client-1", 1, &[name("1:first")])?;
    add("firewall-1", "gateway-1", 2, &[name("1:first"), translated("1:second")])?;
    add("firewall-1", "node-1", 3, &[name("1:second"), translated("1:third")])?;
    add("controller-1", "server-1", 4, &[name("1:third")])?;
    let earlier = column(store, "SELECT formatDateTime(now('UTC') - INTERVAL 2 HOUR, '%FT%TZ')")?;
    let earlier = Value::from(earlier.concat());
    let then = [("/time", earlier.clone()), ("/since", earlier)];
    add("controller-1", "server-2", 5, &[&[name("1:third")], &then[..]].concat())?;
    // What stood before the same name at another time.
    add("firewall-1", "gateway-2", 6, &[&[name("1:earlier"), translated("1:near")], &then[..]].concat())?;
    add("firewall-1", "node-2", 7, &[name("1:near"), translated("1:far")])?;
    add("controller-1", "server-3", 8, &[name("1:far")])?;
    store.insert(&lines)?;
    let met = column(
        store,
        "SELECT concat(community_id, ' ', arrayStringConcat(hosts, ' ')) FROM connprobe.connections \
         WHERE hasAny(hosts, ['server-1', 'server-2', 'server-3']) ORDER BY community_id",
    )?;
    let expected = ["1:first client-1 gateway-1 node-1 server-1", "1:near node-2 server-3", "1:third server-2"];
    ensure!(met == expected, "{met:?}");

    // A host of which nothing has come for ten minutes: what it told of last is not known to be so.
    store.rows(
        "INSERT INTO connprobe.last_records SELECT received - 600, time - 600, type, 'server-1', boot_id, run_id, seq, record, version \
         FROM connprobe.last_records FINAL WHERE host = 'controller-1' AND type IN ('heartbeat', 'coverage')",
    )?;
    let silent = column(store, "SELECT host FROM connprobe.hosts WHERE status = 'silent'")?;
    ensure!(silent.contains(&"server-1".to_owned()), "{silent:?}");
    Ok(())
}

/// Changes what stands at these places.
fn set(record: &mut Value, changes: &[(&str, Value)]) -> Result<()> {
    for (place, value) in changes {
        *record.pointer_mut(place).with_context(|| format!("there is no {place}"))? = value.clone();
    }
    Ok(())
}
