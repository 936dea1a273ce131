//! This shard's part of a bootstrap: which records the source sent, what it drops because that did not, and, at the source, which records count.
//!
//! What is dropped gets a tombstone one above its version, in the name of who wrote it: the least that a start or compaction cannot overlook, and
//! that loses against everything that any node could still send. It is forgotten like every other one.

use std::collections::HashSet;

use wal::marks::{Mark, reach};
use wal::planted::{self, Fault};
use wal::{FrameKind, Mapping, NodeId, RecordDraft, RecordOp, RecordView, Version};

use super::{HeldKey, Shard, WriteError};
use crate::clock::Time;
use crate::replication::bootstrap::Absent;
use crate::storage::KeyHash;
use crate::storage::index::ScanPosition;
use crate::storage::store::Facts;

/// What is known of a bootstrap.
#[derive(Debug)]
pub(super) struct Takeover {
    /// What is older has to be confirmed.
    upto: Version,
    /// Keys of which a record was sent that is so old; `None` where nothing was here before, so that everything so old was sent.
    confirmed: Option<HashSet<u64>>,
}

/// A record that the source did not send.
struct Unconfirmed {
    hash: KeyHash,
    version: Version,
    origin: NodeId,
    key: Vec<u8>,
    /// Value and expiry, of what has to be written anew.
    anew: Option<(Vec<u8>, Option<u64>)>,
}

impl<M: Mapping> Shard<M> {
    /// From now on all that comes is sent by a source that may have forgotten what died up to `upto`.
    pub fn begin_bootstrap(&mut self, upto: Version) {
        let confirmed = (!self.store.index().is_empty()).then(HashSet::new);
        self.takeover = Some(Takeover { upto, confirmed });
    }

    /// The source sent a record of this key.
    pub(super) fn confirm(&mut self, hash: KeyHash, version: Version) {
        if let Some(Takeover { upto, confirmed: Some(confirmed) }) = &mut self.takeover
            && version <= *upto
        {
            confirmed.insert(hash.0);
        }
    }

    /// Drops what the source did not send and is dead by that, as far as a slice of at least so many entries goes; where to go on, if there
    /// is more. What this node wrote itself at a time of which others may have forgotten what was deleted, and that nobody holds, is written anew.
    ///
    /// # Errors
    /// Transient ones: go on at the same place later.
    pub fn sweep(
        &mut self,
        absent: &Absent,
        from: ScanPosition,
        at_least: usize,
        time: Time,
    ) -> Result<(Option<ScanPosition>, u64), WriteError> {
        let Some(Takeover { confirmed: Some(_), .. }) = &self.takeover else { return Ok((None, 0)) };
        let (secret, own) = (self.identity.secret, self.identity.node);
        let mut found = Vec::new();
        let next = self.scan_all(from, at_least, |record: &RecordView<'_>| {
            let (origin, version) = (record.origin, record.version);
            let is_lost = origin == own && absent.is_too_old(origin, version) && !record.is_stub();
            if record.op == RecordOp::Put && (is_lost || absent.is_dead(origin, version)) {
                let anew = is_lost.then(|| (record.value.to_vec(), record.expiry));
                found.push(Unconfirmed {
                    hash: secret.hash(record.key),
                    version,
                    origin,
                    key: record.key.to_vec(),
                    anew,
                });
            }
        })?;
        let mut dropped = 0;
        for record in found {
            let takeover = self.takeover.as_mut().and_then(|takeover| takeover.confirmed.as_mut());
            if takeover.is_none_or(|confirmed| confirmed.contains(&record.hash.0)) {
                continue;
            }
            match &record.anew {
                Some((value, expiry)) => _ = self.put(record.hash, &record.key, value, *expiry, time)?,
                None if planted::is(Fault::SweepSkipped) => {}
                None => {
                    self.drop_unconfirmed(&record)?;
                    dropped += 1;
                }
            }
            // Not again, if the rest of the slice has to wait.
            self.confirm(record.hash, record.version);
        }
        Ok((next, dropped))
    }

    fn drop_unconfirmed(&mut self, record: &Unconfirmed) -> Result<(), WriteError> {
        self.ready(record.hash)?;
        let (hash, version) = (record.hash, Version(record.version.0 + 1));
        let draft = RecordDraft {
            version,
            origin: record.origin,
            op: RecordOp::Delete,
            expiry: None,
            key: &record.key,
            value: &[],
        };
        let placement = self.log.append_draft(FrameKind::Followed, &draft).map_err(|e| self.write_error(e))?;
        reach(Mark::DeadSwept);
        let padded_len = u32::try_from(draft.padded_len()).expect("a record that was appended fits a segment");
        let facts = Facts { version, origin: record.origin, put: false, expiry: None, padded_len };
        let verdict = self.store.judge_newest(hash, &record.key, version);
        self.store.install(hash, verdict, self.location(&placement), facts);
        Ok(())
    }

    /// At the source: of these records, which have been verified, those that count.
    #[must_use]
    pub fn sift(&self, records: &[u8]) -> Vec<u8> {
        let mut counting = Vec::new();
        let mut at = 0;
        while let Ok((record, len)) = RecordView::parse_trusted_prefix(&records[at..]) {
            let hash = self.identity.secret.hash(record.key);
            if self.store.has_version(hash, record.version) || self.held.contains_key(&HeldKey::of(&record, hash)) {
                counting.extend_from_slice(&records[at..at + len]);
            }
            at += len;
            if at >= records.len() {
                break;
            }
        }
        counting
    }
}
