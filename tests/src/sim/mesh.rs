//! The mesh of regions: the world, what runs in it, and the words in which scenarios are told.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use engine::startup::StartError;
use net::reactor::Mono;
use net::reactor::sim::{LoopId, NodeIndex, World};
use wal::{CommitPath, Version};

use super::check::finals::{self, CONVERGED, L1, SILENCE};
use super::check::{Checks, Violation, recovery};
use super::client::{Client, Source};
use super::node::{self, Node, NodeSettings, Part, SEGMENT_BYTES, STORAGE_PORT};
use super::workload::{Mix, Note};

/// The regions and their one-way delays in microseconds: sfo–nyc, nyc–ams, sfo–ams.
pub const REGIONS: [&str; 3] = ["sfo", "nyc", "ams"];
/// By pair of regions.
const DELAYS_US: [(usize, usize, u64); 3] = [(0, 1, 37_000), (1, 2, 46_000), (0, 2, 82_500)];

/// After healing, the regions have this long to become equal, in virtual milliseconds.
pub const CONVERGE_MS_MAX: u64 = 60_000;
/// After convergence, links may speak for this long, and must then be silent for as long.
pub const QUIET_MS: u64 = 5_000;

#[derive(Clone, Copy, Debug)]
enum Owner {
    Node(usize, Part),
    Client(usize),
}

/// One region.
#[derive(Debug)]
pub(crate) struct RegionState {
    pub(crate) settings: NodeSettings,
    pub(crate) node: Option<Node>,
    pub(crate) cores: u16,
    pub(crate) wall_offset_ms: i64,
    pub(crate) log_failures: u32,
    clients_machine: NodeIndex,
}

/// The regions, their clients and the checkers.
#[derive(Debug)]
pub struct Mesh {
    pub(crate) world: World,
    pub(crate) regions: Vec<RegionState>,
    pub(crate) clients: Vec<Client>,
    pub(crate) checks: Checks,
    pub(crate) violation: Option<Violation>,
    /// What happened, a line each.
    pub story: Vec<String>,
    /// Segments that nodes which have ended gave up, and how many of the files they used again.
    removed: u64,
    recycled: u64,
    owners: HashMap<LoopId, Owner>,
    ids: Rc<Cell<u64>>,
    /// What consoles learnt, by operation.
    pub(crate) answers: Vec<Note>,
    pub(crate) consoles: Vec<usize>,
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
        for region in 0..mesh.regions.len() {
            mesh.start(region);
        }
        mesh.sound();
        mesh
    }

    /// Three regions whose nodes have these ids.
    #[must_use]
    pub fn with_node_ids(seed: u64, ids: [u32; 3]) -> Mesh {
        let mut mesh = Mesh::down(seed, [2, 2, 2]);
        for (region, id) in ids.into_iter().enumerate() {
            node::name(&mesh.world.disk(mesh.regions[region].settings.machine), id);
            mesh.start(region);
        }
        mesh.sound();
        mesh
    }

    /// Three regions whose nodes are not started yet.
    #[must_use]
    pub fn down(seed: u64, cores: [u16; 3]) -> Mesh {
        let world = World::new(seed);
        let ips = [1, 2, 3].map(|last| IpAddr::from([10, 0, 0, last]));
        for (a, b, us) in DELAYS_US {
            world.set_delay(ips[a], ips[b], us * 1000);
            world.set_delay(ips[b], ips[a], us * 1000);
        }
        let regions = (0..3).map(|index| RegionState {
            settings: NodeSettings {
                region: REGIONS[index].to_owned(),
                machine: world.add_node(&[ips[index]]),
                ip: ips[index],
                peers: ips.iter().copied().filter(|ip| *ip != ips[index]).collect(),
                segment_bytes: SEGMENT_BYTES,
                commit_path: CommitPath::Mmap,
            },
            node: None,
            cores: cores[index],
            wall_offset_ms: 0,
            log_failures: 0,
            clients_machine: world.add_node(&[IpAddr::from([10, 0, 1, u8::try_from(index + 1).unwrap_or(0)])]),
        });
        let mut mesh = Mesh {
            regions: regions.collect(),
            clients: Vec::new(),
            checks: Checks::new(&REGIONS),
            violation: None,
            story: Vec::new(),
            removed: 0,
            recycled: 0,
            owners: HashMap::new(),
            ids: Rc::default(),
            answers: Vec::new(),
            consoles: Vec::new(),
            world,
        };
        for region in 0..3 {
            let console = mesh.add_client(region, Source::Script(std::collections::VecDeque::new()), 64);
            mesh.consoles.push(console);
        }
        mesh
    }

    /// Adds a client of `region` with a random mix and up to `depth` operations under way.
    pub fn add_mix(&mut self, region: usize, mix: Mix, depth: usize) {
        self.add_client(region, Source::Mix { mix, on: true }, depth);
    }

    fn add_client(&mut self, region: usize, source: Source, depth: usize) -> usize {
        let state = &self.regions[region];
        let target = SocketAddr::new(state.settings.ip, STORAGE_PORT);
        let client = Client::new(&self.world, state.clients_machine, region, target, source, depth, &self.ids);
        self.owners.insert(client.id(), Owner::Client(self.clients.len()));
        self.clients.push(client);
        self.clients.len() - 1
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

    fn judge(&mut self, result: Result<(), Violation>) {
        if let Err(violation) = result {
            self.violate(violation);
        }
    }

    /// Starts the node of a region on what its disk holds. A node that refuses what it reads is a violation: no fault of the
    /// simulator destroys what was durable. One whose disk answers with an error only has to be started again.
    pub(crate) fn start(&mut self, region: usize) {
        // The bytes are the same: a node may change the path with every run.
        let direct = self.world.random_below(2) == 0;
        let state = &mut self.regions[region];
        assert!(state.node.is_none(), "a region has one node");
        state.settings.commit_path = if direct { CommitPath::Direct } else { CommitPath::Mmap };
        self.world.set_wall_offset(state.settings.machine, state.wall_offset_ms);
        let disk = self.world.disk(state.settings.machine);
        match Node::start(&self.world, &state.settings, state.cores) {
            Ok(mut node) => {
                for (id, part) in node.loops() {
                    self.owners.insert(id, Owner::Node(region, part));
                }
                let checked = self.checks.started(region, &mut node, &disk);
                let state = &self.regions[region];
                let text =
                    format!("{} starts with {} cores, {:?}", REGIONS[region], state.cores, state.settings.commit_path);
                self.regions[region].node = Some(node);
                // Scenarios do not want to wait until their console notices.
                self.clients[self.consoles[region]].reconnect();
                self.tell(&text);
                self.judge(checked);
            }
            Err(error) => {
                self.world.kill(self.regions[region].settings.machine);
                let text = format!("{} does not start: {error}", REGIONS[region]);
                if is_io(&error) {
                    // It says so and ends; its supervisor tries again.
                    self.tell(&text);
                } else {
                    self.violate(Violation::new(recovery::D3, text));
                }
            }
        }
    }

    /// Power loss, or only the end of the process.
    pub(crate) fn stop(&mut self, region: usize, power: bool) {
        let Some(node) = self.regions[region].node.take() else { return };
        self.removed += node.facts.sum(|core| &core.segments_removed);
        self.recycled += node.facts.sum(|core| &core.segments_recycled);
        let machine = self.regions[region].settings.machine;
        if power {
            self.world.crash(machine);
        } else {
            self.world.kill(machine);
        }
        for (id, _) in node.loops() {
            self.owners.remove(&id);
        }
        drop(node);
        self.checks.died(region);
        self.tell(&format!("{} {}", REGIONS[region], if power { "loses power" } else { "is killed" }));
    }

    /// Runs until `limit` or the first violation.
    pub(crate) fn run_until(&mut self, limit: Mono) {
        while self.violation.is_none() {
            match self.world.step_until(limit) {
                Some(id) => self.tick(id),
                None => return,
            }
        }
    }

    /// How many segments were given up so far because nothing in them counted any more, and how many files were used again.
    #[must_use]
    pub fn segments_given_up(&self) -> (u64, u64) {
        let facts = || self.regions.iter().filter_map(|state| state.node.as_ref()).map(|node| &node.facts);
        let removed: u64 = facts().map(|facts| facts.sum(|core| &core.segments_removed)).sum();
        let recycled: u64 = facts().map(|facts| facts.sum(|core| &core.segments_recycled)).sum();
        (self.removed + removed, self.recycled + recycled)
    }

    /// Lets virtual time pass.
    pub fn run_ms(&mut self, millis: u64) {
        let limit = self.world.now().plus_ms(millis);
        self.run_until(limit);
    }

    pub(crate) fn tick(&mut self, id: LoopId) {
        match self.owners.get(&id).copied() {
            Some(Owner::Node(region, part)) => self.tick_node(region, part),
            Some(Owner::Client(index)) => {
                self.clients[index].tick();
                for note in self.clients[index].take_notes() {
                    let heard = self.checks.heard(&note);
                    self.judge(heard);
                    if self.consoles.contains(&index) {
                        self.answers.push(note);
                    }
                }
            }
            None => unreachable!("only loops that live have turns"),
        }
    }

    fn tick_node(&mut self, region: usize, part: Part) {
        let state = &mut self.regions[region];
        let Some(node) = &mut state.node else { return };
        node.tick(part);
        let checked = match part {
            Part::Core(core) => {
                let disk = self.world.disk(state.settings.machine);
                self.checks.core_ticked(region, core, node, &disk)
            }
            Part::Control => self.checks.claims(region, node),
        };
        let failure = node.control.failure().map(str::to_owned);
        self.judge(checked);
        if let Some(failure) = failure {
            // What the process does: it says why and ends.
            self.tell(&format!("{}'s log failed: {failure}", REGIONS[region]));
            self.regions[region].log_failures += 1;
            self.stop(region, false);
        }
    }

    fn is_converged(&mut self) -> bool {
        let idle = self.clients.iter().all(Client::is_idle) && self.regions.iter().all(|state| state.node.is_some());
        idle && self.lagging().is_none() && {
            let nodes = self.regions.iter_mut().filter_map(|state| state.node.as_mut());
            finals::equal(&self.checks.history, nodes)
        }
    }

    /// Some claim that is behind what its log's owner promises.
    #[must_use]
    pub fn lagging(&self) -> Option<String> {
        for source in self.regions.iter().filter_map(|state| state.node.as_ref()) {
            for log in &source.control.logs().logs {
                let promised = log.end.unwrap_or_else(|| log.highest_complete());
                for state in &self.regions {
                    let Some(follower) = state.node.as_ref().filter(|node| node.id != source.id) else { continue };
                    let held = Version(follower.control.watermarks().version(log.id).0);
                    if held < promised {
                        let name = &state.settings.region;
                        return Some(format!("{name} holds {} up to {held:?} of {promised:?}", log.id));
                    }
                }
            }
        }
        None
    }

    /// Runs until all regions are equal, hold all claims, and agree with the model; then until the links are silent.
    /// Everything has to be up and healed.
    pub(crate) fn converge(&mut self) {
        let deadline = self.world.now().plus_ms(CONVERGE_MS_MAX);
        while self.violation.is_none() && !self.is_converged() {
            if self.world.now() >= deadline {
                let what = self.lagging().unwrap_or_else(|| "the stores differ".to_owned());
                self.violate(Violation::new(L1, format!("not converged after {CONVERGE_MS_MAX} ms: {what}")));
                break;
            }
            self.run_ms(250);
            for region in 0..self.regions.len() {
                // A fault that was under way when everything was healed may still end a node.
                if self.regions[region].node.is_none() {
                    self.start(region);
                }
            }
        }
        if let Some(violation) = &self.violation {
            if violation.checker == L1 {
                // What is wrong with the stores explains more than that there was no progress.
                self.check_finals();
            }
            return;
        }
        self.tell(CONVERGED);
        self.check_finals();
        self.check_silence();
    }

    fn check_finals(&mut self) {
        let mut found = None;
        for (state, name) in self.regions.iter_mut().zip(REGIONS) {
            let Some(node) = &mut state.node else { continue };
            let unix_ms = wall_unix_ms(&self.world, state.wall_offset_ms);
            let checked = finals::check(&self.checks.history, &self.checks.ledger, name, node, unix_ms);
            found = found.or(checked.err());
        }
        if found.is_some() {
            self.violation = None;
        }
        self.judge(found.map_or(Ok(()), Err));
    }

    fn check_silence(&mut self) {
        self.run_ms(QUIET_MS);
        let before = self.replication_bytes();
        self.run_ms(QUIET_MS);
        let after = self.replication_bytes();
        if self.violation.is_none() && before != after {
            let text = format!("links carried records or claims long after the last write: {before:?}, then {after:?}");
            self.violate(Violation::new(SILENCE, text));
        }
    }

    /// Record and claim bytes that each region's node sent over its present links.
    #[must_use]
    pub fn replication_bytes(&self) -> Vec<u64> {
        self.regions
            .iter()
            .map(|state| state.node.as_ref().map_or(0, |node| node.control.replication_bytes()))
            .collect()
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

    /// Asserts that the regions become equal within the bound, agree with what clients were told, and fall silent.
    ///
    /// # Panics
    /// With the story and the violation.
    pub fn converged(&mut self) {
        self.converge();
        self.sound();
    }
}

fn is_io(error: &StartError) -> bool {
    let source = match error {
        StartError::Io { source, .. } => source,
        _ => return false,
    };
    source.raw_os_error().is_some()
}

fn wall_unix_ms(world: &World, offset_ms: i64) -> u64 {
    /// Wall time at virtual time zero: 2026-01-01.
    const WALL_START_UNIX_MS: u64 = 1_767_225_600_000;
    (WALL_START_UNIX_MS + world.now().0 / 1_000_000).saturating_add_signed(offset_ms)
}
