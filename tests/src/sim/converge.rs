//! The end of a run: everything is healed, and the regions have to become equal and fall silent.

use engine::replication::logs::OwnLog;
use wal::Version;

use super::check::Violation;
use super::check::finals::{self, CONVERGED, L1};
use super::check::silence::Carried;
use super::client::Client;
use super::mesh::Mesh;

/// After healing, the regions have this long to become equal, in virtual milliseconds.
pub const CONVERGE_MS_MAX: u64 = 60_000;
/// After convergence, links may speak for this long, and must then be silent for as long.
pub const QUIET_MS: u64 = 5_000;

impl Mesh {
    fn is_converged(&mut self) -> bool {
        let idle = self.clients.iter().all(Client::is_idle) && self.nodes.iter().all(|state| state.node.is_some());
        if !idle {
            return false;
        }
        if self.checks.losses.any() {
            // Claims over logs whose end was lost never come; those over the logs of the present runs do.
            return self.missing().is_none() && self.lagging_in(|log| log.end.is_none()).is_none();
        }
        self.lagging().is_none() && {
            let nodes = self.nodes.iter_mut().filter_map(|state| state.node.as_mut());
            finals::equal(&self.checks.history, nodes)
        }
    }

    /// In a world that lost a disk: something that a node has to have and has not.
    fn missing(&mut self) -> Option<Violation> {
        let nodes = self.nodes.iter_mut().enumerate();
        let nodes = nodes.filter_map(|(index, state)| Some((index, state.name.as_str(), state.node.as_mut()?)));
        self.checks.losses.missing(&self.checks.views, nodes, &self.checks.history)
    }

    /// Some claim that is behind what its log's owner promises.
    #[must_use]
    pub fn lagging(&self) -> Option<String> {
        self.lagging_in(|_| true)
    }

    fn lagging_in(&self, counts: impl Fn(&OwnLog) -> bool) -> Option<String> {
        for source in self.nodes.iter().filter_map(|state| state.node.as_ref()) {
            for log in source.control.logs().logs.iter().filter(|log| counts(log)) {
                let promised = log.end.unwrap_or_else(|| log.highest_complete());
                for state in &self.nodes {
                    let Some(follower) = state.node.as_ref().filter(|node| node.id != source.id) else { continue };
                    let held = Version(follower.control.watermarks().version(log.id).0);
                    if held < promised {
                        return Some(format!("{} holds {} up to {held:?} of {promised:?}", state.name, log.id));
                    }
                }
            }
        }
        None
    }

    /// Runs until all regions are equal, hold all claims, and agree with the model; then until the links are silent.
    /// Everything has to be up and healed.
    pub(crate) fn converge(&mut self) {
        self.agree();
        if self.violation.is_none() {
            self.check_silence();
        }
    }

    /// Runs until all regions are equal, hold all claims, and agree with the model. Everything has to be up and healed.
    pub(crate) fn agree(&mut self) {
        let deadline = self.world.now().plus_ms(CONVERGE_MS_MAX);
        while self.violation.is_none() && !self.is_converged() {
            if self.world.now() >= deadline {
                let what = self.lagging().unwrap_or_else(|| "the stores differ".to_owned());
                self.violate(Violation::new(L1, format!("not converged after {CONVERGE_MS_MAX} ms: {what}")));
                break;
            }
            self.run_ms(250);
            for index in 0..self.nodes.len() {
                // A fault that was under way when everything was healed may still end a node.
                if self.nodes[index].node.is_none() {
                    self.start(index);
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
    }

    fn check_finals(&mut self) {
        let mut found = None;
        if self.checks.losses.any() {
            found = self.missing();
        } else {
            for state in &mut self.nodes {
                let Some(node) = &mut state.node else { continue };
                let unix_ms = self.world.wall_unix_ms(state.settings.machine);
                let checked = finals::check(&self.checks.history, &self.checks.ledger, &state.name, node, unix_ms);
                found = found.or(checked.err());
            }
        }
        let found = found.or_else(|| self.checks.ledger.privates.check().err());
        if found.is_some() {
            self.violation = None;
        }
        self.judge(found.map_or(Ok(()), Err));
    }

    fn check_silence(&mut self) {
        self.run_ms(QUIET_MS);
        let before = self.carried();
        self.run_ms(QUIET_MS);
        let after = self.carried();
        if self.violation.is_none() {
            let silent = before.silent_until(&after, QUIET_MS);
            self.judge(silent);
        }
    }

    /// What links have carried so far.
    fn carried(&self) -> Carried {
        let mut carried = Carried { records: self.checks.leaves.records, ..Carried::default() };
        for (from, source) in self.nodes.iter().enumerate() {
            let said = source.node.as_ref().map_or(0, |node| node.control.replication_bytes());
            carried.said.push((source.name.clone(), said));
            let cuts = |node: &super::node::Node| (node.control.wanted_cut(), node.control.stable_cut());
            carried.cuts.push(source.node.as_ref().map(cuts).unwrap_or_default());
            for (to, target) in self.nodes.iter().enumerate().filter(|(to, _)| *to != from) {
                let way = (source.name.clone(), target.name.clone());
                carried.bytes.push((way, self.world.bytes_between(self.ip(from), self.ip(to))));
                let peer = target.settings.peers.iter().position(|peer| *peer == self.ip(from));
                let of = |node: &super::node::Node| peer.and_then(|peer| node.control.compared().nth(peer));
                let compared = target.node.as_ref().and_then(of).unwrap_or_default();
                // Where a disk was lost nodes may differ for good, and each comparison looks at what differs.
                let weight = if self.checks.losses.any() { 10 } else { 1 };
                carried.comparisons.push(compared.comparisons * weight);
            }
        }
        carried
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
