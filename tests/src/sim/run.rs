//! One random run: a safety phase with faults from the seed, then healing and a liveness phase.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::check::Violation;
use super::client::Source;
use super::faults::Faults;
use super::mesh::Mesh;
use super::workload::Mix;

/// How long faults go on, in virtual milliseconds.
const SAFETY_MS: u64 = 10_000;

/// The checker that notices a broken assertion of the engine.
pub const ASSERTION: &str = "an assertion of the product";

/// What a run showed.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// What was violated, if anything.
    pub violation: Option<Violation>,
    /// Equal for equal seeds.
    pub trace_hash: u64,
    /// What happened, a line each.
    pub story: Vec<String>,
    /// Faults.
    pub faults: u64,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Operations that got no answer.
    pub unknown: u64,
    /// Operations that were refused.
    pub refused: u64,
    /// Records originated by all regions.
    pub records: u64,
    /// Segments given up because nothing in them counted any more, and files used again.
    pub segments: (u64, u64),
    /// Virtual milliseconds.
    pub virtual_ms: u64,
}

/// Runs one seed.
#[must_use]
pub fn run_seed(seed: u64) -> Report {
    let mut mesh = Mesh::down(seed, [2, 2, 2]);
    let mut count = 0;
    let ended = catch_unwind(AssertUnwindSafe(|| play(&mut mesh, &mut count)));
    if let Err(panic) = ended {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        mesh.violate(Violation::new(ASSERTION, text.unwrap_or_else(|| "a panic without a text".to_owned())));
    }
    let ledger = &mesh.checks.ledger;
    Report {
        seed,
        trace_hash: mesh.trace_hash(),
        faults: count,
        acknowledged: ledger.acknowledged_count,
        unknown: ledger.unknown_count,
        refused: ledger.refused_count,
        records: mesh.checks.history.records,
        segments: mesh.segments_given_up(),
        virtual_ms: mesh.world.now().0 / 1_000_000,
        violation: mesh.violation.clone(),
        story: mesh.story,
    }
}

fn play(mesh: &mut Mesh, count: &mut u64) {
    let mut faults = Faults::new(mesh);
    for region in 0..mesh.regions.len() {
        mesh.regions[region].cores = 1 + u16::from(mesh.world.random_below(3) > 0);
        mesh.start(region);
        let mix = Mix {
            hot_keys: 1 + mesh.world.random_below(6),
            cold_keys: 20 + mesh.world.random_below(200),
            hot_percent: 20 + mesh.world.random_below(70),
            think_us_max: 2_000 << mesh.world.random_below(6),
        };
        for _ in 0..=mesh.world.random_below(2) {
            let depth = 1 + mesh.world.random_below(6);
            mesh.add_mix(region, mix, usize::try_from(depth).unwrap_or(1));
        }
    }
    let limit = mesh.world.now().plus_ms(SAFETY_MS);
    faults.run(mesh, limit);
    *count = faults.count;
    if mesh.violation.is_some() {
        return;
    }
    faults.end(mesh);
    for client in &mut mesh.clients {
        if let Source::Mix { on, .. } = client.source() {
            *on = false;
        }
    }
    mesh.tell("clients stop");
    mesh.converge();
}
