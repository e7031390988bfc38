//! Markdown for the terminal, as much of it as the pages use: headings, paragraphs, lists, code, emphasis.

use anstyle::Style;
use pulldown_cmark::{Event, HeadingLevel, Parser, Tag, TagEnd};

use super::super::{
    Printable,
    text::{Layout, WIDEST},
};

const BODY: &str = "    ";

/// Code is bold, as in manual pages: no colour of its own is read well on light and dark ground alike.
const CODE: Style = Style::new().bold();

/// Adds a page to `out`: without styles it has no escape sequences, and code keeps its backticks.
pub(super) fn render(out: &mut Printable, page: &str, layout: Layout) {
    let mut renderer = Renderer::new(layout);
    for event in Parser::new(page) {
        renderer.take(event);
    }
    out.push(renderer.out);
}

/// A line of text with emphasis and code, not wrapped.
pub(super) fn inline(line: &str, layout: Layout) -> Printable {
    let mut renderer = Renderer::new(layout);
    for event in Parser::new(line).filter(|event| !is_paragraph(event)) {
        renderer.take(event);
    }
    renderer.line
}

fn is_paragraph(event: &Event<'_>) -> bool {
    matches!(event, Event::Start(Tag::Paragraph) | Event::End(TagEnd::Paragraph))
}

struct Renderer {
    layout: Layout,
    out: Printable,
    /// The paragraph, heading or item so far.
    line: Printable,
    /// Styles in force, the innermost last.
    styles: Vec<Style>,
    /// Lists that are open: the next number, or `None` for bullets.
    lists: Vec<Option<u64>>,
    /// What the next line of text begins with: the mark of an item.
    mark: Option<String>,
    in_code_block: bool,
}

impl Renderer {
    fn new(layout: Layout) -> Self {
        Self {
            layout: Layout { width: layout.width.min(WIDEST), ..layout },
            out: Printable::default(),
            line: Printable::default(),
            styles: Vec::new(),
            lists: Vec::new(),
            mark: None,
            in_code_block: false,
        }
    }

    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(&tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) if self.in_code_block => self.code_block(&text),
            Event::Text(text) => self.text(&text),
            Event::Code(code) if self.layout.color => {
                self.styles.push(CODE);
                self.text(&code);
                self.styles.pop();
            }
            Event::Code(code) => self.text(&format!("`{code}`")),
            Event::SoftBreak | Event::HardBreak => self.text(" "),
            // Not in the pages (a test sees to that): the text in it is kept, its form is not.
            Event::InlineMath(text) | Event::DisplayMath(text) | Event::Html(text) | Event::InlineHtml(text) => {
                self.text(&text);
            }
            Event::FootnoteReference(_) | Event::Rule | Event::TaskListMarker(_) => {}
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "of Markdown only what the pages use is rendered; a test finds the rest"
    )]
    fn start(&mut self, tag: &Tag<'_>) {
        match tag {
            Tag::Heading { .. } => {
                self.blank();
                self.styles.push(Style::new().bold());
            }
            Tag::Paragraph if self.lists.is_empty() => self.blank(),
            Tag::List(first) => {
                // A list in an item begins below the item's own text.
                self.flush();
                if self.lists.is_empty() {
                    self.blank();
                }
                self.lists.push(*first);
            }
            Tag::Item => {
                let mark = match self.lists.last_mut() {
                    Some(Some(number)) => {
                        *number += 1;
                        format!("{}. ", *number - 1)
                    }
                    Some(None) | None => "- ".to_owned(),
                };
                self.mark = Some(mark);
            }
            Tag::CodeBlock(_) => {
                self.flush();
                self.blank();
                self.in_code_block = true;
            }
            Tag::Strong => self.styles.push(Style::new().bold()),
            Tag::Emphasis => self.styles.push(Style::new().underline()),
            _ => {}
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "of Markdown only what the pages use is rendered; a test finds the rest"
    )]
    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(level) => {
                self.styles.pop();
                let heading = std::mem::take(&mut self.line);
                let indent = match level {
                    HeadingLevel::H1 | HeadingLevel::H2 => "",
                    HeadingLevel::H3 | HeadingLevel::H4 | HeadingLevel::H5 | HeadingLevel::H6 => "  ",
                };
                self.out.hanging(self.layout.width, indent, indent, heading);
            }
            TagEnd::Paragraph | TagEnd::Item => self.flush(),
            TagEnd::List(_) => {
                self.lists.pop();
            }
            TagEnd::CodeBlock => self.in_code_block = false,
            TagEnd::Strong | TagEnd::Emphasis => {
                self.styles.pop();
            }
            _ => {}
        }
    }

    /// Adds text in the style in force, each word on its own, so that no style runs into an indent.
    fn text(&mut self, text: &str) {
        match self.styles.last() {
            Some(style) if self.layout.color => {
                for (index, word) in text.split(' ').enumerate() {
                    if index > 0 {
                        self.line.push(" ");
                    }
                    if !word.is_empty() {
                        self.line.push(Printable::styled(*style, word));
                    }
                }
            }
            Some(_) | None => self.line.push(text),
        }
    }

    /// Writes the paragraph or item that has been collected.
    fn flush(&mut self) {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return;
        }
        let depth = "  ".repeat(self.lists.len().saturating_sub(1));
        let mark = self.mark.take();
        let rest = match (self.lists.last(), &mark) {
            (None, _) => BODY.to_owned(),
            (Some(_), Some(mark)) => format!("{BODY}{depth}{}", " ".repeat(mark.len())),
            (Some(_), None) => format!("{BODY}{depth}  "),
        };
        let first = mark.map_or_else(|| rest.clone(), |mark| format!("{BODY}{depth}{mark}"));
        self.out.hanging(self.layout.width, &first, &rest, line);
    }

    /// Lines to be copied whole: never wrapped.
    fn code_block(&mut self, text: &str) {
        for line in text.lines() {
            self.out.push(format!("{BODY}  "));
            self.out.push(self.layout.styled(CODE, line));
            self.out.end_line();
        }
    }

    /// An empty line, but at the top of the page.
    fn blank(&mut self) {
        if !self.out.is_empty() {
            self.out.end_line();
        }
    }
}

/// What a page has that is not rendered as it should be.
#[cfg(test)]
pub(super) fn unknown(page: &str) -> Vec<String> {
    Parser::new(page)
        .filter(|event| match event {
            Event::Start(tag) => !matches!(
                tag,
                Tag::Heading { .. }
                    | Tag::Paragraph
                    | Tag::List(_)
                    | Tag::Item
                    | Tag::CodeBlock(_)
                    | Tag::Strong
                    | Tag::Emphasis
            ),
            Event::End(_) | Event::Text(_) | Event::Code(_) | Event::SoftBreak | Event::HardBreak => false,
            Event::InlineMath(_)
            | Event::DisplayMath(_)
            | Event::Html(_)
            | Event::InlineHtml(_)
            | Event::FootnoteReference(_)
            | Event::Rule
            | Event::TaskListMarker(_) => true,
        })
        .map(|event| format!("{event:?}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(page: &str, width: usize, color: bool) -> String {
        let mut out = Printable::default();
        render(&mut out, page, Layout { width, color });
        out.into_string()
    }

    #[test]
    fn paragraphs_lists_and_code_are_wrapped_and_indented() {
        let page = "# a_b\n\nOne two\nthree **four** five `six` seven.\n\n### Part\n\n- an item that is wrapped `ss -K x`\n- two\n  - in two\n\n\
                    1. one\n2. two\n\n```sh\nnot wrapped however long it may be\n```\n";
        let expected = "a_b\n\n    One two three four\n    five `six` seven.\n\n  Part\n\n    - an item that is\n      wrapped `ss -K x`\n    - two\n      - in two\n\
                        \n    1. one\n    2. two\n\n      not wrapped however long it may be\n";
        assert_eq!(rendered(page, 24, false), expected);
    }

    #[test]
    fn styles_end_with_their_words_and_are_not_counted_as_columns() {
        let text = rendered("An `ss -K` **b**.", 14, true);
        assert_eq!(text, "    An \u{1b}[1mss\u{1b}[0m \u{1b}[1m-K\u{1b}[0m\n    \u{1b}[1mb\u{1b}[0m.\n");
    }

    #[test]
    fn what_is_not_rendered_is_found() {
        assert_eq!(unknown("a `b` *c*\n\n- d\n"), Vec::<String>::new());
        assert_eq!(unknown("[a](b)\n\n---\n").len(), 2);
    }
}
