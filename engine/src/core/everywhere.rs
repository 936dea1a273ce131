//! Commands that every core runs on its part: `KEYS`, `FLUSHALL`, `CLIENT LIST` and others.
//!
//! A part that walks the index does so in slices, a bounded number of entries per tick, so that it holds up no other client. The
//! connection that asked waits for all parts before its next command runs: what it asks afterwards finds all of it done.

use std::collections::VecDeque;

use net::reactor::Io;
use net::resp::{Args, Parser, Protocol, reply};
use wal::{Lsn, Version};

use super::{CoreLoop, Guest, clients};
use crate::frontend::replies::{Merge, ReplyQueue};
use crate::frontend::resp::SYNTAX_ERROR;
use crate::frontend::resp::client_command::ClientFilter;
use crate::frontend::resp::scan::glob;
use crate::frontend::resp::table::{self, Command, EveryVerb, Kind};
use crate::frontend::seen::Seen;
use crate::host::Host;
use crate::messages::{ConnectionKey, ToCore};
use crate::shard::{Shard, WriteError};
use crate::storage::KeyHash;
use crate::storage::index::ScanPosition;

/// Index entries that all parts of a core may visit in one tick. A visited entry costs some 100 ns, a deleted one about 1 µs.
const ENTRIES_PER_TICK: usize = 1024;

/// Entries of one slice.
const ENTRIES_PER_SLICE: usize = 256;

/// Keys among which `RANDOMKEY` chooses: neighbours in the index, so that one behind a wide gap is not chosen more often.
const RANDOM_KEYS: usize = 16;

/// Words in front of the command: its whole name, and the id, the address and the name of who asks.
const ASKER_WORDS: usize = 4;

/// One part.
#[derive(Debug)]
struct Part {
    from: u16,
    /// What it reads is noted here.
    seen: Option<Seen>,
    connection: ConnectionKey,
    hop: (u64, usize),
    /// As it came.
    command: Vec<u8>,
    /// How long it kept this core from everything else.
    busy_ns: u64,
    walk: Walk,
    /// Where the walk goes on.
    position: ScanPosition,
    replies: ReplyQueue,
}

/// What a part does along the index.
#[derive(Debug)]
enum Walk {
    /// `KEYS`: collects the encoded names.
    Keys { pattern: Vec<u8>, found: Vec<u8> },
    /// `FLUSHALL`: deletes what is not newer than `upto`. `doomed` was found and is not deleted yet.
    Flush { upto: Version, doomed: Vec<(KeyHash, Vec<u8>)>, end: Lsn },
    /// `RANDOMKEY`: walks from `start` over the end to `start`.
    Random { start: ScanPosition, wrapped: bool, found: Vec<Vec<u8>>, protocol: Protocol },
}

/// Whether a part is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slice {
    Last,
    MoreFollows,
}

/// The parts that this core still walks.
#[derive(Debug, Default)]
pub(super) struct Parts {
    walking: VecDeque<Part>,
    /// The first one waits for the log.
    stalled: bool,
}

impl Parts {
    /// Whether the next tick has something to do at once.
    pub(super) fn is_walking(&self) -> bool {
        !self.walking.is_empty() && !self.stalled
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.stalled
    }
}

impl<H: Host> CoreLoop<H> {
    /// Runs a command of a connection of this core on all cores.
    pub(super) fn run_everywhere(&mut self, index: u32, verb: EveryVerb, command: &Command, args: Args<'_>) {
        let random = self.io.random();
        let (key, session, replies) = self.clients.asker(index);
        let merge = match merge(verb, args, session.id, session.protocol, random) {
            Ok(merge) => merge,
            Err(text) => {
                replies.reply(Lsn(0), |out| reply::error(out, &text));
                return;
            }
        };
        let resp3 = session.protocol == Protocol::Resp3;
        // Who asks counts for CLIENT KILL and for the slow log.
        let id = session.id.to_string();
        let addr = session.addr.map_or_else(String::new, |addr| addr.to_string());
        let asker: [&[u8]; ASKER_WORDS] = [command.name.as_bytes(), id.as_bytes(), addr.as_bytes(), &session.name];
        let mut command = Vec::new();
        net::resp::encode_command(&asker.into_iter().chain(args.iter()).collect::<Vec<_>>(), &mut command);
        let cores = self.facts.cores;
        let seen = session.seen.clone();
        let hop = replies.hop(usize::from(cores), merge);
        self.clients.waits_for(index, hop, usize::from(cores));
        for core in 0..cores {
            let hop = (hop, usize::from(core));
            if core == self.core {
                self.begin_part(self.core, seen.clone(), key, hop, resp3, &command);
            } else {
                let (seen, command) = (seen.clone(), command.clone());
                let message = ToCore::Everywhere { from: self.core, seen, connection: key, hop, resp3, command };
                self.cores[usize::from(core)].send(message);
            }
        }
    }

    /// Begins this core's part of a command, and ends it unless it has to walk.
    pub(super) fn begin_part(
        &mut self,
        from: u16,
        seen: Option<Seen>,
        connection: ConnectionKey,
        hop: (u64, usize),
        resp3: bool,
        command: &[u8],
    ) {
        let mut parser = Parser::new(clients::limits_for(self.shard.value_bytes_max()));
        let parsed = parser.next(command);
        let words = parser.args(command);
        let mut replies = ReplyQueue::default();
        let verb = words.get(0).and_then(table::find_whole).map(|command| command.kind);
        let (Ok(Some(_)), Some(Kind::Everywhere(verb))) = (parsed, verb) else {
            replies.reply(Lsn(0), |out| reply::error(out, "ERR internal: a part of no command"));
            self.guests.push(Guest { from, connection, hop, replies });
            return;
        };
        let asker = words.get(1).and_then(|id| std::str::from_utf8(id).ok()?.parse().ok()).unwrap_or(0);
        let args = words.from(ASKER_WORDS);
        let protocol = if resp3 { Protocol::Resp3 } else { Protocol::Resp2 };
        let mut position = ScanPosition(0);
        let walk = match verb {
            EveryVerb::Keys => Walk::Keys { pattern: args.get(1).unwrap_or_default().to_vec(), found: Vec::new() },
            EveryVerb::Flush => Walk::Flush { upto: self.shard.newest(), doomed: Vec::new(), end: Lsn(0) },
            EveryVerb::RandomKey => {
                let random = self.io.random();
                position = self.shard.store().scan_position(random);
                Walk::Random { start: position, wrapped: false, found: Vec::new(), protocol }
            }
            _ => {
                let began = self.io.now();
                self.answer_part(verb, args, asker, &mut replies);
                self.note_part(words, self.io.now().since(began));
                self.guests.push(Guest { from, connection, hop, replies });
                return;
            }
        };
        let command = command.to_vec();
        self.parts.walking.push_back(Part {
            from,
            seen,
            connection,
            hop,
            command,
            busy_ns: 0,
            walk,
            position,
            replies,
        });
    }

    /// Answers a part that has nothing to walk over.
    fn answer_part(&mut self, verb: EveryVerb, args: Args<'_>, asker: u64, replies: &mut ReplyQueue) {
        match verb {
            EveryVerb::ClientList => {
                let filter = ClientFilter::of_list(args).unwrap_or_default();
                let text = self.clients.list(&filter, asker, self.time.mono);
                replies.reply(Lsn(0), |out| out.extend_from_slice(text.as_bytes()));
            }
            EveryVerb::ClientKill => {
                replies.sum = ClientFilter::of_kill(args, asker).map_or(0, |filter| self.clients.kill(&filter, asker));
            }
            _ => {
                replies.sum = i64::try_from(self.shard.live(self.time)).unwrap_or(i64::MAX);
                // The count may include what is not durable yet.
                replies.wait_for(self.shard.log().staged());
            }
        }
    }

    /// Walks on, slice by slice and part by part, as far as one tick may.
    pub(super) fn walk_parts(&mut self) {
        self.parts.stalled = false;
        // Nothing is done between the stages of a transaction.
        if self.holds.is_held() {
            return;
        }
        for _ in 0..ENTRIES_PER_TICK / ENTRIES_PER_SLICE {
            let Some(mut part) = self.parts.walking.pop_front() else { return };
            let began = self.io.now();
            self.shard.seen_by(part.seen.clone());
            let slice = match part.walk {
                Walk::Keys { .. } => self.walk_keys(&mut part),
                Walk::Random { .. } => self.walk_random(&mut part),
                Walk::Flush { .. } => self.walk_flush(&mut part),
            };
            self.shard.seen_by(None);
            part.busy_ns += self.io.now().since(began);
            match slice {
                Ok(Slice::MoreFollows) => self.parts.walking.push_back(part),
                Ok(Slice::Last) => {
                    let mut parser = Parser::new(clients::limits_for(self.shard.value_bytes_max()));
                    if self.facts.slow_log.is_slow(part.busy_ns) && parser.next(&part.command).is_ok() {
                        self.note_part(parser.args(&part.command), part.busy_ns);
                    }
                    let Part { from, connection, hop, replies, .. } = part;
                    self.guests.push(Guest { from, connection, hop, replies });
                }
                Err(_) => {
                    self.parts.walking.push_front(part);
                    self.parts.stalled = true;
                    return;
                }
            }
        }
    }

    /// Puts a part into the slow log if it kept the core busy for so long.
    fn note_part(&self, words: Args<'_>, busy_ns: u64) {
        if self.facts.slow_log.is_slow(busy_ns) {
            let addr = String::from_utf8_lossy(words.get(2).unwrap_or_default()).into_owned();
            let name = words.get(3).unwrap_or_default().to_vec();
            self.facts.slow_log.add(words.from(ASKER_WORDS), busy_ns, self.time.unix_ms, addr, name);
        }
    }

    /// # Errors
    /// Transient ones: nothing was done, run it again later.
    fn walk_keys(&mut self, part: &mut Part) -> Result<Slice, WriteError> {
        let Walk::Keys { pattern, found } = &mut part.walk else { return Ok(Slice::Last) };
        let replies = &mut part.replies;
        let next = self.shard.scan(part.position, ENTRIES_PER_SLICE, self.time, |record| {
            if pattern.as_slice() == b"*" || glob(pattern, record.key) {
                reply::bulk(found, record.key);
                replies.sum += 1;
            }
        })?;
        if let Some(next) = next {
            part.position = next;
            return Ok(Slice::MoreFollows);
        }
        // Names of keys whose records are not durable yet are shown once they are.
        replies.wait_for(self.shard.log().staged());
        let barrier = replies.barrier();
        if !found.is_empty() {
            replies.run(barrier, std::mem::take(found).into());
        }
        Ok(Slice::Last)
    }

    /// # Errors
    /// Transient ones: nothing was done, run it again later.
    fn walk_random(&mut self, part: &mut Part) -> Result<Slice, WriteError> {
        let Walk::Random { start, wrapped, found, protocol } = &mut part.walk else { return Ok(Slice::Last) };
        let next = self.shard.scan(part.position, ENTRIES_PER_SLICE.min(4 * RANDOM_KEYS), self.time, |record| {
            found.push(record.key.to_vec());
        })?;
        let around = *wrapped && next.is_none_or(|next| next >= *start);
        *wrapped |= next.is_none();
        part.position = next.unwrap_or_default();
        if found.len() < RANDOM_KEYS && !around {
            return Ok(Slice::MoreFollows);
        }
        let len = found.len() as u64;
        let chosen = self.io.random().checked_rem(len).and_then(|at| found.get(usize::try_from(at).ok()?));
        if chosen.is_some() {
            part.replies.sum = i64::try_from(self.shard.live(self.time)).unwrap_or(i64::MAX);
        }
        part.replies.reply(self.shard.log().staged(), |out| match chosen {
            Some(key) => reply::bulk(out, key),
            None => reply::null(out, *protocol),
        });
        Ok(Slice::Last)
    }

    /// # Errors
    /// Transient ones: what is doomed stays so, run it again later.
    fn walk_flush(&mut self, part: &mut Part) -> Result<Slice, WriteError> {
        let Walk::Flush { upto, doomed, end } = &mut part.walk else { return Ok(Slice::Last) };
        let mut next = Some(part.position);
        if doomed.is_empty() {
            let secret = self.shard.identity().secret;
            next = self.shard.scan(part.position, ENTRIES_PER_SLICE, self.time, |record| {
                if record.version <= *upto {
                    doomed.push((secret.hash(record.key), record.key.to_vec()));
                }
            })?;
        }
        while let Some((hash, key)) = doomed.pop() {
            let ready = self.shard.ready(hash);
            // It may have been written again while it waited.
            let version = |shard: &Shard<H::Map>| shard.read(hash, &key, self.time, |record| record.version).0;
            if ready.is_ok() && version(&self.shard).is_none_or(|version| version > *upto) {
                continue;
            }
            match ready.and_then(|()| self.shard.delete(hash, &key, self.time)) {
                Ok(position) => {
                    *end = (*end).max(position);
                    part.replies.written = self.shard.newest();
                }
                Err(error) if error.is_transient() => {
                    doomed.push((hash, key));
                    part.position = next.unwrap_or(ScanPosition::END);
                    return Err(error);
                }
                Err(error) => {
                    part.replies.reply(Lsn(0), |out| reply::error(out, &format!("ERR {error}")));
                    return Ok(Slice::Last);
                }
            }
        }
        match next {
            Some(position) if position != ScanPosition::END => {
                part.position = position;
                Ok(Slice::MoreFollows)
            }
            _ => {
                part.replies.reply(*end, |out| reply::simple(out, "OK"));
                Ok(Slice::Last)
            }
        }
    }
}

/// How the parts become one reply.
fn merge(verb: EveryVerb, args: Args<'_>, asker: u64, protocol: Protocol, random: u64) -> Result<Merge, String> {
    match verb {
        EveryVerb::DbSize => Ok(Merge::Sum),
        EveryVerb::Keys => Ok(Merge::Array),
        EveryVerb::RandomKey => Ok(Merge::Pick(random)),
        EveryVerb::Flush => match args.get(1) {
            None => Ok(Merge::AllOk),
            Some(how)
                if args.len() == 2 && (how.eq_ignore_ascii_case(b"ASYNC") || how.eq_ignore_ascii_case(b"SYNC")) =>
            {
                Ok(Merge::AllOk)
            }
            Some(_) => Err(SYNTAX_ERROR.into()),
        },
        EveryVerb::ClientList => ClientFilter::of_list(args).map(|_| Merge::Text(protocol)),
        EveryVerb::ClientKill => {
            ClientFilter::of_kill(args, asker)?;
            Ok(if args.len() == 3 { Merge::FoundOr("ERR No such client") } else { Merge::Sum })
        }
    }
}
