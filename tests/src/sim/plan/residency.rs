//! Which worlds have a policy, and which.

use net::reactor::sim::Random;

use super::{Plan, REGIONS};
use crate::sim::workload::Mix;

/// In one world of six one region may not hold the cold keys, nor those that another one keeps to itself; its clients do not ask for them.
/// In half of those nobody else may hold its own ones. It cannot hand on what the others wrote to each other. From a stream of its own.
pub(super) fn draw(plan: &mut Plan) {
    let mut random = Random::new(plan.seed ^ 0x4E51_DE2C_0000_0001);
    if random.below(6) > 0 || plan.nodes.len() != REGIONS.len() {
        return;
    }
    let outside = random.index(REGIONS.len());
    let (one, other) = ((outside + 1) % REGIONS.len(), (outside + 2) % REGIONS.len());
    let inside = format!("{},{}", REGIONS[one], REGIONS[other]);
    plan.residency = format!("cold:={inside};own:{one}:={inside}");
    if random.coin() {
        plan.residency += &format!(";own:{outside}:={}", REGIONS[outside]);
    }
    for client in &mut plan.clients {
        client.roams = false;
    }
    for client in plan.clients.iter_mut().filter(|client| client.node == outside) {
        client.mix = Mix { shuns_cold: true, ..client.mix };
    }
}
