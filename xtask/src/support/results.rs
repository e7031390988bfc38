//! What test programs say of themselves, read from their output line by line.

use std::fmt;

/// How a test program begins the line of a test that passed only when it was tried again (`tests/src/runner.rs`).
const SECOND_TRY: &str = "passed only on the second try: ";
/// Of the failures of one test program: what one reads on a screen or two. The whole was shown as it happened.
const MOST_LINES: usize = 200;

/// The sums over all test programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Totals {
    /// Whether something passed and nothing failed.
    pub(crate) fn succeeded(self) -> bool {
        self.failed == 0 && self.passed > 0
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// What the test programs so far have said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Results {
    pub(crate) totals: Totals,
    /// The part about failures of the program that speaks, once it has begun.
    failing: Option<Vec<String>>,
    /// What is worth reading once more at the end: in a long log it would be looked for in vain.
    told: Vec<String>,
}

impl Results {
    /// Takes in a line.
    pub(crate) fn take(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some((_, name)) = line.split_once(SECOND_TRY) {
            self.told.push(format!("{SECOND_TRY}{name}"));
        }
        if let Some(totals) = parse_result(line) {
            self.add_totals(totals);
            let lines = self.failing.take().unwrap_or_default();
            self.told.extend(lines.into_iter().filter(|line| !line.is_empty()).take(MOST_LINES));
        } else if let Some(lines) = &mut self.failing {
            lines.push(line.to_owned());
        } else if line == "failures:" {
            self.failing = Some(Vec::new());
        }
    }

    /// Adds what the programs in another place have said, behind the name of that place.
    pub(crate) fn add(&mut self, place: &str, other: &Self) {
        self.add_totals(other.totals);
        self.told.extend(other.told.iter().map(|line| format!("{place}: {line}")));
    }

    fn add_totals(&mut self, totals: Totals) {
        self.totals.passed += totals.passed;
        self.totals.failed += totals.failed;
        self.totals.skipped += totals.skipped;
    }
}

/// What is worth reading once more, and the sums.
impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.told {
            writeln!(f, "{line}")?;
        }
        self.totals.fmt(f)
    }
}

/// The last line of each test program: `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; …`. Only a line that
/// begins so counts: tests may print such text, too.
fn parse_result(line: &str) -> Option<Totals> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count =
        |name: &str| counts.split(';').find_map(|part| part.trim().strip_suffix(name)?.trim_end().parse::<u64>().ok());
    Some(Totals { passed: count("passed")?, failed: count("failed")?, skipped: count("ignored")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(text: &str) -> Results {
        let mut results = Results::default();
        text.lines().for_each(|line| results.take(line));
        results
    }

    #[test]
    fn a_result_line_is_counted() {
        let line = "test result: ok. 31 passed; 0 failed; 2 ignored; 0 measured; 5 filtered out; finished in 1.20s\n";
        assert_eq!(results(line).totals, Totals { passed: 31, failed: 0, skipped: 2 });
        let line = "test result: FAILED. 1 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(results(line).totals, Totals { passed: 1, failed: 4, skipped: 0 });
    }

    #[test]
    fn other_lines_are_not_counted() {
        for line in
            ["running 3 tests", "test parse::result ... ok", "test result: aborted", " test result: ok. 1 passed"]
        {
            assert_eq!(parse_result(line), None, "{line}");
        }
    }

    #[test]
    fn what_failed_is_told_once_more_at_the_end_with_its_place() {
        let guest = results(
            "test a ... passed only on the second try: a\nok\ntest b ... FAILED\n\nfailures:\n\n---- b ----\nno such record\n\n\
            failures:\n    b\n\ntest result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured\n",
        );
        let mut all = results("test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured\n");
        all.add("6.1", &guest);
        assert_eq!(
            all.to_string(),
            "6.1: passed only on the second try: a\n6.1: ---- b ----\n6.1: no such record\n6.1: failures:\n6.1:     b\n\
            3 passed, 1 failed, 1 skipped"
        );
    }
}
