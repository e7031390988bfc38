//! Words that mark unfinished work.

use super::{Offence, Source, code, numbered};

/// Spelled in parts, so that this file passes its own check.
const MARKS: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];
const DEBUG_MACRO: &str = concat!("d", "bg!");

pub(super) fn check(sources: &[Source]) -> Vec<Offence> {
    let mut offences = Vec::new();
    for source in sources {
        for (line, text) in numbered(&source.text) {
            for mark in MARKS.iter().filter(|mark| code::has_word(text, mark)) {
                offences.push(source.offence(line, format!("{mark}: finish it or say plainly what is missing")));
            }
        }
        for (line, text) in numbered(&source.code) {
            if code::has_word(text, DEBUG_MACRO) {
                offences.push(source.offence(line, DEBUG_MACRO));
            }
        }
    }
    offences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found_in_comments_and_debug_macros_in_code() {
        let text = format!("// {}: later\nlet x = {DEBUG_MACRO}(y);\n// {DEBUG_MACRO}\n", MARKS[0]);
        let offences = check(&[Source::new("xtask/src/a.rs", text)]);
        assert_eq!(offences.iter().map(|offence| offence.line).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_mark_inside_another_word_is_none() {
        let text = format!("mktemp {}{}\n", MARKS[2], MARKS[2]);
        assert!(check(&[Source::new("docs/a.md", text)]).is_empty());
    }
}
