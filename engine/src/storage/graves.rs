//! Tombstones in the order in which they came, so that those that need not be remembered any more are found without a search; and
//! whose older records may still lie in the files of earlier runs.

use std::collections::VecDeque;

use wal::Version;

use super::KeyHash;
use super::index::Location;

/// A tombstone that an entry named when it was noted here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grave {
    /// Its version.
    pub version: Version,
    /// Its key.
    pub hash: KeyHash,
    /// Where it lies.
    pub location: Location,
    /// Bytes it occupies there, with padding.
    pub padded_len: u32,
}

/// Tombstones, oldest first.
#[derive(Debug, Default)]
pub(super) struct Graves {
    due: VecDeque<Grave>,
    /// Those that were looked at and have to stay while files of earlier runs are there.
    kept: Vec<Grave>,
}

impl Graves {
    /// Notes a tombstone.
    pub(super) fn note(&mut self, grave: Grave) {
        self.due.push_back(grave);
    }

    /// The oldest one, if it died at `upto` or before.
    pub(super) fn next(&mut self, upto: Version) -> Option<Grave> {
        self.due.pop_front_if(|grave| grave.version <= upto)
    }

    /// One has to stay for now.
    pub(super) fn keep(&mut self, grave: Grave) {
        self.kept.push(grave);
    }

    /// The files of earlier runs are gone: what stayed because of them is looked at again.
    pub(super) fn nothing_is_old(&mut self) {
        for grave in self.kept.drain(..).rev() {
            self.due.push_front(grave);
        }
    }
}

/// Bits of the set; with two bits for each key, a tenth of a million keys takes one in fifty for one of them.
const BITS: usize = 1 << 20;

/// Keys that had a record in a file of an earlier run, and have a newer one in the running log. While that file is there, a start would
/// find the old record again, and nothing but the newer one tells that it does not count. A set that may hold more than was put in.
#[derive(Debug, Default)]
pub(super) struct Buried {
    bits: Vec<u64>,
}

impl Buried {
    fn places(hash: KeyHash) -> [usize; 2] {
        let place = |bits: u64| usize::try_from(bits).unwrap_or(0) & (BITS - 1);
        [place(hash.0), place(hash.0 >> 32)]
    }

    /// Puts a key in.
    pub(super) fn insert(&mut self, hash: KeyHash) {
        if self.bits.is_empty() {
            self.bits = vec![0; BITS / 64];
        }
        for place in Buried::places(hash) {
            self.bits[place / 64] |= 1 << (place % 64);
        }
    }

    /// Whether a key may be among them.
    #[must_use]
    pub(super) fn may_hold(&self, hash: KeyHash) -> bool {
        !self.bits.is_empty() && Buried::places(hash).iter().all(|place| self.bits[place / 64] >> (place % 64) & 1 == 1)
    }

    /// No file of an earlier run is left.
    pub(super) fn clear(&mut self) {
        self.bits = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::super::index::SegmentSlot;
    use super::*;

    fn grave(version: u64) -> Grave {
        let location = Location { segment: SegmentSlot(0), offset: 64, len_max: 64 };
        Grave { version: Version(version), hash: KeyHash(version), location, padded_len: 40 }
    }

    #[test]
    fn what_had_to_stay_comes_first_again() {
        let mut graves = Graves::default();
        (1..=4).for_each(|version| graves.note(grave(version)));
        let first = graves.next(Version(2)).unwrap();
        graves.keep(first);
        let second = graves.next(Version(2)).unwrap();
        graves.keep(second);
        assert_eq!((first, second, graves.next(Version(2))), (grave(1), grave(2), None));
        graves.nothing_is_old();
        let all = std::iter::from_fn(|| graves.next(Version(9))).map(|grave| grave.version.0);
        assert_eq!(all.collect::<Vec<_>>(), [1, 2, 3, 4]);
    }

    #[test]
    fn a_set_holds_what_was_put_in_until_it_is_cleared() {
        let mut buried = Buried::default();
        let hash = |n: u64| KeyHash(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        assert!(!buried.may_hold(hash(1)));
        (0..1_000).for_each(|n| buried.insert(hash(n)));
        assert!((0..1_000).all(|n| buried.may_hold(hash(n))));
        assert!((1_000..2_000).filter(|n| buried.may_hold(hash(*n))).count() < 10);
        buried.clear();
        assert!((0..1_000).all(|n| !buried.may_hold(hash(n))));
    }
}
