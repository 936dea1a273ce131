//! The plan of one run: everything that a seed decides before the world moves.
//!
//! The plan is drawn by a generator of its own, so that a run with some faults left out is still the same world: that is what
//! makes a failing seed's fault list minimisable ([`super::minimise`]). Which kinds of faults a world knows, how often they
//! strike, how bad its links and disks are and what its clients do is drawn per seed (swarm testing: Groce and others, "Swarm
//! Testing", ISSTA 2012): a fault that is switched off lets others go deeper, and quiet and brutal worlds both occur.

mod residency;
use std::fmt;

use net::reactor::sim::{Random, SyncDelay};

use super::draws;
use super::workload::Mix;

/// The regions and their one-way delays in microseconds: sfo–nyc, nyc–ams, sfo–ams.
pub const REGIONS: [&str; 3] = ["sfo", "nyc", "ams"];

/// How long faults go on in virtual milliseconds, one of which a world has. Healing, the calm after it and discovery's bound take
/// half a minute more: a run has a minute on average.
const SAFETY_MS: [u64; 4] = [20_000, 25_000, 30_000, 60_000];

/// How long clients go on once everything is healed, in virtual milliseconds.
pub(crate) const CALM_MS: u64 = 4_000;

/// Longest turns of loops in nanoseconds, one of which a world has: threads that run at once, and ones that wait for a processor.
const TURN_NS_MAX: [u64; 4] = [5_000, 5_000, 50_000, 300_000];

/// Operations that all clients would begin if nothing kept them waiting, one of which a world has.
const OPERATIONS: [u64; 8] = [1_800, 1_800, 1_900, 2_000, 2_000, 2_100, 2_400, 3_600];

/// Wall clocks jump back by an hour, ahead by an hour, or ten years ahead.
const JUMPS_MS: [i64; 3] = [-3_600_000, 3_600_000, 315_000_000_000];

/// Average pauses between two faults in milliseconds, one of which a world has; none is a world without faults.
const GAPS_MS: [Option<u64>; 8] =
    [None, Some(250), Some(500), Some(1_000), Some(1_000), Some(2_500), Some(2_500), Some(8_000)];

/// One node of a world.
#[derive(Clone, Debug)]
pub struct NodePlan {
    /// Index into [`REGIONS`].
    pub region: usize,
    /// Core threads at its first start.
    pub cores: u16,
    /// Its node id, where it is not left to chance: ids that share their tag make versions tie.
    pub id: Option<u32>,
    /// How far its wall clock stands from the truth, in milliseconds.
    pub wall_offset_ms: i64,
    /// By how much its wall clock runs fast, in parts per million.
    pub wall_drift_ppm: i64,
    /// By how much its monotonic clock runs fast, in parts per million.
    pub mono_drift_ppm: i64,
    /// How long its disk takes for a sync.
    pub sync_delay: SyncDelay,
}

impl NodePlan {
    /// A sound node of a region.
    #[must_use]
    pub fn new(region: usize, cores: u16) -> NodePlan {
        NodePlan {
            region,
            cores,
            id: None,
            wall_offset_ms: 0,
            wall_drift_ppm: 0,
            mono_drift_ppm: 0,
            sync_delay: SyncDelay::default(),
        }
    }
}

/// What is wrong with one direction between two nodes throughout.
#[derive(Clone, Copy, Debug)]
pub struct LinkPlan {
    /// From which node.
    pub from: usize,
    /// To which.
    pub to: usize,
    /// Segments lost, in parts per million.
    pub loss_ppm: u64,
    /// Longest additional delay in nanoseconds.
    pub jitter_ns: u64,
}

/// The clients of one connection.
#[derive(Clone, Copy, Debug)]
pub struct ClientPlan {
    /// Whose node they talk to.
    pub node: usize,
    /// What they do.
    pub mix: Mix,
    /// Up to how many operations are under way.
    pub depth: usize,
    /// They begin there, and move between regions with the token of their session.
    pub roams: bool,
}

/// How a node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// kill -9.
    Kill,
    /// Power loss: un-synced sectors survive or do not.
    Power,
}

/// What happens to a node's disk while it is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFate {
    /// Nothing.
    Kept,
    /// An empty one takes its place: what starts next is a new node.
    Wiped,
    /// The newest copy of it that was taken takes its place.
    Restored,
    /// A bit flips in one of its segments: `.0` picks the place.
    Rotten(u64),
    /// A sector of one of its segments lies where another belongs: `.0` picks them.
    Misplaced(u64),
}

/// What happens to the checkpoint of a node that has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointFate {
    /// Nothing.
    Kept,
    /// A bit of it flips: `.0` picks the place.
    Rotten(u64),
    /// The one of an earlier stop takes its place.
    Stale,
    /// A file of it is gone: `.0` picks which.
    Cut(u64),
}

/// A clean stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanStop {
    /// Whose.
    pub node: usize,
    /// Its machine loses power right after the end.
    pub power: bool,
    /// The process dies right before this effect of the stop, if it has not ended by then.
    pub dies_at: Option<u64>,
    /// With how many cores it starts again, if not with as many.
    pub cores: Option<u16>,
    /// The next start dies right before this effect of it.
    pub start_effects: Option<u64>,
    /// What happens to the checkpoint meanwhile.
    pub checkpoint: CheckpointFate,
}

/// One thing that goes wrong. Durations are in virtual milliseconds; what does not apply when its time comes does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing arrives from one node at another, or in both directions.
    Cut {
        /// Sender.
        from: usize,
        /// Receiver.
        to: usize,
        /// Whether the other direction is cut, too.
        both: bool,
        /// How long.
        ms: u64,
    },
    /// A node reaches nobody.
    CutOff {
        /// Which.
        node: usize,
        /// How long.
        ms: u64,
    },
    /// A link loses more.
    Loss {
        /// Sender.
        from: usize,
        /// Receiver.
        to: usize,
        /// Segments lost, in parts per million.
        ppm: u64,
        /// How long.
        ms: u64,
    },
    /// Some streams are reset, at any byte.
    Reset {
        /// How many.
        streams: u64,
    },
    /// A process is stopped (SIGSTOP) while its kernel goes on.
    Pause {
        /// Whose.
        node: usize,
        /// How long.
        ms: u64,
    },
    /// One thread of a process is not scheduled.
    Stall {
        /// Whose.
        node: usize,
        /// Picks the thread.
        pick: u64,
        /// How long.
        ms: u64,
    },
    /// A process or its machine ends.
    Die {
        /// Whose.
        node: usize,
        /// How.
        death: Death,
        /// Right before that effect of it from now on; at once with 0.
        effects: u64,
        /// Until it starts again.
        ms: u64,
        /// With how many cores it starts again, if not with as many.
        cores: Option<u16>,
        /// The first start dies, too, right before this effect of it.
        start_effects: Option<u64>,
        /// What happens to its disk meanwhile.
        disk: DiskFate,
    },
    /// A process is asked to stop, and starts again once it has.
    Stop(CleanStop),
    /// All machines lose power at once.
    Blackout {
        /// Until they start again.
        ms: u64,
    },
    /// The next sync fails.
    FailSync {
        /// Whose.
        node: usize,
    },
    /// The next write fails.
    FailWrite {
        /// Whose.
        node: usize,
    },
    /// The next read of a file fails.
    FailRead {
        /// Whose.
        node: usize,
    },
    /// The disk has no room.
    Full {
        /// Whose.
        node: usize,
        /// How long.
        ms: u64,
    },
    /// Syncs take very long.
    SlowDisk {
        /// Whose.
        node: usize,
        /// How long it is slow.
        ms: u64,
        /// How long one sync takes at most.
        sync_ms: u64,
    },
    /// The kernel writes something back on its own.
    WriteBack {
        /// Whose.
        node: usize,
    },
    /// Somebody takes a copy of a disk.
    CopyDisk {
        /// Whose.
        node: usize,
    },
    /// A wall clock jumps.
    ClockJump {
        /// Whose.
        node: usize,
        /// By how much, in milliseconds.
        offset_ms: i64,
        /// Until it is right again.
        ms: u64,
    },
}

/// A fault and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    /// Virtual milliseconds after the world began.
    pub at_ms: u64,
    /// What happens.
    pub fault: Fault,
}

/// Everything about one run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed that also decides all that is left to chance in the world itself.
    pub seed: u64,
    /// The nodes.
    pub nodes: Vec<NodePlan>,
    /// The links that are bad throughout.
    pub links: Vec<LinkPlan>,
    /// Packets that arrive twice, in parts per million.
    pub duplication_ppm: u64,
    /// The longest turn of a loop in nanoseconds: what arrives meanwhile is met by one turn.
    pub turn_ns_max: u64,
    /// Segments that a slow follower may hold per core (`WAL_RETAIN`).
    pub retain_segments: u64,
    /// Whether what was deleted is forgotten once all hold that (`TOMBSTONES`).
    pub collects: bool,
    /// Segments that each core may have in memory besides its index, where there is a bound (`MEMORY_LIMIT`).
    pub memory_segments: Option<u64>,
    /// Whether nodes pack what they send (`COMPRESSION`).
    pub packs: bool,
    /// Bytes a second that a follower is brought up to date with, 0 for no bound (`CATCH_UP_RATE`).
    pub catch_up_rate: u64,
    /// Which regions may hold which keys (`RESIDENCY`).
    pub residency: String,
    /// How often nodes compare themselves with each peer, in milliseconds (`ANTI_ENTROPY_INTERVAL`).
    pub anti_entropy_ms: Option<u64>,
    /// The clients.
    pub clients: Vec<ClientPlan>,
    /// What goes wrong, in order.
    pub faults: Vec<Strike>,
    /// How long faults and clients go on.
    pub safety_ms: u64,
}

impl Plan {
    /// Draws the plan of a seed.
    #[must_use]
    pub fn draw(seed: u64) -> Plan {
        // Not the numbers that the world draws from the same seed.
        let mut random = Random::new(seed ^ 0x5EED_0F7E_57A7_E500);
        let random = &mut random;
        let nodes = draw_nodes(random);
        let swarm = Swarm::draw(random);
        let safety_ms = SAFETY_MS[random.index(SAFETY_MS.len())];
        let mut plan = Plan {
            seed,
            links: draw_links(random, nodes.len()),
            duplication_ppm: if random.below(3) == 0 { random.below(50_000) } else { 0 },
            turn_ns_max: TURN_NS_MAX[random.index(TURN_NS_MAX.len())],
            retain_segments: 2 << random.below(4),
            memory_segments: draws::memory(seed),
            collects: false,
            packs: Random::new(seed ^ 0x7AC4_0000_0000_0001).below(4) > 0,
            catch_up_rate: draws::rate(seed),
            residency: String::new(),
            anti_entropy_ms: draws::comparisons(seed),
            clients: draw_clients(random, nodes.len(), safety_ms),
            faults: Vec::new(),
            safety_ms,
            nodes,
        };
        widen_skews(seed, &mut plan.nodes);
        draw_teams(seed, plan.nodes.len(), &mut plan.clients);
        draw_native(seed, &mut plan.clients);
        super::client::draw_roamers(seed, plan.nodes.len(), &mut plan.clients);
        residency::draw(&mut plan);
        if let Some(gap_ms) = GAPS_MS[random.index(GAPS_MS.len())] {
            let mut at_ms = 50 + random.below(2 * gap_ms);
            while at_ms < plan.safety_ms {
                let fault = swarm.draw_fault(random, plan.nodes.len());
                plan.faults.push(Strike { at_ms, fault });
                at_ms += 1 + random.below(2 * gap_ms);
            }
        }
        draw_stops(&mut plan);
        draw_collection(&mut plan);
        plan
    }

    /// The same run with only the faults at these places of the list.
    #[must_use]
    pub fn keeping(&self, kept: &[usize]) -> Plan {
        let faults = kept.iter().filter_map(|index| self.faults.get(*index).copied()).collect();
        Plan { faults, ..self.clone() }
    }
}

fn draw_nodes(random: &mut Random) -> Vec<NodePlan> {
    let offset_ms_max = [0, 20, 200, 200][random.index(4)];
    let drift_ppm_max = [0, 0, 50, 500][random.index(4)];
    let shared_tag = (random.below(4) == 0).then(|| u32::try_from(random.between(1 << 24, 1 << 30)).unwrap_or(1));
    (0..REGIONS.len())
        .map(|region| NodePlan {
            // The tag of versions folds the id's groups of 11 bits: a change of two groups leaves it as it is.
            id: shared_tag.map(|first| first ^ (u32::try_from(region).unwrap_or(0) * 0x801)),
            wall_offset_ms: signed(random, offset_ms_max),
            wall_drift_ppm: signed(random, drift_ppm_max),
            mono_drift_ppm: signed(random, drift_ppm_max),
            sync_delay: draw_sync_delay(random),
            ..NodePlan::new(region, 1 + u16::try_from(random.below(3)).unwrap_or(0))
        })
        .collect()
}

/// In one world of six clocks stand so far apart that versions lie in the far future of other regions. Drawn by a generator of its own:
/// the other worlds stay as they are.
fn widen_skews(seed: u64, nodes: &mut [NodePlan]) {
    let mut random = Random::new(seed ^ 0xC10C_5FA2_A9A2_7000);
    let offset_ms_max = [400, 2_000, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][random.index(12)];
    for node in nodes.iter_mut().filter(|_| offset_ms_max > 0) {
        node.wall_offset_ms = signed(&mut random, offset_ms_max);
    }
}

fn signed(random: &mut Random, max: u64) -> i64 {
    let drawn = i64::try_from(random.below(2 * max + 1)).unwrap_or(0);
    drawn - i64::try_from(max).unwrap_or(0)
}

fn draw_sync_delay(random: &mut Random) -> SyncDelay {
    let usual = SyncDelay::default();
    match random.below(4) {
        0 => SyncDelay { max_ns: 8 * usual.max_ns, stall_ppm: 4 * usual.stall_ppm, ..usual },
        1 => SyncDelay { max_ns: usual.max_ns / 10, stall_ppm: 0, ..usual },
        _ => usual,
    }
}

fn draw_links(random: &mut Random, nodes: usize) -> Vec<LinkPlan> {
    let loss_ppm_max = [0, 1_000, 30_000, 400_000][random.index(4)];
    let jitter_ns_max = [0, 2_000_000, 30_000_000, 200_000_000][random.index(4)];
    let mut links = Vec::new();
    for from in 0..nodes {
        for to in (0..nodes).filter(|to| *to != from) {
            if random.below(3) == 0 {
                let (loss_ppm, jitter_ns) = (random.below(loss_ppm_max + 1), random.below(jitter_ns_max + 1));
                links.push(LinkPlan { from, to, loss_ppm, jitter_ns });
            }
        }
    }
    links
}

fn draw_clients(random: &mut Random, nodes: usize, safety_ms: u64) -> Vec<ClientPlan> {
    let mut places: Vec<usize> = (0..nodes).collect();
    places.extend((0..nodes).filter(|_| random.coin()));
    let operations = OPERATIONS[random.index(OPERATIONS.len())];
    let mix = Mix::draw_for(&mut || random.next(), operations / places.len() as u64, safety_ms + CALM_MS);
    places.into_iter().map(|node| ClientPlan { node, mix, depth: 1 + random.index(6), roams: false }).collect()
}

/// Of every fourth world: what part of the operations are transactions on teams of keys, and a client at each node that asks for
/// little else. From a stream of its own: worlds without them are what they were before there were any.
fn draw_teams(seed: u64, nodes: usize, clients: &mut Vec<ClientPlan>) {
    let mut random = Random::new(seed ^ 0x7EA3_5000_0000_0001);
    if random.below(4) > 0 {
        return;
    }
    let (teams, team_percent) = (1 + random.below(2), [3, 10, 25][random.index(3)]);
    for client in clients.iter_mut() {
        client.mix = Mix { teams, team_percent, ..client.mix };
    }
    let mix = Mix { team_percent: 90, ..clients[0].mix };
    clients.extend((0..nodes).map(|node| ClientPlan { node, mix, depth: 1 + random.index(2), roams: false }));
}

/// Of every fourth world: which clients speak Godwit's own protocol. It has no transactions, so that those who ask for little else
/// do not. From a stream of its own, as above.
fn draw_native(seed: u64, clients: &mut [ClientPlan]) {
    let mut random = Random::new(seed ^ 0x9A71_4E00_0000_0001);
    if random.below(4) > 0 {
        return;
    }
    for client in clients.iter_mut().filter(|client| client.mix.team_percent < 50) {
        if random.below(3) > 0 {
            client.mix = Mix { native: true, team_percent: 0, ..client.mix };
        }
    }
}

/// In two of three worlds in which no disk is damaged what was deleted is forgotten. From a stream of its own. Where rot took more than it
/// seems to have, a node says that it holds what it does not.
fn draw_collection(plan: &mut Plan) {
    let mut random = Random::new(plan.seed ^ 0xF026_E770_0000_0001);
    let is_damaged = plan.faults.iter().any(|strike| match strike.fault {
        Fault::Die { disk, .. } => matches!(disk, DiskFate::Rotten(_) | DiskFate::Misplaced(_)),
        _ => false,
    });
    plan.collects = !is_damaged && random.below(3) > 0;
}

/// In every second world nodes are stopped now and then. From a stream of its own, like the teams.
fn draw_stops(plan: &mut Plan) {
    let mut random = Random::new(plan.seed ^ 0x5709_0000_C1EA_0001);
    let random = &mut random;
    if random.coin() {
        return;
    }
    let gap_ms = [2_000, 5_000, 10_000][random.index(3)];
    let spares_disk = random.coin();
    let mut at_ms = random.below(2 * gap_ms);
    while at_ms < plan.safety_ms {
        let checkpoint = match random.below(8) {
            0 if !spares_disk => CheckpointFate::Rotten(random.next()),
            1 if !spares_disk => CheckpointFate::Stale,
            2 if !spares_disk => CheckpointFate::Cut(random.next()),
            _ => CheckpointFate::Kept,
        };
        let stop = CleanStop {
            node: random.index(plan.nodes.len()),
            power: random.coin(),
            dies_at: (random.below(6) == 0).then(|| 1 + random.below(60)),
            cores: (random.below(6) == 0).then(|| 1 + u16::try_from(random.below(3)).unwrap_or(0)),
            start_effects: (random.below(4) == 0).then(|| 1 + random.below(40)),
            checkpoint,
        };
        plan.faults.push(Strike { at_ms, fault: Fault::Stop(stop) });
        at_ms += 1 + random.below(2 * gap_ms);
    }
    plan.faults.sort_by_key(|strike| strike.at_ms);
}

/// The kinds of faults, in the order of [`Swarm::weights`].
const KINDS: usize = 16;

/// Which kinds of faults a world knows, and how often each strikes.
#[derive(Clone, Copy, Debug)]
struct Swarm {
    weights: [u64; KINDS],
    /// Whether disks may be lost, rolled back or damaged: the end of such a run promises less.
    loses_disks: bool,
}

impl Swarm {
    fn draw(random: &mut Random) -> Swarm {
        let mut weights = [0; KINDS];
        for weight in &mut weights {
            if random.coin() {
                *weight = 1 + random.below(8);
            }
        }
        if weights.iter().all(|weight| *weight == 0) {
            weights[0] = 1;
        }
        Swarm { weights, loses_disks: random.below(5) == 0 }
    }

    fn draw_kind(&self, random: &mut Random) -> usize {
        let mut drawn = random.below(self.weights.iter().sum());
        for (kind, weight) in self.weights.iter().enumerate() {
            if drawn < *weight {
                return kind;
            }
            drawn -= weight;
        }
        0
    }

    fn draw_fault(&self, random: &mut Random, nodes: usize) -> Fault {
        let node = random.index(nodes);
        let other = (node + 1 + random.index(nodes - 1)) % nodes;
        match self.draw_kind(random) {
            0 => Fault::Cut { from: node, to: other, both: random.coin(), ms: draw_outage_ms(random) },
            1 => Fault::CutOff { node, ms: draw_outage_ms(random) },
            2 => Fault::Loss { from: node, to: other, ppm: random.below(400_000), ms: draw_outage_ms(random) },
            3 => Fault::Reset { streams: 1 + random.below(4) },
            4 => Fault::Pause { node, ms: draw_outage_ms(random) },
            5 => Fault::Stall { node, pick: random.next(), ms: 1 + random.below(500) },
            6 => self.draw_death(random, node, Death::Power, 0),
            7 => self.draw_death(random, node, Death::Kill, 0),
            8 => {
                let death = if random.coin() { Death::Power } else { Death::Kill };
                let effects = 1 + random.below(200);
                self.draw_death(random, node, death, effects)
            }
            9 => Fault::Blackout { ms: draw_downtime_ms(random) },
            10 => match random.below(3) {
                0 => Fault::FailSync { node },
                1 => Fault::FailWrite { node },
                _ => Fault::FailRead { node },
            },
            11 => Fault::Full { node, ms: 100 + random.below(5_000) },
            12 => Fault::SlowDisk { node, ms: draw_outage_ms(random), sync_ms: 10 + random.below(400) },
            13 => Fault::WriteBack { node },
            14 => Fault::CopyDisk { node },
            _ => Fault::ClockJump { node, offset_ms: JUMPS_MS[random.index(3)], ms: draw_outage_ms(random) },
        }
    }

    fn draw_death(&self, random: &mut Random, node: usize, death: Death, effects: u64) -> Fault {
        let disk = match random.below(8) {
            0 if self.loses_disks => DiskFate::Wiped,
            1 if self.loses_disks => DiskFate::Restored,
            2 if self.loses_disks => DiskFate::Rotten(random.next()),
            3 if self.loses_disks => DiskFate::Misplaced(random.next()),
            _ => DiskFate::Kept,
        };
        Fault::Die {
            node,
            death,
            effects,
            ms: draw_downtime_ms(random),
            cores: (random.below(3) == 0).then(|| 1 + u16::try_from(random.below(3)).unwrap_or(0)),
            start_effects: (random.below(4) == 0).then(|| 1 + random.below(60)),
            disk,
        }
    }
}

fn draw_outage_ms(random: &mut Random) -> u64 {
    match random.below(16) {
        0 => 10_000 + random.below(50_000),
        1..6 => 2_000 + random.below(6_000),
        _ => 50 + random.below(1_000),
    }
}

fn draw_downtime_ms(random: &mut Random) -> u64 {
    if random.below(3) == 0 { 500 + random.below(5_000) } else { 1 + random.below(200) }
}

impl fmt::Display for Strike {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:>6} ms  {}", self.at_ms, self.fault)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |node: &usize| REGIONS.get(*node).copied().unwrap_or("a further node");
        match self {
            Fault::Cut { from, to, both, ms } => {
                let arrow = if *both { "<->" } else { "->" };
                write!(formatter, "{} {arrow} {} is cut for {ms} ms", name(from), name(to))
            }
            Fault::CutOff { node, ms } => write!(formatter, "{} is cut off for {ms} ms", name(node)),
            Fault::Loss { from, to, ppm, ms } => {
                write!(formatter, "{} -> {} loses {ppm} ppm for {ms} ms", name(from), name(to))
            }
            Fault::Reset { streams } => write!(formatter, "{streams} streams are reset"),
            Fault::Pause { node, ms } => write!(formatter, "{} is stopped for {ms} ms", name(node)),
            Fault::Stall { node, ms, .. } => write!(formatter, "a thread of {} does not run for {ms} ms", name(node)),
            Fault::Die { node, death, effects, ms, cores, start_effects, disk } => {
                let how = if *death == Death::Power { "loses power" } else { "is killed" };
                write!(formatter, "{} {how}", name(node))?;
                if *effects > 0 {
                    write!(formatter, " before its effect {effects}")?;
                }
                write!(formatter, " and is back after {ms} ms")?;
                if let Some(cores) = cores {
                    write!(formatter, " with {cores} cores")?;
                }
                if let Some(effects) = start_effects {
                    write!(formatter, ", where it dies again before effect {effects} of its start")?;
                }
                match disk {
                    DiskFate::Kept => Ok(()),
                    DiskFate::Wiped => write!(formatter, ", with an empty disk"),
                    DiskFate::Restored => write!(formatter, ", with its disk from the last copy"),
                    DiskFate::Rotten(_) => write!(formatter, ", with a flipped bit on its disk"),
                    DiskFate::Misplaced(_) => write!(formatter, ", with a misplaced sector on its disk"),
                }
            }
            Fault::Stop(stop) => stop.fmt(formatter),
            Fault::Blackout { ms } => write!(formatter, "all lose power and are back after {ms} ms"),
            Fault::FailSync { node } => write!(formatter, "the next sync of {} fails", name(node)),
            Fault::FailWrite { node } => write!(formatter, "the next write of {} fails", name(node)),
            Fault::FailRead { node } => write!(formatter, "the next read of {} fails", name(node)),
            Fault::Full { node, ms } => write!(formatter, "the disk of {} is full for {ms} ms", name(node)),
            Fault::SlowDisk { node, ms, sync_ms } => {
                write!(formatter, "syncs of {} take up to {sync_ms} ms for {ms} ms", name(node))
            }
            Fault::WriteBack { node } => write!(formatter, "the kernel of {} writes something back", name(node)),
            Fault::CopyDisk { node } => write!(formatter, "a copy of the disk of {} is taken", name(node)),
            Fault::ClockJump { node, offset_ms, ms } => {
                write!(formatter, "the clock of {} is off by {offset_ms} ms for {ms} ms", name(node))
            }
        }
    }
}

impl fmt::Display for CleanStop {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} is stopped", REGIONS.get(self.node).copied().unwrap_or("a further node"))?;
        if let Some(effects) = self.dies_at {
            write!(formatter, ", and dies before its effect {effects} if it has not ended")?;
        }
        if self.power {
            write!(formatter, ", loses power then")?;
        }
        if let Some(cores) = self.cores {
            write!(formatter, ", starts with {cores} cores")?;
        }
        if let Some(effects) = self.start_effects {
            write!(formatter, ", and dies before effect {effects} of its start")?;
        }
        match self.checkpoint {
            CheckpointFate::Kept => Ok(()),
            CheckpointFate::Rotten(_) => write!(formatter, ", with a flipped bit in its checkpoint"),
            CheckpointFate::Stale => write!(formatter, ", with the checkpoint of an earlier stop"),
            CheckpointFate::Cut(_) => write!(formatter, ", with a file of its checkpoint missing"),
        }
    }
}
