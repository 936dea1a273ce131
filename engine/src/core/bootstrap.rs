//! This core's part of a bootstrap: once everything came, a walk over the index drops what did not, a slice a tick.

use std::sync::Arc;

use super::CoreLoop;
use crate::host::Host;
use crate::messages::CoreEvent;
use crate::replication::bootstrap::Absent;
use crate::storage::index::ScanPosition;

/// Index entries that are looked at in one tick.
const ENTRIES_PER_TICK: usize = 512;

/// A walk under way.
#[derive(Debug)]
pub(super) struct Sweep {
    absent: Arc<Absent>,
    from: ScanPosition,
    dropped: u64,
    /// It waits for room in the log, or for records from the disk.
    stalled: bool,
}

impl<H: Host> CoreLoop<H> {
    pub(super) fn begin_sweep(&mut self, absent: Arc<Absent>) {
        self.sweep = Some(Sweep { absent, from: ScanPosition(0), dropped: 0, stalled: false });
    }

    /// Whether there is a slice to do at once, and whether one is to be tried again a little later.
    pub(super) fn sweeps(&self) -> (bool, bool) {
        let stalled = self.sweep.as_ref().map(|sweep| sweep.stalled || self.holds.is_held());
        (stalled == Some(false), stalled == Some(true))
    }

    /// Goes on with the walk.
    pub(super) fn sweep_on(&mut self) {
        if self.holds.is_held() || self.stopping {
            return;
        }
        let Some(mut sweep) = self.sweep.take() else { return };
        match self.shard.sweep(&sweep.absent, sweep.from, ENTRIES_PER_TICK, self.time) {
            Ok((next, dropped)) => {
                sweep.dropped += dropped;
                let Some(from) = next else {
                    let staged = self.shard.log().staged();
                    self.tell(CoreEvent::Swept { dropped: sweep.dropped, staged });
                    return;
                };
                self.sweep = Some(Sweep { from, stalled: false, ..sweep });
            }
            Err(_) => self.sweep = Some(Sweep { stalled: true, ..sweep }),
        }
    }
}
