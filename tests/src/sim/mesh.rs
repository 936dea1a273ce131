//! The mesh of regions: the world, what runs in it, and the words in which scenarios are told.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use engine::control::bulk::BULK_BYTES_MIN;
use engine::replication::residency::Policy;
use engine::startup::StartError;
use net::reactor::Mono;
use net::reactor::sim::{DiskImage, LoopId, NodeIndex, Random, World};
use wal::CommitPath;

use super::check::clocks::Clocks;
use super::check::services::Services;
use super::check::{Checks, Violation, recovery};
use super::client::{Client, Source};
use super::health::Health;
use super::node::{self, Node, NodeSettings, Part, SEGMENT_BYTES, STORAGE_PORT};
use super::plan::{Death, NodePlan, Plan};
use super::workload::{Mix, Note};

pub use super::plan::REGIONS;

/// By pair of regions, one way.
const DELAYS_US: [(usize, usize, u64); 3] = [(0, 1, 37_000), (1, 2, 46_000), (0, 2, 82_500)];
/// Between two nodes of one region.
const NEAR_US: u64 = 300;

/// Names and contents.
pub(crate) type Checkpoint = Vec<(String, Vec<u8>)>;

#[derive(Clone, Copy, Debug)]
enum Owner {
    Node(usize, Part),
    Client(usize),
}

/// One node's place: its machine, and the node while it runs.
#[derive(Debug)]
pub(crate) struct NodeState {
    pub(crate) name: String,
    pub(crate) settings: NodeSettings,
    pub(crate) node: Option<Node>,
    pub(crate) cores: u16,
    /// The error of its wall clock when nobody plays with it.
    pub(crate) wall_offset_ms: i64,
    /// And how far it has jumped for now.
    pub(crate) wall_jump_ms: i64,
    pub(crate) log_failures: u32,
    /// Its disk at an earlier time.
    pub(crate) copy: Option<DiskImage>,
    /// How it ends at the effect for which the world was armed.
    pub(crate) condemned: Option<Death>,
    /// It was asked to stop, and how its process ends then.
    pub(crate) stopping: Option<Death>,
    /// The files of the checkpoint before the last one, and of the last one.
    pub(crate) checkpoints: [Checkpoint; 2],
    clients_machine: NodeIndex,
}

/// The regions, their clients and the checkers.
#[derive(Debug)]
pub struct Mesh {
    pub(crate) world: World,
    pub(crate) nodes: Vec<NodeState>,
    pub(crate) clients: Vec<Client>,
    pub(crate) checks: Checks,
    pub(crate) violation: Option<Violation>,
    /// What happened, a line each.
    pub story: Vec<String>,
    /// How often a node died.
    deaths: u64,
    /// Segments that nodes which have ended gave up, and how many of the files they used again.
    removed: u64,
    recycled: u64,
    /// By loop.
    owners: Vec<Option<Owner>>,
    ids: Rc<Cell<u64>>,
    /// What consoles learnt, by operation.
    pub(crate) answers: Vec<Note>,
    /// By node, the client that scenarios speak through.
    pub(crate) consoles: Vec<usize>,
    pub(crate) health: Health,
}

/// From how many bytes on a follower gets what it lacks on a bulk connection: logs are small here.
fn draw_bulk(seed: u64) -> u64 {
    let mut random = Random::new(seed ^ 0xB01C_0000_0000_0005);
    [0, 1, 4_096, 65_536, BULK_BYTES_MIN][random.index(5)]
}

impl Mesh {
    /// Three regions with two cores each, up and serving.
    #[must_use]
    pub fn new(seed: u64) -> Mesh {
        Mesh::with_cores(seed, [2, 2, 2])
    }

    /// Three regions with these numbers of cores.
    #[must_use]
    pub fn with_cores(seed: u64, cores: [u16; 3]) -> Mesh {
        let mut mesh = Mesh::down(seed, cores);
        mesh.start_all();
        mesh.sound();
        mesh
    }

    /// Three regions whose nodes have these ids.
    #[must_use]
    pub fn with_node_ids(seed: u64, ids: [u32; 3]) -> Mesh {
        let nodes: Vec<NodePlan> =
            (0..).zip(ids).map(|(region, id)| NodePlan { id: Some(id), ..NodePlan::new(region, 2) }).collect();
        let mut mesh = Mesh::of_nodes(seed, &nodes);
        mesh.start_all();
        mesh.sound();
        mesh
    }

    /// Three regions that forget what was deleted once all hold that, started.
    #[must_use]
    pub fn collecting(seed: u64, cores: [u16; 3]) -> Mesh {
        let mut mesh = Mesh::down(seed, cores);
        for state in &mut mesh.nodes {
            state.settings.collects_tombstones = true;
        }
        mesh.start_all();
        mesh
    }

    /// All nodes have this policy from their next start on.
    ///
    /// # Panics
    /// If it is none.
    pub fn set_residency(&mut self, policy: &str) {
        for state in &mut self.nodes {
            state.settings.policy = Policy::parse(policy).expect("a policy");
        }
    }

    /// Three regions whose nodes are not started yet.
    #[must_use]
    pub fn down(seed: u64, cores: [u16; 3]) -> Mesh {
        let nodes: Vec<NodePlan> = (0..).zip(cores).map(|(region, cores)| NodePlan::new(region, cores)).collect();
        Mesh::of_nodes(seed, &nodes)
    }

    /// The world of a plan, with its clients; nothing is started yet.
    #[must_use]
    pub fn planned(plan: &Plan) -> Mesh {
        let mut mesh = Mesh::of_nodes(plan.seed, &plan.nodes);
        for state in &mut mesh.nodes {
            let segment_bytes = u64::from(state.settings.segment_bytes);
            state.settings.wal_retain_bytes = plan.retain_segments * segment_bytes;
            state.settings.collects_tombstones = plan.collects;
            state.settings.policy = Policy::parse(&plan.residency).expect("a plan is sound");
            (state.settings.packs, state.settings.catch_up_rate) = (plan.packs, plan.catch_up_rate);
            state.settings.anti_entropy_ms = plan.anti_entropy_ms;
            state.settings.bulk_bytes_min = draw_bulk(plan.seed);
            state.settings.memory_bytes_max = plan.memory_segments.map(|segments| segments * segment_bytes);
        }
        for link in &plan.links {
            let (from, to) = (mesh.ip(link.from), mesh.ip(link.to));
            mesh.world.set_loss(from, to, link.loss_ppm);
            mesh.world.set_jitter(from, to, link.jitter_ns);
        }
        mesh.world.set_duplication(plan.duplication_ppm);
        mesh.world.set_turn_ns_max(plan.turn_ns_max);
        for client in &plan.clients {
            let added = mesh.add_client(client.node, Source::Mix { mix: client.mix, on: true }, client.depth);
            if client.roams {
                let places = mesh.nodes.iter().map(|state| SocketAddr::new(state.settings.ip, STORAGE_PORT)).collect();
                mesh.clients[added].roams(places);
            }
        }
        mesh
    }

    /// Any number of nodes in the three regions, not started yet.
    #[must_use]
    pub fn of_nodes(seed: u64, nodes: &[NodePlan]) -> Mesh {
        let world = World::new(seed);
        let ips: Vec<IpAddr> = (1..).zip(nodes).map(|(last, _)| IpAddr::from([10, 0, 0, last])).collect();
        for (from, source) in ips.iter().zip(nodes) {
            for (to, target) in ips.iter().zip(nodes) {
                world.set_delay(*from, *to, delay_us(source.region, target.region) * 1000);
            }
        }
        let states: Vec<NodeState> = (1..)
            .zip(nodes)
            .map(|(last, plan)| {
                let ip = IpAddr::from([10, 0, 0, last]);
                let machine = world.add_node(&[ip]);
                world.set_wall_drift(machine, plan.wall_drift_ppm);
                world.set_mono_drift(machine, plan.mono_drift_ppm);
                world.set_sync_delay(machine, plan.sync_delay);
                if let Some(id) = plan.id {
                    node::name(&world.disk(machine), id);
                }
                let nth = nodes[..usize::from(last) - 1].iter().filter(|other| other.region == plan.region).count();
                let region = REGIONS[plan.region];
                NodeState {
                    name: if nth == 0 { region.to_owned() } else { format!("{region}-{}", nth + 1) },
                    settings: NodeSettings {
                        region: region.to_owned(),
                        machine,
                        ip,
                        peers: ips.iter().copied().filter(|other| *other != ip).collect(),
                        segment_bytes: SEGMENT_BYTES,
                        commit_path: CommitPath::Mmap,
                        // A few segments: slow followers are cut off now and then.
                        wal_retain_bytes: 4 * u64::from(SEGMENT_BYTES),
                        collects_tombstones: false,
                        // Scenarios measure what goes over links, and all that is written here can be packed.
                        packs: false,
                        catch_up_rate: 0,
                        policy: Policy::default(),
                        anti_entropy_ms: None,
                        bulk_bytes_min: BULK_BYTES_MIN,
                        memory_bytes_max: None,
                    },
                    node: None,
                    cores: plan.cores,
                    wall_offset_ms: plan.wall_offset_ms,
                    wall_jump_ms: 0,
                    log_failures: 0,
                    copy: None,
                    condemned: None,
                    stopping: None,
                    checkpoints: Default::default(),
                    clients_machine: world.add_node(&[IpAddr::from([10, 0, 1, last])]),
                }
            })
            .collect();
        let names: Vec<&str> = states.iter().map(|state| state.name.as_str()).collect();
        let mut checks = Checks::new(&names, ips.clone());
        let drifts = nodes.iter().map(|node| node.wall_drift_ppm.unsigned_abs() + node.mono_drift_ppm.unsigned_abs());
        checks.ledger.clocks = Clocks::new(drifts);
        world.set_tap(true);
        let places = states.iter().map(|state| (state.settings.region.clone(), state.settings.ip)).collect();
        let mut mesh = Mesh {
            nodes: states,
            clients: Vec::new(),
            checks,
            violation: None,
            story: Vec::new(),
            deaths: 0,
            removed: 0,
            recycled: 0,
            owners: Vec::new(),
            ids: Rc::default(),
            answers: Vec::new(),
            consoles: Vec::new(),
            health: Health::new(Services::new(places)),
            world,
        };
        for index in 0..mesh.nodes.len() {
            let console = mesh.add_client(index, Source::Script(std::collections::VecDeque::new()), 64);
            mesh.consoles.push(console);
        }
        mesh
    }

    /// Starts every node.
    pub fn start_all(&mut self) {
        for index in 0..self.nodes.len() {
            self.start(index);
        }
    }

    pub(crate) fn ip(&self, index: usize) -> IpAddr {
        self.nodes[index].settings.ip
    }

    pub(crate) fn machine(&self, index: usize) -> NodeIndex {
        self.nodes[index].settings.machine
    }

    /// Adds a client of a node with a random mix and up to `depth` operations under way.
    pub fn add_mix(&mut self, node: usize, mix: Mix, depth: usize) {
        self.add_client(node, Source::Mix { mix, on: true }, depth);
    }

    fn add_client(&mut self, node: usize, source: Source, depth: usize) -> usize {
        let state = &self.nodes[node];
        let target = SocketAddr::new(state.settings.ip, STORAGE_PORT);
        let client = Client::new(&self.world, state.clients_machine, node, target, source, depth, &self.ids);
        self.own(client.id(), Owner::Client(self.clients.len()));
        self.clients.push(client);
        self.clients.len() - 1
    }

    fn own(&mut self, id: LoopId, owner: Owner) {
        if self.owners.len() <= id.0 {
            self.owners.resize(id.0 + 1, None);
        }
        self.owners[id.0] = Some(owner);
    }

    /// Notes something for the story.
    pub(crate) fn tell(&mut self, text: &str) {
        let millis = self.world.now().0 / 1_000_000;
        self.story.push(format!("{millis:>7} ms  {text}"));
    }

    pub(crate) fn violate(&mut self, violation: Violation) {
        self.tell(&violation.to_string());
        self.violation.get_or_insert(violation);
    }

    pub(crate) fn judge(&mut self, result: Result<(), Violation>) {
        if let Err(violation) = result {
            self.violate(violation);
        }
    }

    /// Sets a node's wall clock as its own error and the jump at hand have it.
    pub(crate) fn turn_clock(&mut self, index: usize) {
        let state = &self.nodes[index];
        let error_ms = state.wall_offset_ms + state.wall_jump_ms;
        self.world.set_wall_offset(state.settings.machine, error_ms);
        self.checks.ledger.clocks.turned(index, error_ms, self.world.now());
    }

    /// Starts a node on what its disk holds. A node that refuses what it reads is a violation, unless somebody damaged its disk.
    /// One whose disk answers with an error only has to be started again.
    pub(crate) fn start(&mut self, index: usize) {
        // The bytes are the same: a node may change the path with every run.
        let direct = self.world.random_below(2) == 0;
        self.turn_clock(index);
        let state = &mut self.nodes[index];
        assert!(state.node.is_none(), "a place has one node");
        state.settings.commit_path = if direct { CommitPath::Direct } else { CommitPath::Mmap };
        let started = Node::start(&self.world, &state.settings, state.cores);
        if self.world.take_crashed() == Some(self.machine(index)) {
            self.tell(&format!("{} dies while it starts", self.nodes[index].name));
            self.checks.ledger.clocks.died_starting(index);
            return self.end_process(index);
        }
        match started {
            Ok(mut node) => {
                for (id, part) in node.loops() {
                    self.own(id, Owner::Node(index, part));
                }
                let disk = self.world.disk(self.machine(index));
                let checked = self.checks.started(index, &mut node, &disk);
                for line in node.report.clone().iter().filter(|line| line.contains("checkpoint")) {
                    self.tell(&format!("{}: {line}", self.nodes[index].name));
                }
                let state = &self.nodes[index];
                let text =
                    format!("{} starts with {} cores, {:?}", state.name, state.cores, state.settings.commit_path);
                self.nodes[index].node = Some(node);
                // Scenarios do not want to wait until their console notices.
                self.clients[self.consoles[index]].reconnect();
                self.tell(&text);
                self.judge(checked);
            }
            Err(error) => {
                self.world.kill(self.machine(index));
                let text = format!("{} does not start: {error}", self.nodes[index].name);
                if is_io(&error) {
                    // It says so and ends; its supervisor tries again.
                    self.tell(&text);
                } else if self.checks.losses.is_damaged(index) {
                    self.tell(&text);
                    self.replace_disk(index);
                } else {
                    self.violate(Violation::new(recovery::D3, text));
                }
            }
        }
    }

    /// An empty disk takes the place of a node's: what starts next is a new node.
    pub(crate) fn replace_disk(&mut self, index: usize) {
        self.world.wipe_disk(self.machine(index));
        self.disk_changed(index, "gets an empty disk");
    }

    /// The disk of a node that is down is another one now.
    pub(crate) fn disk_changed(&mut self, index: usize, how: &str) {
        self.tell(&format!("{} {how}", self.nodes[index].name));
        self.checks.disk_changed(index);
    }

    /// A node's disk is full from now on, or has room again.
    pub(crate) fn set_disk_full(&mut self, index: usize, full: bool) {
        self.world.set_disk_full(self.machine(index), full);
        self.checks.room.set(index, full, self.world.now());
    }

    /// Power loss, or only the end of the process.
    pub(crate) fn stop(&mut self, index: usize, death: Death) {
        let Some(node) = self.nodes[index].node.take() else { return };
        self.nodes[index].stopping = None;
        self.deaths += 1;
        self.removed += node.facts.sum(|core| &core.segments_removed);
        self.recycled += node.facts.sum(|core| &core.segments_recycled);
        for (id, _) in node.loops() {
            self.owners[id.0] = None;
        }
        self.nodes[index].condemned = Some(death);
        self.end_process(index);
        drop(node);
        let how = if death == Death::Power { "loses power" } else { "is killed" };
        self.tell(&format!("{} {how}", self.nodes[index].name));
    }

    /// The process of a node is over, in the way in which it was condemned to end.
    fn end_process(&mut self, index: usize) {
        let machine = self.machine(index);
        self.world.disarm_crash(machine);
        self.world.resume(machine);
        match self.nodes[index].condemned.take() {
            Some(Death::Kill) => self.world.kill(machine),
            _ => self.world.crash(machine),
        }
        self.overhear(Some(index));
        self.checks.died(index);
        self.unsettle();
    }

    /// Runs until `limit` or the first violation.
    pub(crate) fn run_until(&mut self, limit: Mono) {
        while self.violation.is_none() && self.step(limit) {}
    }

    /// As [`Mesh::run_until`], but no further than the next death of a node that nobody killed.
    pub(crate) fn run_until_death(&mut self, limit: Mono) {
        let before = self.deaths;
        while self.violation.is_none() && self.deaths == before && self.step(limit) {}
    }

    /// Lets the next loop have its turn; whether there was one before `limit`.
    pub(crate) fn step(&mut self, limit: Mono) -> bool {
        let next = self.world.step_until(limit);
        self.bury();
        if let Some(id) = next {
            self.tick(id);
        }
        next.is_some()
    }

    /// Ends the nodes whose processes died at an effect; whether any did.
    fn bury(&mut self) -> bool {
        let before = self.deaths;
        while let Some(machine) = self.world.take_crashed() {
            let index = self.nodes.iter().position(|state| state.settings.machine == machine);
            if let Some(index) = index {
                let death = self.nodes[index].condemned.unwrap_or(Death::Power);
                self.stop(index, death);
            }
        }
        self.deaths > before
    }

    /// How many segments were given up so far because nothing in them counted any more, and how many files were used again.
    #[must_use]
    pub fn segments_given_up(&self) -> (u64, u64) {
        let facts = || self.nodes.iter().filter_map(|state| state.node.as_ref()).map(|node| &node.facts);
        let removed: u64 = facts().map(|facts| facts.sum(|core| &core.segments_removed)).sum();
        let recycled: u64 = facts().map(|facts| facts.sum(|core| &core.segments_recycled)).sum();
        (self.removed + removed, self.recycled + recycled)
    }

    /// How many segments the present runs have compacted.
    #[must_use]
    pub fn segments_compacted(&self) -> u64 {
        let facts = self.nodes.iter().filter_map(|state| state.node.as_ref()).map(|node| &node.facts);
        facts.map(|facts| facts.sum(|core| &core.compacted_segments)).sum()
    }

    /// Lets virtual time pass.
    pub fn run_ms(&mut self, millis: u64) {
        let limit = self.world.now().plus_ms(millis);
        self.run_until(limit);
    }

    /// Gives a loop its turn.
    pub(crate) fn tick(&mut self, id: LoopId) {
        self.look();
        match self.owners.get(id.0).copied().flatten() {
            Some(Owner::Node(index, part)) => self.tick_node(id, index, part),
            Some(Owner::Client(index)) => {
                self.clients[index].tick();
                self.world.sleep(id, self.clients[index].wait());
                for note in self.clients[index].take_notes() {
                    let heard = self.checks.heard(self.world.now(), &note);
                    self.judge(heard);
                    if self.consoles.contains(&index) {
                        self.answers.push(note);
                    }
                }
            }
            // Its process died between the choice and the turn.
            None => {}
        }
    }

    fn tick_node(&mut self, id: LoopId, index: usize, part: Part) {
        let state = &mut self.nodes[index];
        let Some(node) = &mut state.node else { return };
        node.tick(part);
        if let Part::Core(core) = part {
            // Before the dead are buried: a process that died in this turn may have answered from what it heard to be durable.
            let disk = self.world.disk(state.settings.machine);
            let sync_failed = self.world.sync_failed(id);
            let checked = self.checks.core_ticked(index, core, node, &disk, sync_failed);
            let shown_unix_ms = node.cores[core].time().unix_ms;
            let checked = checked.and_then(|()| {
                let clocks = &mut self.checks.ledger.clocks;
                clocks.shows(index, core, shown_unix_ms, self.world.now())
            });
            self.judge(checked);
        }
        if self.bury() {
            // What a dying process did after its last effect happened nowhere.
            return;
        }
        let Some(node) = &mut self.nodes[index].node else { return };
        let wait = node.wait(part);
        self.world.sleep(id, wait);
        let failure = node.control.failure().map(str::to_owned);
        if part == Part::Control {
            let checked = self.checks.claims(index, node);
            self.judge(checked);
            self.overhear(None);
        }
        if let Some(failure) = failure {
            // What the process does: it says why and ends.
            self.tell(&format!("{}'s log failed: {failure}", self.nodes[index].name));
            self.nodes[index].log_failures += 1;
            self.stop(index, Death::Kill);
        }
        self.end_if_stopped(index);
    }

    /// Holds what nodes sent to what they may send.
    fn overhear(&mut self, dying: Option<usize>) {
        let sent = self.world.tap();
        let checked = self.checks.overheard(&sent, dying);
        self.judge(checked);
    }

    /// The run so far, as one number.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.world.trace_hash()
    }

    /// The checkers, to look at what they know.
    #[must_use]
    pub fn checks(&self) -> &Checks {
        &self.checks
    }

    /// What was violated, if anything.
    #[must_use]
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// Asserts that nothing was violated so far.
    ///
    /// # Panics
    /// With the story and the violation.
    pub fn sound(&self) {
        if let Some(violation) = &self.violation {
            panic!("{violation}\n{}", self.story.join("\n"));
        }
    }
}

fn delay_us(from: usize, to: usize) -> u64 {
    let pair = DELAYS_US.iter().find(|(a, b, _)| (*a, *b) == (from.min(to), from.max(to)));
    pair.map_or(NEAR_US, |(_, _, us)| *us)
}

/// Whether the disk, and not what lies on it, made a start fail.
fn is_io(error: &StartError) -> bool {
    let source = match error {
        StartError::Io { source, .. } => source,
        _ => return false,
    };
    source.raw_os_error().is_some()
}
