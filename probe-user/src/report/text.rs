//! The report for a person: what is stuck, who holds it, why, since when, until when, and what to do.

mod risks;

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};

use super::{
    Summary, WallClock,
    handbook::Topic,
    sentences::{ended, keepalive, owner, span, time_of_day, until, what},
    wrap,
};
use crate::{
    case::{Finding, FindingState},
    judge::{Confidence, Remedy, remedies},
    model::{COST_OF_SOCK_DIAG, Coverage, HookStatus, MonoTime, ScanStatus, SelfTest, TcpState, cost_of_missing},
};

/// How to lay the report out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Columns to wrap at.
    pub width: usize,
    /// Whether to use colours.
    pub color: bool,
}

/// Text is not set wider than this, however wide the terminal: longer lines are hard to read.
pub const WIDEST: usize = 110;

const BODY: &str = "   ";
const ITEM: &str = "     ";

/// Writes the report of a whole watch, which ended at `now`.
pub fn report(summary: &Summary, coverage: &Coverage, clock: &WallClock, now: MonoTime, layout: Layout) -> String {
    let mut out = Writer::new(layout);
    let unresolved: Vec<_> = summary.unresolved().collect();
    let watched = format!("watched for {} until {} UTC", span(summary.watched), time_of_day(clock.at(now)));
    match unresolved.len() {
        0 => out.line("", &out.bold(&format!("No connection in limbo ({watched})."))),
        1 => out.line("", &out.bold(&format!("1 connection in limbo ({watched})."))),
        count => out.line("", &out.bold(&format!("{count} connections in limbo ({watched})."))),
    }
    for (index, finding) in unresolved.iter().enumerate() {
        out.blank();
        out.finding(&format!("{}.", index + 1), finding, clock, now);
    }
    let resolved: Vec<_> = summary.resolved().collect();
    if !resolved.is_empty() {
        out.blank();
        out.line("", "Over while watching:");
        for finding in resolved {
            out.line("  ", &one_line(finding, clock));
        }
    }
    out.risks(summary.risks.as_ref());
    out.loss(summary);
    out.coverage(coverage);
    out.text
}

/// Writes one change of a finding as it happens: whole when it is opened, in a line when it changes or ends.
pub fn change(finding: &Finding, clock: &WallClock, layout: Layout) -> String {
    let mut out = Writer::new(layout);
    match finding.state {
        FindingState::Opened => {
            out.finding("*", finding, clock, finding.at);
            out.blank();
        }
        FindingState::Updated | FindingState::Closed(_) => out.line("", &one_line(finding, clock)),
    }
    out.text
}

struct Writer {
    layout: Layout,
    text: String,
}

impl Writer {
    fn new(layout: Layout) -> Self {
        Self { layout: Layout { width: layout.width.clamp(40, WIDEST), ..layout }, text: String::new() }
    }

    fn styled(&self, style: Style, text: &str) -> String {
        if self.layout.color { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    fn bold(&self, text: &str) -> String {
        self.styled(Style::new().bold(), text)
    }

    fn dim(&self, text: &str) -> String {
        self.styled(Style::new().dimmed(), text)
    }

    fn blank(&mut self) {
        self.text.push('\n');
    }

    /// Writes `text` wrapped, each line after the first indented as deep as the first one's text.
    fn line(&mut self, indent: &str, text: &str) {
        self.hanging(indent, indent, text);
    }

    fn hanging(&mut self, first: &str, rest: &str, text: &str) {
        wrap::hanging(&mut self.text, self.layout.width, first, rest, text);
    }

    /// Writes something that must be copied whole: never wrapped.
    fn verbatim(&mut self, indent: &str, text: &str) {
        self.text.push_str(indent);
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn finding(&mut self, number: &str, finding: &Finding, clock: &WallClock, now: MonoTime) {
        let ruling = &finding.ruling;
        let color = match ruling.confidence {
            Confidence::Suspected => AnsiColor::Yellow,
            Confidence::Confirmed => AnsiColor::Red,
        };
        let verdict = self.styled(
            Style::new().bold().fg_color(Some(color.into())),
            &format!("{}, {} ({})", ruling.verdict.name(), ruling.cause.name(), ruling.confidence.name()),
        );
        self.verbatim("", &format!("{number:<2} {verdict}"));
        let key = &finding.id.key;
        self.verbatim(BODY, &self.bold(&key.to_string()));
        let state = finding.socket.state.map_or("state unknown", TcpState::name);
        self.line(BODY, &format!("{state}, network namespace {}, {}", key.netns, owner(&finding.owner)));
        self.blank();
        self.line(BODY, &what(finding, clock, now));
        if let Some(text) = until(finding, clock, now) {
            self.line(BODY, &text);
        }
        if let Some(text) = keepalive(finding) {
            self.line(BODY, text);
        }
        self.blank();
        self.line(BODY, &self.dim("seen"));
        for evidence in &finding.evidence {
            let at = time_of_day(clock.at(evidence.at));
            self.hanging(ITEM, "                    ", &format!("{at}  {}", evidence.kind));
        }
        if finding.evidence_left_out > 0 {
            self.line(ITEM, &format!("({} more in between are left out)", finding.evidence_left_out));
        }
        if !ruling.missing.is_empty() {
            self.line(BODY, &self.dim("not seen"));
            for missing in &ruling.missing {
                self.hanging("     - ", "       ", &missing.to_string());
            }
        }
        self.line(BODY, &self.dim("what to do"));
        let is_over = matches!(finding.state, FindingState::Closed(_));
        self.remedies(remedies(key, ruling, finding.owner.process(), is_over));
        self.line(BODY, &self.dim(&format!("more: connprobe explain {}", Topic::Cause(ruling.cause))));
    }

    fn remedies(&mut self, remedies: Vec<Remedy>) {
        for remedy in remedies {
            self.hanging("     - ", "       ", &remedy.text);
            if let Some(command) = &remedy.command {
                self.verbatim("         ", &self.bold(&format!("$ {command}")));
            }
            if let Some(risk) = &remedy.risk {
                self.hanging("         ", "         ", &format!("risk: {risk}"));
            }
            if let Some(lasting) = &remedy.lasting {
                self.hanging("         ", "         ", &format!("lasting: {lasting}"));
            }
        }
    }

    fn loss(&mut self, summary: &Summary) {
        if summary.lost() > 0 {
            self.blank();
            let seen: u64 = summary.hooks.iter().map(|hook| hook.seen).sum();
            let emitted: u64 = summary.hooks.iter().map(|hook| hook.emitted).sum();
            let lost: u64 = summary.hooks.iter().map(|hook| hook.lost).sum();
            let mut text = format!("Events were lost: {seen} seen = {emitted} taken in + {lost} lost.");
            for hook in &summary.hooks {
                let name = hook.hook.name();
                if hook.lost > 0 {
                    let _ = write!(text, " {name} lost {}.", hook.lost);
                }
                if hook.missed > 0 {
                    let _ = write!(text, " {name} was not run {} times.", hook.missed);
                }
            }
            if summary.undecodable > 0 {
                let _ = write!(text, " {} records could not be decoded.", summary.undecodable);
            }
            text.push_str(" A connection that is in limbo may be missing above.");
            self.line("", &text);
        }
        let suppressed: u64 = summary.hooks.iter().map(|hook| hook.suppressed).sum();
        if suppressed > 0 {
            self.blank();
            self.line("", &format!("{suppressed} events were held back by the limit on handshake repeats and resets."));
        }
        if summary.unasked > 0 {
            self.blank();
            self.line("", &format!("{} questions about sockets could not be asked in time.", summary.unasked));
        }
    }

    fn coverage(&mut self, coverage: &Coverage) {
        if coverage.is_full() {
            return;
        }
        self.blank();
        self.line("", "Not everything is observed here (`connprobe check` tells more):");
        for (hook, status) in &coverage.hooks {
            let why = match status {
                HookStatus::Attached(_) => continue,
                HookStatus::Unsupported(_) => "unsupported",
                HookStatus::Broken(_) => "broken",
            };
            self.hanging("  - ", "    ", &format!("{} is {why}: {}", hook.name(), cost_of_missing(*hook)));
        }
        for missing in coverage.missing_fields.iter().filter(|missing| !missing.harmless) {
            self.hanging("  - ", "    ", &format!("{} is unavailable: {}", missing.field, missing.why));
        }
        if let ScanStatus::SockDiag(why) = &coverage.scan {
            self.hanging("  - ", "    ", &format!("sockets are scanned by sock_diag ({why}): {COST_OF_SOCK_DIAG}"));
        }
        if let Some(test) = coverage.self_test.as_ref().filter(|test| !matches!(test, SelfTest::Passed { .. })) {
            self.hanging("  - ", "    ", &format!("the self-test is {}: {test}", test.status()));
        }
    }
}

fn one_line(finding: &Finding, clock: &WallClock) -> String {
    let ruling = &finding.ruling;
    let verdict = format!("{}, {} ({})", ruling.verdict.name(), ruling.cause.name(), ruling.confidence.name());
    let at = time_of_day(clock.at(finding.at));
    match finding.state {
        FindingState::Closed(outcome) => format!("{at}  {}  {verdict}: {}", finding.id.key, ended(outcome)),
        FindingState::Opened | FindingState::Updated => {
            format!("{at}  {}  {verdict}, {}", finding.id.key, owner(&finding.owner))
        }
    }
}
