//! Batches: writes that are collected first and appended in one go, or not at all.
//!
//! While a batch is open, reads see what it holds, and the log, the index and the clock are as they were. It is appended as one
//! frame, which has one checksum: after a crash all of it is there or nothing.

use std::collections::BTreeMap;

use wal::planted::{self, Fault};
use wal::{ControlRecord, FrameKind, Lsn, Mapping, RecordDraft, RecordOp, RecordView, Version};

use super::{Shard, WriteError, is_visible};
use crate::clock::Time;
use crate::storage::KeyHash;

/// Keys that one batch writes at most. Versions come from physical time, and 2^16 of them are 32 ms of it: a clock that is
/// ahead has room for a batch again after a moment.
pub const BATCH_KEYS_MAX: usize = 1 << 16;

/// What may be appended between [`Shard::prepare_batch`] and [`Shard::commit_batch`] although nobody writes: the clock's ceiling
/// and the frame of a quiet log, each with its header and padding.
const PREPARED_SLACK_BYTES: usize = 512;

/// The writes of a batch.
#[derive(Debug, Default)]
pub(super) struct Batch {
    by_key: BTreeMap<Vec<u8>, Collected>,
    /// What they occupy in the log.
    bytes: usize,
}

/// The last write of a key.
#[derive(Debug)]
struct Collected {
    hash: KeyHash,
    /// As it will be, but for its version; with padding.
    record: Vec<u8>,
}

/// What is known of a key at one instant, so that a change is noticed later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// Version of the present record, tombstones and expired ones included; zero if there is none.
    pub version: Version,
    /// Its checksum: records of two origins may share a version.
    pub crc: u32,
    /// Whether a read found the key.
    pub visible: bool,
}

impl Presence {
    /// Whether somebody who saw the key as `self` has to be told that it changed when it is `now`. A key that was expired then and
    /// is expired now did not change.
    #[must_use]
    pub fn changed(&self, now: &Presence) -> bool {
        (self.version, self.crc) != (now.version, now.crc) || self.visible && !now.visible
    }
}

impl<M: Mapping> Shard<M> {
    /// Opens a batch.
    ///
    /// # Panics
    /// If one is open.
    pub fn begin_batch(&mut self) {
        assert!(self.batch.is_none(), "a core runs one batch at a time");
        self.batch = Some(Batch::default());
    }

    /// Forgets the open batch, if there is one.
    pub fn abandon_batch(&mut self) {
        self.batch = None;
    }

    /// Makes sure that the open batch can be appended: one segment has room, and a little more, and the clock has versions.
    ///
    /// # Errors
    /// See [`WriteError`]; after a transient one, try again.
    pub fn prepare_batch(&mut self, time: Time) -> Result<(), WriteError> {
        if self.batch.as_ref().is_none_or(|batch| batch.by_key.is_empty()) {
            return Ok(());
        }
        self.make_room(PREPARED_SLACK_BYTES, time)?;
        // What a new segment repeats would take that room with the next group.
        self.repeat_kept()?;
        self.make_room(PREPARED_SLACK_BYTES, time)
    }

    /// Appends the open batch and closes it. Returns the position that must be durable before it is acknowledged; zero if it is
    /// empty.
    ///
    /// # Errors
    /// See [`WriteError`]; the batch stays open and nothing of it was appended.
    ///
    /// # Panics
    /// If no batch is open.
    pub fn commit_batch(&mut self, time: Time) -> Result<Lsn, WriteError> {
        self.make_room(0, time)?;
        let batch = self.batch.take().expect("a batch is opened before it is committed");
        let mut end = Lsn(0);
        for Collected { hash, record } in batch.by_key.values() {
            let record = RecordView::parse_trusted(record).expect("encoded by collect()");
            let appended = self.originate(*hash, record.op, record.key, record.value, record.expiry, time);
            end = appended.expect("there is room for the whole batch");
            if planted::is(Fault::BatchInSeveralFrames) {
                _ = self.append_local(&ControlRecord::ClockCeiling { version: self.ceiling });
            }
        }
        Ok(end)
    }

    /// What is known of `key` now, and the position that must be durable before that is shown.
    ///
    /// # Errors
    /// See [`Shard::ready`].
    pub fn presence(&mut self, hash: KeyHash, key: &[u8], time: Time) -> Result<(Presence, Lsn), WriteError> {
        self.ready(hash)?;
        let now_unix_ms = self.clock.unix_ms(time);
        let read = |record: &RecordView<'_>| (record.crc(), is_visible(record, now_unix_ms));
        Ok(match self.store.read(hash, key, read) {
            None => (Presence::default(), Lsn(0)),
            Some(((crc, visible), version, end)) => (Presence { version, crc, visible }, end.unwrap_or(Lsn(0))),
        })
    }

    /// What the open batch writes to `key`.
    pub(super) fn batched(&self, key: &[u8]) -> Option<RecordView<'_>> {
        let collected = self.batch.as_ref()?.by_key.get(key)?;
        Some(RecordView::parse_trusted(&collected.record).expect("encoded by collect()"))
    }

    /// Puts a write into the open batch, in place of an earlier one of the same key.
    pub(super) fn collect(
        &mut self,
        hash: KeyHash,
        op: RecordOp,
        key: &[u8],
        value: &[u8],
        expiry: Option<u64>,
    ) -> Result<Lsn, WriteError> {
        let draft = RecordDraft { version: Version::ZERO, origin: self.identity.node, op, expiry, key, value };
        if !draft.fits() {
            return Err(WriteError::TooLarge);
        }
        let batch = self.batch.as_mut().expect("only called while a batch is open");
        let record = draft.to_vec();
        batch.bytes += record.len();
        if let Some(earlier) = batch.by_key.insert(key.to_vec(), Collected { hash, record }) {
            batch.bytes -= earlier.record.len();
        }
        // What it waits for is known when it is appended.
        Ok(Lsn(0))
    }

    fn make_room(&mut self, slack_bytes: usize, time: Time) -> Result<(), WriteError> {
        let batch = self.batch.as_ref().expect("a batch is opened before it is appended");
        let (keys, bytes) = (batch.by_key.len(), batch.bytes);
        if keys == 0 {
            return Ok(());
        }
        if keys > BATCH_KEYS_MAX {
            return Err(WriteError::BatchTooLarge);
        }
        // The ceiling is a record of another kind: in the middle of the batch it would begin a new frame.
        if self.store.has_cold() {
            let hashes: Vec<KeyHash> = batch.by_key.values().map(|collected| collected.hash).collect();
            self.all_ready(hashes)?;
        }
        let last = self.clock.after(keys, time).map_err(|_| WriteError::Throttled)?;
        self.raise_ceiling(last)?;
        // The fault needs room of its own.
        let slack_bytes = if planted::is(Fault::BatchInSeveralFrames) { 256 * keys } else { slack_bytes };
        self.log.reserve(FrameKind::Originated, bytes + slack_bytes).map_err(|error| match self.write_error(error) {
            WriteError::TooLarge => WriteError::BatchTooLarge,
            error => error,
        })
    }
}
