//! Writing: a state machine that gives one file job after the other. The image is made block by block; the shard must not change
//! meanwhile.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use net::reactor::{FileJob, Outcome};
use wal::{CoreId, Lsn, Mapping};

use super::format::{
    BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, BLOCK_HEADER_BYTES, BlockName, FileHeader, HEADER_BYTES, PieceKind, TableBits,
    finish_block, put_piece,
};
use super::{CoreFacts, OldRunFacts};
use crate::shard::Shard;

/// Expiries in one piece.
const EXPIRING_PER_PIECE: usize = 4096;

/// What the writer wants done next.
#[derive(Debug)]
pub enum Job<F> {
    /// Do this and hand the outcome to [`Writer::completed`].
    Do(FileJob<F>),
    /// The checkpoint has its name, durably.
    Finished,
    /// It cannot be written as things are.
    GiveUp(&'static str),
}

/// Where in the file the writer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Prepare,
    Blocks,
    Header,
    Rename,
    Finished,
}

/// Where in the image.
#[derive(Clone, Copy, Debug)]
enum Place {
    Facts,
    /// What expires behind this.
    Expiring(u64),
    Table(usize),
    End,
    Behind,
}

/// Writes the checkpoint of one core.
#[derive(Debug)]
pub struct Writer<F> {
    temporary: PathBuf,
    path: PathBuf,
    header: FileHeader,
    block_bytes: usize,
    old_runs: Vec<OldRunFacts>,
    /// Where the log ended, and how many entries there were: so that a change is noticed.
    frozen_at: (Lsn, usize),
    step: Step,
    place: Place,
    file: Option<F>,
    /// Pieces that are in no block yet.
    pending: Vec<u8>,
}

impl<F: Clone> Writer<F> {
    /// A writer for `shard`, whose log has ended, into `directory`. A segment's size bounds the memory that it takes.
    #[must_use]
    pub fn new<M: Mapping>(directory: &Path, shard: &mut Shard<M>, cores: u16, old_runs: Vec<OldRunFacts>) -> Self {
        let identity = shard.identity();
        let core: CoreId = identity.core;
        let segment_bytes = usize::try_from(shard.log().segment_bytes()).unwrap_or(BLOCK_BYTES_MAX);
        Writer {
            temporary: directory.join(wal::temporary_checkpoint_file_name(core)),
            path: directory.join(wal::checkpoint_file_name(core)),
            header: FileHeader {
                node: identity.node,
                incarnation: identity.incarnation,
                core,
                cores,
                table_bits: TableBits(shard.store().index().table_bits()),
                blocks: 0,
                file_bytes: HEADER_BYTES as u64,
            },
            block_bytes: (segment_bytes / 16).clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX),
            old_runs,
            frozen_at: (shard.log().staged(), shard.store().entries()),
            step: Step::Prepare,
            place: Place::Facts,
            file: None,
            pending: Vec::new(),
        }
    }

    /// The next job. One is under way at a time.
    pub fn next<M: Mapping>(&mut self, shard: &mut Shard<M>) -> Job<F> {
        if (shard.log().staged(), shard.store().entries()) != self.frozen_at {
            return Job::GiveUp("the core changed while its checkpoint was written");
        }
        let step = self.step;
        match (step, &self.file) {
            (Step::Prepare, _) => {
                self.step = Step::Blocks;
                let head = Bytes::new();
                Job::Do(FileJob::Prepare { path: self.temporary.clone(), len: HEADER_BYTES as u64, head })
            }
            (Step::Finished, _) => Job::Finished,
            (_, None) => Job::GiveUp("its file could not be made"),
            (Step::Blocks, Some(file)) => {
                let (file, offset) = (file.clone(), self.header.file_bytes);
                let bytes = self.block(shard);
                if matches!(self.place, Place::Behind) && self.pending.is_empty() {
                    self.step = Step::Header;
                }
                Job::Do(FileJob::WriteSync { file, offset, bytes })
            }
            (Step::Header, Some(file)) => {
                self.step = Step::Rename;
                let bytes = self.header.encode().into();
                Job::Do(FileJob::WriteSync { file: file.clone(), offset: 0, bytes })
            }
            (Step::Rename, Some(_)) => {
                self.step = Step::Finished;
                Job::Do(FileJob::Rename { from: self.temporary.clone(), to: self.path.clone() })
            }
        }
    }

    /// A job succeeded.
    pub fn completed(&mut self, outcome: Outcome<F>) {
        if let Outcome::Opened(file) = outcome {
            self.file = Some(file);
        }
    }

    /// What is left when writing ended early.
    #[must_use]
    pub fn leftover(&self) -> FileJob<F> {
        FileJob::Unlink { path: self.temporary.clone() }
    }

    /// Bytes of the file so far.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.header.file_bytes
    }

    /// The next block: as many pieces as it takes, the last of which may go on in the one after it.
    fn block<M: Mapping>(&mut self, shard: &mut Shard<M>) -> Bytes {
        let room = self.block_bytes - BLOCK_HEADER_BYTES;
        while self.pending.len() < room && !matches!(self.place, Place::Behind) {
            self.put_next_piece(shard);
        }
        let rest = self.pending.split_off(self.pending.len().min(room));
        let payload = std::mem::replace(&mut self.pending, rest);
        let mut block = vec![0; BLOCK_HEADER_BYTES];
        block.extend_from_slice(&payload);
        let FileHeader { node, incarnation, core, blocks, .. } = self.header;
        finish_block(BlockName { node, incarnation, core, index: blocks }, &mut block);
        self.header.blocks += 1;
        self.header.file_bytes += block.len() as u64;
        block.into()
    }

    fn put_next_piece<M: Mapping>(&mut self, shard: &mut Shard<M>) {
        let out = &mut self.pending;
        self.place = match self.place {
            Place::Facts => {
                let facts: CoreFacts = shard.checkpoint_facts(std::mem::take(&mut self.old_runs));
                put_piece(out, PieceKind::Facts, |out| facts.encode(out));
                Place::Expiring(0)
            }
            Place::Expiring(after) => {
                let pairs: Vec<(u64, u64)> = shard.store().expiring_after(after).take(EXPIRING_PER_PIECE).collect();
                match pairs.last() {
                    None => Place::Table(0),
                    Some((last, _)) => {
                        put_piece(out, PieceKind::Expiring, |out| {
                            for number in pairs.iter().flat_map(|(expiry, count)| [expiry, count]) {
                                out.extend_from_slice(&number.to_le_bytes());
                            }
                        });
                        Place::Expiring(*last)
                    }
                }
            }
            Place::Table(table) if table == shard.store().index().table_count() => Place::End,
            Place::Table(table) => {
                put_piece(out, PieceKind::Table, |out| shard.store().index().encode_table(table, out));
                Place::Table(table + 1)
            }
            Place::End | Place::Behind => {
                put_piece(out, PieceKind::End, |_| {});
                Place::Behind
            }
        };
    }
}
