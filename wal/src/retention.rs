//! Retention: who still reads a log from where, and how far behind a reader may be.
//!
//! A segment that nobody needs for its data is kept while somebody is about to read it: its life ends at the *minimum* over the
//! readers' positions. A reader that is further behind the log's end than a budget of bytes does not count: it has to skip what
//! goes. What that means for a reader is the caller's affair.

use crate::lsn::Lsn;

/// Readers of one log. `R` names them.
#[derive(Clone, Debug)]
pub struct Retention<R> {
    budget_bytes: u64,
    readers: Vec<(R, Lsn)>,
}

/// What becomes of a segment that nobody needs for its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<R> {
    /// Every reader is past it.
    Go,
    /// A reader within the budget will read it.
    Wait,
    /// Only these readers, who are further behind than the budget, would read it: it may go once they skip it.
    Skip(Vec<R>),
}

impl<R: Clone> Retention<R> {
    /// Nobody reads. A reader may be `budget_bytes` behind the log's end.
    #[must_use]
    pub fn new(budget_bytes: u64) -> Self {
        Retention { budget_bytes, readers: Vec::new() }
    }

    /// `reader` reads from `position` on.
    pub fn reads_from(&mut self, reader: R, position: Lsn) {
        self.readers.push((reader, position));
    }

    /// The lowest position that a reader within the budget reads from; `end` if there is none.
    #[must_use]
    pub fn minimum(&self, end: Lsn) -> Lsn {
        let within =
            self.readers.iter().map(|(_, position)| *position).filter(|position| self.is_within(*position, end));
        within.min().unwrap_or(end).min(end)
    }

    /// Whether the segment that ends at `segment_end` may go, in a log that ends at `end`.
    #[must_use]
    pub fn judge(&self, segment_end: Lsn, end: Lsn) -> Verdict<R> {
        if self.minimum(end) < segment_end {
            return Verdict::Wait;
        }
        let behind = self.readers.iter().filter(|(_, position)| *position < segment_end);
        let behind: Vec<R> = behind.map(|(reader, _)| reader.clone()).collect();
        if behind.is_empty() { Verdict::Go } else { Verdict::Skip(behind) }
    }

    fn is_within(&self, position: Lsn, end: Lsn) -> bool {
        end.0.saturating_sub(position.0) <= self.budget_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readers(budget_bytes: u64, positions: &[u64]) -> Retention<usize> {
        let mut retention = Retention::new(budget_bytes);
        for (reader, position) in positions.iter().enumerate() {
            retention.reads_from(reader, Lsn(*position));
        }
        retention
    }

    #[test]
    fn a_segment_lives_until_the_slowest_reader_is_past_it() {
        let retention = readers(10_000, &[9_000, 4_096, 12_000]);
        assert_eq!(retention.minimum(Lsn(12_000)), Lsn(4_096));
        assert_eq!(retention.judge(Lsn(4_096), Lsn(12_000)), Verdict::Go);
        assert_eq!(retention.judge(Lsn(4_097), Lsn(12_000)), Verdict::Wait);
    }

    #[test]
    fn without_readers_nothing_is_kept() {
        let retention = readers(0, &[]);
        assert_eq!(retention.minimum(Lsn(7)), Lsn(7));
        assert_eq!(retention.judge(Lsn(7), Lsn(7)), Verdict::Go);
    }

    #[test]
    fn a_reader_beyond_the_budget_has_to_skip_and_one_within_it_has_not() {
        let retention = readers(1_000, &[500, 9_500, 8_999]);
        assert_eq!(retention.minimum(Lsn(10_000)), Lsn(9_500));
        assert_eq!(retention.judge(Lsn(8_192), Lsn(10_000)), Verdict::Skip(vec![0]));
        assert_eq!(retention.judge(Lsn(9_000), Lsn(10_000)), Verdict::Skip(vec![0, 2]));
        assert_eq!(retention.judge(Lsn(9_501), Lsn(10_000)), Verdict::Wait);
        // Exactly the budget is within it.
        assert_eq!(readers(1_000, &[9_000]).judge(Lsn(9_001), Lsn(10_000)), Verdict::Wait);
    }

    #[test]
    fn a_reader_ahead_of_the_end_holds_nothing() {
        let retention = readers(0, &[u64::MAX]);
        assert_eq!(retention.judge(Lsn(100), Lsn(50)), Verdict::Wait, "a segment that is not over yet");
        assert_eq!(retention.judge(Lsn(50), Lsn(50)), Verdict::Go);
    }
}
