//! Sessions that have moved here: their clients wait until this node has what their tokens name.
//!
//! Each waits for one entry of its token at a time, in the order of versions, so that a claim that takes effect is compared with the lowest
//! version that is waited for, whatever the number of sessions.

use std::collections::{BTreeMap, BTreeSet};

use net::ids::{NodeId, Version};
use net::reactor::Mono;
use net::token::Token;
use wal::marks::{Mark, reach};

use super::ControlLoop;
use crate::host::Host;
use crate::messages::ToCore;
use crate::replication::coverage::Coverage;

/// A core, and the number by which it knows who waits.
type Name = (u16, u64);

/// Who waits.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    tokens: BTreeMap<Name, (Token, Mono)>,
    /// What each of them lacks.
    lacking: BTreeSet<(NodeId, Version, Name)>,
    deadlines: BTreeSet<(Mono, Name)>,
}

impl Sessions {
    /// When the first of them is answered in any case.
    pub(super) fn deadline(&self) -> Option<Mono> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// The lowest version that is waited for, by node, of all nodes above `after`.
    fn lowest(&self, after: Option<(NodeId, Version, Name)>) -> Option<(NodeId, Version, Name)> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.lacking.range((after.map_or(Unbounded, Excluded), Unbounded)).next().copied()
    }
}

/// Behind everything that is waited for of a node.
fn end_of(node: NodeId) -> (NodeId, Version, Name) {
    (node, Version(u64::MAX), (u16::MAX, u64::MAX))
}

impl<H: Host> ControlLoop<H> {
    fn session_coverage(&self) -> Coverage<'_> {
        let own = NodeId(self.facts.node.0);
        Coverage { own, logs: &self.logs, known: &self.known, watermarks: &self.watermarks }
    }

    /// A client of `core` waits until this node has all that `token` names.
    pub(super) fn session_came(&mut self, core: u16, number: u64, token: Token, until: Mono) {
        let name = (core, number);
        match self.session_coverage().lacking(&token) {
            None => self.session_is_covered(name),
            Some((node, version)) => {
                reach(Mark::SessionWaited);
                self.sessions.lacking.insert((node, version, name));
                self.sessions.deadlines.insert((until, name));
                self.sessions.tokens.insert(name, (token, until));
            }
        }
    }

    /// Answers those whose tokens are covered by now, and those whose time is up.
    pub(super) fn tend_sessions(&mut self) {
        let mut after = None;
        while let Some((node, version, name)) = self.sessions.lowest(after) {
            if !self.session_coverage().has(node, version) {
                after = Some(end_of(node));
                continue;
            }
            self.sessions.lacking.remove(&(node, version, name));
            let Some((token, until)) = self.sessions.tokens.remove(&name) else { continue };
            self.sessions.deadlines.remove(&(until, name));
            self.session_came(name.0, name.1, token, until);
        }
        let now = self.now();
        while let Some((_, name)) = self.sessions.deadlines.first().copied().filter(|(until, _)| *until <= now) {
            self.session_is_late(name);
        }
    }

    fn session_is_covered(&mut self, (core, number): Name) {
        self.cores[usize::from(core)].send(ToCore::Covered { number, lacking: None });
    }

    fn session_is_late(&mut self, name: Name) {
        let Some((token, until)) = self.sessions.tokens.remove(&name) else { return };
        self.sessions.deadlines.remove(&(until, name));
        let coverage = self.session_coverage();
        let Some((node, version)) = coverage.lacking(&token) else { return self.session_is_covered(name) };
        reach(Mark::SessionTimedOut);
        let held = coverage.held_of(node, version);
        let region = self.members.get(node).map_or_else(|| "no member".into(), |member| member.region.to_string());
        // Under which of its entries it was filed is not remembered.
        self.sessions.lacking.retain(|(.., of)| *of != name);
        let lacking =
            format!("version {} of node {node} ({region}), of which it has what is below {}", version.0, held.0 + 1);
        self.cores[usize::from(name.0)].send(ToCore::Covered { number: name.1, lacking: Some(lacking) });
    }
}
