//! Regions with one node each, links that can be cut, and a driver that does what the real one does. Every message
//! crosses the wire encoding on its way.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use bytes::Bytes;
use net::ids::{Epoch, Incarnation, InstanceId, NodeId, RegionName, RequestId, ServiceName};
use net::reactor::Mono;
use net::wire::body::{EntryState, InstanceKey, Register};
use net::wire::{FrameReader, Message};

use super::super::{Effect, Federation, PeerIndex, Settings};

pub(super) const SFO: usize = 0;
pub(super) const NYC: usize = 1;
pub(super) const AMS: usize = 2;
pub(super) const REGIONS: [&str; 3] = ["sfo", "nyc", "ams"];
pub(super) const STEP_MS: u64 = 50;
/// The longest one-way delay of the founding text, and the step it is rounded up to.
pub(super) const DELAY_MS: u64 = 100;

pub(super) fn region(node: usize) -> RegionName {
    RegionName::parse(REGIONS[node]).unwrap()
}

pub(super) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(super) fn key(instance: usize, epoch: u64) -> InstanceKey {
    let service = ServiceName::parse("caching").unwrap();
    InstanceKey { service, instance: InstanceId(u64::try_from(instance).unwrap()), epoch: Epoch(epoch) }
}

pub(super) fn register(instance: usize, epoch: u64) -> Register {
    let address = address("127.0.0.1:10700");
    Register { key: key(instance, epoch), address, ttl_ms: 15_000, metadata: Vec::new() }
}

pub(super) fn settings(node: usize, run: u64) -> Settings {
    let host = |index: usize| format!("10.0.0.{}", index + 1);
    Settings {
        region: region(node),
        node: NodeId(u32::try_from(node).unwrap() + 1),
        incarnation: Incarnation(run),
        advertise: host(node).parse().unwrap(),
        peers: others(node).map(|peer| address(&format!("{}:10200", host(peer)))).collect(),
    }
}

/// The other nodes, in the order of the node's peer list.
pub(super) fn others(node: usize) -> impl Iterator<Item = usize> {
    (0..REGIONS.len()).filter(move |other| *other != node)
}

pub(super) fn peer_index(node: usize, peer: usize) -> PeerIndex {
    PeerIndex(others(node).position(|other| other == peer).unwrap())
}

pub(super) struct Mesh {
    pub(super) nodes: Vec<Federation>,
    pub(super) now_ms: u64,
    /// One-way cuts.
    pub(super) cuts: BTreeSet<(usize, usize)>,
    /// One-way black holes that connections nevertheless cross.
    pub(super) swallow: BTreeSet<(usize, usize)>,
    /// Instances that no longer refresh.
    pub(super) silent: BTreeSet<usize>,
    /// Last refresh of each node's instance, ms.
    pub(super) refreshed_ms: [u64; 3],
    /// Everything sent: when, from, to, what.
    pub(super) sent: Vec<(u64, usize, usize, Message)>,
    pub(super) resets: Vec<(u64, usize, usize, u64)>,
    runs: [u64; 3],
    links: BTreeSet<(usize, usize)>,
    flying: Vec<(u64, usize, usize, Message)>,
}

impl Mesh {
    /// All linked, one instance of `caching` per region, past the learning period.
    pub(super) fn settled() -> Mesh {
        let mut mesh = Mesh::started();
        mesh.run_ms(25_000, |_| ());
        mesh
    }

    /// All linked, one instance per region registered.
    pub(super) fn started() -> Mesh {
        let mut mesh = Mesh {
            nodes: (0..3).map(|node| Federation::new(settings(node, 1), Mono(0))).collect(),
            now_ms: 0,
            cuts: BTreeSet::new(),
            swallow: BTreeSet::new(),
            silent: BTreeSet::new(),
            refreshed_ms: [0; 3],
            sent: Vec::new(),
            resets: Vec::new(),
            runs: [1; 3],
            links: BTreeSet::new(),
            flying: Vec::new(),
        };
        for node in 0..3 {
            mesh.nodes[node].register_local(register(node, 1), Mono(0)).unwrap();
        }
        mesh.dial();
        mesh
    }

    pub(super) fn now(&self) -> Mono {
        Mono(0).plus_ms(self.now_ms)
    }

    /// Cuts a region off in both directions from all others.
    pub(super) fn cut_off(&mut self, node: usize) {
        for other in others(node) {
            self.cuts.extend([(node, other), (other, node)]);
        }
    }

    /// Runs, with a look at the mesh after every step.
    pub(super) fn run_ms(&mut self, ms: u64, mut look: impl FnMut(&mut Mesh)) {
        let end_ms = self.now_ms + ms;
        while self.now_ms < end_ms {
            self.step();
            look(self);
        }
    }

    /// What `node` lists for the instance of `of`, gone ones included.
    pub(super) fn state(&self, node: usize, of: usize) -> Option<EntryState> {
        let listing = self.nodes[node].list(None, true, self.now());
        listing.entries.iter().find(|entry| entry.region == region(of)).map(|entry| entry.state)
    }

    /// Whether `node` lists the instance of `of` to routers.
    pub(super) fn lists(&self, node: usize, of: usize) -> bool {
        let listing = self.nodes[node].list(None, false, self.now());
        listing.entries.iter().any(|entry| entry.region == region(of))
    }

    pub(super) fn step(&mut self) {
        self.now_ms += STEP_MS;
        let now = self.now();
        for node in 0..3 {
            let due = self.now_ms >= self.refreshed_ms[node] + 5_000;
            if due && !self.silent.contains(&node) {
                self.refreshed_ms[node] = self.now_ms;
                self.nodes[node].register_local(register(node, 1), now).unwrap();
            }
        }
        self.dial();
        self.deliver();
        for node in 0..3 {
            let effects = self.nodes[node].tick(now);
            self.perform(node, effects);
            assert!(self.nodes[node].next_deadline() > now, "a tick leaves nothing due");
        }
    }

    fn perform(&mut self, node: usize, effects: Vec<Effect>) {
        let peers: Vec<usize> = others(node).collect();
        for effect in effects {
            match effect {
                Effect::SendFederated { peer, message } => {
                    self.send(node, peers[peer.0], Message::FederatedRegister(message));
                }
                Effect::ResetLink { peer, redial_ms } => {
                    let peer = peers[peer.0];
                    self.resets.push((self.now_ms, node, peer, redial_ms));
                    self.links.remove(&(node, peer));
                    if !self.cuts.contains(&(node, peer)) && self.links.remove(&(peer, node)) {
                        let now = self.now();
                        self.nodes[peer].on_peer_down(peer_index(peer, node), now);
                    }
                }
                Effect::Changed => {}
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        self.sent.push((self.now_ms, from, to, message.clone()));
        if self.cuts.contains(&(from, to)) || self.swallow.contains(&(from, to)) {
            return;
        }
        let mut frame = Vec::new();
        message.encode(RequestId(0), &mut frame).expect("every message fits a frame");
        let mut reader = FrameReader::new();
        reader.feed(&Bytes::from(frame));
        let received = Message::decode(&reader.next().unwrap().unwrap()).unwrap();
        self.flying.push((self.now_ms + DELAY_MS, from, to, received));
    }

    fn deliver(&mut self) {
        let now_ms = self.now_ms;
        let (due, later) = std::mem::take(&mut self.flying).into_iter().partition(|(at, ..)| *at <= now_ms);
        self.flying = later;
        let now = self.now();
        for (_, from, to, message) in due {
            // A message of a connection that is gone arrives nowhere.
            if !self.links.contains(&(to, from)) {
                continue;
            }
            let peer = peer_index(to, from);
            match message {
                Message::FederatedRegister(message) => {
                    let ack = self.nodes[to].on_federated_register(peer, &message, now);
                    self.send(to, from, Message::FederatedAck(ack));
                }
                Message::FederatedAck(ack) => self.nodes[to].on_ack(peer, ack, now),
                other => panic!("discovery does not send {other:?}"),
            }
        }
    }

    /// Connects whatever is not connected and can be, anew on both sides.
    fn dial(&mut self) {
        for (a, b) in [(SFO, NYC), (SFO, AMS), (NYC, AMS)] {
            let up = self.links.contains(&(a, b)) && self.links.contains(&(b, a));
            if up || self.cuts.contains(&(a, b)) || self.cuts.contains(&(b, a)) {
                continue;
            }
            self.flying.retain(|(_, from, to, _)| (*from, *to) != (a, b) && (*from, *to) != (b, a));
            self.links.extend([(a, b), (b, a)]);
            let now = self.now();
            for (from, to) in [(a, b), (b, a)] {
                let id = NodeId(u32::try_from(to).unwrap() + 1);
                let run = Incarnation(self.runs[to]);
                self.nodes[from].on_peer_up(peer_index(from, to), region(to), id, run, now);
            }
        }
    }

    /// `node` goes over to another connection to `peer`, which notices nothing of it.
    pub(super) fn change_link(&mut self, node: usize, peer: usize) {
        let (now, index, id) = (self.now(), peer_index(node, peer), NodeId(u32::try_from(peer).unwrap() + 1));
        self.nodes[node].on_peer_down(index, now);
        self.nodes[node].on_peer_up(index, region(peer), id, Incarnation(self.runs[peer]), now);
    }

    /// The node's process starts anew, without registrations.
    pub(super) fn restart(&mut self, node: usize) {
        let now = self.now();
        self.runs[node] += 1;
        self.nodes[node] = Federation::new(settings(node, self.runs[node]), now);
        for other in others(node) {
            self.links.remove(&(node, other));
            self.links.remove(&(other, node));
            self.nodes[other].on_peer_down(peer_index(other, node), now);
        }
    }
}
