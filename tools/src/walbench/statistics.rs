//! Medians and confidence intervals over windows.
//!
//! A window is the unit of everything that is compared: records inside one share a group, a device queue and a neighbour's
//! burst, so that they are no independent samples; windows nearly are.

use serde::{Deserialize, Serialize};

/// Resamples of a bootstrap (Efron and Tibshirani advise 1,000 or more for intervals).
const RESAMPLES: usize = 2000;

/// A median and what it may really be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Estimate {
    pub(crate) median: f64,
    /// Lower end of the 95 % interval.
    pub(crate) low: f64,
    /// Upper end of the 95 % interval.
    pub(crate) high: f64,
}

/// The middle of `values`; `None` of none.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted: Vec<f64> = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len() % 2 == 1 { upper } else { f64::midpoint(sorted[middle - 1], upper) })
}

/// The median of `values` with a percentile bootstrap interval. The same `seed` gives the same interval.
pub(crate) fn estimate(values: &[f64], seed: u64) -> Option<Estimate> {
    let mut random = SplitMix(seed);
    interval(median(values)?, || median(&resample(values, &mut random)))
}

/// How many times larger the median of `after` is than that of `before`, with an interval from resampling both.
pub(crate) fn ratio(before: &[f64], after: &[f64], seed: u64) -> Option<Estimate> {
    let mut random = SplitMix(seed);
    let quotient = |before: &[f64], after: &[f64]| {
        let (before, after) = (median(before)?, median(after)?);
        (before > 0.0).then_some(after / before)
    };
    interval(quotient(before, after)?, || quotient(&resample(before, &mut random), &resample(after, &mut random)))
}

fn interval(median: f64, mut draw: impl FnMut() -> Option<f64>) -> Option<Estimate> {
    let mut drawn: Vec<f64> = (0..RESAMPLES).filter_map(|_| draw()).collect();
    drawn.sort_by(f64::total_cmp);
    let (low, high) = (drawn.len() / 40, drawn.len() - drawn.len() / 40);
    Some(Estimate { median, low: *drawn.get(low)?, high: *drawn.get(high.checked_sub(1)?)? })
}

fn resample(values: &[f64], random: &mut SplitMix) -> Vec<f64> {
    values.iter().map(|_| values[random.below(values.len())]).collect()
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, seeded, good enough to draw windows and keys.
#[derive(Clone, Debug)]
pub(crate) struct SplitMix(pub(crate) u64);

impl SplitMix {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let wide = u128::from(self.next()) * bound as u128;
        usize::try_from(wide >> 64).expect("below a usize")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_few() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn an_interval_holds_its_median_narrows_with_more_windows_and_comes_back_with_its_seed() {
        let noisy = |count: usize| -> Vec<f64> {
            let mut random = SplitMix(7);
            (0..count).map(|_| 100.0 + f64::from(u32::try_from(random.below(21)).expect("small"))).collect()
        };
        let (few, many) = (estimate(&noisy(10), 1).expect("some"), estimate(&noisy(1000), 1).expect("some"));
        for found in [few, many] {
            assert!(found.low <= found.median && found.median <= found.high, "{found:?}");
        }
        assert!(many.high - many.low < few.high - few.low, "{few:?} {many:?}");
        assert_eq!(estimate(&noisy(10), 1), Some(few));
        assert_eq!(estimate(&[5.0], 1), Some(Estimate { median: 5.0, low: 5.0, high: 5.0 }));
        assert_eq!(estimate(&[], 1), None);
    }

    #[test]
    fn a_ratio_tells_a_real_change_from_noise() {
        let before: Vec<f64> = (0..20).map(|at| 100.0 + f64::from(at % 5)).collect();
        let slower: Vec<f64> = before.iter().map(|value| value * 1.2).collect();
        let same = ratio(&before, &before, 3).expect("some");
        assert!(same.low <= 1.0 && same.high >= 1.0, "{same:?}");
        let worse = ratio(&before, &slower, 3).expect("some");
        assert!(worse.low > 1.1 && (worse.median - 1.2).abs() < 1e-9, "{worse:?}");
        assert_eq!(ratio(&[0.0], &[1.0], 3), None);
    }
}
