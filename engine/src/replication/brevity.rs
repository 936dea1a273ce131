//! The short form of small batches, at both ends of a replication connection: in a live stream that is quiet, heads would take more than
//! what is written.

use net::ids::StreamOffset;
use net::wire::body::{Claim, Compression, More, Records, RecordsHead};
use net::wire::continuation::{Continuation, ContinuationError};
use net::wire::packing::Packer;
use wal::{Brief, BriefError, NodeId};

/// Why a short batch cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrevityError {
    /// It does not go on from what was before it.
    #[error(transparent)]
    Continuation(#[from] ContinuationError),
    /// Its records.
    #[error(transparent)]
    Brief(#[from] BriefError),
}

/// One direction of a connection. Both ends tell it of every batch and claim, in order.
#[derive(Debug, Default)]
pub struct Brevity {
    continuation: Continuation,
    brief: Brief,
}

impl Brevity {
    /// A batch went by in the long form.
    pub fn records(&mut self, head: &RecordsHead) {
        self.continuation.records(head);
    }

    /// A claim went by in the long form.
    pub fn claim(&mut self, claim: &Claim) {
        self.continuation.claim(claim);
    }

    /// The short form of a batch, if it has one. The claim behind it is taken if it fits in; if not, it follows in the long form. Without a
    /// `packer` nothing is packed.
    pub fn shorten(
        &mut self,
        head: &RecordsHead,
        runs: &[bytes::Bytes],
        claim: &mut Option<Claim>,
        packer: Option<&mut Packer>,
    ) -> Option<More> {
        if !self.continuation.continues(head) {
            return None;
        }
        let origin = NodeId(head.log.node.0);
        let brief = match runs {
            [run] => self.brief.shorten(origin, run)?,
            runs => self.brief.shorten(origin, &runs.concat())?,
        };
        Some(self.continuation.shorten(head, brief, claim, packer))
    }

    /// The batch, which begins at `offset` of the stream, and the claim behind it.
    ///
    /// # Errors
    /// When it is not what a source sends; nothing of it counts then, nor what comes behind it.
    pub fn lengthen(&mut self, more: &More, offset: StreamOffset) -> Result<(Records, Option<Claim>), BrevityError> {
        let (log, brief, claim) = self.continuation.lengthen(more)?;
        let (payload, count) = self.brief.lengthen(NodeId(log.node.0), &brief, more.raw_bytes as usize)?;
        let head = RecordsHead {
            log,
            core: more.core,
            flags: 0,
            stream_offset: offset,
            count,
            raw_bytes: more.raw_bytes,
            compression: Compression::None,
        };
        Ok((Records { head, payload: payload.into() }, claim))
    }
}
