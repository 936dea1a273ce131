//! Answers that wait until other nodes durably hold what a client wrote: `WAIT`, `WAITAOF`, and writes of the native protocol that ask
//! for it.
//!
//! Such an answer is a gap in the connection's replies. First it waits until it is known what was written, which other cores may still
//! have to say; then until the [board](crate::replication::holders) says that enough hold it, or its deadline passes, or nobody is left who could read it.
//! Nothing blocks the core.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use net::ids::RequestId;
use net::reactor::Mono;
use net::resp::{Args, reply};
use net::wire::Message;
use net::wire::body::{Held, HeldBy};
use net::wire::limits::HOLDERS_MAX;
use wal::marks::{Mark, reach};
use wal::{Lsn, Version};

use super::Clients;
use crate::core::CoreLoop;
use crate::frontend::native::encode;
use crate::frontend::native::request::Request;
use crate::frontend::replies::Merge;
use crate::frontend::resp::table::SessionVerb;
use crate::frontend::resp::wait::Wait;
use crate::host::Host;
use crate::messages::{ConnectionKey, CoreEvent};
use crate::replication::holders::{Others, Wanted};

/// From when on the clock runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    /// Once other cores have answered all that the connection asked before.
    AfterAll,
    /// Once another core has filled this gap.
    After(u64),
    /// This was written; zero if nothing was, and there is nothing to wait for.
    Known(Version),
    /// Now.
    Written(Version),
}

/// What the answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Resp(Wait),
    Native(RequestId),
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    connection: ConnectionKey,
    /// The gap of its answer.
    hop: u64,
    begin: Begin,
    wanted: Wanted,
    deadline: Option<Mono>,
    answer: Answer,
}

/// All that wait, of all connections of a core.
#[derive(Debug, Default)]
pub(super) struct HeldByOthers {
    last: u64,
    by_number: BTreeMap<u64, Waiting>,
    /// Those for which it is not known yet what was written.
    unbegun: BTreeSet<u64>,
    /// Those of them that wait for one gap, by connection and gap.
    by_gap: BTreeMap<(u32, u32, u64), u64>,
    /// The others, by what they wait for and the version that has to reach it.
    begun: BTreeMap<Wanted, BTreeSet<(Version, u64)>>,
    deadlines: BTreeSet<(Mono, u64)>,
    /// Connections whose clients are gone.
    pub(super) gone: Vec<ConnectionKey>,
    /// The board may have changed.
    news: bool,
    /// The control thread tells this core of such changes: of other nodes, of this one.
    told: (bool, bool),
    /// The node stops: nothing waits any more.
    over: bool,
}

impl HeldByOthers {
    fn add(&mut self, waiting: Waiting) {
        self.last += 1;
        self.by_number.insert(self.last, waiting);
        match waiting.begin {
            Begin::After(gap) => _ = self.by_gap.insert(name_of(waiting.connection, gap), self.last),
            _ => _ = self.unbegun.insert(self.last),
        }
    }

    fn begin(&mut self, number: u64, version: Version) {
        self.unbegun.remove(&number);
        let Some(waiting) = self.by_number.get_mut(&number) else { return };
        waiting.begin = Begin::Written(version);
        self.begun.entry(waiting.wanted).or_default().insert((version, number));
        self.deadlines.extend(waiting.deadline.map(|deadline| (deadline, number)));
    }

    /// Another core has filled a gap, and has written this for it.
    pub(super) fn filled(&mut self, connection: ConnectionKey, gap: u64, written: Version) {
        if !self.by_gap.is_empty()
            && let Some(number) = self.by_gap.remove(&name_of(connection, gap))
            && let Some(waiting) = self.by_number.get_mut(&number)
        {
            waiting.begin = Begin::Known(written);
            self.unbegun.insert(number);
        }
    }

    fn remove(&mut self, number: u64) -> Option<Waiting> {
        let waiting = self.by_number.remove(&number)?;
        self.unbegun.remove(&number);
        if let Begin::Written(version) = waiting.begin
            && let Some(begun) = self.begun.get_mut(&waiting.wanted)
        {
            begun.remove(&(version, number));
            if begun.is_empty() {
                self.begun.remove(&waiting.wanted);
            }
        }
        if let Some(deadline) = waiting.deadline {
            self.deadlines.remove(&(deadline, number));
        }
        Some(waiting)
    }
}

fn name_of(connection: ConnectionKey, gap: u64) -> (u32, u32, u64) {
    (connection.index, connection.generation, gap)
}

impl Clients {
    /// The board has changed.
    pub(in crate::core) fn hear_of_holders(&mut self) {
        self.held_by_others.news = true;
    }

    /// The node stops: what waits is answered with what is.
    pub(in crate::core) fn end_waits(&mut self) {
        self.held_by_others.over = true;
        self.sessions.over = true;
    }

    /// When a wait ends by itself.
    pub(in crate::core) fn waits_until(&self) -> Option<Mono> {
        let now =
            !self.held_by_others.gone.is_empty() || self.held_by_others.over && !self.held_by_others.begun.is_empty();
        if now { Some(Mono(0)) } else { self.held_by_others.deadlines.first().map(|(deadline, _)| *deadline) }
    }

    /// What the connection has written, as far as it is known.
    pub(in crate::core) fn has_written(&mut self, index: u32, version: Version) {
        let session = &mut self.connections[index as usize].session;
        session.written = session.written.max(version);
    }
}

impl<H: Host> CoreLoop<H> {
    /// The version of what was written here since `originated` records had been; zero if nothing was.
    pub(in crate::core) fn written_since(&self, originated: u64) -> Version {
        if self.shard.counters().originated == originated { Version::ZERO } else { self.shard.newest() }
    }

    /// `WAIT` and `WAITAOF`: the connection runs nothing else before the answer.
    pub(super) fn run_wait(&mut self, index: u32, verb: SessionVerb, args: Args<'_>) {
        let (key, session, replies) = self.clients.asker(index);
        let classes = session.classes;
        let wait = match Wait::parse(verb, args, self.facts.durability) {
            Ok(wait) => wait.among(classes),
            Err(text) => {
                replies.reply(Lsn(0), |out| reply::error(out, &text));
                return;
            }
        };
        let hop = replies.hop(1, Merge::Concatenate);
        self.clients.waits_for(index, hop, 1);
        let deadline = (wait.timeout_ms > 0).then(|| self.clients.clock.plus_ms(wait.timeout_ms));
        let waiting = Waiting {
            connection: key,
            hop,
            begin: Begin::AfterAll,
            wanted: wait.wanted,
            deadline,
            answer: Answer::Resp(wait),
        };
        self.clients.held_by_others.add(waiting);
    }

    /// A write of the native protocol that was run here, or is answered by another core in `gap`, waits for other regions: a second
    /// answer follows.
    pub(super) fn wait_for_regions(&mut self, index: u32, request: &Request, gap: Option<u64>, written: Version) {
        let wait = request.wait();
        if wait.is_none() || gap.is_none() && written == Version::ZERO {
            return;
        }
        let others = match wait.regions {
            net::wire::body::Wait::ALL_REGIONS => Others::AllRegions,
            regions => Others::Regions(regions.into()),
        };
        let classes = request.keys().iter().fold(0, |classes, key| classes | self.facts.residency.class(key));
        let (connection, _, replies) = self.clients.asker(index);
        let waiting = Waiting {
            connection,
            hop: replies.hop(1, Merge::Concatenate),
            begin: gap.map_or(Begin::Known(written), Begin::After),
            wanted: Wanted { others, own: false, classes },
            deadline: Some(self.time.mono.plus_ms(wait.deadline_ms.into())),
            answer: Answer::Native(request.id),
        };
        self.clients.held_by_others.add(waiting);
    }

    /// Ends the waits whose time has come.
    pub(in crate::core) fn tend_waits(&mut self) {
        if self.clients.held_by_others.by_number.is_empty() {
            self.clients.held_by_others.gone.clear();
            return self.ask_for_news();
        }
        self.begin_waits();
        self.ask_for_news();
        let waits = &mut self.clients.held_by_others;
        let mut ended = Vec::new();
        if std::mem::take(&mut waits.news) {
            for (wanted, begun) in &waits.begun {
                let Some(covered) = self.facts.holders.covered(*wanted) else { continue };
                ended.extend(begun.iter().take_while(|(version, _)| *version <= covered).map(|(_, number)| *number));
            }
            if !ended.is_empty() {
                reach(Mark::WaitReached);
            }
        }
        let now = self.time.mono;
        let late = waits.deadlines.iter().take_while(|(deadline, _)| *deadline <= now);
        let before = ended.len();
        ended.extend(late.map(|(_, number)| *number));
        if ended.len() > before {
            reach(Mark::WaitTimedOut);
        }
        let gone = std::mem::take(&mut waits.gone);
        if waits.over || !gone.is_empty() {
            let is_begun = |waiting: &Waiting| matches!(waiting.begin, Begin::Written(_));
            let left = waits.by_number.iter().filter(|(_, waiting)| is_begun(waiting));
            let left = left.filter(|(_, waiting)| waits.over || gone.contains(&waiting.connection));
            ended.extend(left.map(|(number, _)| *number));
        }
        for number in ended {
            if let Some(waiting) = self.clients.held_by_others.remove(number) {
                self.answer_wait(&waiting);
            }
        }
    }

    /// Begins those of which it has become known what was written.
    fn begin_waits(&mut self) {
        let unbegun: Vec<u64> = self.clients.held_by_others.unbegun.iter().copied().collect();
        for number in unbegun {
            let waiting = self.clients.held_by_others.by_number[&number];
            let Some(connection) = self.clients.find(waiting.connection) else {
                self.clients.held_by_others.remove(number);
                continue;
            };
            let version = match waiting.begin {
                Begin::Known(version) => version,
                _ if connection.replies.owes_before(waiting.hop) => continue,
                _ => connection.session.written,
            };
            let is_gone = connection.closing || connection.broken;
            if waiting.begin == Begin::Known(Version::ZERO) {
                self.clients.held_by_others.remove(number);
                self.clients.answer(waiting.connection, (waiting.hop, 0), Vec::new(), 0, Version::ZERO);
                continue;
            }
            let waits = &mut self.clients.held_by_others;
            waits.begin(number, version);
            waits.news = true;
            if is_gone {
                waits.gone.push(waiting.connection);
            }
            if waiting.wanted.own && !self.facts.holders.is_own(version) {
                self.tell(CoreEvent::WaitsFor(version));
            }
        }
    }

    /// Says what this core has to be told of the board.
    fn ask_for_news(&mut self) {
        let waits = &mut self.clients.held_by_others;
        let wanted = (!waits.begun.is_empty(), waits.begun.keys().any(|wanted| wanted.own));
        if wanted != waits.told {
            waits.told = wanted;
            self.facts.holders.tell(self.core, wanted.0, wanted.1);
        }
    }

    fn answer_wait(&mut self, waiting: &Waiting) {
        let Begin::Written(version) = waiting.begin else { return };
        let mut out = Vec::new();
        match waiting.answer {
            Answer::Resp(wait) => wait.answer(version, &self.facts, &mut out),
            Answer::Native(id) => {
                let reached = self.facts.holders.covered(waiting.wanted).is_some_and(|covered| covered >= version);
                let holders = self.facts.holders.of(version, waiting.wanted.classes);
                let count = u16::try_from(holders.len()).unwrap_or(u16::MAX);
                let named = holders.into_iter().take(HOLDERS_MAX);
                let holders = named.map(|holder| HeldBy { node: holder.node, region: holder.region }).collect();
                encode(&Message::Held(Held { reached, count, holders }), id, &mut out);
            }
        }
        self.clients.answer(waiting.connection, (waiting.hop, 0), vec![Bytes::from(out)], 0, Version::ZERO);
    }
}
