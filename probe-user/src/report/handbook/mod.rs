//! The handbook: what each verdict and each cause means, which evidence it takes, what it is not, and what to do. The pages are the
//! files under `docs/verdicts`, one a verdict, with a section a cause.

mod markdown;

use std::{fmt, str::FromStr};

use super::{text::Layout, wrap};
use crate::judge::{Cause, Verdict};

/// What can be looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// A verdict with all its causes: `half_open`.
    Verdict(Verdict),
    /// One cause: `half_open/peer_reset`, or `peer_reset`.
    Cause(Cause),
}

/// There is no such page or section.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSuchTopic {
    /// Neither a verdict nor a cause has that name.
    #[error(
        "there is no such verdict or cause; the verdicts are {}, and `connprobe explain` lists their causes",
        names(&Verdict::ALL.map(Verdict::name))
    )]
    Unknown,
    /// No cause has the name behind the slash.
    #[error("{} has no such cause; its causes are {}", .0.name(), names(&causes(*.0).map(Cause::name).collect::<Vec<_>>()))]
    UnknownCause(Verdict),
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
        let verdict = Verdict::ALL.into_iter().find(|known| known.name() == verdict);
        let cause_named = |name: &str| Cause::ALL.into_iter().find(|known| known.name() == name);
        match (verdict, cause) {
            (Some(verdict), None | Some("")) => Ok(Self::Verdict(verdict)),
            (None, None) => cause_named(&text).map(Self::Cause).ok_or(NoSuchTopic::Unknown),
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
        }
    }
}

const fn page(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::HalfOpen => include_str!("../../../../docs/verdicts/half_open.md"),
        Verdict::ZeroWindowStalled => include_str!("../../../../docs/verdicts/zero_window_stalled.md"),
        Verdict::SilentlyDroppedFin => include_str!("../../../../docs/verdicts/silently_dropped_fin.md"),
        Verdict::RetransmitStalled => include_str!("../../../../docs/verdicts/retransmit_stalled.md"),
    }
}

/// What the heading of a cause's section begins with; its name and a backtick follow.
const SECTION: &str = "\n## Cause `";

/// The names and the texts of a page's sections.
fn sections(page: &str) -> impl Iterator<Item = (&str, &str)> {
    page.split(SECTION).skip(1).filter_map(|section| section.split_once('`'))
}

/// What the page says of the verdict itself, behind its title.
fn general(page: &str) -> &str {
    let before_causes = page.split(SECTION).next().unwrap_or(page);
    before_causes.split_once('\n').map_or("", |(_title, text)| text)
}

fn section(cause: Cause) -> &'static str {
    sections(page(cause.verdict())).find(|(name, _)| *name == cause.name()).map_or("", |(_, text)| text)
}

/// The first paragraph, which is one sentence, on one line.
fn summary(text: &str) -> String {
    text.trim_start().split("\n\n").next().unwrap_or("").replace('\n', " ")
}

/// Lists every verdict and every cause with a sentence.
pub fn overview(layout: Layout) -> String {
    let mut out = String::new();
    let width = layout.width;
    for verdict in Verdict::ALL {
        markdown::render(&mut out, &format!("# {}\n\n{}", verdict.name(), summary(general(page(verdict)))), layout);
        out.push('\n');
        for cause in causes(verdict) {
            let name = markdown::inline(&format!("**{}**", cause.name()), layout);
            wrap::hanging(&mut out, width, "    ", "        ", &name);
            let text = markdown::inline(&summary(section(cause)), layout);
            wrap::hanging(&mut out, width, "        ", "        ", &text);
        }
        out.push('\n');
    }
    wrap::hanging(&mut out, width, "", "", "More: connprobe explain VERDICT, or connprobe explain VERDICT/CAUSE");
    out
}

/// The page of a verdict, or the section of a cause.
pub fn explain(topic: Topic, layout: Layout) -> String {
    let text = match topic {
        Topic::Verdict(verdict) => page(verdict).to_owned(),
        Topic::Cause(cause) => format!("# {topic}\n{}", section(cause)),
    };
    let mut out = String::new();
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
            headings(general(page(verdict)), "##", "verdict");
            assert!(causes(verdict).next().is_some(), "{verdict:?}");
        }
        for cause in Cause::ALL {
            headings(section(cause), "###", "cause");
        }
    }

    #[test]
    fn no_page_names_a_cause_that_there_is_not() {
        for verdict in Verdict::ALL {
            for (name, _) in sections(page(verdict)) {
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
        let texts = Verdict::ALL.map(|verdict| general(page(verdict))).into_iter().chain(Cause::ALL.map(section));
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
                "there is no such verdict or cause; the verdicts are half_open, retransmit_stalled, silently_dropped_fin and \
                 zero_window_stalled, and `connprobe explain` lists their causes"
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
        for name in Verdict::ALL.map(Verdict::name).into_iter().chain(Cause::ALL.map(Cause::name)) {
            assert!(text.lines().any(|line| line.trim() == name), "no {name} in:\n{text}");
        }
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    }

    #[test]
    fn a_section_is_laid_out_for_people() {
        insta::assert_snapshot!(explain(Topic::Cause(Cause::PeerReset), PLAIN));
    }
}
