//! D3: what a node recovered is exactly what its device holds in unbroken logs — no hole, nothing from behind a cut.

use engine::clock::MAX_CLOCK_SKEW_MS;
use wal::Version;

use super::Violation;
use super::device::Record;
use super::history::History;
use super::losses::Newest;
use super::view::View;
use crate::sim::node::Node;

/// Checker D3.
pub const D3: &str = "D3 recovery is an exact prefix";

/// All records that a node's store knows, tombstones and expired ones included.
pub fn stored(node: &mut Node) -> Newest {
    let mut found = Newest::new();
    node.bring_into_memory();
    for core in &mut node.cores {
        let mut position = Some(engine::storage::index::ScanPosition(0));
        while let Some(from) = position {
            position = core.shard().store().scan(from, 1024, |record| {
                found.insert(record.key.to_vec(), Record::of(record));
            });
        }
    }
    found
}

/// Compares what a node that just started serves with what its device holds. Its earlier runs' clocks had `reached` that far: what
/// they may have shown is shown again.
///
/// # Errors
/// [`D3`].
pub fn compare(
    region: &str,
    view: &View,
    history: &History,
    reached: Version,
    node: &mut Node,
) -> Result<(), Violation> {
    let stored = stored(node);
    for (key, record) in &stored {
        // A newer one on the device may be held back because its version lies in the far future.
        if view.newest.get(key).is_none_or(|newest| newest.rank() < record.rank()) {
            let text = format!("{region} recovered {record:?}, which its device holds in no unbroken log");
            return Err(Violation::new(D3, text));
        }
    }
    let due_unix_ms = node.facts.started_unix_ms + MAX_CLOCK_SKEW_MS;
    for record in view.newest.values() {
        let found = stored.get(&record.key).is_some_and(|stored| stored.rank() == record.rank());
        let held_back = record.version > reached && record.version.unix_ms() > due_unix_ms;
        // A checkpoint leaves out what was forgotten; the files may still have it.
        let forgotten = history.is_forgotten(record) && !stored.contains_key(&record.key);
        if !found && !held_back && !forgotten {
            let text = format!("{region}'s device holds {record:?}, but it recovered {:?}", stored.get(&record.key));
            return Err(Violation::new(D3, text));
        }
    }
    Ok(())
}
