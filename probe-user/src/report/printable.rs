//! Text that may go to a terminal.
//!
//! Processes, interfaces, units and tables are named by whoever makes them: by a container, too, that means no good. What such a name
//! does to a terminal (clears it, colours or hides what stands there, turns the order of what is read, writes a line of its own) must
//! not happen. So all that is printed passes through [`Printable`], in which every character is seen as what it is. Records stay exact:
//! what their JSON escapes, whoever parses it gets back.

use std::{borrow::Cow, fmt, ops::Deref};

use anstyle::Style;
use textwrap::core::Word;

/// Text in which nothing acts on a terminal but line ends and the styles it was given here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Printable(String);

impl Printable {
    /// Several lines of text: line ends stay what they are.
    pub fn lines(text: &str) -> Self {
        Self(text.split('\n').map(visible).collect::<Vec<_>>().join("\n"))
    }

    /// JSON, which means the same as before: what is escaped can only stand within a string.
    pub fn json(text: &str) -> Self {
        let mut out = String::with_capacity(text.len());
        for character in text.chars() {
            if is_seen(character) || character == '\n' {
                out.push(character);
            } else {
                out.extend(character.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
            }
        }
        Self(out)
    }

    /// A part of a line, in this style.
    pub(super) fn styled(style: Style, text: &str) -> Self {
        Self(format!("{style}{}{style:#}", visible(text)))
    }

    /// What it is, as text.
    pub fn into_string(self) -> String {
        self.0
    }

    /// Adds more of the same line, or more lines.
    pub(crate) fn push(&mut self, more: impl Into<Self>) {
        self.0.push_str(&more.into().0);
    }

    /// Ends the line.
    pub(crate) fn end_line(&mut self) {
        self.0.push('\n');
    }

    /// Adds `text`, wrapped, with the first line and the rest indented. Nothing is broken but at spaces: names of files, options and
    /// addresses stay whole, and so does a number with its unit.
    pub(crate) fn hanging(&mut self, width: usize, first: &str, rest: &str, text: impl Into<Self>) {
        let (first, rest) = (visible(first), visible(rest));
        let options = textwrap::Options::new(width)
            .initial_indent(&first)
            .subsequent_indent(&rest)
            .break_words(false)
            .word_separator(textwrap::WordSeparator::Custom(words))
            // The other algorithm makes lines too long to make them even.
            .wrap_algorithm(textwrap::WrapAlgorithm::FirstFit)
            .word_splitter(textwrap::WordSplitter::NoHyphenation);
        for line in textwrap::wrap(&text.into(), options) {
            self.0.push_str(&line);
            self.end_line();
        }
    }
}

/// A part of a line, in no style.
impl From<&str> for Printable {
    fn from(text: &str) -> Self {
        Self(visible(text).into_owned())
    }
}

impl From<String> for Printable {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl Deref for Printable {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Printable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What lies between the places where a line may end.
fn words(line: &str) -> Box<dyn Iterator<Item = Word<'_>> + '_> {
    const UNITS: [&str; 5] = ["s", "ms", "min", "h", "bytes"];
    let is_unit = |word: &str| UNITS.contains(&word.trim_end_matches(|end: char| end.is_ascii_punctuation()));
    let ends_in_digit = |text: &str| text.trim_end().ends_with(|end: char| end.is_ascii_digit());
    let mut parts: Vec<(usize, usize)> = Vec::new();
    let mut end = 0;
    for word in textwrap::WordSeparator::AsciiSpace.find_words(line) {
        let start = end;
        end += word.word.len() + word.whitespace.len();
        match parts.last_mut() {
            Some(last) if is_unit(&word) && line.get(last.0..start).is_some_and(ends_in_digit) => last.1 = end,
            Some(_) | None => parts.push((start, end)),
        }
    }
    Box::new(parts.into_iter().filter_map(move |(start, end)| line.get(start..end).map(Word::from)))
}

/// The text with every character that is not seen as what it is written out: `\u{1b}`, `\n`, `\u{202e}`.
fn visible(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_seen) {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    for character in text.chars() {
        if is_seen(character) {
            out.push(character);
        } else {
            out.extend(character.escape_debug());
        }
    }
    Cow::Owned(out)
}

/// Rust escapes in its own debug output what Unicode calls a control or format character, a separator other than the space, a private
/// or unassigned code point, and a mark that joins the character before it; beside these, for its syntax, quotes and backslashes.
fn is_seen(character: char) -> bool {
    matches!(character, ' '..='~') || character.escape_debug().len() == 1
}

#[cfg(test)]
mod tests {
    use anstyle::AnsiColor;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_acts_on_a_terminal_or_is_not_seen_is_written_out() {
        let shown = |text: &str| Printable::from(text).into_string();
        assert_eq!(shown("\x1b[2J\x1b]0;title\x07"), r"\u{1b}[2J\u{1b}]0;title\u{7}");
        assert_eq!(shown("a\nb\tc\r\0\u{7f}"), r"a\nb\tc\r\0\u{7f}");
        assert_eq!(shown("\u{9b}2J\u{85}"), r"\u{9b}2J\u{85}");
        for hidden in ['\u{202a}', '\u{202e}', '\u{2066}', '\u{2069}', '\u{200b}', '\u{200f}', '\u{2028}', '\u{feff}'] {
            assert_eq!(shown(&hidden.to_string()), format!("\\u{{{:x}}}", u32::from(hidden)));
        }
        let seen = r#"10.3.0.50:51050 -> [2001:db8::1]:5672 system-getty\x2dtty.slice 'it' "is" größer 日本 ✓"#;
        assert_eq!(shown(seen), seen);
    }

    #[test]
    fn line_ends_stay_only_between_lines() {
        assert_eq!(&*Printable::lines("a\nb\x1b\n"), "a\nb\\u{1b}\n");
    }

    #[test]
    fn a_style_is_that_of_the_program_and_none_that_came_with_the_text() {
        let red = Style::new().fg_color(Some(AnsiColor::Red.into()));
        assert_eq!(&*Printable::styled(red, "a\x1b[0m"), "\u{1b}[31ma\\u{1b}[0m\u{1b}[0m");
    }

    #[test]
    fn a_number_stays_with_its_unit() {
        let mut out = Printable::default();
        out.hanging(22, "", "", "waited for 15 min 24 s, in 100 bytes at 10.0.0.1 s");
        assert_eq!(&*out, "waited for 15 min\n24 s, in 100 bytes at\n10.0.0.1 s\n");
    }

    #[test]
    fn styles_are_not_counted_as_columns() {
        let mut out = Printable::default();
        let mut text = Printable::from("one ");
        text.push(Printable::styled(Style::new().bold(), "two"));
        text.push(" three");
        out.hanging(9, "- ", "  ", text);
        assert_eq!(&*out, "- one \u{1b}[1mtwo\u{1b}[0m\n  three\n");
    }

    proptest! {
        #[test]
        fn json_means_what_it_meant(text in any::<String>()) {
            for json in [serde_json::to_string(&[&text]), serde_json::to_string_pretty(&[&text])] {
                let printable = Printable::json(&json.unwrap());
                prop_assert!(printable.chars().all(|character| is_seen(character) || character == '\n'));
                prop_assert_eq!(serde_json::from_str::<[String; 1]>(&printable).unwrap(), [text.clone()]);
            }
        }

        #[test]
        fn whatever_the_text_is_no_character_of_it_acts(text in any::<String>(), width in 1_usize..200) {
            let mut out = Printable::default();
            out.hanging(width, &text, &text, text.as_str());
            prop_assert!(!out.chars().any(|character| character != '\n' && character.is_control()));
        }
    }
}
