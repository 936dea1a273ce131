//! What only scenarios of rare branches do to a mesh: broken disks in exact places, stalled loops, wrong settings. Nodes are named by
//! their place.

use std::path::PathBuf;

use engine::control::status::Status;
use net::reactor::FileJob;
use net::reactor::disk::Disk;
use net::reactor::sim::{DiskCopy, DiskImage};
use wal::FileKind;

use super::client::Source;
use super::mesh::Mesh;
use super::node::{Node, data_dir};
use super::plan::Death;

/// Disks.
impl Mesh {
    /// The segments on a node's disk, oldest first by core and number.
    #[must_use]
    pub fn segment_names(&self, node: usize) -> Vec<String> {
        let names = self.world.disk(self.machine(node)).list(data_dir()).unwrap_or_default();
        names.into_iter().filter(|name| matches!(wal::file_kind(name), FileKind::Segment { .. })).collect()
    }

    /// Flips bits of one byte of a file. Twice is as if nothing had happened.
    ///
    /// # Panics
    /// If there is no such byte.
    pub fn rot(&mut self, node: usize, name: &str, offset: usize, mask: u8) {
        self.world.rot(self.machine(node), &data_dir().join(name), offset, mask).expect("the file has this byte");
        self.tell(&format!("byte {offset} of {name} of {} rots", self.nodes[node].name));
    }

    /// Gives a file of a node that is down another name.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn rename(&mut self, node: usize, from: &str, to: &str) {
        let path = |name: &str| -> PathBuf { data_dir().join(name) };
        let job = FileJob::Rename { from: path(from), to: path(to) };
        self.world.disk(self.machine(node)).run(job).expect("the file is there");
        self.tell(&format!("somebody renames {from} to {to} in {}", self.nodes[node].name));
    }

    /// What a node's disk shows now.
    #[must_use]
    pub fn copy_disk(&self, node: usize) -> DiskImage {
        self.world.copy_disk(self.machine(node), DiskCopy::Live)
    }

    /// Puts a node that is down back to an earlier disk.
    pub fn restore_disk(&mut self, node: usize, image: &DiskImage) {
        self.world.restore_disk(self.machine(node), image);
        self.disk_changed(node, "gets its disk back from a copy");
    }

    /// Why a node that is down would not start on what its disk holds; it stays down. `None` if it would.
    #[must_use]
    pub fn refusal_to_start(&mut self, node: usize) -> Option<String> {
        let state = &self.nodes[node];
        assert!(state.node.is_none(), "it runs");
        let started = Node::start(&self.world, &state.settings, state.cores);
        self.world.kill(self.machine(node));
        started.err().map(|error| error.to_string())
    }

    /// The node dies at its `effects`-th effect from now on, also while it starts.
    pub fn dies_at(&mut self, node: usize, effects: u64, death: Death) {
        self.nodes[node].condemned = Some(death);
        self.world.arm_crash(self.machine(node), effects);
    }
}

/// Everything else.
impl Mesh {
    /// What recovery said when the node last started; nothing while it is down.
    #[must_use]
    pub fn start_report(&self, node: usize) -> Vec<String> {
        self.nodes[node].node.as_ref().map(|node| node.report.clone()).unwrap_or_default()
    }

    /// What its monitor shows.
    ///
    /// # Panics
    /// If it is down.
    #[must_use]
    pub fn status(&self, node: usize) -> Status {
        self.nodes[node].node.as_ref().expect("it runs").status.read()
    }

    /// The places of the nodes that its `DISCOVERY_PEERS` name from its next start on.
    pub fn set_peers(&mut self, node: usize, peers: &[usize]) {
        self.nodes[node].settings.peers = peers.iter().map(|peer| self.ip(*peer)).collect();
    }

    /// None of its threads is scheduled for so many virtual milliseconds.
    pub fn stall(&mut self, node: usize, ms: u64) {
        let loops = self.nodes[node].node.as_ref().map(Node::loops).unwrap_or_default();
        for (id, _) in loops {
            self.world.pause_loop(id, self.world.now().plus_ms(ms));
        }
        self.tell(&format!("{} is stalled for {ms} ms", self.nodes[node].name));
    }

    /// Resets one of the streams that are open, whichever it is; whether there was one.
    pub fn reset_stream(&mut self) -> bool {
        self.tell("a stream is reset");
        self.world.reset_random_stream()
    }

    /// Clients with a random mix begin nothing new.
    pub fn quiet(&mut self) {
        for client in &mut self.clients {
            if let Source::Mix { on, .. } = client.source() {
                *on = false;
            }
        }
    }
}
