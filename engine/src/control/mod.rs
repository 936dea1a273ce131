//! The control thread: discovery, and the links between regions — the tailer's live side and the follower's.
//!
//! [`ControlLoop::tick`] owns the order of stages: completions, messages from the cores, frames, timers, what the senders
//! can send, what became persistable, output. State machines decide; this file and its parts only perform.

mod bootstrap;
pub mod bulk;
mod clocks;
mod cut;
mod discovery;
pub mod entropy;
mod follow;
mod handshake;
mod holders;
mod io;
pub mod link;
mod members;
mod old_runs;
mod relay;
mod retained;
mod serve;
mod sessions;
pub mod status;
mod survey;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io as std_io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use net::ids::LogId;
use net::reactor::{Completion, Io, Listener, Mono, Op, StreamKind, Wait};
use net::wire::body::Member;
use net::wire::packing::Packer;
use slab::Slab;
use wal::Version;

use self::bootstrap::Bootstraps;
use self::bulk::CatchUps;
use self::cut::Notes;
use self::entropy::Entropy;
use self::holders::BoardState;
use self::link::{Link, Traffic};
use self::members::Removal;
use self::old_runs::{OldRuns, old_run_facts};
use self::relay::Relays;
use self::sessions::Sessions;
use self::status::StatusBoard;
use self::survey::Surveys;
use crate::clock::skew::Skews;
use crate::clock::{PhysicalClock, Time};
use crate::core::ops::OpTable;
use crate::discovery::{Federation, Settings};
use crate::host::Host;
use crate::mailbox::{Outbox, Receiver as MailboxReceiver};
use crate::messages::{CoreEvent, ToControl, ToCore};
use crate::node::NodeFacts;
use crate::replication::bootstrap::Floor;
use crate::replication::cut::Cut;
use crate::replication::known::KnownLogs;
use crate::replication::lag::{LagClock, Volume};
use crate::replication::logs::{CoreLog, OwnLogs, SegmentRef};
use crate::replication::members::Members;
use crate::replication::receive::Cores;
use crate::replication::visibility::Visibility;
use crate::replication::watermarks::Watermarks;
use crate::shard::Removable;
use crate::startup::OldRun;
use crate::storage::NodeSecret;

/// Bytes queued on a link, and not yet with the kernel, before no more records are added.
pub const LINK_QUEUE_BYTES_MAX: usize = link::OUT_BYTES_MAX;

/// A changed watermark is made durable this long after it changed, at the latest with the next one.
const PERSIST_MS: u64 = 20;

/// How often the status board is refreshed.
const STATUS_MS: u64 = 100;

/// First and longest wait before a source is dialled again.
const REDIAL_MS_MIN: u64 = 200;
const REDIAL_MS_MAX: u64 = 2_000;

/// A peer that refused this node for a reason that only an operator can mend is left alone for this long.
const REFUSED_MS: u64 = 15_000;

/// A link that was up for this long is a good one: its loss is no reason to wait.
const GOOD_LINK_MS: u64 = 5_000;

/// How often it is said that a peer cannot be reached.
const UNREACHABLE_WARN_MS: u64 = 60_000;

/// Messages from cores handled per tick.
const MESSAGES_PER_TICK: usize = 1024;

/// A link of this thread, by index and generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LinkKey {
    index: usize,
    generation: u32,
}

/// What an operation of this thread was for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    Accept(Listener, Port),
    Receive(LinkKey),
    Send(LinkKey),
    Close,
    Dial(DialTarget),
    OpenSegment(LinkKey, SegmentRef),
    ReadSegment(LinkKey),
    RemoveOldSegment,
}

/// Which of the two mesh ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Discovery.
    Discovery,
    /// Replication.
    Replication,
}

/// What is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DialTarget {
    Discovery(usize),
    Source(SocketAddr),
    /// The same port, for a bulk connection.
    Bulk(SocketAddr),
}

impl DialTarget {
    /// Where a source is, if it is one.
    fn address(self) -> Option<SocketAddr> {
        match self {
            DialTarget::Discovery(_) => None,
            DialTarget::Source(address) | DialTarget::Bulk(address) => Some(address),
        }
    }
}

/// When to dial again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Redial {
    not_before: Mono,
    wait_ms: u64,
    busy: bool,
    /// When it was last said that nobody answers.
    warned_at: Option<Mono>,
}

/// What peers that do not read make a control loop hold, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerMemory {
    /// Queued on the fullest link, and not yet with the kernel.
    pub queue_bytes: usize,
    /// Durable frames in hand for followers at the tail, of the core that has most.
    pub in_hand_bytes: usize,
}

/// The settings of the control thread.
#[derive(Clone, Debug)]
pub struct MeshSettings {
    /// Where peers reach this host.
    pub advertise: IpAddr,
    /// Where processes of this host reach this node's services.
    pub local: IpAddr,
    /// `DISCOVERY_PEERS`.
    pub peers: Vec<SocketAddr>,
    /// Own discovery address as peers know it.
    pub discovery: SocketAddr,
    /// Own replication address as peers know it.
    pub replication: SocketAddr,
    /// Services of this node to register: name and port.
    pub services: Vec<(String, u16)>,
    /// The lab's one-way delays by the sender's address, in ns.
    pub delays_ns: HashMap<IpAddr, u64>,
    /// Bind outgoing connections to the advertised address.
    pub bind_outgoing: bool,
    /// Largest value in bytes; agreed in the handshake.
    pub value_bytes_max: u32,
    /// How far a follower may be behind the end of a core's log and still hold segments that nobody else needs.
    pub wal_retain_bytes: u64,
    /// Whether what was deleted, or has expired, is forgotten once every member of the mesh holds that.
    pub collects_tombstones: bool,
    /// Whether batches are packed where that gains.
    pub packs: bool,
    /// Bytes of segments a second that are read for one follower; 0: no bound.
    pub catch_up_rate: u64,
    /// How often the node compares itself with each peer and fetches what it lost, in milliseconds; `None`: only when it is asked.
    pub anti_entropy_ms: Option<u64>,
    /// A follower that has more bytes than this to be read for it gets those on a bulk connection.
    pub bulk_bytes_min: u64,
}

/// What the control thread is made of.
#[derive(Debug)]
pub struct ControlParts {
    /// The node.
    pub facts: Arc<NodeFacts>,
    /// Settings.
    pub mesh: MeshSettings,
    /// Where segments lie.
    pub data_dir: PathBuf,
    /// Own logs as recovery found them, the current one last.
    pub logs: OwnLogs,
    /// What is left of earlier runs, oldest first.
    pub old_runs: Vec<OldRun>,
    /// The recovered vector.
    pub watermarks: Watermarks,
    /// The recovered member table.
    pub members: Members,
    /// Logs of other nodes that earlier runs knew of.
    pub known: KnownLogs,
    /// What earlier runs may have forgotten, what they held, and whether a bootstrap is under way.
    pub forgotten: Floor,
    /// Placement of keys on cores.
    pub secret: NodeSecret,
    /// Messages of the cores.
    pub mailbox: MailboxReceiver<ToControl>,
    /// Mailboxes of the cores.
    pub cores: Vec<Outbox<ToCore>>,
    /// Where the monitor looks.
    pub status: StatusBoard,
}

/// A local record on its way to this node's log.
#[derive(Clone, Debug)]
enum Persisting {
    /// What is held of a log.
    Watermark(LogId),
    /// A row of the member table.
    Member(Member),
    /// What is held and what may be forgotten.
    Note,
    /// How far bootstraps are.
    Bootstrap(Floor),
}

/// How far the end is.
#[derive(Clone, Copy, Debug, Default)]
struct Stop {
    asked: bool,
    /// The cores know.
    told: bool,
}

/// The control thread's loop.
#[derive(Debug)]
pub struct ControlLoop<H: Host> {
    io: H::Io,
    ops: OpTable<H::File, Purpose>,
    completions: Vec<Completion<H::File>>,
    physical: PhysicalClock,
    time: Time,
    skews: Skews,
    /// Its clock is ahead of the others', and that was said.
    held_back: bool,
    facts: Arc<NodeFacts>,
    mesh: MeshSettings,
    data_dir: PathBuf,
    region: net::ids::RegionName,
    mailbox: MailboxReceiver<ToControl>,
    cores: Vec<Outbox<ToCore>>,
    status: StatusBoard,
    status_at: Mono,

    links: Slab<Link>,
    generation: u32,
    dials: HashMap<DialTarget, Redial>,

    federation: Federation,
    /// Which link speaks for a peer in discovery.
    peer_links: Vec<Option<LinkKey>>,
    registered_at: Option<Mono>,
    /// Where the other regions' logs are offered, as discovery lists it.
    sources: Vec<SocketAddr>,

    logs: OwnLogs,
    core_state: Cores,
    watermarks: Watermarks,
    known: KnownLogs,
    relays: Relays,
    bootstrap: Bootstraps,
    catch_ups: CatchUps,
    persist_at: Option<Mono>,
    ticket: u64,
    /// Local records on their way: ticket → (what it says, end once known).
    persisting: BTreeMap<u64, (Persisting, Option<wal::Lsn>)>,
    members: Members,
    /// Operators who wait for a removal to be durable.
    removals: Vec<Removal>,
    surveys: Surveys,
    entropy: Entropy,
    /// Whether this node was removed from the mesh, and the cores know.
    removed: bool,
    /// How far each follower said that it durably holds each own log; outlives its links.
    acknowledged: BTreeMap<(net::ids::NodeId, LogId), Version>,
    board: BoardState,
    sessions: Sessions,
    lag: LagClock,
    cut: Cut,
    cut_at: Mono,
    notes: Notes,
    visibility: Visibility,
    /// What links that are gone carried, sent and received, by peer.
    past_traffic: BTreeMap<net::ids::NodeId, (Traffic, Traffic)>,
    /// Versions idle cores were asked to reach.
    raised: Vec<Version>,
    packer: Packer,
    segment_files: HashMap<SegmentRef, H::File>,
    /// Segments that their cores would give up, by core.
    removable: Vec<(u16, Removable)>,
    /// It was said that much is kept for followers alone.
    is_retention_alarmed: bool,
    old_runs: OldRuns,
    /// Listeners that accept nothing until `rest_until`.
    resting: Vec<(Listener, Port)>,
    rest_until: Mono,
    /// Links with something to do for their sender; ordered, so that equal runs serve them in equal order.
    serve: BTreeSet<LinkKey>,
    failed: Option<String>,
    stop: Stop,
    stopped_cores: usize,
    refused: u64,
    last_refusal: String,
}

impl<H: Host> ControlLoop<H> {
    /// Assembles the loop on its thread.
    ///
    /// # Panics
    /// If the region's name was not validated.
    #[must_use]
    pub fn new(io: H::Io, parts: ControlParts) -> Self {
        let region = net::ids::RegionName::parse(&parts.facts.region).expect("the configuration validated the region");
        let settings = Settings {
            region: region.clone(),
            node: net::ids::NodeId(parts.facts.node.0),
            incarnation: net::ids::Incarnation(parts.facts.incarnation.0),
            advertise: parts.mesh.advertise,
            peers: parts.mesh.peers.clone(),
        };
        let physical = PhysicalClock::new(io.now(), io.wall_unix_ms(), parts.facts.started_unix_ms);
        let federation = Federation::new(settings, io.now());
        let mut control = ControlLoop {
            physical,
            time: Time::default(),
            skews: Skews::new(parts.mesh.peers.len()),
            entropy: Entropy::new(parts.mesh.peers.len()),
            held_back: false,
            ops: OpTable::default(),
            completions: Vec::new(),
            federation,
            peer_links: vec![None; parts.mesh.peers.len()],
            registered_at: None,
            sources: Vec::new(),
            core_state: Cores::new(parts.facts.cores, parts.secret, parts.mesh.value_bytes_max as usize)
                .that_may_hold(parts.facts.residency.here().clone()),
            raised: vec![Version::ZERO; usize::from(parts.facts.cores)],
            old_runs: OldRuns::new(parts.old_runs, parts.facts.cores),
            facts: parts.facts,
            mesh: parts.mesh,
            data_dir: parts.data_dir,
            region,
            mailbox: parts.mailbox,
            cores: parts.cores,
            status: parts.status,
            status_at: Mono(0),
            links: Slab::new(),
            generation: 0,
            dials: HashMap::new(),
            logs: parts.logs,
            watermarks: parts.watermarks,
            known: parts.known,
            relays: Relays::default(),
            bootstrap: Bootstraps::recovered(parts.forgotten),
            catch_ups: CatchUps::default(),
            persist_at: None,
            ticket: 0,
            persisting: BTreeMap::new(),
            members: parts.members,
            removals: Vec::new(),
            surveys: Surveys::default(),
            removed: false,
            acknowledged: BTreeMap::new(),
            board: BoardState::default(),
            sessions: Sessions::default(),
            lag: LagClock::default(),
            cut: Cut::default(),
            notes: Notes::recovered(parts.forgotten),
            cut_at: Mono(0),
            visibility: Visibility::default(),
            past_traffic: BTreeMap::new(),
            packer: Packer::default(),
            segment_files: HashMap::new(),
            removable: Vec::new(),
            is_retention_alarmed: false,
            resting: Vec::new(),
            rest_until: Mono(0),
            serve: BTreeSet::new(),
            failed: None,
            stop: Stop::default(),
            stopped_cores: 0,
            refused: 0,
            last_refusal: String::new(),
            io,
        };
        control.read_clock();
        control.join();
        for (log, first) in control.known.firsts() {
            control.watermarks.know(log, first);
        }
        control
    }

    /// Listens for the mesh.
    ///
    /// # Errors
    /// Those of bind and listen.
    pub fn listen(&mut self, addr: SocketAddr, port: Port) -> std_io::Result<SocketAddr> {
        let kind = match port {
            Port::Discovery => StreamKind::Discovery,
            Port::Replication => StreamKind::Replication,
        };
        let listener = self.io.listen(addr, kind, false)?;
        let bound = self.io.local_addr(listener)?;
        self.ops.submit(&mut self.io, Op::Accept { listener }, Purpose::Accept(listener, port));
        Ok(bound)
    }

    /// The vector of claims that hold here; for checkers and the monitor.
    #[must_use]
    pub fn watermarks(&self) -> &Watermarks {
        &self.watermarks
    }

    /// This node's copy of the member table; for checkers and the monitor.
    #[must_use]
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// This node's logs; for checkers and the monitor.
    #[must_use]
    pub fn logs(&self) -> &OwnLogs {
        &self.logs
    }

    /// Why the node no longer acknowledges writes, if so.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// How many cores have stopped cleanly.
    #[must_use]
    pub fn stopped_cores(&self) -> usize {
        self.stopped_cores
    }

    /// Payload and claim bytes sent over all links so far; silent links leave it unchanged.
    #[must_use]
    pub fn replication_bytes(&self) -> u64 {
        self.links.iter().map(|(_, link)| link.sent.records + link.sent.claims).sum()
    }

    /// What peers that do not read make this loop hold; for checkers and the monitor.
    #[must_use]
    pub fn peer_memory(&self) -> PeerMemory {
        let cores = self.logs.logs.last().map_or(&[][..], |log| &log.cores);
        PeerMemory {
            queue_bytes: self.links.iter().map(|(_, link)| link.out_bytes).max().unwrap_or(0),
            in_hand_bytes: cores.iter().map(CoreLog::in_hand_bytes).max().unwrap_or(0),
        }
    }

    /// Asks the cores to finish, as soon as no file of an earlier run is being removed: their checkpoints name every segment.
    pub fn stop_cores(&mut self) {
        self.stop.asked = true;
        self.tell_cores_to_stop();
    }

    fn tell_cores_to_stop(&mut self) {
        let waits = self.old_runs.is_removing() && self.failed.is_none();
        if !self.stop.asked || self.stop.told || waits {
            return;
        }
        self.stop.told = true;
        let mut old_runs = old_run_facts(&self.logs);
        for core in &mut self.cores {
            core.send(ToCore::Stop { old_runs: std::mem::take(&mut old_runs) });
        }
    }

    fn read_clock(&mut self) {
        self.time = self.physical.read(self.io.now(), self.io.wall_unix_ms());
    }

    fn now(&self) -> Mono {
        self.time.mono
    }

    /// One round of all stages. Blocks in `poll` when there is nothing to do.
    ///
    /// # Errors
    /// Those that make the loop unusable.
    pub fn tick(&mut self) -> std_io::Result<()> {
        let wait = self.wait();
        let mut completions = std::mem::take(&mut self.completions);
        self.io.poll(wait, &mut completions)?;
        self.mailbox.disarm();
        self.read_clock();
        for completion in completions.drain(..) {
            self.complete(completion);
        }
        self.completions = completions;
        self.hear_cores();
        self.end_rest();
        self.release_delayed();
        self.advance_claims();
        self.tend_sessions();
        self.advance_bootstrap();
        self.keep_bulk_links();
        self.run_discovery();
        self.dial();
        self.ask_relays();
        self.start_paced_reads();
        self.serve_followers();
        self.tell_backlogs();
        self.let_segments_go();
        self.let_old_runs_go();
        self.tell_cores_to_stop();
        self.tell_members();
        self.tell_holders();
        self.persist_members();
        self.persist_watermarks();
        self.advance_cut();
        self.compare_with_peers();
        self.keep_links();
        self.send_all();
        self.ops.resubmit(&mut self.io);
        self.publish();
        Ok(())
    }

    /// How long the next tick may sleep in `poll`. Arms the mailbox: whoever sends to it from now on wakes the loop.
    pub fn wait(&mut self) -> Wait {
        let mut retry = self.ops.has_backlog();
        for core in &mut self.cores {
            retry |= core.flush();
        }
        if !self.mailbox.arm() {
            return Wait::Now;
        }
        let now = self.io.now();
        let mut until = now.plus_ms(STATUS_MS);
        if retry {
            until = until.min(now.plus_ms(1));
        }
        until = until.min(self.federation.next_deadline());
        if let Some(at) = self.persist_at {
            until = until.min(at);
        }
        if let Some(at) = self.cut_deadline() {
            until = until.min(at);
        }
        if let Some(at) = self.sessions.deadline() {
            until = until.min(at);
        }
        for (index, link) in &self.links {
            let is_served = self.serve.contains(&LinkKey { index, generation: link.generation }) && !link.sending;
            let serves_at = link.serves_at.filter(|_| is_served);
            for at in [link.next_release(), link.reads_at, serves_at].into_iter().flatten() {
                until = until.min(at);
            }
        }
        Wait::Until(until)
    }

    fn hear_cores(&mut self) {
        for _ in 0..MESSAGES_PER_TICK {
            let Some(ToControl { core, event }) = self.mailbox.receive() else { return };
            let index = usize::from(core);
            if self.failed.is_some() && !matches!(event, CoreEvent::Stopped) {
                // After a failure nothing that a core says counts any more; a dead log leaves batches unanswered.
                continue;
            }
            match event {
                CoreEvent::Durable { durable, complete, frames } => {
                    self.core_state.durable(core, durable);
                    for frame in &frames {
                        let volume = Volume { bytes: frame.payload.len() as u64, records: frame.frame.records.into() };
                        self.lag.durable(core, frame.frame.max_version, volume);
                    }
                    self.logs.current().cores[index].extend(durable, complete, frames);
                    let complete = self.logs.current().complete();
                    self.lag.reached(complete, self.time.unix_ms);
                    self.watermark_records_durable(core);
                    self.wake_senders();
                }
                CoreEvent::WaitsFor(version) => self.own_claim_wanted(version),
                CoreEvent::SessionCame { number, token, until } => self.session_came(core, number, token, until),
                CoreEvent::Followed { sequence, staged } => {
                    self.core_state.followed(core, sequence, staged);
                    for (_, link) in &mut self.links {
                        if let link::Role::Following { receiver, .. } = &mut link.role {
                            receiver.followed(core, sequence, staged);
                        }
                    }
                }
                CoreEvent::Appended { ticket, end } => {
                    if let Some((_, place)) = self.persisting.get_mut(&ticket) {
                        *place = Some(end);
                    }
                    self.watermark_records_durable(core);
                }
                CoreEvent::Segment { number, cookie, base } => {
                    let core_id = wal::CoreId(core);
                    let segment = SegmentRef { core: core_id, number, cookie, base, end: None };
                    self.logs.current().cores[index].segments.push(segment);
                }
                CoreEvent::OldSegmentEmptied { segment, upto, replaced_upto } => {
                    self.old_runs.emptied(core, segment, upto, replaced_upto);
                }
                CoreEvent::Dead { upto } if self.mesh.collects_tombstones => {
                    self.cut.want(core, crate::replication::to_wire(upto));
                }
                CoreEvent::Dead { .. } => {}
                CoreEvent::Sifted { ticket, records, staged } => self.sifted(core, ticket, &records, staged),
                CoreEvent::Swept { dropped, staged } => self.swept(core, dropped, staged),
                CoreEvent::Surveyed { ticket, found } => self.surveyed(ticket, found),
                CoreEvent::Removable(removable) => self.removable.push((core, removable)),
                CoreEvent::Failed(reason) => {
                    // No acknowledgement after it anywhere on the node.
                    if self.failed.is_none() {
                        tracing::error!(core, reason, "this node stops acknowledging writes");
                        self.failed = Some(reason);
                        // The other cores end with it, so that the process ends at once and says why.
                        self.stop_cores();
                    }
                }
                CoreEvent::Stopped => self.stopped_cores += 1,
            }
        }
    }

    fn publish(&mut self) {
        let now = self.now();
        if now < self.status_at.plus_ms(STATUS_MS) && self.status_at != Mono(0) {
            return;
        }
        self.status_at = now;
        self.judge_clocks();
        let peers = self.peer_statuses();
        let members = self.member_statuses();
        let visibility = self.visibility.statuses();
        let removed = self.removed;
        let bootstrap = self.bootstrap.status();
        let complete = self.logs.logs.last().map_or(0, |log| log.complete().0);
        // A core names its first segment in its first tick: by then it listens.
        let serving = self.logs.logs.last().is_some_and(|log| log.cores.iter().all(|core| !core.segments.is_empty()));
        let (stepped, held_back_ms) = (self.physical.is_stepped(), self.skews.held_back_ms());
        let (stable_cut, uncollected_ms) = (self.cut.cut().0, self.uncollected_ms());
        let retained_bytes = self.retained_bytes();
        let (failed, refused, last_refusal) = (self.failed.clone(), self.refused, self.last_refusal.clone());
        self.status.write(|status| {
            status.ready = complete > 0 && serving && failed.is_none() && !removed && !bootstrap.under_way;
            status.bootstrap = bootstrap;
            status.removed = removed;
            status.failed = failed;
            status.complete = complete;
            status.clock_stepped = stepped;
            status.stable_cut = stable_cut;
            status.uncollected_ms = uncollected_ms;
            status.retained_bytes = retained_bytes;
            status.clock_held_back_ms = held_back_ms;
            status.peers = peers;
            status.members = members;
            status.visibility = visibility;
            status.refused = refused;
            status.last_refusal = last_refusal;
        });
    }
}
