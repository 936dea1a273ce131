//! Reading: blocks in, facts, expiries and an index out. Whoever calls reads the file.

use std::collections::BTreeMap;

use super::format::{
    BLOCK_HEADER_BYTES, BlockName, Damaged, FileHeader, HEADER_BYTES, PIECE_HEADER_BYTES, PieceKind, block_len,
    parse_piece, verify_block,
};
use super::{BLOCK_BYTES_MAX, CoreFacts};
use crate::storage::index::{Index, IndexImage, Location};

/// Which bytes of a checkpoint come next.
#[derive(Debug)]
pub struct Blocks {
    header: FileHeader,
    next: u32,
    at: u64,
}

impl Blocks {
    /// Those of the file with this header, which has `file_bytes` bytes.
    ///
    /// # Errors
    /// [`Damaged`] if it should have others.
    pub fn new(header: FileHeader, file_bytes: u64) -> Result<Blocks, Damaged> {
        if header.file_bytes != file_bytes {
            return Err(Damaged("it is longer or shorter than its header says"));
        }
        Ok(Blocks { header, next: 0, at: HEADER_BYTES as u64 })
    }

    /// Where the next block stands, and how many bytes from there on hold all of it; `None` behind the last one.
    #[must_use]
    pub fn wanted(&self) -> Option<(u64, usize)> {
        let left = usize::try_from(self.header.file_bytes - self.at).unwrap_or(usize::MAX);
        (self.next < self.header.blocks).then(|| (self.at, left.min(BLOCK_BYTES_MAX)))
    }

    /// The payload of the next block, which `bytes` begin with.
    ///
    /// # Errors
    /// [`Damaged`] if it is not the one that belongs here.
    pub fn take<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Damaged> {
        let len = block_len(bytes)?;
        let block = bytes.get(..len).ok_or(Damaged("it ends inside a block"))?;
        let FileHeader { node, incarnation, core, .. } = self.header;
        let payload = verify_block(BlockName { node, incarnation, core, index: self.next }, block)?;
        self.next += 1;
        self.at += (BLOCK_HEADER_BYTES + payload.len()) as u64;
        if self.next == self.header.blocks && self.at != self.header.file_bytes {
            return Err(Damaged("it is longer than its blocks"));
        }
        Ok(payload)
    }
}

/// What a whole checkpoint holds.
#[derive(Debug)]
pub struct Content {
    /// Everything but the following.
    pub facts: CoreFacts,
    /// Live records by expiry.
    pub expiring: BTreeMap<u64, u64>,
    /// The index.
    pub index: Index,
}

/// A checkpoint of which some blocks were taken.
#[derive(Debug)]
pub struct Loading {
    /// What no whole piece was made of yet.
    pending: Vec<u8>,
    facts: Option<CoreFacts>,
    /// By slot, the end of the places in the segment where records may lie; zero where there is none.
    reach: Vec<u64>,
    expiring: BTreeMap<u64, u64>,
    index: IndexImage,
    ended: bool,
}

impl Loading {
    /// Of the file with this header, whose index has as many tables as it should.
    #[must_use]
    pub fn new(header: &FileHeader) -> Loading {
        Loading {
            pending: Vec::new(),
            facts: None,
            reach: Vec::new(),
            expiring: BTreeMap::new(),
            index: IndexImage::new(header.table_bits.0),
            ended: false,
        }
    }

    /// Takes the payload of the next block.
    ///
    /// # Errors
    /// [`Damaged`] if it is not what the blocks before it lead to.
    pub fn take(&mut self, payload: &[u8]) -> Result<(), Damaged> {
        let mut bytes = std::mem::take(&mut self.pending);
        bytes.extend_from_slice(payload);
        let mut at = 0;
        while let Some(header) = bytes.get(at..at + PIECE_HEADER_BYTES) {
            let (kind, len) = parse_piece(header)?;
            let start = at + PIECE_HEADER_BYTES;
            let Some(piece) = bytes.get(start..start + len) else { break };
            self.piece(kind, piece)?;
            at = start + len;
        }
        bytes.drain(..at);
        self.pending = bytes;
        Ok(())
    }

    fn piece(&mut self, kind: PieceKind, piece: &[u8]) -> Result<(), Damaged> {
        if self.ended {
            return Err(Damaged("something follows its end"));
        }
        match (kind, &self.facts) {
            (PieceKind::Facts, None) => {
                let facts = CoreFacts::decode(piece)?;
                self.reach = reach(&facts)?;
                if !facts.held.iter().all(|held| lies_inside(&self.reach, held.location)) {
                    return Err(Damaged("it holds a record back that lies in no segment"));
                }
                self.facts = Some(facts);
            }
            (PieceKind::Expiring, Some(_)) => self.expire(piece)?,
            (PieceKind::Table, Some(_)) => {
                let pushed = self.index.push(piece, |location| lies_inside(&self.reach, location));
                pushed.ok_or(Damaged("a table of its index is none"))?;
            }
            (PieceKind::End, Some(_)) => self.ended = true,
            _ => return Err(Damaged("its pieces stand in no order that makes sense")),
        }
        Ok(())
    }

    fn expire(&mut self, piece: &[u8]) -> Result<(), Damaged> {
        let (pairs, left) = piece.as_chunks::<16>();
        if !left.is_empty() {
            return Err(Damaged("it ends inside an expiry"));
        }
        for pair in pairs {
            let (expiry, count) = pair.split_at(8);
            let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
            self.expiring.insert(number(expiry), number(count));
        }
        Ok(())
    }

    /// What it holds, once every block was taken.
    ///
    /// # Errors
    /// [`Damaged`] if something is missing.
    pub fn finish(self) -> Result<Content, Damaged> {
        if !self.ended || !self.pending.is_empty() {
            return Err(Damaged("it has no end"));
        }
        let facts = self.facts.ok_or(Damaged("it has no facts"))?;
        let index = self.index.finish().ok_or(Damaged("its index lacks tables"))?;
        Ok(Content { facts, expiring: self.expiring, index })
    }
}

/// By slot, the size of the segment there.
fn reach(facts: &CoreFacts) -> Result<Vec<u64>, Damaged> {
    let mut reach = Vec::new();
    for segment in &facts.segments {
        let slot = segment.slot.0 as usize;
        if slot >= crate::storage::index::SegmentSlot::COUNT_MAX {
            return Err(Damaged("it names more segments than a core can"));
        }
        if reach.len() <= slot {
            reach.resize(slot + 1, 0);
        }
        if reach[slot] != 0 {
            return Err(Damaged("it gives two segments one name"));
        }
        reach[slot] = segment.file_bytes;
    }
    Ok(reach)
}

/// Whether a record may lie there.
fn lies_inside(reach: &[u64], location: Location) -> bool {
    let end = reach.get(location.segment.0 as usize).copied().unwrap_or(0);
    let first = (wal::SEGMENT_HEADER_BYTES + wal::FRAME_HEADER_BYTES) as u64;
    let offset = u64::from(location.offset);
    offset >= first && offset.is_multiple_of(8) && offset + wal::RECORD_HEADER_BYTES as u64 <= end
}
