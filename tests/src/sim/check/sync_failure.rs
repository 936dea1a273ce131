//! D6: the first sync of a log that fails ends the run. The log's durable position does not move any more, however many later
//! syncs succeed, and the process ends once its control loop was told. (What the device of the next run holds behind that
//! position is D3's, in [`super::recovery`]; what was acknowledged is D1's.)

use wal::Lsn;

use super::Violation;

/// Checker D6.
pub const D6: &str = "D6 a failed sync is final";

/// Turns that a control loop may have between a core's failed sync and the end of the process: the message may wait for room in its
/// mailbox.
const TURNS_MAX: u32 = 16;

/// By node, the control loop's turns since a core heard that its sync failed.
#[derive(Debug, Default)]
pub struct SyncFailures {
    turns: Vec<Option<u32>>,
    /// Runs that ended after a failed sync.
    pub ended: u64,
}

impl SyncFailures {
    /// `nodes` disks that work.
    #[must_use]
    pub fn new(nodes: usize) -> SyncFailures {
        SyncFailures { turns: vec![None; nodes], ended: 0 }
    }

    /// The process of `node` is over.
    pub fn died(&mut self, node: usize) {
        self.ended += u64::from(self.turns[node].take().is_some());
    }

    /// A core of `node`, a sync of which has failed in this run, had its turn; its log was durable up to `before`, and is up to
    /// `after`.
    ///
    /// # Errors
    /// [`D6`].
    pub fn core_ticked(&mut self, region: &str, node: usize, before: Lsn, after: Lsn) -> Result<(), Violation> {
        self.turns[node].get_or_insert(0);
        if after > before {
            let text = format!("{region} calls its log durable up to {after}, but the sync behind {before} failed");
            return Err(Violation::new(D6, text));
        }
        Ok(())
    }

    /// The control loop of `node` had its turn.
    ///
    /// # Errors
    /// [`D6`].
    pub fn control_ticked(&mut self, region: &str, node: usize) -> Result<(), Violation> {
        let Some(turns) = &mut self.turns[node] else { return Ok(()) };
        *turns += 1;
        if *turns > TURNS_MAX {
            let text = format!("{region} goes on, {turns} turns of its control loop after a sync failed");
            return Err(Violation::new(D6, text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(result: Result<(), Violation>) -> bool {
        result.is_err_and(|violation| violation.checker == D6)
    }

    #[test]
    fn a_log_whose_sync_failed_never_becomes_durable_further() {
        let mut failures = SyncFailures::new(2);
        assert_eq!(failures.core_ticked("sfo", 1, Lsn(4_096), Lsn(4_096)), Ok(()));
        assert!(fails(failures.core_ticked("sfo", 1, Lsn(4_096), Lsn(4_160))));
    }

    #[test]
    fn the_process_ends_soon_after_a_failed_sync() {
        let mut failures = SyncFailures::new(2);
        for _ in 0..100 {
            assert_eq!(failures.control_ticked("sfo", 1), Ok(()), "nothing failed");
        }
        assert_eq!(failures.core_ticked("sfo", 1, Lsn(4_096), Lsn(4_096)), Ok(()));
        for _ in 0..TURNS_MAX {
            assert_eq!(failures.control_ticked("nyc", 0), Ok(()), "another node");
            assert_eq!(failures.control_ticked("sfo", 1), Ok(()));
        }
        assert!(fails(failures.control_ticked("sfo", 1)));
        failures.died(1);
        assert_eq!(failures.control_ticked("sfo", 1), Ok(()), "the next run");
        assert_eq!(failures.ended, 1);
    }
}
