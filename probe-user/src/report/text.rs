//! The report for a person: what is stuck, who holds it, why, since when, until when, and what to do.

mod risks;
mod vantages;

use std::{collections::HashSet, fmt::Write as _};

use anstyle::{AnsiColor, Style};

use super::{
    Summary, WallClock,
    groups::{Group, groups},
    handbook::Topic,
    printable::Printable,
    sentences::{ended, held, keepalive, time_of_day, until, what},
    vantages::Vantages,
};
use crate::{
    case::{Finding, FindingState},
    judge::{Cause, Confidence, Remedy},
    model::{
        COST_OF_SOCK_DIAG, Coverage, HookStatus, ModuleStatus, MonoTime, ScanStatus, SelfTest, Vantage,
        cost_of_missing, counted, span,
    },
};

/// How to lay the report out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Columns to wrap at.
    pub width: usize,
    /// Whether to use colours.
    pub color: bool,
}

impl Layout {
    /// Text in this style, where there are colours.
    pub(crate) fn styled(self, style: Style, text: &str) -> Printable {
        if self.color { Printable::styled(style, text) } else { text.into() }
    }
}

/// Text is not set wider than this, however wide the terminal: longer lines are hard to read.
pub const WIDEST: usize = 110;

const BODY: &str = "   ";
const ITEM: &str = "     ";

/// Of findings that are alike one is told in full and so many others in a line each,
const MOST_LISTED: usize = 20;
/// of so many kinds. What is left out is counted.
const MOST_IN_FULL: usize = 10;
/// Lines of the table of causes and owners at the top.
const MOST_COUNTED: usize = 30;

/// Writes the report of a whole watch, which ended at `now`.
pub fn report(summary: &Summary, coverage: &Coverage, clock: &WallClock, now: MonoTime, layout: Layout) -> Printable {
    let mut out = Writer::new(layout);
    let unresolved = Vantages::of(summary.unresolved());
    let watched = format!("watched for {} until {} UTC", span(summary.watched), time_of_day(clock.at(now)));
    let headline = match unresolved.first.len() {
        0 => "No connection in limbo".to_owned(),
        count => format!("{} in limbo", counted(count, "connection")),
    };
    out.line("", out.bold(&format!("{headline} ({watched}).")));
    let groups = groups(unresolved.first.iter().copied());
    if unresolved.first.len() > 1 {
        out.counts(&groups);
    }
    for (index, group) in groups.iter().take(MOST_IN_FULL).enumerate() {
        out.blank();
        out.finding(&format!("{}.", index + 1), group.example, clock, now);
        out.other_vantages(unresolved.others(group.example), clock, now);
        out.others(group, clock);
    }
    let resolved: Vec<_> = summary.resolved().collect();
    if !resolved.is_empty() {
        out.blank();
        out.line("", "Over while watching:");
        for finding in resolved.iter().take(MOST_LISTED) {
            out.hanging("  ", "                ", one_line(finding, clock));
        }
        out.left_out("  ", resolved.len());
    }
    out.risks(summary.risks.as_ref());
    out.loss(summary);
    out.coverage(coverage);
    // By then the top has scrolled away.
    if groups.len() > 1 {
        out.blank();
        let end = format!("{headline}, of {} kinds, which are listed at the top.", groups.len());
        out.line("", out.bold(&end));
    }
    out.text
}

/// The kinds of findings told in full already while watching.
#[derive(Debug, Default)]
pub struct Told(HashSet<(Cause, u32, Option<u32>)>);

impl Told {
    /// More kinds than this are begun anew.
    const MOST: usize = 1_000;

    /// Whether this is the first of its cause, namespace and owner.
    fn is_new(&mut self, finding: &Finding) -> bool {
        if self.0.len() >= Self::MOST {
            self.0.clear();
        }
        self.0.insert((finding.ruling.cause, finding.id.key.netns, finding.owner.process().map(|owner| owner.pid)))
    }
}

/// Writes one change of a finding as it happens: whole when it is opened and the first of its kind, else in a line.
pub fn change(finding: &Finding, told: &mut Told, clock: &WallClock, layout: Layout) -> Printable {
    let mut out = Writer::new(layout);
    match finding.state {
        FindingState::Opened if told.is_new(finding) => {
            out.finding("*", finding, clock, finding.at);
            out.blank();
        }
        FindingState::Opened | FindingState::Updated | FindingState::Closed(_) => {
            out.hanging("", "              ", one_line(finding, clock));
        }
    }
    out.text
}

struct Writer {
    layout: Layout,
    text: Printable,
}

impl Writer {
    fn new(layout: Layout) -> Self {
        Self { layout: Layout { width: layout.width.clamp(40, WIDEST), ..layout }, text: Printable::default() }
    }

    fn bold(&self, text: &str) -> Printable {
        self.layout.styled(Style::new().bold(), text)
    }

    fn dim(&self, text: &str) -> Printable {
        self.layout.styled(Style::new().dimmed(), text)
    }

    fn blank(&mut self) {
        self.text.end_line();
    }

    /// Writes `text` wrapped, each line after the first indented as deep as the first one's text.
    fn line(&mut self, indent: &str, text: impl Into<Printable>) {
        self.hanging(indent, indent, text);
    }

    fn hanging(&mut self, first: &str, rest: &str, text: impl Into<Printable>) {
        self.text.hanging(self.layout.width, first, rest, text);
    }

    /// Writes something that must be copied whole: never wrapped.
    fn verbatim(&mut self, indent: &str, text: impl Into<Printable>) {
        self.text.push(indent);
        self.text.push(text);
        self.text.end_line();
    }

    fn finding(&mut self, number: &str, finding: &Finding, clock: &WallClock, now: MonoTime) {
        let ruling = &finding.ruling;
        // Both are read well on light and on dark ground; yellow and cyan are not.
        let color = match ruling.confidence {
            Confidence::Suspected => AnsiColor::Magenta,
            Confidence::Confirmed => AnsiColor::Red,
        };
        let verdict = self.layout.styled(
            Style::new().bold().fg_color(Some(color.into())),
            &format!("{}, {} ({})", ruling.verdict.name(), ruling.cause.name(), ruling.confidence.name()),
        );
        self.verbatim(&format!("{number:<2} "), verdict);
        let key = &finding.id.key;
        self.hanging(BODY, ITEM, self.bold(&finding.ends()));
        let state = match finding.vantage() {
            Vantage::Endpoint => {
                finding.socket.state.map_or("state unknown, ".to_owned(), |state| format!("{}, ", state.spoken()))
            }
            Vantage::Forwarder => String::new(),
        };
        self.line(BODY, format!("{state}network namespace {}, {}", key.netns, held(finding)));
        self.blank();
        self.line(BODY, what(finding, clock, now));
        if let Some(text) = until(finding, clock, now) {
            self.line(BODY, text);
        }
        if let Some(text) = keepalive(finding) {
            self.line(BODY, text);
        }
        self.blank();
        self.line(BODY, self.dim("seen"));
        for evidence in &finding.evidence {
            let at = time_of_day(clock.at(evidence.at));
            self.hanging(ITEM, "                   ", format!("{at}  {}", evidence.kind));
        }
        if finding.evidence_left_out > 0 {
            self.line(ITEM, format!("({} more in between, left out)", finding.evidence_left_out));
        }
        if !ruling.missing.is_empty() {
            self.line(BODY, self.dim("not seen"));
            for missing in &ruling.missing {
                self.hanging("     - ", "       ", missing.to_string());
            }
        }
        self.line(BODY, self.dim("what to do"));
        self.remedies(finding.remedies());
        self.line(BODY, self.dim(&format!("more: connprobe explain {}", Topic::Cause(ruling.cause))));
    }

    fn remedies(&mut self, remedies: Vec<Remedy>) {
        for remedy in remedies {
            self.hanging("     - ", "       ", remedy.text);
            if let Some(command) = &remedy.command {
                self.verbatim("         ", self.bold(&format!("$ {command}")));
            }
            if let Some(place) = &remedy.place {
                self.hanging("         ", "         ", format!("where: {place}"));
            }
            if let Some(risk) = &remedy.risk {
                self.hanging("         ", "         ", format!("risk: {risk}"));
            }
            if let Some(lasting) = &remedy.lasting {
                self.hanging("         ", "         ", format!("lasting: {lasting}"));
            }
        }
    }

    /// How many are in limbo for which cause, and whose they are.
    fn counts(&mut self, groups: &[Group<'_>]) {
        self.blank();
        for (index, group) in groups.iter().take(MOST_COUNTED).enumerate() {
            let number = if index < MOST_IN_FULL { format!("{}.", index + 1) } else { String::new() };
            self.hanging(&format!("{number:<3} {:>5} x ", group.count()), "            ", group.title());
        }
        let more: usize = groups.iter().skip(MOST_COUNTED).map(Group::count).sum();
        if more > 0 {
            self.hanging(
                &format!("    {more:>5} "),
                "          ",
                "more, of other causes or owners; --format json has them all",
            );
        }
    }

    /// Those that are like the one told in full.
    fn others(&mut self, group: &Group<'_>, clock: &WallClock) {
        if group.others.is_empty() {
            return;
        }
        self.blank();
        self.line(BODY, self.dim(&format!("the same for {} more", group.others.len())));
        for finding in group.others.iter().take(MOST_LISTED) {
            let ruling = &finding.ruling;
            let end = match (finding.state, ruling.deadline) {
                (FindingState::Closed(outcome), _) => format!("  {}", outcome.name()),
                (_, Some(deadline)) => format!("  until {}", clock.at(deadline.at).strftime("%H:%M:%S")),
                (_, None) => String::new(),
            };
            let sure = if ruling.confidence == group.example.ruling.confidence {
                String::new()
            } else {
                format!(", {}", ruling.confidence.name())
            };
            self.hanging(ITEM, "       ", format!("{}{end}{sure}", finding.ends()));
        }
        self.left_out(ITEM, group.others.len());
    }

    fn left_out(&mut self, indent: &str, count: usize) {
        if count > MOST_LISTED {
            self.line(indent, format!("and {} more; --format json has them all", count - MOST_LISTED));
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
                    let _ = write!(text, " {name} was not run {}.", counted(hook.missed, "time"));
                }
            }
            if summary.undecodable > 0 {
                let _ = write!(text, " {} could not be decoded.", counted(summary.undecodable, "record"));
            }
            text.push_str(" A connection that is in limbo may be missing above.");
            self.line("", text);
        }
        let suppressed: u64 = summary.hooks.iter().map(|hook| hook.suppressed).sum();
        if suppressed > 0 {
            self.blank();
            let events = counted(suppressed, "event");
            self.line(
                "",
                format!("The limits on handshake repeats, resets and dropped segments have held back {events}."),
            );
        }
        if summary.unasked > 0 {
            self.blank();
            self.line(
                "",
                format!("{} about sockets could not be asked in time.", counted(summary.unasked, "question")),
            );
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
                HookStatus::Attached(_) | HookStatus::NotLoaded(_) => continue,
                HookStatus::Unsupported(_) => "unsupported",
                HookStatus::Broken(_) => "broken",
            };
            self.hanging("  - ", "    ", format!("{} is {why}: {}", hook.name(), cost_of_missing(*hook)));
        }
        for missing in coverage.missing_fields.iter().filter(|missing| !missing.harmless) {
            self.hanging("  - ", "    ", format!("{} is unavailable: {}", missing.field, missing.why));
        }
        for (module, _) in coverage.modules.iter().filter(|(_, status)| *status == ModuleStatus::LoadedSince) {
            let (name, cost) = (module.name(), module.cost_of_loading_late());
            self.hanging(
                "  - ",
                "    ",
                format!("{name} was loaded after connprobe was started; start it anew: {cost}"),
            );
        }
        if let ScanStatus::SockDiag(why) = &coverage.scan {
            self.hanging("  - ", "    ", format!("sockets are scanned by sock_diag ({why}): {COST_OF_SOCK_DIAG}"));
        }
        if let Some(test) = coverage.self_test.as_ref().filter(|test| !matches!(test, SelfTest::Passed { .. })) {
            self.hanging("  - ", "    ", format!("the self-test is {}: {test}", test.status()));
        }
    }
}

fn one_line(finding: &Finding, clock: &WallClock) -> String {
    let ruling = &finding.ruling;
    let verdict = format!("{}, {} ({})", ruling.verdict.name(), ruling.cause.name(), ruling.confidence.name());
    let at = time_of_day(clock.at(finding.at));
    match finding.state {
        FindingState::Closed(outcome) => format!("{at}  {}  {verdict}: {}", finding.ends(), ended(finding, outcome)),
        FindingState::Opened | FindingState::Updated => {
            format!("{at}  {}  {verdict}, {}", finding.ends(), held(finding))
        }
    }
}
