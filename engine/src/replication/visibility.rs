//! Visibility: how long after it was written at its origin a record can be read here, measured end to end.
//!
//! A sample is the age, by this node's clock, of the oldest record that a claim covers when the claim takes effect: then everything that
//! came with it is durable here and shown. The age counts from the record's version, which the origin's clock gave; where it is known
//! how far that clock is ahead, the age is corrected by it. There is one sample for each claim and origin, not for each record, and
//! none for copies that compaction made: those are no new writes. What catches up after an outage counts with its whole delay.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use net::ids::RegionName;
use serde::{Deserialize, Serialize};
use wal::Version;

/// Longest age that is told apart: a day.
const AGE_MS_MAX: u64 = 24 * 3600 * 1000;

/// Significant decimal digits: below 30 KiB for each region.
const DIGITS: u8 = 2;

/// Regions that are told apart; a mesh that has had more shows the first ones.
const REGIONS_MAX: usize = 64;

/// What is known of one origin region's records.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VisibilityStatus {
    /// The origin's region.
    pub region: String,
    /// Samples since the start.
    pub samples: u64,
    /// The age that half of them did not exceed, in milliseconds.
    pub p50_ms: u64,
    /// That 99 % did not exceed.
    pub p99_ms: u64,
    /// That 99.9 % did not exceed.
    pub p999_ms: u64,
    /// The longest.
    pub max_ms: u64,
}

/// Ages in milliseconds by origin region, since the start.
#[derive(Debug, Default)]
pub struct Visibility {
    by_region: BTreeMap<RegionName, Histogram<u64>>,
}

impl Visibility {
    /// Something of `version` from `region` has become visible now. That region's clock is `ahead_ms` ahead of this node's, if that is
    /// known.
    pub fn became_visible(&mut self, region: &RegionName, version: Version, now_unix_ms: u64, ahead_ms: Option<i64>) {
        let age = age_ms(version, now_unix_ms, ahead_ms);
        if let Some(histogram) = self.by_region.get_mut(region) {
            histogram.saturating_record(age);
        } else if self.by_region.len() < REGIONS_MAX
            && let Ok(mut histogram) = Histogram::new_with_bounds(1, AGE_MS_MAX, DIGITS)
        {
            histogram.saturating_record(age);
            self.by_region.insert(region.clone(), histogram);
        }
    }

    /// What there is to show, by region.
    #[must_use]
    pub fn statuses(&self) -> Vec<VisibilityStatus> {
        let status = |(region, histogram): (&RegionName, &Histogram<u64>)| VisibilityStatus {
            region: region.to_string(),
            samples: histogram.len(),
            p50_ms: histogram.value_at_quantile(0.5),
            p99_ms: histogram.value_at_quantile(0.99),
            p999_ms: histogram.value_at_quantile(0.999),
            max_ms: histogram.max(),
        };
        self.by_region.iter().map(status).collect()
    }
}

/// How old `version` is; a clock that is behind makes nothing younger than it is written.
fn age_ms(version: Version, now_unix_ms: u64, ahead_ms: Option<i64>) -> u64 {
    let now = now_unix_ms.saturating_add_signed(ahead_ms.unwrap_or(0));
    now.saturating_sub(version.unix_ms())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(unix_ms: u64) -> Version {
        Version::new(unix_ms - Version(0).unix_ms(), 0, 0)
    }

    #[test]
    fn an_age_is_counted_by_the_origins_clock_where_its_skew_is_known() {
        let now = 1_800_000_000_000;
        assert_eq!(age_ms(at(now - 80), now, None), 80);
        assert_eq!(age_ms(at(now - 80 + 30), now, None), 50, "the origin is ahead and nobody knows");
        assert_eq!(age_ms(at(now - 80 + 30), now, Some(30)), 80);
        assert_eq!(age_ms(at(now - 80 - 30), now, Some(-30)), 80);
        assert_eq!(age_ms(at(now + 5), now, None), 0);
    }

    #[test]
    fn each_region_has_its_own_quantiles() {
        let now = 1_800_000_000_000;
        let (ams, nyc) = (RegionName::parse("ams").unwrap(), RegionName::parse("nyc").unwrap());
        let mut visibility = Visibility::default();
        for age in 1..=100 {
            visibility.became_visible(&ams, at(now - age), now, None);
        }
        visibility.became_visible(&nyc, at(now - 3_600_000), now, None);
        let [ams, nyc] = &visibility.statuses()[..] else { panic!("two regions") };
        assert_eq!((ams.region.as_str(), ams.samples, ams.p50_ms, ams.p99_ms, ams.max_ms), ("ams", 100, 50, 99, 100));
        assert_eq!(nyc.samples, 1);
        assert!((3_500_000..3_700_000).contains(&nyc.p50_ms), "{nyc:?}");
    }
}
