//! One random run: a safety phase with faults from the seed, then healing and a liveness phase.

use std::panic::{AssertUnwindSafe, catch_unwind};

use wal::marks::{self, MarkSet};

use super::check::Violation;
use super::client::Source;
use super::faults::Faults;
use super::mesh::Mesh;
use super::plan::{CALM_MS, Plan};

/// How long discovery is watched at the end, in virtual milliseconds: longer than it may take to list or to forget anybody.
const DISCOVERY_MS: u64 = 20_000;

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
    /// Reads that were answered, and deletes of what was not there.
    pub read: u64,
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
    /// Events of the world and turns of loops.
    pub steps: u64,
    /// The rare branches of the product that it reached.
    pub marks: MarkSet,
}

impl Report {
    /// Operations that clients began.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.acknowledged + self.read + self.unknown + self.refused
    }
}

/// Runs one seed.
#[must_use]
pub fn run_seed(seed: u64) -> Report {
    run_plan(&Plan::draw(seed))
}

/// Runs a plan.
#[must_use]
pub fn run_plan(plan: &Plan) -> Report {
    // Marks belong to the thread: those of the run before this one are not this one's.
    let _ = marks::take();
    let mut mesh = Mesh::planned(plan);
    let ended = catch_unwind(AssertUnwindSafe(|| play(&mut mesh, plan)));
    if let Err(panic) = ended {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        mesh.violate(Violation::new(ASSERTION, text.unwrap_or_else(|| "a panic without a text".to_owned())));
    }
    let ledger = &mesh.checks.ledger;
    let stats = mesh.world.stats();
    Report {
        marks: marks::take(),
        seed: plan.seed,
        trace_hash: mesh.trace_hash(),
        faults: plan.faults.len() as u64,
        acknowledged: ledger.acknowledged_count,
        read: ledger.read_count,
        unknown: ledger.unknown_count,
        refused: ledger.refused_count,
        records: mesh.checks.history.records,
        segments: mesh.segments_given_up(),
        virtual_ms: mesh.world.now().0 / 1_000_000,
        steps: stats.events + stats.turns,
        violation: mesh.violation.clone(),
        story: mesh.story,
    }
}

fn play(mesh: &mut Mesh, plan: &Plan) {
    let mut faults = Faults::new(plan);
    mesh.start_all();
    let limit = mesh.world.now().plus_ms(plan.safety_ms);
    faults.run(mesh, limit);
    if mesh.violation.is_some() {
        return;
    }
    faults.end(mesh);
    mesh.links_are_whole();
    switch(mesh, false);
    mesh.agree();
    // Nothing is broken any more: what one region acknowledges the others show within their bound.
    if mesh.meets() {
        mesh.settle();
    }
    switch(mesh, true);
    mesh.run_ms(CALM_MS);
    switch(mesh, false);
    let began = mesh.world.now();
    mesh.converge();
    // Discovery takes its time to find everybody again.
    mesh.run_until(began.plus_ms(DISCOVERY_MS));
    let ledger = &mesh.checks.ledger;
    let text = format!(
        "{} operations; {} calls on private keys in order, {} keys undecided; {} reads of teams in one piece, {} teams swapped, \
         {} swaps lost to others; {} reads held to other regions, lag up to {} ms",
        ledger.operation_count,
        ledger.privates.checked,
        ledger.privates.undecided,
        ledger.teams.reads,
        ledger.teams.swaps,
        ledger.teams.lost_races,
        ledger.staleness.checked,
        ledger.staleness.largest_ns / 1_000_000,
    );
    mesh.tell(&text);
}

fn switch(mesh: &mut Mesh, begin: bool) {
    for client in &mut mesh.clients {
        let waker = client.waker();
        if let Source::Mix { on, .. } = client.source() {
            *on = begin;
            waker.wake();
        }
    }
    mesh.tell(if begin { "clients begin again" } else { "clients stop" });
}
