//! Carries out what a plan says goes wrong, and cures it when its time is over.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::ops::Range;

use net::reactor::Mono;
use net::reactor::disk::Disk;
use net::reactor::sim::{DiskCopy, Random, SECTOR_BYTES, SyncDelay};
use wal::{CoreId, SegmentNumber};

use super::check::device;
use super::check::losses::Damage;
use super::mesh::Mesh;
use super::node::data_dir;
use super::plan::{CheckpointFate, Death, DiskFate, Fault, Plan, Strike};

/// How long a supervisor waits for a stop, in virtual milliseconds.
const STOP_MS_MAX: u64 = 10_000;

/// What ends a fault.
#[derive(Clone, Copy, Debug)]
enum Cure {
    Heal(IpAddr, IpAddr),
    Loss(usize, usize),
    Resume(usize),
    Start(usize),
    Clock(usize),
    Room(usize),
    Disk(usize),
    Overdue(usize),
}

/// The faults of one run.
#[derive(Debug)]
pub struct Faults {
    plan: Plan,
    queue: VecDeque<Strike>,
    cures: Vec<(Mono, Cure)>,
    /// By node, the effect at which its next start dies.
    start_effects: Vec<Option<u64>>,
    /// By node, what happens to its disk once its armed death has come.
    fates: Vec<Option<DiskFate>>,
    /// By node, what happens to its checkpoint once it has ended.
    checkpoint_fates: Vec<Option<CheckpointFate>>,
}

impl Faults {
    /// Those of `plan`.
    #[must_use]
    pub fn new(plan: &Plan) -> Faults {
        Faults {
            plan: plan.clone(),
            queue: plan.faults.iter().copied().collect(),
            cures: Vec::new(),
            start_effects: vec![None; plan.nodes.len()],
            fates: vec![None; plan.nodes.len()],
            checkpoint_fates: vec![None; plan.nodes.len()],
        }
    }

    /// Runs until `limit`, breaking and curing things on the way.
    pub fn run(&mut self, mesh: &mut Mesh, limit: Mono) {
        while mesh.violation.is_none() && mesh.world.now() < limit {
            let cure_at = self.cures.iter().map(|(at, _)| *at).min().unwrap_or(limit);
            let strike_at = self.queue.front().map_or(limit, due_at);
            mesh.run_until_death(cure_at.min(strike_at).min(limit));
            self.cure_due(mesh);
            while let Some(strike) = self.queue.pop_front_if(|strike| due_at(strike) <= mesh.world.now()) {
                self.strike(mesh, strike.fault);
            }
            self.restart_dead(mesh);
        }
    }

    fn cure_due(&mut self, mesh: &mut Mesh) {
        let now = mesh.world.now();
        let cures = std::mem::take(&mut self.cures);
        let (due, later): (Vec<_>, Vec<_>) = cures.into_iter().partition(|(at, _)| *at <= now);
        self.cures = later;
        for (_, cure) in due {
            self.cure(mesh, cure);
        }
    }

    /// Ends every fault.
    pub fn end(&mut self, mesh: &mut Mesh) {
        for (_, cure) in std::mem::take(&mut self.cures) {
            if !matches!(cure, Cure::Start(_)) {
                self.cure(mesh, cure);
            }
        }
        for index in 0..mesh.nodes.len() {
            let machine = mesh.machine(index);
            mesh.world.disarm_crash(machine);
            mesh.world.resume(machine);
            mesh.nodes[index].condemned = None;
            if mesh.nodes[index].stopping.is_some() {
                mesh.stop(index, Death::Kill);
            }
        }
        let ips: Vec<IpAddr> = (0..mesh.nodes.len()).map(|index| mesh.ip(index)).collect();
        for from in &ips {
            for to in &ips {
                mesh.world.set_loss(*from, *to, 0);
            }
        }
        mesh.world.set_duplication(0);
        mesh.heal();
        self.start_effects.fill(None);
        for index in 0..mesh.nodes.len() {
            if mesh.nodes[index].node.is_none() {
                self.start(mesh, index);
            }
        }
    }

    fn cure_in(&mut self, mesh: &Mesh, millis: u64, cure: Cure) {
        self.cures.push((mesh.world.now().plus_ms(millis), cure));
    }

    fn strike(&mut self, mesh: &mut Mesh, fault: Fault) {
        mesh.tell(&fault.to_string());
        match fault {
            Fault::Cut { from, to, both, ms } => self.cut(mesh, from, to, both, ms),
            Fault::CutOff { node, ms } => {
                for other in (0..mesh.nodes.len()).filter(|other| *other != node) {
                    self.cut(mesh, node, other, true, ms);
                }
            }
            Fault::Loss { from, to, ppm, ms } => {
                mesh.world.set_loss(mesh.ip(from), mesh.ip(to), ppm);
                self.cure_in(mesh, ms, Cure::Loss(from, to));
            }
            Fault::Reset { streams } => {
                for _ in 0..streams {
                    if !mesh.world.reset_random_stream() {
                        break;
                    }
                }
            }
            Fault::Pause { node, ms } => {
                if mesh.nodes[node].node.is_some() {
                    mesh.world.pause(mesh.machine(node));
                    self.cure_in(mesh, ms, Cure::Resume(node));
                }
            }
            Fault::Stall { node, pick, ms } => {
                if let Some(running) = &mesh.nodes[node].node {
                    let loops = running.loops();
                    let (id, _) = loops[usize::try_from(pick).unwrap_or(0) % loops.len()];
                    let until = mesh.world.now().plus_ms(ms);
                    mesh.world.pause_loop(id, until);
                    mesh.checks.room.delayed(node, until);
                }
            }
            Fault::Die { node, death, effects, ms, cores, start_effects, disk } => {
                if mesh.nodes[node].node.is_none() {
                    return;
                }
                if let Some(cores) = cores {
                    mesh.nodes[node].cores = cores;
                }
                self.start_effects[node] = start_effects;
                self.fates[node] = None;
                if effects == 0 {
                    mesh.stop(node, death);
                    change_disk(mesh, node, disk);
                    self.cure_in(mesh, ms, Cure::Start(node));
                } else {
                    mesh.nodes[node].condemned = Some(death);
                    mesh.world.arm_crash(mesh.machine(node), effects);
                    self.fates[node] = Some(disk);
                }
            }
            Fault::Stop(stop) => {
                let node = stop.node;
                if mesh.nodes[node].node.is_none() || mesh.nodes[node].stopping.is_some() {
                    return;
                }
                if let Some(cores) = stop.cores {
                    mesh.nodes[node].cores = cores;
                }
                self.start_effects[node] = stop.start_effects;
                self.checkpoint_fates[node] = Some(stop.checkpoint);
                let death = if stop.power { Death::Power } else { Death::Kill };
                mesh.ask_to_stop(node, death);
                if let Some(effects) = stop.dies_at {
                    mesh.nodes[node].condemned = Some(death);
                    mesh.world.arm_crash(mesh.machine(node), effects);
                }
                self.cure_in(mesh, STOP_MS_MAX, Cure::Overdue(node));
            }
            Fault::Blackout { ms } => {
                for node in 0..mesh.nodes.len() {
                    if mesh.nodes[node].node.is_some() {
                        self.fates[node] = None;
                        mesh.stop(node, Death::Power);
                        self.cure_in(mesh, ms + mesh.world.random_below(200), Cure::Start(node));
                    }
                }
            }
            Fault::FailSync { node } => mesh.world.fail_next_sync(mesh.machine(node)),
            Fault::FailWrite { node } => mesh.world.fail_next_write(mesh.machine(node)),
            Fault::FailRead { node } => {
                mesh.checks.room.fail_read(node);
                mesh.world.fail_next_read(mesh.machine(node));
            }
            Fault::Full { node, ms } => {
                mesh.set_disk_full(node, true);
                self.cure_in(mesh, ms, Cure::Room(node));
            }
            Fault::SlowDisk { node, ms, sync_ms } => {
                let usual = SyncDelay::default();
                let slow = SyncDelay { max_ns: sync_ms.max(5) * 1_000_000, ..usual };
                mesh.world.set_sync_delay(mesh.machine(node), slow);
                self.cure_in(mesh, ms, Cure::Disk(node));
            }
            Fault::WriteBack { node } => mesh.world.write_back(mesh.machine(node)),
            Fault::CopyDisk { node } => {
                mesh.nodes[node].copy = Some(mesh.world.copy_disk(mesh.machine(node), DiskCopy::Crashed))
            }
            // A run that began with its clock behind believes the first one that is not, as runs do at their start.
            Fault::ClockJump { node, offset_ms, .. }
                if offset_ms > 0 && mesh.checks.ledger.clocks.began_behind(node) => {}
            Fault::ClockJump { node, offset_ms, ms } => {
                mesh.nodes[node].wall_jump_ms = offset_ms;
                mesh.turn_clock(node);
                self.cure_in(mesh, ms, Cure::Clock(node));
            }
        }
    }

    fn cut(&mut self, mesh: &mut Mesh, from: usize, to: usize, both: bool, ms: u64) {
        let (source, target) = (mesh.ip(from), mesh.ip(to));
        mesh.world.cut(source, target);
        self.cure_in(mesh, ms, Cure::Heal(source, target));
        if both {
            mesh.world.cut(target, source);
            self.cure_in(mesh, ms, Cure::Heal(target, source));
        }
    }

    fn cure(&mut self, mesh: &mut Mesh, cure: Cure) {
        match cure {
            Cure::Heal(from, to) => mesh.world.heal(from, to),
            Cure::Loss(from, to) => {
                let usual = self.plan.links.iter().find(|link| (link.from, link.to) == (from, to));
                mesh.world.set_loss(mesh.ip(from), mesh.ip(to), usual.map_or(0, |link| link.loss_ppm));
            }
            Cure::Resume(node) => {
                mesh.world.resume(mesh.machine(node));
                mesh.checks.room.delayed(node, mesh.world.now());
            }
            Cure::Start(node) => {
                if mesh.nodes[node].node.is_none() {
                    self.start(mesh, node);
                }
            }
            Cure::Clock(node) => {
                mesh.nodes[node].wall_jump_ms = 0;
                mesh.turn_clock(node);
            }
            Cure::Overdue(node) => {
                if mesh.nodes[node].stopping.is_some() {
                    mesh.tell("its supervisor has no more patience");
                    mesh.stop(node, Death::Kill);
                }
            }
            Cure::Room(node) => mesh.set_disk_full(node, false),
            Cure::Disk(node) => mesh.world.set_sync_delay(mesh.machine(node), self.plan.nodes[node].sync_delay),
        }
    }

    fn start(&mut self, mesh: &mut Mesh, node: usize) {
        let machine = mesh.machine(node);
        // Only a running node meets a full disk here; one that starts needs room for its first segment.
        mesh.set_disk_full(node, false);
        let state = &mut mesh.nodes[node];
        // A clock ahead at a start is believed: what the node writes is due for others an hour later, after the run's end. One
        // behind is not, unless the disk is empty: then nothing says better.
        if state.wall_jump_ms > 0 || !device::any_frame(&mesh.world.disk(machine)) {
            state.wall_jump_ms = 0;
        }
        if let Some(effects) = self.start_effects[node].take() {
            state.condemned = Some(if effects % 2 == 0 { Death::Power } else { Death::Kill });
            mesh.world.arm_crash(machine, effects);
        }
        mesh.start(node);
    }

    /// A node that died by itself, at an armed effect or while it started is restarted by its supervisor.
    fn restart_dead(&mut self, mesh: &mut Mesh) {
        for node in 0..mesh.nodes.len() {
            if mesh.nodes[node].node.is_some() {
                continue;
            }
            if let Some(fate) = self.fates[node].take() {
                change_disk(mesh, node, fate);
            }
            if let Some(fate) = self.checkpoint_fates[node].take() {
                mesh.change_checkpoint(node, fate);
            }
            let planned = self.cures.iter().any(|(_, cure)| matches!(cure, Cure::Start(other) if *other == node));
            if !planned {
                let millis = 1 + mesh.world.random_below(500);
                self.cure_in(mesh, millis, Cure::Start(node));
            }
        }
    }
}

fn due_at(strike: &Strike) -> Mono {
    Mono(strike.at_ms * 1_000_000)
}

/// Plays a trick on the disk of a node that is down.
fn change_disk(mesh: &mut Mesh, node: usize, fate: DiskFate) {
    match fate {
        DiskFate::Kept => {}
        DiskFate::Wiped => mesh.replace_disk(node),
        DiskFate::Restored => {
            if let Some(copy) = mesh.nodes[node].copy.clone() {
                mesh.world.restore_disk(mesh.machine(node), &copy);
                mesh.disk_changed(node, "gets its disk back from a copy");
            }
        }
        DiskFate::Rotten(pick) | DiskFate::Misplaced(pick) => {
            damage(mesh, node, Random::new(pick), matches!(fate, DiskFate::Rotten(_)));
        }
    }
}

/// Flips a bit, or puts a sector over another, somewhere in the segments of a node that is down.
fn damage(mesh: &mut Mesh, node: usize, mut random: Random, flip: bool) {
    // A start from a checkpoint does not read what is damaged here; who knows of it makes the start read the logs.
    mesh.remove_checkpoint(node);
    let machine = mesh.machine(node);
    let disk = mesh.world.disk(machine);
    let names = disk.list(data_dir()).unwrap_or_default();
    let segment = |name: &String| match wal::file_kind(name) {
        wal::FileKind::Segment { core, number } => Some((core, number)),
        _ => None,
    };
    let segments: Vec<(CoreId, SegmentNumber)> = names.iter().filter_map(segment).collect();
    if segments.is_empty() {
        return;
    }
    let path = |(core, number)| data_dir().join(wal::segment_file_name(core, number));
    let segment_bytes = mesh.nodes[node].settings.segment_bytes as usize;
    let hit = segments[random.index(segments.len())];
    let hit_path = path(hit);
    // Mostly where there is something: logs are short more often than full.
    let reach = if random.coin() { segment_bytes } else { segment_bytes / 8 };
    // What must be found is what was whole before.
    let damage =
        |bytes: Range<usize>| Damage { core: hit.0, number: hit.1, bytes: bytes.start as u64..bytes.end as u64 };
    let (text, result) = if flip {
        let (offset, bit) = (random.index(reach), random.below(8));
        let told = mesh.checks.damaging(node, &disk, damage(offset..offset + 1));
        let result =
            told.and_then(|()| mesh.world.rot(machine, &hit_path, offset, 1 << bit).map_err(|error| error.to_string()));
        (format!("bit {bit} of byte {offset} of {} flips", hit_path.display()), result)
    } else {
        let sectors = reach / SECTOR_BYTES;
        let source = path(segments[random.index(segments.len())]);
        let (from, to) = (random.index(sectors), random.index(sectors));
        let told = mesh.checks.damaging(node, &disk, damage(to * SECTOR_BYTES..(to + 1) * SECTOR_BYTES));
        let result = told.and_then(|()| {
            mesh.world.misplace(machine, &source, from, &hit_path, to).map_err(|error| error.to_string())
        });
        (format!("sector {from} of {} lies over {to} of {}", source.display(), hit_path.display()), result)
    };
    match result {
        Ok(()) => mesh.tell(&text),
        Err(error) => mesh.tell(&format!("{text}: {error}")),
    }
}
