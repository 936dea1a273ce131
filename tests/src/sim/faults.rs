//! Faults drawn from the seed: what breaks, for how long, and how it comes back.

use std::net::IpAddr;

use net::reactor::Mono;

use super::mesh::{Mesh, REGIONS};

/// Longest pause between two faults in virtual milliseconds.
const GAP_MS_MAX: u64 = 900;
/// Wall clocks stand within this of the truth.
const OFFSET_MS_MAX: u64 = 200;
/// Segments lost per million on a bad link.
const LOSS_PPM_MAX: u64 = 30_000;

/// What ends a fault.
#[derive(Clone, Copy, Debug)]
enum Cure {
    Heal(IpAddr, IpAddr),
    Start(usize),
    Clock(usize),
    Room(usize),
}

/// The faults of one run.
#[derive(Debug)]
pub struct Faults {
    next_at: Mono,
    cures: Vec<(Mono, Cure)>,
    /// How many there were.
    pub count: u64,
}

impl Faults {
    /// Draws what is wrong from the beginning: clocks and losses.
    #[must_use]
    pub fn new(mesh: &mut Mesh) -> Faults {
        for region in 0..mesh.regions.len() {
            mesh.regions[region].wall_offset_ms = draw_offset(mesh);
        }
        let ips: Vec<IpAddr> = mesh.regions.iter().map(|state| state.settings.ip).collect();
        for from in &ips {
            for to in &ips {
                if below(mesh, 3) == 0 {
                    let loss = below(mesh, LOSS_PPM_MAX);
                    mesh.world.set_loss(*from, *to, loss);
                }
            }
        }
        Faults { next_at: Mono(0), cures: Vec::new(), count: 0 }
    }

    /// Runs until `limit`, breaking and curing things on the way.
    pub fn run(&mut self, mesh: &mut Mesh, limit: Mono) {
        while mesh.violation.is_none() && mesh.world.now() < limit {
            let cure_at = self.cures.iter().map(|(at, _)| *at).min().unwrap_or(limit);
            mesh.run_until(cure_at.min(self.next_at).min(limit));
            let now = mesh.world.now();
            let (due, later) = std::mem::take(&mut self.cures).into_iter().partition(|(at, _)| *at <= now);
            self.cures = later;
            let due: Vec<(Mono, Cure)> = due;
            for (_, cure) in due {
                apply(mesh, cure);
            }
            if self.next_at <= now {
                self.next_at = now.plus_ms(20 + below(mesh, GAP_MS_MAX));
                self.strike(mesh);
            }
            self.restart_failed(mesh);
        }
    }

    /// Ends every fault.
    pub fn end(&mut self, mesh: &mut Mesh) {
        for (_, cure) in std::mem::take(&mut self.cures) {
            apply(mesh, cure);
        }
        let ips: Vec<IpAddr> = mesh.regions.iter().map(|state| state.settings.ip).collect();
        for from in &ips {
            for to in &ips {
                mesh.world.set_loss(*from, *to, 0);
            }
        }
        mesh.heal();
        for region in 0..mesh.regions.len() {
            if mesh.regions[region].node.is_none() {
                mesh.start(region);
            }
        }
    }

    fn cure_in(&mut self, mesh: &Mesh, millis: u64, cure: Cure) {
        self.cures.push((mesh.world.now().plus_ms(millis), cure));
    }

    fn strike(&mut self, mesh: &mut Mesh) {
        self.count += 1;
        let region = index_below(mesh, 3);
        match below(mesh, 100) {
            0..18 => {
                let other = (region + 1 + index_below(mesh, 2)) % 3;
                let both = below(mesh, 2) == 0;
                let millis = draw_outage_ms(mesh);
                self.cut(mesh, region, other, both, millis);
            }
            18..26 => {
                let millis = draw_outage_ms(mesh);
                mesh.tell(&format!("{} is cut off for {millis} ms", REGIONS[region]));
                for other in [(region + 1) % 3, (region + 2) % 3] {
                    self.cut(mesh, region, other, true, millis);
                }
            }
            26..48 => {
                if mesh.world.reset_random_stream() {
                    mesh.tell("a stream is reset");
                }
            }
            48..66 => self.stop(mesh, region, true),
            66..84 => self.stop(mesh, region, false),
            84..87 => {
                for region in 0..3 {
                    self.stop(mesh, region, true);
                }
            }
            87..92 => {
                mesh.tell(&format!("the next sync of {} will fail", REGIONS[region]));
                mesh.world.fail_next_sync(mesh.regions[region].settings.machine);
            }
            92..96 => {
                mesh.tell(&format!("the clock of {} jumps", REGIONS[region]));
                let jump: i64 = [-3_600_000, 3_600_000, 315_000_000_000][index_below(mesh, 3)];
                mesh.world.set_wall_offset(mesh.regions[region].settings.machine, jump);
                let millis = 100 + below(mesh, 3_000);
                self.cure_in(mesh, millis, Cure::Clock(region));
            }
            _ => {
                mesh.tell(&format!("the disk of {} is full", REGIONS[region]));
                mesh.world.set_disk_full(mesh.regions[region].settings.machine, true);
                let millis = 100 + below(mesh, 3_000);
                self.cure_in(mesh, millis, Cure::Room(region));
            }
        }
    }

    fn cut(&mut self, mesh: &mut Mesh, from: usize, to: usize, both: bool, millis: u64) {
        let (source, target) = (mesh.regions[from].settings.ip, mesh.regions[to].settings.ip);
        let arrow = if both { "<->" } else { "->" };
        mesh.tell(&format!("{} {arrow} {} is cut for {millis} ms", REGIONS[from], REGIONS[to]));
        mesh.world.cut(source, target);
        self.cure_in(mesh, millis, Cure::Heal(source, target));
        if both {
            mesh.world.cut(target, source);
            self.cure_in(mesh, millis, Cure::Heal(target, source));
        }
    }

    fn stop(&mut self, mesh: &mut Mesh, region: usize, power: bool) {
        if mesh.regions[region].node.is_none() {
            return;
        }
        mesh.stop(region, power);
        let millis = if below(mesh, 3) == 0 { 500 + below(mesh, 3_000) } else { 1 + below(mesh, 200) };
        self.cure_in(mesh, millis, Cure::Start(region));
    }

    /// A node whose log failed is restarted by its supervisor.
    fn restart_failed(&mut self, mesh: &mut Mesh) {
        for region in 0..mesh.regions.len() {
            let planned = self.cures.iter().any(|(_, cure)| matches!(cure, Cure::Start(other) if *other == region));
            if mesh.regions[region].node.is_none() && !planned {
                let millis = 1 + below(mesh, 500);
                self.cure_in(mesh, millis, Cure::Start(region));
            }
        }
    }
}

fn apply(mesh: &mut Mesh, cure: Cure) {
    match cure {
        Cure::Heal(from, to) => mesh.world.heal(from, to),
        Cure::Start(region) => {
            if mesh.regions[region].node.is_none() {
                if below(mesh, 3) == 0 {
                    mesh.regions[region].cores = 1 + u16::from(below(mesh, 2) == 0);
                }
                mesh.regions[region].wall_offset_ms = draw_offset(mesh);
                // Only a running node meets a full disk here; one that starts needs room for its first segment.
                mesh.world.set_disk_full(mesh.regions[region].settings.machine, false);
                mesh.start(region);
            }
        }
        Cure::Clock(region) => {
            let offset = mesh.regions[region].wall_offset_ms;
            mesh.world.set_wall_offset(mesh.regions[region].settings.machine, offset);
        }
        Cure::Room(region) => mesh.world.set_disk_full(mesh.regions[region].settings.machine, false),
    }
}

fn below(mesh: &Mesh, bound: u64) -> u64 {
    mesh.world.random_below(bound)
}

fn index_below(mesh: &Mesh, bound: u64) -> usize {
    usize::try_from(below(mesh, bound)).unwrap_or(0)
}

fn draw_outage_ms(mesh: &Mesh) -> u64 {
    if below(mesh, 3) == 0 { 2_000 + below(mesh, 6_000) } else { 50 + below(mesh, 1_000) }
}

fn draw_offset(mesh: &Mesh) -> i64 {
    let drawn = i64::try_from(below(mesh, 2 * OFFSET_MS_MAX + 1)).unwrap_or(0);
    drawn - i64::try_from(OFFSET_MS_MAX).unwrap_or(0)
}
