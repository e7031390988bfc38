//! What is said of numbers that were measured several times.

use std::fmt;

/// The middle of several measurements, and between which they lay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// Of these; `None` where there is none.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (&least, &most) = (values.first()?, values.last()?);
        let (&upper, &lower) = (values.get(values.len() / 2)?, values.get((values.len() - 1) / 2)?);
        Some(Self { median: f64::midpoint(lower, upper), least, most })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = formatter.precision().unwrap_or(3);
        let Self { median, least, most } = self;
        write!(formatter, "{median:.digits$} ({least:.digits$}–{most:.digits$})")
    }
}

/// The ratio of a measurement with something to the mean of those without it right before and after: what drifts, as a clock frequency or
/// a noisy neighbour does, falls out.
pub(crate) fn ratio(before: f64, with: f64, after: f64) -> f64 {
    with / f64::midpoint(before, after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!(spread, Spread { median: 2.5, least: 1.0, most: 4.0 });
        assert_eq!(format!("{spread:.1}"), "2.5 (1.0–4.0)");
        assert_eq!(Spread::of([7.0]).unwrap().median, 7.0);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn a_steady_drift_falls_out_of_the_ratio() {
        assert_eq!(ratio(10.0, 22.0, 12.0), 2.0);
    }
}
