//! Takes in what this node had lost and a peer sent again: records of any origin, outside of every stream, by which nothing is claimed.

use std::collections::BTreeMap;

use bytes::Bytes;
use net::wire::body::{Records, records};
use wal::{RecordOp, RecordView};

use super::receive::{Cores, Part, StreamError};

impl Cores {
    /// Verifies the records of an answer to a `Fetch` and splits those that are `wanted` by owning core.
    ///
    /// # Errors
    /// See [`StreamError`]; nothing of the batch is handed out.
    pub fn take_repair(
        &mut self,
        batch: &Records,
        mut is_wanted: impl FnMut(&RecordView<'_>) -> bool,
    ) -> Result<Vec<Part>, StreamError> {
        let log = batch.head.log;
        if batch.head.flags != records::REPAIR {
            return Err(StreamError::NotAsked(log));
        }
        let payload = batch.unpacked().map_err(|error| StreamError::Packed { log, error })?;
        let mut by_core: BTreeMap<u16, Vec<Bytes>> = BTreeMap::new();
        let (mut at, mut found) = (0, 0u32);
        while at < payload.len() {
            let parsed = RecordView::parse(&payload[at..]);
            let damaged = |detail: String| StreamError::Damaged { log, index: found, detail };
            let (record, len) = parsed.map_err(|error| damaged(error.to_string()))?;
            if record.op == RecordOp::Control || at + len > payload.len() {
                return Err(damaged("it is no record of a key".into()));
            }
            self.accept(&batch.head, found, &record)?;
            if is_wanted(&record) {
                by_core.entry(self.core_of(record.key)).or_default().push(payload.slice(at..at + len));
            }
            at += len;
            found += 1;
        }
        if found != batch.head.count {
            return Err(StreamError::Count { log, announced: batch.head.count, found });
        }
        let part = |(core, records)| Part { core, sequence: self.hand_over(core), records };
        Ok(by_core.into_iter().map(part).collect())
    }
}
