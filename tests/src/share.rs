//! A list of tests that several machines share between them.

use anyhow::{Context as _, Result, ensure};

/// Names this machine's share, such as `0/2` and `1/2`. Unset, it runs every test.
const SHARE_VARIABLE: &str = "CONNPROBE_SHARE";

/// Every `of`th test of the list, from the `number`th on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    number: usize,
    of: usize,
}

impl Share {
    pub(crate) const WHOLE: Self = Self { number: 0, of: 1 };

    pub(crate) fn of_this_process() -> Result<Self> {
        match std::env::var(SHARE_VARIABLE) {
            Ok(text) => Self::parse(&text),
            Err(_) => Ok(Self::WHOLE),
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let parse =
            |text: &str| Some(text.split_once('/')?).and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        let (number, of) = parse(text).with_context(|| format!("{SHARE_VARIABLE}={text} is no share such as 0/2"))?;
        ensure!(number < of, "{SHARE_VARIABLE}={text}: the shares of {of} are numbered from 0");
        Ok(Self { number, of })
    }

    /// Whether this machine runs the test at that place of the list.
    pub(crate) fn takes(self, place: usize) -> bool {
        place % self.of == self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_together_are_the_whole_and_none_is_run_twice() {
        let shares = ["0/3", "1/3", "2/3"].map(|text| Share::parse(text).unwrap());
        for place in 0..10 {
            assert_eq!(shares.iter().filter(|share| share.takes(place)).count(), 1);
            assert!(Share::WHOLE.takes(place));
        }
    }

    #[test]
    fn what_is_no_share_is_refused() {
        for text in ["", "1", "2/2", "0/0", "a/b"] {
            assert!(Share::parse(text).is_err(), "{text}");
        }
    }
}
