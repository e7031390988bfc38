//! The report for a person: what is stuck, who holds it, why, since when, until when, and what to do.

use std::{fmt::Write as _, time::Duration};

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;

use super::{Summary, WallClock};
use crate::{
    case::{Finding, FindingState, Outcome, OwnerKnowledge},
    judge::{Cause, Confidence, DeadlineSource, Evidence, remedies},
    model::{Coverage, HookStatus, MonoTime, TcpState, cost_of_missing},
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
        let options = textwrap::Options::new(self.layout.width)
            .initial_indent(first)
            .subsequent_indent(rest)
            .break_words(false)
            .word_splitter(textwrap::WordSplitter::NoHyphenation);
        for line in textwrap::wrap(text, options) {
            self.text.push_str(&line);
            self.text.push('\n');
        }
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
        for remedy in remedies(key, ruling, finding.owner.pid(), matches!(finding.state, FindingState::Closed(_))) {
            self.hanging("     - ", "       ", &remedy.text);
            if let Some(command) = &remedy.command {
                self.verbatim("         ", &self.bold(&format!("$ {command}")));
            }
            if let Some(risk) = &remedy.risk {
                self.hanging("         ", "         ", &format!("risk: {risk}"));
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
    }
}

fn owner(owner: &OwnerKnowledge) -> String {
    match owner {
        OwnerKnowledge::Process(owner) => {
            let mut text = format!("held by {} (pid {})", owner.comm, owner.pid);
            if let Some(container) = &owner.container_id {
                let _ = write!(text, " in container {}", container.get(..12).unwrap_or(container));
            } else if let Some(cgroup) = owner.cgroup.as_deref().filter(|cgroup| *cgroup != "/") {
                let _ = write!(text, " in {cgroup}");
            }
            text
        }
        OwnerKnowledge::NoProcess => "held by no process any more".to_owned(),
        OwnerKnowledge::NotAsked => "owner not known yet".to_owned(),
        OwnerKnowledge::Unavailable(why) => format!("owner unknown ({why})"),
    }
}

/// What is wrong, since when, in a sentence or two.
fn what(finding: &Finding, clock: &WallClock, now: MonoTime) -> String {
    let key = &finding.id.key;
    let ruling = &finding.ruling;
    let (at, socket) = Evidence::latest_timeout(&finding.evidence)
        .map_or((finding.at, &finding.socket), |(at, timeout)| (at, &timeout.socket));
    let bytes = socket.unacknowledged_data().map_or("Data".to_owned(), |bytes| format!("{bytes} bytes"));
    let timeouts = match socket.retransmits {
        None => String::new(),
        Some(1) => " through a retransmission timeout".to_owned(),
        Some(count) => format!(" through {count} retransmission timeouts"),
    };
    let since = format!("since {} ({} ago)", time_of_day(clock.at(ruling.since)), span(now.since(ruling.since)));
    let mut text = match ruling.cause {
        Cause::PeerSilent => {
            format!(
                "{bytes} have waited for an acknowledgment{timeouts} {since}, and nothing at all has come back from {}.",
                key.remote.ip()
            )
        }
        Cause::LocalSendFailure => {
            format!("{bytes} have waited to be sent again{timeouts} {since}, and the segments do not leave this host.")
        }
    };
    if let Some(ago) = socket.last_ack_ago {
        let heard = at.before(ago);
        let (time, ago) = (time_of_day(clock.at(heard)), span(now.since(heard)));
        let _ = write!(text, " The last sign of life from the peer was at {time} ({ago} ago).");
    }
    text
}

/// What the kernel will do and when.
fn until(finding: &Finding, clock: &WallClock, now: MonoTime) -> Option<String> {
    if let FindingState::Closed(outcome) = finding.state {
        return Some(format!("At {} {}.", time_of_day(clock.at(finding.at)), ended(outcome)));
    }
    let deadline = finding.ruling.deadline?;
    let set_by = match deadline.set_by {
        DeadlineSource::TcpRetries2 { retries } => format!("net.ipv4.tcp_retries2 = {retries}"),
        DeadlineSource::TcpOrphanRetries { retries } => {
            format!("net.ipv4.tcp_orphan_retries (in effect {retries}: the application has already closed the socket)")
        }
        DeadlineSource::TcpUserTimeout { timeout } => format!("TCP_USER_TIMEOUT = {} ms", timeout.as_millis()),
    };
    let at = time_of_day(clock.at(deadline.at));
    let then = match deadline.set_by {
        DeadlineSource::TcpOrphanRetries { .. } => "drops the connection",
        DeadlineSource::TcpRetries2 { .. } | DeadlineSource::TcpUserTimeout { .. } => {
            "reports ETIMEDOUT to the application"
        }
    };
    Some(if deadline.at > now {
        format!(
            "The kernel goes on trying until {at} (in {}) and then {then}; set by {set_by}.",
            span(deadline.at.since(now))
        )
    } else {
        format!("The kernel was to give up at {at}, set by {set_by}.")
    })
}

fn ended(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Recovered => "the peer acknowledged data again",
        Outcome::ClosedNormally => "the connection was closed",
        Outcome::Reset => "a reset ended the connection",
        Outcome::TimedOut => "the kernel gave up and reported the timeout to the application",
        Outcome::Evicted => "there was no room left to follow it; it may go on",
        Outcome::Unobserved => "the socket was gone; how it ended was not seen",
    }
}

fn keepalive(finding: &Finding) -> Option<&'static str> {
    let keepalive = finding.socket.keepalive?;
    (keepalive.enabled && matches!(finding.state, FindingState::Opened | FindingState::Updated)).then_some(
        "Keepalive is on, but it does not shorten this: the kernel sends no keepalive probe while data is unacknowledged.",
    )
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

/// The time of day in UTC with milliseconds; evidence is at most hours old.
fn time_of_day(time: Timestamp) -> String {
    time.strftime("%H:%M:%S%.3f").to_string()
}

/// A length of time as people say it: `4.2 s`, `15 min 24 s`, `2 h 5 min`.
fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600.. => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_said_as_people_say_them() {
        assert_eq!(span(Duration::from_millis(4_240)), "4.2 s");
        assert_eq!(span(Duration::from_secs(924)), "15 min 24 s");
        assert_eq!(span(Duration::from_secs(7_500)), "2 h 5 min");
    }
}
