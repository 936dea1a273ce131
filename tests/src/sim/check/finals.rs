//! What must hold once everything is healed and quiet: equal regions that equal the model (C1), every acknowledged write or
//! a newer one (D1, D2), no resurrection (C3).

use wal::RecordOp;

use super::Violation;
use super::history::History;
use super::ledger::Ledger;
use super::recovery::stored;
use crate::sim::node::Node;

/// Checker C1.
pub const C1: &str = "C1 equal regions";
/// Checker C3.
pub const C3: &str = "C3 no resurrection";
/// Checker D1/D2 at the end of a run.
pub const D2: &str = "D1/D2 no acknowledged write is lost";
/// What the story says once all regions are equal.
pub const CONVERGED: &str = "all regions are equal";
/// Progress.
pub const L1: &str = "L1 progress after healing";

/// Whether every node's store is what the model says.
pub fn equal<'a>(history: &History, nodes: impl Iterator<Item = &'a mut Node>) -> bool {
    for node in nodes {
        let stored = stored(node);
        let here = node.facts.residency.here();
        let same = |(key, record): (&Vec<u8>, &super::device::Record)| match stored.get(key) {
            Some(stored) => stored == record,
            None => history.is_forgotten(record) || !here.may_hold(key),
        };
        if !history.winners().iter().all(same) || !stored.keys().all(|key| history.winners().contains_key(key)) {
            return false;
        }
    }
    true
}

/// Names what is wrong with one region's node at the end.
///
/// # Errors
/// [`D2`], [`C3`], [`C1`].
pub fn check(history: &History, ledger: &Ledger, region: &str, node: &mut Node, unix_ms: u64) -> Result<(), Violation> {
    let stored = stored(node);
    let here = node.facts.residency.here().clone();
    for (key, acknowledged) in ledger.acknowledged() {
        let found = stored.get(key);
        if !here.may_hold(key) {
            continue;
        }
        if found.is_none() && history.is_rank_forgotten(key, acknowledged.rank) {
            continue;
        }
        if found.is_none_or(|found| found.rank() < acknowledged.rank) {
            let deleted = acknowledged.op == RecordOp::Delete && found.is_some_and(|found| found.op == RecordOp::Put);
            let checker = if deleted { C3 } else { D2 };
            return Err(Violation::new(checker, format!("{region} has {found:?} for acknowledged {acknowledged:?}")));
        }
    }
    for (key, winner) in history.winners().iter().filter(|(key, _)| here.may_hold(key)) {
        let found = stored.get(key);
        let is_forgotten = found.is_none() && history.is_forgotten(winner);
        if found != Some(winner) && !is_forgotten {
            return Err(Violation::new(C1, format!("{region} has {found:?}, the model {winner:?}")));
        }
        // The way of a GET: the owning core, by the key.
        let hash = node.secret.hash(key);
        let owner = hash.core(u16::try_from(node.cores.len()).expect("a node has at most 64 cores"));
        let time = engine::clock::Time { mono: net::reactor::Mono(0), unix_ms };
        let shard = node.cores[usize::from(owner)].shard();
        let (read, _) = shard.read(hash, key, time, |record| record.version);
        let expired = winner.expiry.is_some_and(|expiry| expiry <= unix_ms);
        let visible = winner.op == RecordOp::Put && !expired;
        // Between the wall clock and a core's clock a record may be expired already.
        if read.is_some_and(|version| version != winner.version || !visible)
            || read.is_none() && visible && winner.expiry.is_none()
        {
            return Err(Violation::new(C1, format!("{region} reads {read:?} where the model has {winner:?}")));
        }
    }
    if let Some(extra) = stored.keys().find(|key| !history.winners().contains_key(*key) || !here.may_hold(key)) {
        return Err(Violation::new(C1, format!("{region} holds {extra:?}, which no device ever held")));
    }
    Ok(())
}
