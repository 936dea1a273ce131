//! What only scenarios of rare branches do to a mesh: broken disks in exact places, stalled loops, wrong settings. Nodes are named by
//! their place.

use std::path::PathBuf;

use engine::control::entropy::Compared;
use engine::control::status::Status;
use engine::core::CoreLoop;
use engine::storage::KeyHash;
use net::reactor::FileJob;
use net::reactor::disk::Disk;
use net::reactor::sim::{DiskCopy, DiskImage};
use wal::{FileKind, RecordView};

use super::client::Source;
use super::mesh::Mesh;
use super::node::{Node, SimHost, data_dir};
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

/// What a node has of a key.
impl Mesh {
    /// Nodes compare themselves with each peer this often, from their next start on.
    pub fn compare_every(&mut self, ms: u64) {
        for state in &mut self.nodes {
            state.settings.anti_entropy_ms = Some(ms);
        }
    }

    /// Runs `change` on the core that owns `key`, with the key's hash there.
    fn on_core<R>(&mut self, node: usize, key: &str, change: impl FnOnce(&mut CoreLoop<SimHost>, KeyHash) -> R) -> R {
        let node = self.nodes[node].node.as_mut().expect("it runs");
        let hash = node.secret.hash(key.as_bytes());
        let core = hash.core(node.facts.cores);
        change(&mut node.cores[usize::from(core)], hash)
    }

    /// The record that a node has of a key.
    ///
    /// # Panics
    /// If it is down, or has none.
    pub fn record(&mut self, node: usize, key: &str) -> Vec<u8> {
        let look = |core: &mut CoreLoop<SimHost>, hash| {
            core.shard().look_up(hash, key.as_bytes(), |record| record.bytes.to_vec())
        };
        self.on_core(node, key, look).expect("it is in memory").expect("it has one")
    }

    /// A node forgets the record of a key although it holds it, and nobody notices.
    ///
    /// # Panics
    /// If it is down, or has none.
    pub fn lose(&mut self, node: usize, key: &str) {
        let bytes = self.record(node, key);
        let (record, _) = RecordView::parse(&bytes).expect("a record");
        let lost = self.on_core(node, key, |core, hash| core.shard().store().lose(hash, key.as_bytes()));
        assert!(lost, "it has one");
        self.checks.views[node].lose(record.key, record.version, record.original_crc());
        self.checks.may_repair = true;
        self.tell(&format!("{} loses {key}", self.nodes[node].name));
    }

    /// A record that a node had once is back in its log and its index.
    ///
    /// # Panics
    /// If it is down, or does not take it.
    pub fn dig_up(&mut self, node: usize, bytes: &[u8]) {
        let (record, _) = RecordView::parse(bytes).expect("a record");
        self.checks.views[node].lose(record.key, record.version, record.original_crc());
        let key = String::from_utf8_lossy(record.key).into_owned();
        self.on_core(node, &key, |core, _| {
            let time = core.time();
            core.shard().follow(&record, time).expect("there is room");
        });
        self.tell(&format!("{} digs {key} up", self.nodes[node].name));
    }

    /// What a node's comparisons with all peers came to.
    ///
    /// # Panics
    /// If it is down.
    #[must_use]
    pub fn compared(&self, node: usize) -> Compared {
        let mut all = Compared::default();
        for compared in self.nodes[node].node.as_ref().expect("it runs").control.compared() {
            all.comparisons += compared.comparisons;
            all.lacking += compared.lacking;
            all.repaired += compared.repaired;
        }
        all
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
