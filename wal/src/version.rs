//! Versions: one integer compare is the order of all writes.

use std::fmt;

/// 2020-01-01T00:00:00Z in milliseconds since 1970: where a version's milliseconds begin.
pub const EPOCH_2020_UNIX_MS: u64 = 1_577_836_800_000;

const TAG_BITS: u32 = 11;
const LOGIC_BITS: u32 = 11;
const MS_BITS: u32 = 42;
const _: () = assert!(TAG_BITS + LOGIC_BITS + MS_BITS == u64::BITS);

/// 42 bits of milliseconds since 2020 | 11 bits of logic | 11 bits of tag, most significant first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

impl Version {
    /// Below every version that a clock gives.
    pub const ZERO: Version = Version(0);

    /// The highest milliseconds that fit.
    pub const MS_MAX: u64 = (1 << MS_BITS) - 1;

    /// Packs the three parts. Milliseconds saturate at [`Version::MS_MAX`] (in the year 2159); of `logic` and `tag` the low
    /// 11 bits count.
    #[must_use]
    pub fn new(ms_since_2020: u64, logic: u16, tag: u16) -> Version {
        let ms = ms_since_2020.min(Version::MS_MAX);
        Version((ms << (LOGIC_BITS + TAG_BITS)) | (low_bits(logic) << TAG_BITS) | low_bits(tag))
    }

    /// Milliseconds since 2020.
    #[must_use]
    pub fn ms(self) -> u64 {
        self.0 >> (LOGIC_BITS + TAG_BITS)
    }

    /// The logical counter inside the millisecond, 11 bits.
    #[must_use]
    pub fn logic(self) -> u16 {
        part(self.0 >> TAG_BITS)
    }

    /// The tag of the core that gave it, 11 bits.
    #[must_use]
    pub fn tag(self) -> u16 {
        part(self.0)
    }

    /// Its physical part in milliseconds since 1970.
    #[must_use]
    pub fn unix_ms(self) -> u64 {
        self.ms() + EPOCH_2020_UNIX_MS
    }
}

fn low_bits(value: u16) -> u64 {
    u64::from(value & 0x7ff)
}

fn part(value: u64) -> u16 {
    u16::try_from(value & 0x7ff).expect("11 bits fit")
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.ms(), self.logic(), self.tag())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_come_back_and_order_by_time_first() {
        let version = Version::new(123_456_789, 0x7ff, 0x123);
        assert_eq!((version.ms(), version.logic(), version.tag()), (123_456_789, 0x7ff, 0x123));
        assert_eq!(version.unix_ms(), EPOCH_2020_UNIX_MS + 123_456_789);
        assert!(Version::new(123_456_790, 0, 0) > version);
        assert!(Version::new(123_456_789, 0x7ff, 0x124) > version);
    }

    #[test]
    fn parts_that_do_not_fit_never_spill_into_their_neighbours() {
        assert_eq!(Version::new(u64::MAX, 0xffff, 0xffff), Version(u64::MAX));
        assert_eq!(Version::new(1, 0x800, 0x800), Version::new(1, 0, 0));
    }
}
