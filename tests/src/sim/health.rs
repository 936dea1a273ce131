//! What the harness knows of the mesh's health, for the checkers that promise something only while nothing is broken, and
//! the look at discovery once in a virtual second.

use net::reactor::Mono;

use super::check::services::{Services, Shown};
use super::mesh::Mesh;

/// Between two looks at what discovery lists, in virtual milliseconds.
const LOOK_MS: u64 = 1_000;

/// Nodes that are equal have this long to open their live connections, in virtual milliseconds, or staleness is not judged.
const MEET_MS_MAX: u64 = 5_000;

/// The mesh's health.
#[derive(Debug)]
pub struct Health {
    services: Services,
    next_look: Mono,
    /// Since when links are whole, `None` while one is not or may not be.
    links_since: Option<Mono>,
}

impl Health {
    /// Nothing is known to be healthy yet.
    #[must_use]
    pub fn new(services: Services) -> Health {
        Health { services, next_look: Mono(0), links_since: None }
    }
}

impl Mesh {
    /// All links are whole from now on: discovery has to find everybody within its bound.
    pub fn links_are_whole(&mut self) {
        self.health.links_since = Some(self.world.now());
    }

    /// Links may be at fault from now on.
    pub fn links_may_break(&mut self) {
        self.health.links_since = None;
        self.unsettle();
    }

    /// From its next start on the node of `region` reads a wall clock that stands this far from the truth.
    pub fn set_clock(&mut self, region: usize, offset_ms: i64) {
        self.nodes[region].wall_offset_ms = offset_ms;
    }

    /// The wall clock of the node of `region` stands this far from the truth from now on.
    pub fn step_clock(&mut self, region: usize, offset_ms: i64) {
        self.set_clock(region, offset_ms);
        self.turn_clock(region);
        self.tell(&format!("the clock of {} is off by {offset_ms} ms", self.nodes[region].name));
    }

    /// How often a live node had to be listed in another region, and was.
    #[must_use]
    pub fn listed(&self) -> u64 {
        self.health.services.checked
    }

    /// Runs until every node follows every other on a live connection, and says whether that came about: regions may be equal by what came
    /// on bulk connections, or through a third one, while a live one is still being dialled.
    pub(crate) fn meets(&mut self) -> bool {
        let deadline = self.world.now().plus_ms(MEET_MS_MAX);
        loop {
            let follows_all = |node: &super::node::Node| node.status.read().peers.iter().all(|peer| peer.following);
            let all = self.nodes.iter().all(|state| state.node.as_ref().is_some_and(follows_all));
            if all || self.violation.is_some() || self.world.now() >= deadline {
                return all;
            }
            self.run_ms(250);
        }
    }

    /// Everything is up, whole and caught up: staleness is bounded once what was sent over the bad links has arrived, until a node ends
    /// or links may break.
    pub fn settle(&mut self) {
        let since = self.world.last_arrival();
        self.checks.ledger.staleness.healthy_since(Some(since), 0);
    }

    /// Staleness is not bounded any more.
    pub(crate) fn unsettle(&mut self) {
        self.checks.ledger.staleness.healthy_since(None, 0);
    }

    /// Looks at what discovery lists, if it is time.
    pub(crate) fn look(&mut self) {
        let now = self.world.now();
        if now < self.health.next_look {
            return;
        }
        self.health.next_look = now.plus_ms(LOOK_MS);
        let nodes = self.nodes.iter().map(|state| {
            let node = state.node.as_ref()?;
            Some(Shown { run: node.incarnation.0, services: node.status.read().services })
        });
        let nodes: Vec<Option<Shown>> = nodes.collect();
        let looked = self.health.services.look(now, self.health.links_since, &nodes);
        if let Err(violation) = looked {
            self.violate(violation);
        }
    }
}
