//! Latencies: one histogram type for everything that is timed.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Three significant digits: a percentile is off by at most 0.1 %.
const DIGITS: u8 = 3;

/// The quantiles that are shown, and their names in JSON and tables.
pub(crate) const QUANTILES: [(&str, f64); 6] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999), ("p99.999", 0.99999)];

/// Nanoseconds, counted.
#[derive(Clone, Debug)]
pub(crate) struct Latency(Histogram<u64>);

impl Default for Latency {
    fn default() -> Self {
        let mut histogram = Histogram::new(DIGITS).expect("three digits are allowed");
        histogram.auto(true);
        Latency(histogram)
    }
}

impl Latency {
    /// Counts `count` events of `nanos` nanoseconds.
    pub(crate) fn record(&mut self, nanos: u64, count: u64) {
        // It grows by itself: any 64-bit value fits.
        let _ = self.0.record_n(nanos, count);
    }

    pub(crate) fn record_duration(&mut self, elapsed: Duration) {
        self.record(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX), 1);
    }

    pub(crate) fn add(&mut self, other: &Latency) {
        let _ = self.0.add(&other.0);
    }

    pub(crate) fn at(&self, quantile: f64) -> u64 {
        self.0.value_at_quantile(quantile)
    }

    pub(crate) fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }

    pub(crate) fn summary(&self) -> Summary {
        Summary {
            count: self.0.len(),
            mean_ns: if self.0.is_empty() { 0.0 } else { self.0.mean() },
            p50_ns: self.at(0.5),
            p90_ns: self.at(0.9),
            p99_ns: self.at(0.99),
            p99_9_ns: self.at(0.999),
            p99_99_ns: self.at(0.9999),
            p99_999_ns: self.at(0.99999),
            max_ns: self.0.max(),
        }
    }
}

/// A histogram in nine numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) count: u64,
    pub(crate) mean_ns: f64,
    pub(crate) p50_ns: u64,
    pub(crate) p90_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) p99_9_ns: u64,
    pub(crate) p99_99_ns: u64,
    pub(crate) p99_999_ns: u64,
    pub(crate) max_ns: u64,
}

impl Summary {
    /// In the order of [`QUANTILES`], the maximum last.
    pub(crate) fn row(&self) -> [u64; 7] {
        [self.p50_ns, self.p90_ns, self.p99_ns, self.p99_9_ns, self.p99_99_ns, self.p99_999_ns, self.max_ns]
    }
}

/// Nanoseconds as a person reads them: three digits and a unit.
pub(crate) fn human_ns(nanos: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let value = nanos as f64;
    match nanos {
        0..1_000 => format!("{nanos} ns"),
        1_000..1_000_000 => three_digits(value / 1e3, "µs"),
        1_000_000..1_000_000_000 => three_digits(value / 1e6, "ms"),
        _ => three_digits(value / 1e9, "s"),
    }
}

/// `value` with three significant digits and its unit.
pub(crate) fn three_digits(value: f64, unit: &str) -> String {
    let decimals = match value.abs() {
        value if value >= 99.95 => 0,
        value if value >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_thousandth_and_any_value_fits() {
        let mut latency = Latency::default();
        for nanos in 1..=100_000 {
            latency.record(nanos, 1);
        }
        latency.record(u64::MAX / 4, 1);
        let summary = latency.summary();
        assert_eq!(summary.count, 100_001);
        assert!((49_950..=50_100).contains(&summary.p50_ns), "{summary:?}");
        assert!((98_900..=99_200).contains(&summary.p99_ns), "{summary:?}");
        assert!(summary.max_ns >= u64::MAX / 4);
        assert_eq!(Latency::default().summary(), Summary::default());
    }

    #[test]
    fn numbers_read_as_three_digits() {
        let shown = [(7, "7 ns"), (1_234, "1.23 µs"), (12_345, "12.3 µs"), (187_400, "187 µs"), (2_500_000, "2.50 ms")];
        for (nanos, text) in shown {
            assert_eq!(human_ns(nanos), text);
        }
    }
}
