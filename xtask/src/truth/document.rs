//! The truth table as a page of the handbook.

use std::fmt::Write as _;

use super::{Row, Truth};

const INTRODUCTION: &str = "# Truth table

Made by `cargo xtask truth` from what was measured (`docs/truth`): each scenario of the catalogue (`tests/src/scenario`) was played on each
kernel, with connprobe watching from where the second column says. `cargo xtask lab NAME` plays one before your eyes.

A failure is made to happen to two connections, one older than the watch and one that began while it was on, or, where the handshake itself
fails, to one. A second watch begins some four seconds later, where the failure can still be seen then. All numbers are of single connections
as single watches have told them:

- **told**: those of which everything was right (verdict, cause, confidence, connection, network namespace, owner, and the deadline where
  there is one), of those that had to be told.
- **false**: records about a finding that is none: of another connection, or with another cause.
- **first word**, **certain**: from what happened to the record, of watches that were there. Certain is as sure as the evidence ever makes
  it: a fact, or a suspicion where it can be no more.
- **deadline**: how far from the time last stated the kernel gave up, the furthest of all; a dash where nothing ends it, or that was not
  waited for. Where ICMP errors come back, each takes a doubling of the timer away (RFC 6069): how many will come is not to be known, and the
  time is then right to one step of the timer.

Times are medians, with the longest in brackets. What the kernel itself waits for is in them: the fourth retransmission timeout in a row, by
default the first that is told, comes 3 s after the first segment. Guests have one emulated processor, some ten times slower than a real one.

A row in red failed; what was wrong stands below its table. What has no row because nothing is told of it, by design or so far: a connection on
which nothing is sent, however dead it is; and, at the client of `embryonic-timeout`, a peer that acknowledges nothing and goes on sending.
";

/// What stands before the tables, with all kernels in one.
pub(super) fn introduction(kernels: &[(String, Truth)]) -> String {
    let mut out = String::from(INTRODUCTION);
    out.push_str("\n| kernel | plays of each | failures told | false findings | controls without a finding | longest first word | deadline off by at most |\n");
    out.push_str("|---|---|---|---|---|---|---|\n");
    for (name, truth) in kernels {
        let rows = || truth.rows.iter().filter(|row| row.skipped.is_none());
        let (told, due): (usize, usize) = (rows().map(|row| row.told).sum(), rows().map(|row| row.due).sum());
        let false_findings: usize = rows().map(|row| row.false_findings.len()).sum();
        let controls = || rows().filter(|row| row.expected.is_none());
        let silent = controls().filter(|row| !row.failed()).count();
        let longest = rows().flat_map(|row| &row.told_seconds).copied().fold(0.0, f64::max);
        let off = rows().flat_map(|row| &row.off_deadline_seconds).map(|off| off.abs()).fold(0.0, f64::max);
        let _ = writeln!(
            out,
            "| {name} | {} | {told} of {due} | {false_findings} | {silent} of {} | {longest:.1} s | {:.0} ms |",
            truth.times,
            controls().count(),
            off * 1e3
        );
    }
    out
}

/// The tables of one kernel.
pub(super) fn section(name: &str, truth: &Truth) -> String {
    let mut out = format!("## Linux {name}\n\n`{}`, each scenario played {}.\n", truth.release, times(truth.times));
    let played = || truth.rows.iter().filter(|row| row.skipped.is_none());
    let mut verdicts: Vec<&str> = played().filter_map(Row::verdict).collect();
    verdicts.dedup();
    for verdict in verdicts {
        let _ = writeln!(out, "\n### {verdict} on {name}\n");
        out.push_str("| scenario | seen from | cause | told | false | first word, s | certain, s | deadline, ms |\n");
        out.push_str("|---|---|---|---|---|---|---|---|\n");
        let rows = || played().filter(|row| row.verdict() == Some(verdict));
        rows().for_each(|row| failure(&mut out, row));
        problems(&mut out, rows());
    }
    let _ = writeln!(out, "\n### Nothing to tell on {name}\n");
    out.push_str("| scenario | seen from | plays | false |\n|---|---|---|---|\n");
    let controls = || played().filter(|row| row.expected.is_none());
    controls().for_each(|row| control(&mut out, row));
    problems(&mut out, controls());
    let skipped: Vec<&Row> = truth.rows.iter().filter(|row| row.skipped.is_some()).collect();
    if !skipped.is_empty() {
        let _ = writeln!(out, "\nNot played here:\n");
        for row in skipped {
            let _ = writeln!(out, "- {} ({}): {}", row.scenario, row.seat, row.skipped.as_deref().unwrap_or_default());
        }
    }
    out
}

fn times(count: usize) -> String {
    match count {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        count => format!("{count} times"),
    }
}

fn failure(out: &mut String, row: &Row) {
    let cause = row.expected.as_deref().and_then(|expected| expected.split_once('/')).map_or("", |(_, cause)| cause);
    let told = format!("{} of {}", row.told, row.due);
    let false_findings = row.false_findings.len().to_string();
    let off: Vec<f64> = row.off_deadline_seconds.iter().map(|off| off * 1e3).collect();
    let cells = [
        row.scenario.clone(),
        row.seat.clone(),
        format!("`{cause}`"),
        told,
        false_findings,
        seconds(&row.told_seconds),
        seconds(&row.sure_seconds),
        furthest(&off),
    ];
    line(out, row, &cells);
}

fn control(out: &mut String, row: &Row) {
    let cells = [row.scenario.clone(), row.seat.clone(), row.plays.to_string(), row.false_findings.len().to_string()];
    line(out, row, &cells);
}

/// A row of a table; in red (`theme/handbook.css`) where it failed.
fn line(out: &mut String, row: &Row, cells: &[String]) {
    let cells: Vec<String> = match row.failed() {
        true => cells.iter().map(|cell| format!("<span class=\"failed\">{cell}</span>")).collect(),
        false => cells.to_vec(),
    };
    let mark = if row.failed() { "🔴 " } else { "" };
    let _ = writeln!(out, "| {mark}{} |", cells.join(" | "));
}

fn problems<'a>(out: &mut String, rows: impl Iterator<Item = &'a Row>) {
    let failed: Vec<&Row> = rows.filter(|row| row.failed()).collect();
    if failed.is_empty() {
        return;
    }
    out.push_str("\nWhat was wrong:\n\n");
    for row in failed {
        let mut wrong: Vec<String> =
            row.problems.iter().map(|problem| format!("`{}`", problem.replace('`', "'"))).collect();
        wrong.extend(row.false_findings.iter().map(|cause| format!("told, though it is none: `{cause}`")));
        let _ = writeln!(out, "- {} ({}): {}", row.scenario, row.seat, wrong.join("; "));
    }
}

/// The median, and the longest.
fn seconds(values: &[f64]) -> String {
    let mut sorted: Vec<f64> = values.iter().map(|value| value.max(0.0)).collect();
    sorted.sort_by(f64::total_cmp);
    match (sorted.get(sorted.len() / 2), sorted.last()) {
        (Some(median), Some(longest)) => format!("{median:.1} ({longest:.1})"),
        (_, _) => "–".to_owned(),
    }
}

/// That which is furthest from zero, with its sign.
fn furthest(values: &[f64]) -> String {
    values
        .iter()
        .max_by(|one, other| one.abs().total_cmp(&other.abs()))
        .map_or_else(|| "–".to_owned(), |furthest| format!("{furthest:+.0}"))
}

impl Row {
    fn verdict(&self) -> Option<&str> {
        Some(self.expected.as_deref()?.split_once('/')?.0)
    }

    fn failed(&self) -> bool {
        self.told < self.due || !self.false_findings.is_empty() || !self.problems.is_empty() || self.plays == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(told: usize) -> Row {
        Row {
            scenario: "path-cut".to_owned(),
            seat: "client".to_owned(),
            expected: Some("retransmit_stalled/peer_silent".to_owned()),
            plays: 2,
            due: 4,
            told,
            told_seconds: vec![3.0, 3.2, 3.1],
            off_deadline_seconds: vec![0.001, -0.0044],
            ..Row::default()
        }
    }

    fn section_of(rows: Vec<Row>) -> String {
        section("6.1", &Truth { release: "6.1.0-9".to_owned(), times: 2, rows })
    }

    #[test]
    fn a_row_has_the_median_and_the_extremes() {
        let text = section_of(vec![row(4)]);
        assert!(text.contains("| path-cut | client | `peer_silent` | 4 of 4 | 0 | 3.1 (3.2) | – | -4 |"), "{text}");
        assert!(!text.contains("failed") && text.contains("played twice"), "{text}");
    }

    #[test]
    fn what_failed_is_red_and_says_why() {
        let missed = Row { problems: vec!["nothing was told".to_owned()], ..row(3) };
        let alarm = Row { expected: None, false_findings: vec!["half_open/peer_reset".to_owned()], ..row(4) };
        let text = section_of(vec![missed, alarm]);
        assert!(text.contains("| 🔴 <span class=\"failed\">path-cut</span> |"), "{text}");
        assert!(text.contains("- path-cut (client): `nothing was told`"), "{text}");
        assert!(text.contains("told, though it is none: `half_open/peer_reset`"), "{text}");
    }

    #[test]
    fn what_was_not_played_is_no_row_but_named() {
        let skipped = Row { skipped: Some("needs bridge devices".to_owned()), plays: 0, ..row(0) };
        let text = section_of(vec![skipped]);
        assert!(!text.contains("| path-cut") && text.contains("- path-cut (client): needs bridge devices"), "{text}");
    }
}
