//! What the simulated network, disk, processes and clocks promise beyond the conformance suite.
#![allow(clippy::cast_possible_truncation)]

mod clocks;
mod disks;
mod network;
mod processes;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use bytes::Bytes;

use super::*;
use crate::reactor::disk::Disk;
use crate::reactor::{FileJob, Outcome, Socket};

/// Two nodes with one loop each; completions that were not asked for yet wait in `seen`.
struct Pair {
    world: World,
    nodes: [NodeIndex; 2],
    loops: Vec<SimIo>,
    seen: Vec<Vec<Done>>,
}

const A: usize = 0;
const B: usize = 1;
const MS: u64 = 1_000_000;

fn ip(side: usize) -> IpAddr {
    IpAddr::from([10, 0, 0, side as u8 + 1])
}

fn port_of(side: usize) -> SocketAddr {
    SocketAddr::new(ip(side), 4000)
}

impl Pair {
    fn new(seed: u64) -> Self {
        let world = World::new(seed);
        let nodes = [world.add_node(&[ip(A)]), world.add_node(&[ip(B)])];
        let loops = nodes.iter().map(|node| SimIo::new(&world, *node)).collect();
        Pair { world, nodes, loops, seen: vec![Vec::new(), Vec::new()] }
    }

    /// One tick of whichever loop is next; `false` at `limit`.
    fn tick(&mut self, limit: Mono) -> bool {
        let Some(id) = self.world.step_until(limit) else { return false };
        let side = self.loops.iter().position(|io| io.id() == id).unwrap();
        self.loops[side].poll(Wait::Until(Mono(u64::MAX)), &mut self.seen[side]).unwrap();
        true
    }

    fn run_ms(&mut self, ms: u64) {
        let limit = self.world.now().plus_ms(ms);
        while self.tick(limit) {}
    }

    fn submit(&mut self, side: usize, op: Operation, tag: u64) {
        self.loops[side].submit(op, Tag(tag)).unwrap();
    }

    /// Runs until this completion arrives, at most an hour.
    fn expect(&mut self, side: usize, tag: u64) -> Done {
        let limit = self.world.now().plus_ms(3_600_000);
        loop {
            if let Some(index) = self.seen[side].iter().position(|completion| completion.tag == Tag(tag)) {
                return self.seen[side].remove(index);
            }
            assert!(self.tick(limit), "no completion {tag} at {side}");
        }
    }

    /// Runs for up to a second and takes this completion, if it arrives.
    fn expect_or_none(&mut self, side: usize, tag: u64) -> Option<Done> {
        self.run_ms(1_000);
        let index = self.seen[side].iter().position(|completion| completion.tag == Tag(tag))?;
        Some(self.seen[side].remove(index))
    }

    fn connect(&mut self, kind: StreamKind) -> (Socket, Socket) {
        let listener = self.loops[B].listen(port_of(B), kind, false).unwrap();
        self.submit(B, Op::Accept { listener }, 1);
        self.submit(A, Op::Connect { local: None, to: port_of(B), kind }, 2);
        let Ok(Outcome::Connected(near)) = self.expect(A, 2).result else { panic!("not connected") };
        let Ok(Outcome::Accepted(far, _)) = self.expect(B, 1).result else { panic!("not accepted") };
        (near, far)
    }

    fn send(&mut self, side: usize, socket: Socket, bytes: &[u8], tag: u64) {
        self.submit(side, Op::Send { socket, runs: vec![Bytes::copy_from_slice(bytes)] }, tag);
    }
}

fn prepared(disk: &SimDisk, path: &str, len: u64) -> SimFile {
    let job = FileJob::Prepare { path: path.into(), len, head: Bytes::from_static(b"head") };
    match disk.run(job) {
        Ok(Outcome::Opened(file)) => file,
        other => panic!("not prepared: {other:?}"),
    }
}

/// Writes `byte` over the whole file, as a mapping does.
fn fill(file: &SimFile, byte: u8) {
    file.live().lock().unwrap().fill(byte);
}
