//! Numbers as people say them.

use std::fmt::Display;

/// `1 byte`, `2 bytes`.
pub(crate) fn counted<N: Display + PartialEq + From<u8>>(count: N, one: &str) -> String {
    let plural = if count == N::from(1) { "" } else { "s" };
    format!("{count} {one}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_no_plural() {
        assert_eq!([counted(0_u8, "probe"), counted(1_u64, "probe")], ["0 probes", "1 probe"]);
        assert_eq!(counted(2_usize, "retransmission timeout"), "2 retransmission timeouts");
    }
}
