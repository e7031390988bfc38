//! The handbook: what each verdict and each cause means, which evidence it takes, what it is not, and what to do. The pages are the
//! files under `docs/verdicts`, one a verdict, with a section a cause.

mod markdown;

use std::{fmt, str::FromStr};

use super::{Printable, text::Layout};
use crate::judge::{Cause, Verdict, risk::RiskKind};

/// What can be looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// A verdict with all its causes: `half_open`.
    Verdict(Verdict),
    /// One cause: `half_open/peer_reset`, or `peer_reset`.
    Cause(Cause),
    /// All risks: `risk`.
    Risks,
    /// One kind of risk: `risk/close_wait_leak`, or `close_wait_leak`.
    Risk(RiskKind),
}

/// There is no such page or section.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSuchTopic {
    /// Neither a verdict nor a cause has that name.
    #[error(
        "there is no such verdict or cause; the verdicts are {}, beside them there is {RISK}, and `connprobe explain` lists what each holds",
        names(&Verdict::ALL.map(Verdict::name))
    )]
    Unknown,
    /// No cause has the name behind the slash.
    #[error("{} has no such cause; its causes are {}", .0.name(), names(&causes(*.0).map(Cause::name).collect::<Vec<_>>()))]
    UnknownCause(Verdict),
    /// There is no such kind of risk.
    #[error("there is no such risk; there are {}", names(&RiskKind::ALL.map(RiskKind::name)))]
    UnknownRisk,
    /// The cause is of another verdict.
    #[error("{} is a cause of another verdict: {}", .0.name(), Topic::Cause(*.0))]
    OtherVerdict(Cause),
}

/// `a, b and c`.
fn names(names: &[&str]) -> String {
    match names.split_last() {
        None => String::new(),
        Some((last, [])) => (*last).to_owned(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    }
}

fn causes(verdict: Verdict) -> impl Iterator<Item = Cause> {
    Cause::ALL.into_iter().filter(move |cause| cause.verdict() == verdict)
}

impl FromStr for Topic {
    type Err = NoSuchTopic;

    fn from_str(text: &str) -> Result<Self, NoSuchTopic> {
        let text = text.replace('-', "_");
        let (verdict, cause) = match text.split_once('/') {
            Some((verdict, cause)) => (verdict, Some(cause)),
            None => (text.as_str(), None),
        };
        let risk_named = |name: &str| RiskKind::ALL.into_iter().find(|known| known.name() == name).map(Self::Risk);
        if verdict == RISK {
            return match cause {
                None | Some("") => Ok(Self::Risks),
                Some(name) => risk_named(name).ok_or(NoSuchTopic::UnknownRisk),
            };
        }
        let verdict = Verdict::ALL.into_iter().find(|known| known.name() == verdict);
        let cause_named = |name: &str| Cause::ALL.into_iter().find(|known| known.name() == name);
        match (verdict, cause) {
            (Some(verdict), None | Some("")) => Ok(Self::Verdict(verdict)),
            (None, None) => {
                cause_named(&text).map(Self::Cause).or_else(|| risk_named(&text)).ok_or(NoSuchTopic::Unknown)
            }
            (None, Some(_)) => Err(NoSuchTopic::Unknown),
            (Some(verdict), Some(name)) => match cause_named(name) {
                Some(cause) if cause.verdict() == verdict => Ok(Self::Cause(cause)),
                Some(cause) => Err(NoSuchTopic::OtherVerdict(cause)),
                None => Err(NoSuchTopic::UnknownCause(verdict)),
            },
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verdict(verdict) => f.write_str(verdict.name()),
            Self::Cause(cause) => write!(f, "{}/{}", cause.verdict().name(), cause.name()),
            Self::Risks => f.write_str(RISK),
            Self::Risk(kind) => write!(f, "{RISK}/{}", kind.name()),
        }
    }
}

const fn page(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::HalfOpen => include_str!("../../../../docs/verdicts/half_open.md"),
        Verdict::AsymmetricHandshake => include_str!("../../../../docs/verdicts/asymmetric_handshake.md"),
        Verdict::ZeroWindowStalled => include_str!("../../../../docs/verdicts/zero_window_stalled.md"),
        Verdict::SilentlyDroppedFin => include_str!("../../../../docs/verdicts/silently_dropped_fin.md"),
        Verdict::RetransmitStalled => include_str!("../../../../docs/verdicts/retransmit_stalled.md"),
    }
}

/// The name of the page on risks.
const RISK: &str = "risk";
const RISKS: &str = include_str!("../../../../docs/verdicts/risk.md");

/// What the heading of a risk's section begins with.
const RISK_SECTION: &str = "\n## Risk `";

/// What the heading of a cause's section begins with; its name and a backtick follow.
const SECTION: &str = "\n## Cause `";

/// The names and the texts of a page's sections.
fn sections<'a>(page: &'a str, heading: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    page.split(heading).skip(1).filter_map(|section| section.split_once('`'))
}

/// What the page says of the verdict itself, behind its title.
fn general<'a>(page: &'a str, heading: &str) -> &'a str {
    let before_sections = page.split(heading).next().unwrap_or(page);
    before_sections.split_once('\n').map_or("", |(_title, text)| text)
}

fn section(cause: Cause) -> &'static str {
    named(page(cause.verdict()), SECTION, cause.name())
}

fn risk_section(kind: RiskKind) -> &'static str {
    named(RISKS, RISK_SECTION, kind.name())
}

fn named(page: &'static str, heading: &'static str, name: &str) -> &'static str {
    sections(page, heading).find(|(this, _)| *this == name).map_or("", |(_, text)| text)
}

/// The first paragraph, which is one sentence, on one line.
fn summary(text: &str) -> String {
    text.trim_start().split("\n\n").next().unwrap_or("").replace('\n', " ")
}

/// Lists every verdict and every cause with a sentence.
pub fn overview(layout: Layout) -> Printable {
    let mut out = Printable::default();
    let width = layout.width;
    let mut add = |name: &str, general: &str, sections: Vec<(&str, &str)>| {
        markdown::render(&mut out, &format!("# {name}\n\n{}", summary(general)), layout);
        out.end_line();
        for (name, section) in sections {
            let name = markdown::inline(&format!("**{name}**"), layout);
            out.hanging(width, "    ", "        ", name);
            let text = markdown::inline(&summary(section), layout);
            out.hanging(width, "        ", "        ", text);
        }
        out.end_line();
    };
    for verdict in Verdict::ALL {
        let sections = causes(verdict).map(|cause| (cause.name(), section(cause))).collect();
        add(verdict.name(), general(page(verdict), SECTION), sections);
    }
    let risks = RiskKind::ALL.map(|kind| (kind.name(), risk_section(kind))).to_vec();
    add(RISK, general(RISKS, RISK_SECTION), risks);
    out.hanging(width, "", "", "More: connprobe explain VERDICT, or connprobe explain VERDICT/CAUSE");
    out
}

/// The page of a verdict, or the section of a cause.
pub fn explain(topic: Topic, layout: Layout) -> Printable {
    let text = match topic {
        Topic::Verdict(verdict) => page(verdict).to_owned(),
        Topic::Cause(cause) => format!("# {topic}\n{}", section(cause)),
        Topic::Risks => RISKS.to_owned(),
        Topic::Risk(kind) => format!("# {topic}\n{}", risk_section(kind)),
    };
    let mut out = Printable::default();
    markdown::render(&mut out, &text, layout);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Layout = Layout { width: 80, color: false };

    #[test]
    fn every_verdict_and_every_cause_has_its_page_and_its_section_with_every_heading() {
        let headings = |text: &str, level: &str, what: &str| {
            let not_this = format!("Not this {what}");
            for heading in
                ["Required evidence", "Where it is written", &not_this, "Known false positives", "What to do"]
            {
                assert!(text.contains(&format!("\n{level} {heading}\n\n")), "no {level} {heading} in:\n{text}");
            }
        };
        for verdict in Verdict::ALL {
            assert!(page(verdict).starts_with(&format!("# {}\n\n", verdict.name())));
            headings(general(page(verdict), SECTION), "##", "verdict");
            assert!(causes(verdict).next().is_some(), "{verdict:?}");
        }
        for cause in Cause::ALL {
            headings(section(cause), "###", "cause");
        }
    }

    #[test]
    fn the_page_on_risks_has_a_section_on_each_kind_and_no_other() {
        assert!(RISKS.starts_with(&format!("# {RISK}\n\n")));
        let kinds: Vec<_> = sections(RISKS, RISK_SECTION).map(|(name, _)| name).collect();
        assert_eq!(kinds, RiskKind::ALL.map(RiskKind::name));
        for (text, level) in RiskKind::ALL
            .map(|kind| (risk_section(kind), "###"))
            .into_iter()
            .chain([(general(RISKS, RISK_SECTION), "##")])
        {
            for heading in ["Where it is written", "Known false positives", "What to do"] {
                assert!(text.contains(&format!("\n{level} {heading}\n\n")), "no {level} {heading} in:\n{text}");
            }
        }
        assert_eq!(markdown::unknown(RISKS), Vec::<String>::new());
    }

    #[test]
    fn a_risk_is_found_by_the_names_in_the_report() {
        assert_eq!("risk".parse(), Ok(Topic::Risks));
        for kind in RiskKind::ALL {
            assert_eq!(Topic::Risk(kind).to_string().parse(), Ok(Topic::Risk(kind)));
            assert_eq!(kind.name().parse(), Ok(Topic::Risk(kind)));
        }
        assert_eq!("risk/x".parse::<Topic>(), Err(NoSuchTopic::UnknownRisk));
    }

    #[test]
    fn no_page_names_a_cause_that_there_is_not() {
        for verdict in Verdict::ALL {
            for (name, _) in sections(page(verdict), SECTION) {
                let is_known = causes(verdict).any(|cause| cause.name() == name);
                assert!(is_known, "{} has a section on {name}", verdict.name());
            }
        }
    }

    #[test]
    fn what_one_page_says_of_another_leads_there() {
        for verdict in Verdict::ALL {
            let spans = page(verdict).split('`').skip(1).step_by(2);
            for span in spans.filter(|span| Verdict::ALL.iter().any(|known| span.starts_with(known.name()))) {
                assert!(span.parse::<Topic>().is_ok(), "{} names {span}", verdict.name());
            }
        }
    }

    #[test]
    fn every_first_paragraph_is_one_sentence() {
        let texts = Verdict::ALL
            .map(|verdict| general(page(verdict), SECTION))
            .into_iter()
            .chain(Cause::ALL.map(section))
            .chain(RiskKind::ALL.map(risk_section))
            .chain([general(RISKS, RISK_SECTION)]);
        for sentence in texts.map(summary) {
            assert!(sentence.ends_with('.') && !sentence.contains(". "), "{sentence}");
        }
    }

    #[test]
    fn the_pages_use_only_the_markdown_that_is_rendered() {
        for verdict in Verdict::ALL {
            assert_eq!(markdown::unknown(page(verdict)), Vec::<String>::new(), "{}", verdict.name());
        }
    }

    #[test]
    fn a_topic_is_found_by_the_names_in_the_report() {
        assert_eq!("half_open".parse(), Ok(Topic::Verdict(Verdict::HalfOpen)));
        assert_eq!("half-open/".parse(), Ok(Topic::Verdict(Verdict::HalfOpen)));
        assert_eq!("half_open/peer_reset".parse(), Ok(Topic::Cause(Cause::PeerReset)));
        assert_eq!("peer_reset".parse(), Ok(Topic::Cause(Cause::PeerReset)));
        for cause in Cause::ALL {
            assert_eq!(Topic::Cause(cause).to_string().parse(), Ok(Topic::Cause(cause)));
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_what_there_is() {
        let error = |text: &str| text.parse::<Topic>().unwrap_err().to_string();
        for text in ["half_closed", "", "half_closed/peer_reset"] {
            assert_eq!(
                error(text),
                "there is no such verdict or cause; the verdicts are half_open, asymmetric_handshake, retransmit_stalled, \
                 silently_dropped_fin and zero_window_stalled, beside them there is risk, and `connprobe explain` lists what each holds"
            );
        }
        assert_eq!(
            error("retransmit_stalled/x"),
            "retransmit_stalled has no such cause; its causes are peer_silent, source_address_lost and local_send_failure"
        );
        assert_eq!(
            error("half_open/peer_silent"),
            "peer_silent is a cause of another verdict: retransmit_stalled/peer_silent"
        );
    }

    #[test]
    fn the_overview_names_everything_in_eighty_columns() {
        let text = overview(PLAIN);
        for name in Verdict::ALL
            .map(Verdict::name)
            .into_iter()
            .chain(Cause::ALL.map(Cause::name))
            .chain(RiskKind::ALL.map(RiskKind::name))
        {
            assert!(text.lines().any(|line| line.trim() == name), "no {name} in:\n{text}");
        }
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    }

    #[test]
    fn a_section_is_laid_out_for_people() {
        insta::assert_snapshot!(explain(Topic::Cause(Cause::PeerReset), PLAIN));
    }
}
