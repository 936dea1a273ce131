//! A client that moves between regions with the token of its session.
//!
//! It asks for its token behind every operation, and counts what it was shown only once that came: what happened between the two
//! it does not know. A region that does not have in time what it saw it leaves for another one; after some of those it begins anew, as
//! somebody else.

use std::net::SocketAddr;

use net::reactor::sim::Random;
use net::reactor::{Io, Mono};
use net::resp::{Value, encode_command};

use super::{Client, Link};
use crate::sim::plan::ClientPlan;
use crate::sim::workload::{Mix, Note};

/// Of so many operations, one is followed by a move.
const MOVE_EVERY: u64 = 12;
/// How long it lets a region wait for what it saw, in milliseconds.
const WITHIN_MS: u64 = 2_000;
/// How often it is turned away before it begins anew.
const REFUSALS_MAX: u32 = 5;

/// What such a client knows.
#[derive(Debug)]
pub(super) struct Roam {
    regions: Vec<SocketAddr>,
    token: Option<Vec<u8>>,
    /// Until when the region is asked to go on with the session.
    pub(super) entering: Option<Mono>,
    refusals: u32,
}

impl Roam {
    /// One that may go to these places.
    #[must_use]
    pub(super) fn new(regions: Vec<SocketAddr>) -> Roam {
        Roam { regions, token: None, entering: None, refusals: 0 }
    }
}

impl Client {
    /// Makes it one that moves between the regions whose nodes are there.
    pub fn roams(&mut self, regions: Vec<SocketAddr>) {
        self.roam = Some(Roam::new(regions));
    }

    /// A connection stands: the session goes on there.
    pub(super) fn enter(&mut self) {
        let now = self.io.now();
        let Some(roam) = &mut self.roam else { return };
        roam.entering = Some(now.plus_ms(WITHIN_MS + 1_000));
        let within = WITHIN_MS.to_string();
        match &roam.token {
            None => encode_command(&["GODWIT.SESSION", "BEGIN"], &mut self.output),
            Some(token) => {
                let words: [&[u8]; 4] = [b"GODWIT.SESSION", b"AFTER", token, within.as_bytes()];
                encode_command(&words, &mut self.output);
            }
        }
    }

    /// The region's answer to that.
    pub(super) fn entered(&mut self, answer: &Value) {
        let Some(roam) = &mut self.roam else { return };
        roam.entering = None;
        if matches!(answer, Value::Simple(text) if text == "OK") {
            roam.refusals = 0;
            let (region, session) = (self.region, self.session);
            self.notes.push(Note::Entered { region, session });
            return;
        }
        roam.refusals += 1;
        if roam.refusals >= REFUSALS_MAX {
            (roam.refusals, roam.token) = (0, None);
            self.ids.set(self.ids.get() + 1);
            self.session = self.ids.get();
        }
        self.go_elsewhere();
    }

    /// The token behind an operation; what came is no token otherwise.
    pub(super) fn take_token(&mut self, answer: Option<Value>) -> Option<String> {
        match (&mut self.roam, answer) {
            (Some(roam), Some(Value::Bulk(token))) => {
                roam.token = Some(token);
                None
            }
            (_, other) => Some(format!("{other:?} came where a token was due")),
        }
    }

    /// Whether it leaves now, if it has nothing under way.
    pub(super) fn moves(&mut self) -> bool {
        self.roam.is_some() && self.waiting.is_empty() && self.io.random().is_multiple_of(MOVE_EVERY)
    }

    /// Leaves for some region, which may be the same.
    pub(super) fn go_elsewhere(&mut self) {
        let Some(roam) = &mut self.roam else { return };
        roam.entering = None;
        let at = self.io.random() % roam.regions.len() as u64;
        self.region = usize::try_from(at).unwrap_or(0);
        self.target = roam.regions[self.region];
        match self.link {
            Link::Down { .. } => {}
            _ => self.hang_up(),
        }
    }
}

/// Of every fourth world: clients that move between regions with the token of their session. From a stream of its own: worlds without them are what they
/// were before there were any.
pub(in crate::sim) fn draw_roamers(seed: u64, nodes: usize, clients: &mut Vec<ClientPlan>) {
    let mut random = Random::new(seed ^ 0x5E55_1000_0000_0001);
    if random.below(4) > 0 {
        return;
    }
    let mix = Mix { native: false, own_percent: 5, read_percent: 50, ..clients[0].mix };
    let count = 1 + random.index(3);
    let roamer = |node| ClientPlan { node, mix, depth: 1 + random.index(3), roams: true };
    clients.extend((0..count).map(|nth| nth % nodes).map(roamer));
}
