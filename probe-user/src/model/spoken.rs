//! Numbers and lengths of time as people say them.

use std::{fmt::Display, time::Duration};

/// `1 byte`, `2 bytes`.
pub(crate) fn counted<N: Display + PartialEq + From<u8>>(count: N, one: &str) -> String {
    let plural = if count == N::from(1) { "" } else { "s" };
    format!("{count} {one}{plural}")
}

/// A length of time as people say it: `4.2 s`, `15 min 24 s`, `2 h 5 min`.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600.. => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_no_plural() {
        assert_eq!([counted(0_u8, "probe"), counted(1_u64, "probe")], ["0 probes", "1 probe"]);
        assert_eq!(counted(2_usize, "retransmission timeout"), "2 retransmission timeouts");
    }

    #[test]
    fn lengths_of_time_are_said_as_people_say_them() {
        assert_eq!(span(Duration::from_millis(4_240)), "4.2 s");
        assert_eq!(span(Duration::from_secs(924)), "15 min 24 s");
        assert_eq!(span(Duration::from_secs(7_500)), "2 h 5 min");
    }
}
