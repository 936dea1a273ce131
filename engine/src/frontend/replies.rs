//! One connection's replies, in order, each held back until what it shows is durable.

use std::collections::VecDeque;

use bytes::Bytes;
use net::resp::Protocol;
use wal::{Lsn, Version};

/// Values from this size on are sent straight from their segment instead of being copied.
pub const RUN_BYTES_MIN: usize = 16 * 1024;

/// How the parts of a command that went to several cores become one reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merge {
    /// The parts' bytes one after the other (a single hop, `MGET` behind its array header).
    Concatenate,
    /// The sum of the parts' counts as an integer (`DEL`, `EXISTS`).
    Sum,
    /// `+OK` unless a part failed; then that part's error (`MSET`).
    AllOk,
    /// The parts' elements as one array; their counts say how many (`KEYS`).
    Array,
    /// The parts' bytes as one text (`CLIENT LIST`).
    Text(Protocol),
    /// One part's bytes, chosen by this number in proportion to the parts' counts (`RANDOMKEY`).
    Pick(u64),
    /// `+OK` if the parts counted something, else this error.
    FoundOr(&'static str),
}

#[derive(Debug)]
enum Chunk {
    /// Encoded replies; `marks` say up to which byte which position has to be durable, both rising.
    Ready { bytes: Vec<u8>, marks: Vec<(usize, Lsn)> },
    /// Bytes that are sent as they are: a large value straight from its segment, answers of other cores.
    Runs { runs: Vec<Bytes>, barrier: Lsn },
    /// Parts that other cores owe.
    Hop { id: u64, missing: usize, parts: Vec<Vec<Bytes>>, counts: Vec<i64>, merge: Merge, barrier: Lsn },
}

impl Chunk {
    /// Parts that other cores owe.
    fn missing(&self) -> usize {
        match self {
            Chunk::Hop { missing, .. } => *missing,
            Chunk::Ready { .. } | Chunk::Runs { .. } => 0,
        }
    }
}

/// The replies that a connection is owed.
#[derive(Debug, Default)]
pub struct ReplyQueue {
    chunks: VecDeque<Chunk>,
    /// The highest position that replies so far wait for.
    barrier: Lsn,
    hops: u64,
    /// Gaps that are not filled yet.
    gaps: usize,
    bytes: usize,
    /// Parts that other cores owe to commands whose replies are dropped.
    owed_unseen: usize,
    /// What a counting command (`DEL`, `EXISTS`) found, for [`Merge::Sum`].
    pub sum: i64,
    /// The highest version that the commands wrote which another core's client asked for; zero if they wrote nothing.
    pub written: Version,
}

impl ReplyQueue {
    /// Whether nothing is owed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Bytes encoded and not yet handed out.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
            + self.chunks.back().map_or(0, |chunk| match chunk {
                Chunk::Ready { bytes, .. } => bytes.len(),
                _ => 0,
            })
    }

    /// Gaps that other cores have not filled yet: replies whose size nobody knows.
    #[must_use]
    pub fn gaps(&self) -> usize {
        self.gaps
    }

    /// Encodes one reply that may be shown once `barrier` is durable.
    pub fn reply(&mut self, barrier: Lsn, encode: impl FnOnce(&mut Vec<u8>)) {
        self.reply_with(
            |out| {
                encode(out);
                (false, barrier)
            },
            |_| {},
        );
    }

    /// Encodes one reply whose barrier is only known afterwards: `encode` says whether it wrote nothing (then `absent`
    /// does) and what the reply waits for.
    pub fn reply_with(&mut self, encode: impl FnOnce(&mut Vec<u8>) -> (bool, Lsn), absent: impl FnOnce(&mut Vec<u8>)) {
        if !matches!(self.chunks.back(), Some(Chunk::Ready { .. })) {
            self.chunks.push_back(Chunk::Ready { bytes: Vec::with_capacity(256), marks: Vec::new() });
        }
        let Some(Chunk::Ready { bytes, marks }) = self.chunks.back_mut() else { unreachable!("pushed above") };
        let (nothing, barrier) = encode(bytes);
        if nothing {
            absent(bytes);
        }
        self.barrier = self.barrier.max(barrier);
        // Replies leave in order, so a later one waits for what earlier ones wait for.
        match marks.last_mut() {
            Some((end, mark)) if *mark == self.barrier => *end = bytes.len(),
            _ => marks.push((bytes.len(), self.barrier)),
        }
    }

    /// Adds bytes that are sent as they are.
    pub fn run(&mut self, barrier: Lsn, bytes: Bytes) {
        self.barrier = self.barrier.max(barrier);
        self.seal_back();
        self.bytes += bytes.len();
        self.chunks.push_back(Chunk::Runs { runs: vec![bytes], barrier: self.barrier });
    }

    fn seal_back(&mut self) {
        if let Some(Chunk::Ready { bytes, .. }) = self.chunks.back() {
            self.bytes += bytes.len();
        }
    }

    /// Leaves a gap for `parts` answers of other cores; returns its name.
    pub fn hop(&mut self, parts: usize, merge: Merge) -> u64 {
        self.seal_back();
        self.hops += 1;
        self.gaps += 1;
        self.chunks.push_back(Chunk::Hop {
            id: self.hops,
            missing: parts,
            parts: vec![Vec::new(); parts],
            counts: vec![0; parts],
            merge,
            barrier: self.barrier,
        });
        self.hops
    }

    /// Fills one part of a gap. Unknown names are ignored: the connection may have been closed and reused.
    pub fn fill(&mut self, hop: u64, part: usize, answer: Vec<Bytes>, count: i64) {
        let found = self.chunks.iter_mut().position(|chunk| matches!(chunk, Chunk::Hop { id, .. } if *id == hop));
        let Some(at) = found else {
            self.owed_unseen = self.owed_unseen.saturating_sub(1);
            return;
        };
        let Chunk::Hop { missing, parts, counts, merge, barrier, .. } = &mut self.chunks[at] else { return };
        let Some(slot) = parts.get_mut(part) else { return };
        *slot = answer;
        counts[part] = count;
        *missing -= 1;
        if *missing > 0 {
            return;
        }
        let sum: i64 = counts.iter().sum();
        let failed = parts.iter().position(|part| part.first().is_some_and(|run| run.first() == Some(&b'-')));
        // Nothing is copied: an MGET of large values would otherwise hold them all in memory.
        let runs = match (&merge, failed) {
            (Merge::Concatenate, _) => std::mem::take(parts).into_iter().flatten().collect(),
            (_, Some(failed)) => std::mem::take(&mut parts[failed]),
            (Merge::AllOk, None) => vec![Bytes::from_static(b"+OK\r\n")],
            (Merge::Sum, None) => vec![format!(":{sum}\r\n").into()],
            (Merge::Array, None) => headed(format!("*{sum}\r\n"), parts, ""),
            (Merge::Text(protocol), None) => {
                let len: usize = parts.iter().flatten().map(Bytes::len).sum();
                let header = match protocol {
                    Protocol::Resp2 => format!("${len}\r\n"),
                    Protocol::Resp3 => format!("={}\r\ntxt:", len + 4),
                };
                headed(header, parts, "\r\n")
            }
            (Merge::Pick(random), None) => std::mem::take(&mut parts[picked(*random, counts)]),
            (Merge::FoundOr(_), None) if sum > 0 => vec![Bytes::from_static(b"+OK\r\n")],
            (Merge::FoundOr(error), None) => vec![format!("-{error}\r\n").into()],
        };
        // Other cores waited for their own logs before they answered; the barrier is that of this core's parts.
        let barrier = *barrier;
        self.gaps -= 1;
        self.bytes += runs.iter().map(Bytes::len).sum::<usize>();
        self.chunks[at] = Chunk::Runs { runs, barrier };
    }

    /// A queue whose replies are to be dropped (`CLIENT REPLY OFF`). It names its gaps as this one goes on to, so that answers
    /// that nobody waits for fill no other gap; hand it to [`ReplyQueue::dropped`] afterwards.
    #[must_use]
    pub fn to_drop(&self) -> ReplyQueue {
        ReplyQueue { hops: self.hops, ..ReplyQueue::default() }
    }

    /// Forgets what `queue` holds.
    pub fn dropped(&mut self, queue: &ReplyQueue) {
        self.hops = queue.hops;
        self.owed_unseen += queue.chunks.iter().map(Chunk::missing).sum::<usize>();
    }

    /// Whether other cores still owe something to commands before that of the gap `hop`.
    #[must_use]
    pub fn owes_before(&self, hop: u64) -> bool {
        let before = |chunk: &Chunk| matches!(chunk, Chunk::Hop { id, .. } if *id < hop);
        self.owed_unseen > 0 || self.gaps > 0 && self.chunks.iter().any(before)
    }

    /// Takes what may be shown when everything below `durable` is durable.
    pub fn take(&mut self, durable: Lsn, out: &mut Vec<Bytes>) {
        while let Some(front) = self.chunks.front_mut() {
            match front {
                Chunk::Ready { .. } => {
                    let open = self.chunks.len() == 1;
                    let Some(Chunk::Ready { bytes, marks }) = self.chunks.front_mut() else { unreachable!() };
                    let shown = marks.partition_point(|(_, mark)| *mark <= durable);
                    let end = if shown == 0 { 0 } else { marks[shown - 1].0 };
                    if end == bytes.len() {
                        if !open {
                            self.bytes -= bytes.len();
                        }
                        if !bytes.is_empty() {
                            out.push(Bytes::from(std::mem::take(bytes)));
                        }
                        self.chunks.pop_front();
                        continue;
                    }
                    if end > 0 {
                        out.push(Bytes::copy_from_slice(&bytes[..end]));
                        bytes.drain(..end);
                        marks.drain(..shown);
                        for mark in marks {
                            mark.0 -= end;
                        }
                        if !open {
                            self.bytes -= end;
                        }
                    }
                    return;
                }
                Chunk::Runs { barrier, .. } if *barrier > durable => return,
                Chunk::Runs { .. } => {
                    let Some(Chunk::Runs { runs, .. }) = self.chunks.pop_front() else { return };
                    self.bytes -= runs.iter().map(Bytes::len).sum::<usize>();
                    out.extend(runs);
                }
                Chunk::Hop { .. } => return,
            }
        }
    }

    /// Makes everything that follows wait for `barrier`.
    pub fn wait_for(&mut self, barrier: Lsn) {
        self.barrier = self.barrier.max(barrier);
    }

    /// Whether the next reply waits for durability, not for another core or for the socket.
    #[must_use]
    pub fn waits_for_durability(&self, durable: Lsn) -> bool {
        match self.chunks.front() {
            Some(Chunk::Ready { marks, .. }) => marks.first().is_some_and(|(_, mark)| *mark > durable),
            Some(Chunk::Runs { barrier, .. }) => *barrier > durable,
            Some(Chunk::Hop { .. }) | None => false,
        }
    }

    /// The highest position that any reply waits for.
    #[must_use]
    pub fn barrier(&self) -> Lsn {
        self.barrier
    }
}

/// The parts' bytes between a header and an end.
fn headed(header: String, parts: &mut Vec<Vec<Bytes>>, end: &'static str) -> Vec<Bytes> {
    let parts = std::mem::take(parts).into_iter().flatten();
    let end = Bytes::from_static(end.as_bytes());
    std::iter::once(header.into()).chain(parts).chain(std::iter::once(end).filter(|end| !end.is_empty())).collect()
}

/// The part in which the `random`-th of all that was counted lies; the first if nothing was.
fn picked(random: u64, counts: &[i64]) -> usize {
    let count = |part: &i64| u64::try_from(*part).unwrap_or(0);
    let mut left = random % counts.iter().map(count).sum::<u64>().max(1);
    for (part, found) in counts.iter().map(count).enumerate() {
        if left < found {
            return part;
        }
        left -= found;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(queue: &mut ReplyQueue, durable: u64) -> String {
        let mut out = Vec::new();
        queue.take(Lsn(durable), &mut out);
        String::from_utf8(out.concat()).unwrap()
    }

    #[test]
    fn replies_leave_in_order_and_not_before_they_are_durable() {
        let mut queue = ReplyQueue::default();
        queue.reply(Lsn(0), |out| out.extend(b"a"));
        queue.reply(Lsn(10), |out| out.extend(b"b"));
        queue.reply(Lsn(0), |out| out.extend(b"c"));
        queue.reply(Lsn(20), |out| out.extend(b"d"));
        assert_eq!(taken(&mut queue, 9), "a");
        assert!(queue.waits_for_durability(Lsn(9)));
        assert_eq!(taken(&mut queue, 10), "bc");
        assert_eq!(taken(&mut queue, 19), "");
        queue.run(Lsn(15), Bytes::from_static(b"large"));
        assert_eq!(taken(&mut queue, 25), "dlarge");
        assert!(queue.is_empty());
        assert_eq!(queue.bytes(), 0);
    }

    fn answer(text: &'static str) -> Vec<Bytes> {
        vec![Bytes::from_static(text.as_bytes())]
    }

    #[test]
    fn a_gap_holds_back_what_follows_until_every_part_is_there() {
        let mut queue = ReplyQueue::default();
        let sum = queue.hop(2, Merge::Sum);
        queue.reply(Lsn(0), |out| out.extend(b"+x\r\n"));
        assert_eq!(queue.gaps(), 1);
        queue.fill(sum, 1, answer(":1\r\n"), 1);
        assert_eq!(taken(&mut queue, 99), "");
        queue.fill(sum, 0, answer(":2\r\n"), 2);
        assert_eq!(queue.gaps(), 0);
        assert_eq!(taken(&mut queue, 99), ":3\r\n+x\r\n");
        let set = queue.hop(2, Merge::AllOk);
        queue.fill(set, 0, answer("+OK\r\n"), 0);
        queue.fill(set, 1, answer("-ERR full\r\n"), 0);
        assert_eq!(taken(&mut queue, 99), "-ERR full\r\n");
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn the_parts_of_every_core_become_one_reply() {
        let mut queue = ReplyQueue::default();
        for (merge, expected) in [
            (Merge::Array, "*3\r\n$1\r\na\r\n$1\r\nb\r\n"),
            (Merge::Text(Protocol::Resp2), "$14\r\n$1\r\na\r\n$1\r\nb\r\n\r\n"),
            (Merge::Text(Protocol::Resp3), "=18\r\ntxt:$1\r\na\r\n$1\r\nb\r\n\r\n"),
            (Merge::Pick(3), "$1\r\na\r\n"),
            (Merge::Pick(4), "$1\r\nb\r\n"),
            (Merge::FoundOr("ERR none"), "+OK\r\n"),
        ] {
            let hop = queue.hop(2, merge.clone());
            queue.fill(hop, 1, answer("$1\r\nb\r\n"), 2);
            queue.fill(hop, 0, answer("$1\r\na\r\n"), 1);
            assert_eq!(taken(&mut queue, 0), expected, "{merge:?}");
        }
        let hop = queue.hop(1, Merge::FoundOr("ERR none"));
        queue.fill(hop, 0, Vec::new(), 0);
        assert_eq!(taken(&mut queue, 0), "-ERR none\r\n");
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn answers_to_what_is_dropped_fill_no_other_gap() {
        let mut queue = ReplyQueue::default();
        let mut dropped = queue.to_drop();
        let unanswered = dropped.hop(1, Merge::Concatenate);
        queue.dropped(&dropped);
        let answered = queue.hop(1, Merge::Concatenate);
        assert!(queue.owes_before(answered), "what is dropped is still to be done");
        queue.fill(unanswered, 0, answer("+no\r\n"), 0);
        assert!(!queue.owes_before(answered) && queue.owes_before(answered + 1));
        queue.fill(answered, 0, answer("+yes\r\n"), 0);
        assert_eq!(taken(&mut queue, 0), "+yes\r\n");
    }
}
