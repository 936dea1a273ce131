//! Operations in flight: tag → what to do with the completion.

use std::collections::VecDeque;

use net::reactor::{Completion, Io, Listener, Op, Tag};
use slab::Slab;
use wal::SegmentNumber;

use crate::messages::ConnectionKey;
use crate::storage::store::Fetch;

/// What an operation was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Context {
    Accept(Listener),
    Receive(ConnectionKey),
    Send(ConnectionKey),
    Close(ConnectionKey),
    CloseRefused,
    /// The sync or direct write of a group.
    Sync,
    /// A full segment's seal.
    Seal(SegmentNumber),
    /// A full segment is read into the page cache.
    Warm(SegmentNumber),
    /// The next segment's file.
    Prepare,
    /// The next segment's name.
    Rename,
    /// A segment that was given up loses its name, to be used again.
    Unname,
    /// A segment that was given up is unlinked.
    Unlink,
    /// A segment is opened or read for compaction.
    Compaction,
    /// A record is read from a segment that is not in memory.
    Fetch(Fetch),
    /// A segment is about to leave memory or to return.
    Move,
    /// The next job of the checkpoint.
    Checkpoint,
    /// What a failed preparation may have left is unlinked.
    Discard,
}

/// The table of operations, with those that the reactor had no room for.
#[derive(Debug)]
pub(crate) struct OpTable<F, C> {
    contexts: Slab<(u32, C)>,
    generation: u32,
    backlog: VecDeque<(Op<F>, Tag)>,
}

pub(crate) type Ops<F> = OpTable<F, Context>;

impl<F, C> Default for OpTable<F, C> {
    fn default() -> Self {
        OpTable { contexts: Slab::new(), generation: 0, backlog: VecDeque::new() }
    }
}

impl<F: std::fmt::Debug, C: Copy> OpTable<F, C> {
    /// Hands an operation to the reactor, or keeps it until there is room.
    pub(crate) fn submit(&mut self, io: &mut impl Io<File = F>, op: Op<F>, context: C) -> Tag {
        self.generation = self.generation.wrapping_add(1);
        let index = self.contexts.insert((self.generation, context));
        let tag = Tag((u64::from(self.generation) << 32) | index as u64);
        if !self.backlog.is_empty() {
            self.backlog.push_back((op, tag));
        } else if let Err((op, _)) = io.submit(op, tag) {
            self.backlog.push_back((op, tag));
        }
        tag
    }

    /// Tries again what the reactor had no room for.
    pub(crate) fn resubmit(&mut self, io: &mut impl Io<File = F>) {
        while let Some((op, tag)) = self.backlog.pop_front() {
            if let Err((op, _)) = io.submit(op, tag) {
                self.backlog.push_front((op, tag));
                return;
            }
        }
    }

    pub(crate) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// The context of a completion; forgets the operation if this was its last one.
    pub(crate) fn context(&mut self, completion: &Completion<F>) -> Option<C> {
        let index = usize::try_from(completion.tag.0 & 0xffff_ffff).ok()?;
        let (generation, context) = *self.contexts.get(index)?;
        if u64::from(generation) != completion.tag.0 >> 32 {
            return None;
        }
        if !completion.more {
            self.contexts.remove(index);
        }
        Some(context)
    }
}
