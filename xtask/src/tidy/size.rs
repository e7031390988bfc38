//! A file that grows past this many lines hides a room that is missing.

use super::{Offence, Source};

/// Of production code, comments included, tests not.
const MOST_LINES: usize = 400;

pub(super) fn check(sources: &[Source]) -> Vec<Offence> {
    let counted = sources.iter().filter(|source| source.is_rust());
    counted
        .filter(|source| source.production_lines() > MOST_LINES)
        .map(|source| {
            let count = source.production_lines();
            source.offence(MOST_LINES + 1, format!("{count} lines before the tests, {MOST_LINES} allowed"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_do_not_count() {
        let body = "fn f() {}\n".repeat(MOST_LINES);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{body}}}\n");
        let allowed = Source::new("probe-user/src/a.rs", format!("{body}{tests}"));
        let excess = Source::new("probe-user/src/b.rs", format!("{body}fn g() {{}}\n{tests}"));
        let offences = check(&[allowed, excess]);
        assert_eq!(offences.len(), 1);
        assert_eq!(offences[0].path, "probe-user/src/b.rs");
        assert_eq!(offences[0].text, "401 lines before the tests, 400 allowed");
    }
}
