//! Anti-entropy's driver: this node compares itself with each peer in turn, over the discovery link, and fetches what it lost.
//!
//! A repair means that something was lost here that this node had said to hold: it is counted and said as a warning.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use net::ids::{NodeId, RequestId, Version};
use net::reactor::Mono;
use net::wire::body::{ErrorCode, Failed, Records, Refuse, RefuseCode, Repaired};
use net::wire::header::HEADER_BYTES;
use net::wire::message::Message;
use wal::RecordView;
use wal::marks::{Mark, reach};

use super::survey::{Asker, Gathered};
use super::{ControlLoop, LinkKey};
use crate::host::Host;
use crate::messages::ToCore;
use crate::replication::compare::Held;
use crate::replication::entropy::{Comparison, Outcome, Step, counting_at};
use crate::replication::residency::Allowed;
use crate::replication::survey::{Digest, LeafSet};
use crate::replication::to_wire;

/// A comparison in which nothing has come for this long is given up. A peer that is gone is noticed by its link; this is for one that
/// forgot, and a walk over a large store takes long.
const SILENCE_MS_MAX: u64 = 60 * 60_000;

/// What comparisons with one peer came to in this run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Comparisons that came to their end.
    pub comparisons: u64,
    /// Keys that this node had lost.
    pub lacking: u64,
    /// Those that were fetched from the peer.
    pub repaired: u64,
    /// When the last one ended, in milliseconds since 1970; 0 if there was none.
    pub ended_unix_ms: u64,
}

/// A comparison that is under way.
#[derive(Debug)]
struct Running {
    number: u64,
    peer: usize,
    /// An operator asked for it.
    is_asked_for: bool,
    link: LinkKey,
    /// Of the question that the peer has not answered to the end.
    request: RequestId,
    heard_at: Mono,
    comparison: Comparison,
    /// What both may hold.
    shown: Arc<Allowed>,
    /// The leaves that are looked at here.
    leaves: Option<Arc<LeafSet>>,
    /// What was held before keys were looked at here.
    held: Held,
}

/// An operator who waits for a comparison with every peer.
#[derive(Debug)]
struct Waiting {
    link: LinkKey,
    request: RequestId,
    peers: VecDeque<usize>,
    result: Repaired,
}

/// The comparisons of this node.
#[derive(Debug, Default)]
pub(super) struct Entropy {
    next_at: Option<Mono>,
    next_peer: usize,
    numbers: u64,
    requests: u32,
    running: Option<Running>,
    operator: Option<Waiting>,
    /// By peer.
    compared: Vec<Compared>,
}

impl Entropy {
    pub(super) fn new(peers: usize) -> Entropy {
        Entropy { compared: vec![Compared::default(); peers], ..Entropy::default() }
    }

    pub(super) fn compared(&self, peer: usize) -> Compared {
        self.compared.get(peer).copied().unwrap_or_default()
    }

    /// Whether an operator waits on this link.
    pub(super) fn wait_on(&self, link: LinkKey) -> bool {
        self.operator.as_ref().is_some_and(|operator| operator.link == link)
    }
}

impl<H: Host> ControlLoop<H> {
    /// What this node's comparisons came to, by peer; for checkers and the monitor.
    pub fn compared(&self) -> impl Iterator<Item = Compared> {
        self.entropy.compared.iter().copied()
    }

    /// Begins the comparison that is due, and gives up one of which nothing is heard.
    pub(super) fn compare_with_peers(&mut self) {
        let now = self.now();
        // In a bootstrap what is here is neither all nor alive.
        let stops = self.stop.asked || self.failed.is_some() || self.removed || self.bootstrap.is_under_way();
        if let Some(running) = &self.entropy.running {
            let (key, heard_at) = (running.link, running.heard_at);
            let is_up = self.link(key).is_some_and(|link| link.is_up());
            if stops || !is_up || now > heard_at.plus_ms(SILENCE_MS_MAX) {
                self.give_up();
            }
            return;
        }
        if stops {
            return;
        }
        if let Some(operator) = &mut self.entropy.operator {
            match operator.peers.pop_front() {
                Some(peer) if self.begin_comparison(peer, true) => {}
                Some(_) => self.not_compared(),
                None => self.answer_operator(),
            }
            return;
        }
        let Some(interval_ms) = self.mesh.anti_entropy_ms else { return };
        if self.mesh.peers.is_empty() {
            return;
        }
        let turn_ms = (interval_ms / self.mesh.peers.len() as u64).max(1);
        let Some(at) = self.entropy.next_at else {
            // Not all nodes at once, not even when all have just started.
            let offset_ms = (u64::from(self.facts.node.0.wrapping_mul(0x9e37_79b9)) * turn_ms) >> 32;
            self.entropy.next_at = Some(now.plus_ms(offset_ms));
            return;
        };
        if now >= at {
            self.entropy.next_at = Some(now.plus_ms(turn_ms));
            let peer = self.entropy.next_peer % self.mesh.peers.len();
            self.entropy.next_peer = peer + 1;
            self.begin_comparison(peer, false);
        }
    }

    /// Whether it could begin.
    fn begin_comparison(&mut self, peer: usize, is_asked_for: bool) -> bool {
        let Some(key) = self.peer_links[peer] else { return false };
        let Some(node) =
            self.link(key).filter(|link| link.is_up()).and_then(|link| link.hello()).map(|hello| hello.node)
        else {
            return false;
        };
        if self.members.is_removed(node) {
            return false;
        }
        let counting = counting_at(self.time.unix_ms);
        let shown = self.shown_to_peer(key);
        let there = self.link(key).and_then(|link| link.hello()).map(|hello| hello.region.clone());
        let regions = there.into_iter().chain([self.region.clone()]).collect();
        let (comparison, question) = Comparison::begin(counting, regions);
        self.entropy.numbers += 1;
        let number = self.entropy.numbers;
        let (request, heard_at) = (RequestId(0), self.now());
        self.entropy.running = Some(Running {
            number,
            peer,
            is_asked_for,
            link: key,
            request,
            heard_at,
            comparison,
            shown: Arc::clone(&shown),
            leaves: None,
            held: Held::default(),
        });
        self.proceed(Step::Ask(question));
        self.sum_up(Asker::Myself(number), Gathered::Sums(Digest::default()), &shown, counting);
        true
    }

    fn proceed(&mut self, step: Step) {
        let now = self.now();
        let Some(running) = &mut self.entropy.running else { return };
        running.heard_at = now;
        let (number, key) = (running.number, running.link);
        match step {
            Step::Wait => {}
            Step::Ask(question) => {
                // Never 0, which frames have that are no answers.
                self.entropy.requests = self.entropy.requests.wrapping_add(1).max(1);
                let request = RequestId(self.entropy.requests);
                running.request = request;
                if let Some(link) = self.link(key) {
                    link.push(&question, request);
                }
            }
            Step::InspectHere(leaves) => {
                running.leaves = Some(Arc::clone(&leaves));
                let shown = Arc::clone(&running.shown);
                self.inspect(Asker::Myself(number), 0, &shown, leaves);
            }
            Step::LookHere(keys) => {
                let shown = Arc::clone(&running.shown);
                let held = self.held_here();
                if let Some(running) = &mut self.entropy.running {
                    running.held = held;
                }
                self.look_up(Asker::Myself(number), &shown, keys);
            }
            Step::Done => self.comparison_done(),
            Step::Broken => {
                tracing::warn!(
                    "a peer answers something else than it was asked when nodes are compared; is it of another version?"
                );
                self.give_up();
            }
        }
    }

    /// What this node holds by its own account.
    fn held_here(&self) -> Held {
        let began = self.logs.logs.last().map_or(Version(0), |log| to_wire(log.first));
        Held::by(NodeId(self.facts.node.0), began, self.covered(), self.time.unix_ms)
    }

    /// The cores have answered.
    pub(super) fn found_here(&mut self, number: u64, gathered: Gathered, next: Option<u64>) {
        let forgotten = crate::replication::from_wire(self.notes.forgotten());
        let Some(running) = self.entropy.running.as_mut().filter(|running| running.number == number) else { return };
        let step = match gathered {
            Gathered::Sums(digest) => running.comparison.summed_here(digest),
            Gathered::Entries(entries, _) if running.leaves.is_some() => {
                running.comparison.found_here(entries);
                running.heard_at = self.time.mono;
                match (next, running.leaves.clone()) {
                    (Some(cursor), Some(leaves)) => {
                        let shown = Arc::clone(&running.shown);
                        return self.inspect(Asker::Myself(number), cursor, &shown, leaves);
                    }
                    _ => {
                        running.leaves = None;
                        reach(Mark::ComparedByKey);
                        running.comparison.inspected_here()
                    }
                }
            }
            Gathered::Entries(entries, unclear) => {
                running.comparison.looked_here(&running.held, forgotten, &entries, &unclear)
            }
            Gathered::Parts(_) | Gathered::Piece(_) | Gathered::Records(..) => return,
        };
        self.proceed(step);
    }

    /// A peer that has introduced itself answers something.
    pub(super) fn hear_comparison(&mut self, key: LinkKey, request: RequestId, message: Message) {
        if let (Message::Records(batch), Some(link)) = (&message, self.link(key)) {
            link.received.records += (HEADER_BYTES + net::wire::body::records::HEAD_BYTES + batch.payload.len()) as u64;
            link.received.raw_records += u64::from(batch.head.raw_bytes);
        }
        let is_meant = |running: &&mut Running| running.link == key && running.request == request;
        // What comes after a comparison was given up is nothing to anybody.
        let Some(running) = self.entropy.running.as_mut().filter(is_meant) else { return };
        let step = match message {
            Message::Coverage(_) => Step::Wait,
            Message::Sums(sums) => running.comparison.summed_there(&sums),
            Message::Entries(entries) => running.comparison.found_there(entries),
            Message::Records(batch) => return self.take_repair(key, &batch),
            Message::Ok(_) => running.comparison.fetched(&BTreeSet::new()),
            Message::Error(failed) => {
                tracing::info!(reason = failed.text, "a peer cannot be compared with this node now");
                return self.give_up();
            }
            _ => Step::Broken,
        };
        self.proceed(step);
    }

    /// Records came that this node had lost: they go the way of all records of others, but that nothing is claimed.
    fn take_repair(&mut self, key: LinkKey, batch: &Records) {
        let Some(running) = &self.entropy.running else { return };
        let (comparison, forgotten) = (&running.comparison, self.notes.forgotten());
        let mut keys: BTreeSet<Bytes> = BTreeSet::new();
        let is_wanted = |record: &RecordView<'_>| {
            if !comparison.asked_for(record.key, record.version, record.original_crc()) {
                return false;
            }
            keys.insert(Bytes::copy_from_slice(record.key));
            // What may have been forgotten since it was asked for stays
            // out: cores hear what they may forget in order with what they are handed.
            to_wire(record.version) > forgotten || wal::planted::is(wal::planted::Fault::JudgeIgnoresFloor)
        };
        let parts = match self.core_state.take_repair(batch, is_wanted) {
            Ok(parts) => parts,
            Err(error) => {
                self.give_up();
                return self.refuse(key, &Refuse::new(RefuseCode::Unexpected, &error.to_string()));
            }
        };
        let covered = self.watermarks.covered(batch.head.log, net::wire::body::records::PASS);
        for part in parts {
            reach(Mark::LostRecordRepaired);
            let (sequence, records, covered) = (part.sequence, part.records, covered.clone());
            self.cores[usize::from(part.core)].send(ToCore::Follow { sequence, records, covered });
        }
        let Some(running) = &mut self.entropy.running else { return };
        let step = running.comparison.fetched(&keys);
        self.proceed(step);
    }

    fn comparison_done(&mut self) {
        let Some(running) = self.entropy.running.take() else { return };
        self.note_outcome(&running, true);
        if let Some(operator) = self.entropy.operator.as_mut().filter(|_| running.is_asked_for) {
            operator.result.compared += 1;
        }
    }

    /// Whatever was found and repaired by now counts.
    fn give_up(&mut self) {
        let Some(running) = self.entropy.running.take() else { return };
        tracing::info!(peer = %self.mesh.peers[running.peer], "a comparison with a peer was given up");
        self.note_outcome(&running, false);
        if running.is_asked_for {
            self.not_compared();
        }
    }

    fn not_compared(&mut self) {
        if let Some(operator) = &mut self.entropy.operator {
            operator.result.not_compared += 1;
        }
    }

    fn note_outcome(&mut self, running: &Running, is_whole: bool) {
        let (peer, outcome): (usize, &Outcome) = (running.peer, running.comparison.outcome());
        let compared = &mut self.entropy.compared[peer];
        compared.lacking += outcome.lacking;
        compared.repaired += outcome.repaired;
        if is_whole {
            compared.comparisons += 1;
            compared.ended_unix_ms = self.time.unix_ms;
        }
        if let Some(operator) = self.entropy.operator.as_mut().filter(|_| running.is_asked_for) {
            operator.result.lacking += outcome.lacking;
            operator.result.repaired += outcome.repaired;
        }
        if outcome.lacking > 0 {
            let hashes: Vec<String> = outcome.hashes.iter().map(|hash| format!("{hash:016x}")).collect();
            tracing::warn!(
                peer = %self.mesh.peers[peer],
                lacking = outcome.lacking,
                repaired = outcome.repaired,
                key_hashes = hashes.join(", "),
                "this node had lost records that it said it holds, and fetched them from a peer: look for what its disk or its memory lost; \
                 `godwit verify` compares all regions"
            );
        }
    }

    /// An operator asks for a comparison with every peer now.
    pub(super) fn repair_now(&mut self, key: LinkKey, request: RequestId) {
        let failed = |code, text: &str| Err(Failed::new(code, text));
        if self.stop.asked || self.failed.is_some() || self.removed {
            let text = "this node stops, or was removed from the mesh";
            return self.answer(key, request, failed(ErrorCode::NotReady, text));
        }
        let waits = self.entropy.operator.as_ref().map(|operator| operator.link);
        if waits.is_some_and(|link| self.link(link).is_some()) {
            return self.answer(
                key,
                request,
                failed(ErrorCode::Full, "somebody asked for this already; try again later"),
            );
        }
        let own = self.mesh.discovery;
        let peers = (0..self.mesh.peers.len()).filter(|peer| self.mesh.peers[*peer] != own).collect();
        let result = Repaired { compared: 0, not_compared: 0, lacking: 0, repaired: 0 };
        self.entropy.operator = Some(Waiting { link: key, request, peers, result });
    }

    fn answer_operator(&mut self) {
        let Some(operator) = self.entropy.operator.take() else { return };
        if let Some(link) = self.link(operator.link) {
            link.push(&Message::Repaired(operator.result), operator.request);
        }
    }
}
