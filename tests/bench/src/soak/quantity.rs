//! What is measured over time, and what it is allowed to do.

use std::fmt;
use std::time::Duration;

use crate::statistics::Spread;

/// What a quantity may do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Allowed {
    /// At the end at most this much more than at the beginning, and five percent.
    Flat(f64),
    /// Nothing: it stays zero.
    Zero,
    /// Whatever it likes; it is here to be seen beside the others.
    Anything,
}

/// By how much something may be higher at the end, beside what is allowed in its own unit: of one, a part.
const TOLERANCE: f64 = 0.05;

#[derive(Debug)]
pub(super) struct Quantity {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) allowed: Allowed,
}

/// In the order of [`Sample::values`].
pub(super) const QUANTITIES: [Quantity; 11] = [
    Quantity { name: "resident memory", unit: "MB", allowed: Allowed::Flat(0.5) },
    Quantity { name: "open descriptors", unit: "", allowed: Allowed::Flat(2.0) },
    Quantity { name: "threads", unit: "", allowed: Allowed::Flat(1.0) },
    Quantity { name: "open cases", unit: "", allowed: Allowed::Flat(20.0) },
    Quantity { name: "open findings", unit: "", allowed: Allowed::Flat(20.0) },
    Quantity { name: "processor time", unit: "% of a core", allowed: Allowed::Flat(1.0) },
    Quantity { name: "records written", unit: "a second", allowed: Allowed::Anything },
    Quantity { name: "records lost on full rings", unit: "", allowed: Allowed::Zero },
    // The kernel does not run a program where it interrupts itself: nothing that a program could help.
    Quantity { name: "firings without a run", unit: "", allowed: Allowed::Anything },
    Quantity { name: "undecodable records", unit: "", allowed: Allowed::Zero },
    Quantity { name: "records dropped by sinks", unit: "", allowed: Allowed::Zero },
];

/// All quantities at one moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// Since the beginning.
    pub(super) at: Duration,
    /// In the order of [`QUANTITIES`].
    pub(super) values: [f64; QUANTITIES.len()],
}

impl fmt::Display for Sample {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = QUANTITIES.iter().zip(self.values).map(|(quantity, value)| {
            let space = if quantity.unit.is_empty() { "" } else { " " };
            format!("{} {value:.1}{space}{}", quantity.name, quantity.unit)
        });
        formatter.write_str(&words.collect::<Vec<_>>().join(", "))
    }
}

/// How a quantity went.
#[derive(Debug)]
pub(super) struct Trend {
    quantity: &'static Quantity,
    first: Spread,
    last: Spread,
    /// Whether it did what it may.
    pub(super) is_kept: bool,
}

impl Trend {
    fn of(quantity: &'static Quantity, all: Spread, first: Spread, last: Spread) -> Self {
        let is_kept = match quantity.allowed {
            Allowed::Flat(more) => last.median <= first.median * (1.0 + TOLERANCE) + more,
            Allowed::Zero => all.most == 0.0,
            Allowed::Anything => true,
        };
        Self { quantity, first, last, is_kept }
    }

    /// What a row of the table says.
    pub(super) fn cells(&self) -> Vec<String> {
        let Quantity { name, unit, allowed } = self.quantity;
        let comma = if unit.is_empty() { "" } else { ", " };
        let (allowed, kept) = match (allowed, self.is_kept) {
            (Allowed::Flat(more), kept) => (format!("+5 % + {more}"), if kept { "yes" } else { "**no**" }),
            (Allowed::Zero, kept) => ("0".to_owned(), if kept { "yes" } else { "**no**" }),
            (Allowed::Anything, _) => (String::new(), ""),
        };
        let (first, last) = (format!("{:.1}", self.first), format!("{:.1}", self.last));
        vec![format!("{name}{comma}{unit}"), allowed, first, last, kept.to_owned()]
    }
}

/// How each went after a warm-up, which is a part of the whole; `None` with less than three samples after it.
pub(super) fn trends(samples: &[Sample], warm_up: f64) -> Option<Vec<Trend>> {
    let begun = samples.last()?.at.mul_f64(warm_up);
    let settled: Vec<&Sample> = samples.iter().filter(|sample| sample.at >= begun).collect();
    let third = settled.len() / 3;
    let (first, last) = (settled.get(..third)?, settled.get(settled.len() - third..)?);
    let spread =
        |part: &[&Sample], index: usize| Spread::of(part.iter().filter_map(|sample| sample.values.get(index).copied()));
    let all: Vec<&Sample> = samples.iter().collect();
    let trend = |(index, quantity)| {
        Some(Trend::of(quantity, spread(&all, index)?, spread(first, index)?, spread(last, index)?))
    };
    QUANTITIES.iter().enumerate().map(trend).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(value: impl Fn(u32, usize) -> f64) -> Vec<Sample> {
        let sample = |second: u32| Sample {
            at: Duration::from_secs(second.into()),
            values: std::array::from_fn(|index| value(second, index)),
        };
        (1..=100).map(sample).collect()
    }

    fn broken(samples: &[Sample]) -> Vec<&'static str> {
        let trends = trends(samples, 0.2).unwrap();
        trends.iter().filter(|trend| !trend.is_kept).map(|trend| trend.quantity.name).collect()
    }

    #[test]
    fn what_goes_up_and_down_is_flat_and_what_grows_is_not() {
        let swings = |second: u32| 50.0 + 30.0 * f64::from(second % 2);
        let zero = |index: usize| QUANTITIES[index].allowed == Allowed::Zero;
        let flat = |second, index| if zero(index) { 0.0 } else { swings(second) };
        assert_eq!(broken(&samples(flat)), [""; 0]);
        let grows = |second, index| flat(second, index) + if index == 0 { f64::from(second) / 5.0 } else { 0.0 };
        assert_eq!(broken(&samples(grows)), ["resident memory"]);
    }

    #[test]
    fn what_fills_at_the_start_only_is_flat_and_one_loss_is_a_loss() {
        let fills = |second, index| if index == 0 { f64::from(u32::min(second, 15)) } else { 0.0 };
        assert_eq!(broken(&samples(fills)), [""; 0]);
        // A count may go with what it counted for.
        let loses = |second, index| if index == 7 && second == 10 { 1.0 } else { 0.0 };
        assert_eq!(broken(&samples(loses)), ["records lost on full rings"]);
    }

    #[test]
    fn of_two_seconds_nothing_is_said() {
        assert!(trends(&samples(|_, _| 0.0)[..2], 0.2).is_none());
        assert!(trends(&[], 0.2).is_none());
    }
}
