//! What both ends of a replication connection remember, so that a small batch needs little of a head: see
//! [`More`](super::body::more).

use bytes::Bytes;

use super::body::{Claim, Compression, More, RecordsHead};
use super::limits::{MORE_RAW_BYTES_MAX, RECORD_ALIGN_BYTES};
use super::packing::{Packer, Packing, UnpackError, Window, unpack_behind};
use crate::ids::{Class, LogId, Version};

/// Why a short batch cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContinuationError {
    /// There was no batch before it.
    #[error("it continues a batch that was not sent on this connection")]
    NoLog,
    /// It claims further than a claim that did not come, or than there are versions.
    #[error("it claims {by} further than a claim that was not made on this connection")]
    NoClaim {
        /// By how much.
        by: u32,
    },
    /// Its payload.
    #[error(transparent)]
    Packed(#[from] UnpackError),
}

/// One direction of a replication connection. Both ends tell it of every batch and claim, in order.
#[derive(Debug, Default)]
pub struct Continuation {
    /// That of the last batch without flags.
    log: Option<LogId>,
    /// Up to where it was claimed on this connection.
    claimed: Option<Version>,
    window: Window,
    /// Whether packing gains on small batches.
    packing: Packing,
}

impl Continuation {
    /// A batch went by in the long form.
    pub fn records(&mut self, head: &RecordsHead) {
        if head.flags == 0 && self.log != Some(head.log) {
            (self.log, self.claimed) = (Some(head.log), None);
        }
    }

    /// A claim went by in the long form.
    pub fn claim(&mut self, claim: &Claim) {
        if self.log == Some(claim.log) {
            self.claimed = Some(claim.to);
        }
    }

    /// Whether a batch has a short form.
    #[must_use]
    pub fn continues(&self, head: &RecordsHead) -> bool {
        let raw_bytes = head.raw_bytes as usize;
        head.flags == 0
            && head.compression == Compression::None
            && self.log == Some(head.log)
            && raw_bytes <= MORE_RAW_BYTES_MAX
            && raw_bytes.is_multiple_of(RECORD_ALIGN_BYTES)
            && head.core.0 <= u8::MAX.into()
    }

    /// The short form of a batch that [has one](Continuation::continues), given its records in their brief form, and the claim behind
    /// it, which is left if it does not fit in. Without a `packer` the payload goes as it is.
    pub fn shorten(
        &mut self,
        head: &RecordsHead,
        brief: Vec<u8>,
        claim: &mut Option<Claim>,
        packer: Option<&mut Packer>,
    ) -> More {
        let block = packer.and_then(|packer| packer.pack_behind(&mut self.packing, &self.window, &brief));
        self.window.push(&brief);
        let fits = |claim: &mut Claim| {
            let by = claim.to.0.checked_sub(claim.from.0);
            let is_next = Some(claim.log) == self.log && Some(claim.from) == self.claimed;
            is_next && claim.flags == 0 && claim.class == Class(0) && by.is_some_and(|by| u32::try_from(by).is_ok())
        };
        let claim_by = claim.take_if(fits).map_or(0, |claim| u32::try_from(claim.to.0 - claim.from.0).unwrap_or(0));
        self.claimed = self.claimed.map(|claimed| Version(claimed.0 + u64::from(claim_by)));
        let packed = block.is_some();
        let payload = block.unwrap_or_else(|| brief.into());
        More { claim_by, raw_bytes: head.raw_bytes, core: head.core, packed, payload }
    }

    /// What a short batch says: its log, its records in their brief form, and the claim behind them.
    ///
    /// # Errors
    /// When it does not go on from what was before it.
    pub fn lengthen(&mut self, more: &More) -> Result<(LogId, Bytes, Option<Claim>), ContinuationError> {
        let log = self.log.ok_or(ContinuationError::NoLog)?;
        let brief = match more.packed {
            true => unpack_behind(&more.payload, &self.window, more.raw_bytes as usize)?,
            false => more.payload.clone(),
        };
        self.window.push(&brief);
        let mut claim = None;
        if more.claim_by > 0 {
            let by = more.claim_by;
            let to = |from: Version| Some((from, Version(from.0.checked_add(by.into())?)));
            let (from, to) = self.claimed.and_then(to).ok_or(ContinuationError::NoClaim { by })?;
            claim = Some(Claim { log, from, to, flags: 0, class: Class(0) });
            self.claimed = Some(to);
        }
        Ok((log, brief, claim))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{CoreIndex, Incarnation, NodeId, StreamOffset};
    use crate::wire::Message;
    use crate::wire::samples::packed_more;

    const LOG: LogId = LogId { node: NodeId(7), incarnation: Incarnation(8) };

    const OTHER: LogId = LogId { node: NodeId(9), incarnation: Incarnation(8) };

    fn head(log: LogId) -> RecordsHead {
        let (core, compression, stream_offset) = (CoreIndex(1), Compression::None, StreamOffset(160));
        RecordsHead { log, core, flags: 0, stream_offset, count: 1, raw_bytes: 160, compression }
    }

    fn claim(from: u64, to: u64) -> Claim {
        Claim { log: LOG, from: Version(from), to: Version(to), flags: 0, class: Class(0) }
    }

    fn brief(seed: u8) -> Vec<u8> {
        (0..150u8).map(|at| at / 8 + seed / 8).collect()
    }

    /// Both ends behind a first batch and the claim over it.
    fn begun() -> [Continuation; 2] {
        let mut ends = [Continuation::default(), Continuation::default()];
        for end in &mut ends {
            end.records(&head(LOG));
            end.claim(&claim(0, 100));
        }
        ends
    }

    #[test]
    fn batches_and_claims_come_out_as_they_went_in() {
        let [mut source, mut follower] = begun();
        let mut packer = Packer::default();
        let (mut claimed, mut packed) = (100, 0);
        for number in 0..200u8 {
            let brief = brief(number);
            let mut over = (number % 3 > 0).then(|| claim(claimed, claimed + 5));
            let said = over;
            let packer = (number % 5 > 0).then_some(&mut packer);
            assert!(source.continues(&head(LOG)));
            let more = source.shorten(&head(LOG), brief.clone(), &mut over, packer);
            assert_eq!((over, more.raw_bytes, more.core), (None, 160, CoreIndex(1)));
            packed += u32::from(more.packed);
            assert_eq!(follower.lengthen(&more).unwrap(), (LOG, brief.into(), said));
            claimed += if said.is_some() { 5 } else { 0 };
        }
        assert!(packed > 100, "{packed}");
    }

    #[test]
    fn what_does_not_fit_takes_the_long_form() {
        let good = head(LOG);
        let large = RecordsHead { raw_bytes: u32::try_from(MORE_RAW_BYTES_MAX).unwrap() + 8, ..good };
        for long in [
            RecordsHead { flags: 2, ..good },
            RecordsHead { log: OTHER, ..good },
            RecordsHead { core: CoreIndex(256), ..good },
            large,
        ] {
            assert!(!begun()[0].continues(&long), "{long:?}");
        }
        assert!(!Continuation::default().continues(&good));
        // Claims over something else, from somewhere else, or too far on stay as they are.
        for left in [Claim { log: OTHER, ..claim(100, 101) }, claim(99, 101), claim(100, 101 + u64::from(u32::MAX))] {
            let mut over = Some(left);
            let more = begun()[0].shorten(&good, brief(1), &mut over, None);
            assert_eq!((more.claim_by, over), (0, Some(left)));
        }
    }

    #[test]
    fn what_continues_nothing_is_refused() {
        let more = |claim_by| {
            let payload = brief(1).into();
            More { claim_by, raw_bytes: 160, core: CoreIndex(0), packed: false, payload }
        };
        let mut fresh = Continuation::default();
        assert_eq!(fresh.lengthen(&more(0)), Err(ContinuationError::NoLog));
        fresh.records(&head(LOG));
        assert_eq!(fresh.lengthen(&more(3)), Err(ContinuationError::NoClaim { by: 3 }));
        fresh.claim(&claim(0, u64::MAX));
        assert_eq!(fresh.lengthen(&more(1)), Err(ContinuationError::NoClaim { by: 1 }));
        // Another log in between: what was claimed was claimed of the one before.
        let [_, mut follower] = begun();
        follower.records(&head(OTHER));
        assert_eq!(follower.lengthen(&more(1)), Err(ContinuationError::NoClaim { by: 1 }));
        // A pass in between changes nothing.
        let [_, mut follower] = begun();
        follower.records(&RecordsHead { flags: 2, ..head(OTHER) });
        assert!(follower.lengthen(&more(1)).is_ok());
    }

    #[test]
    fn the_documented_sample_unpacks_behind_its_like() {
        let (sample, brief) = packed_more();
        let Message::More(more) = sample.message else { panic!("a sample of More") };
        let mut follower = Continuation::default();
        follower.records(&head(LOG));
        assert!(follower.lengthen(&more).is_err(), "there is nothing before it");
        follower.lengthen(&More { packed: false, payload: brief.clone(), ..more.clone() }).unwrap();
        assert_eq!(follower.lengthen(&more).unwrap().1, brief);
    }
}
