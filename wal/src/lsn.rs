//! Positions in a log.

use std::fmt;

/// A byte position in the log of one (incarnation, core). Segment *k* of that log begins at `k × segment_bytes`; the header
/// page of a segment occupies positions as well, so that a position minus the segment's base is a file offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The position `bytes` further on.
    ///
    /// # Panics
    /// On overflow of 64 bits, which would take centuries of appending.
    #[must_use]
    pub fn plus(self, bytes: u64) -> Lsn {
        Lsn(self.0.checked_add(bytes).expect("a log position fits 64 bits"))
    }

    /// How far this lies behind `base`; `None` if it lies before it.
    #[must_use]
    pub fn offset_from(self, base: Lsn) -> Option<u64> {
        self.0.checked_sub(base.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}
