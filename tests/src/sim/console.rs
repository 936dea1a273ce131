//! The words of scenario tests: `mesh.region("ams").cut_off()`, `mesh.region("sfo").set("k", 100)`.

use std::net::IpAddr;

use engine::control::status::Status;
use engine::shard::LostWrite;
use net::ids::NodeId;
use net::wire::body::Member;

use super::check::writes::unix_ms;
use super::client::Source;
use super::mesh::{Mesh, REGIONS};
use super::plan::Death;
use super::workload::{Command, Note, Outcome};

/// How long a scenario waits for one answer, in virtual milliseconds: longer than any client does.
const ANSWER_MS_MAX: u64 = 30_000;

/// One region of a mesh, to act on.
#[derive(Debug)]
pub struct Region<'a> {
    mesh: &'a mut Mesh,
    index: usize,
}

impl Mesh {
    /// A region by name.
    ///
    /// # Panics
    /// If there is none of this name.
    pub fn region(&mut self, name: &str) -> Region<'_> {
        let index = REGIONS.iter().position(|region| *region == name).expect("sfo, nyc or ams");
        Region { mesh: self, index }
    }

    /// The region of the node at this place, of which there may be several in one region.
    ///
    /// # Panics
    /// If there is no such place.
    pub fn place(&mut self, index: usize) -> Region<'_> {
        assert!(index < self.nodes.len(), "there are {} nodes", self.nodes.len());
        Region { mesh: self, index }
    }

    /// Undoes every cut.
    pub fn heal(&mut self) {
        let ips: Vec<IpAddr> = self.nodes.iter().map(|state| state.settings.ip).collect();
        for from in &ips {
            for to in &ips {
                self.world.heal(*from, *to);
            }
        }
        self.tell("all cuts are healed");
    }

    /// Cuts one direction between two regions.
    pub fn cut_one_way(&mut self, from: &str, to: &str) {
        let ip = |mesh: &mut Mesh, name| {
            let index = mesh.region(name).index;
            mesh.nodes[index].settings.ip
        };
        let (source, target) = (ip(self, from), ip(self, to));
        self.world.cut(source, target);
        self.tell(&format!("{from} no longer reaches {to}"));
    }

    /// Bytes of payload that went over the network from one region's node to another's, of any kind.
    pub fn bytes_between(&mut self, from: &str, to: &str) -> u64 {
        let source = self.region(from).index;
        let target = self.region(to).index;
        self.world.bytes_between(self.nodes[source].settings.ip, self.nodes[target].settings.ip)
    }
}

impl Region<'_> {
    /// Nothing goes in or out between this region and the others any more.
    pub fn cut_off(&mut self) {
        let own = self.mesh.nodes[self.index].settings.ip;
        let others: Vec<IpAddr> = self.mesh.nodes[self.index].settings.peers.clone();
        for other in others {
            self.mesh.world.cut(own, other);
            self.mesh.world.cut(other, own);
        }
        let text = format!("{} is cut off", self.mesh.nodes[self.index].name);
        self.mesh.tell(&text);
    }

    /// Power loss: un-synced sectors are lost at random.
    pub fn lose_power(&mut self) {
        self.mesh.stop(self.index, Death::Power);
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.mesh.stop(self.index, Death::Kill);
    }

    /// A clean stop.
    ///
    /// # Panics
    /// If it does not end.
    pub fn stop(&mut self) {
        self.mesh.ask_to_stop(self.index, Death::Power);
        for _ in 0..100 {
            self.mesh.run_ms(100);
            if self.mesh.nodes[self.index].node.is_none() {
                return;
            }
        }
        panic!("it does not stop");
    }

    /// The id of its node.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        NodeId(self.mesh.nodes[self.index].node.as_ref().expect("a running node").id.0)
    }

    /// What its monitor shows.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn status(&self) -> Status {
        self.mesh.nodes[self.index].node.as_ref().expect("a running node").status.read()
    }

    /// The latest writes of other regions that lost against writes of its node which did not know them, newest first.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn lost_writes(&self) -> Vec<LostWrite> {
        self.mesh.nodes[self.index].node.as_ref().expect("a running node").facts.lost.read()
    }

    /// How far what its first core takes for the time is ahead of the truth, in milliseconds.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn ahead_ms(&self) -> i64 {
        let state = &self.mesh.nodes[self.index];
        let time = state.node.as_ref().expect("a running node").cores[0].time();
        // It looks at its clock when it wakes up.
        let since_ms = self.mesh.world.node_now(state.settings.machine).since(time.mono) / 1_000_000;
        (time.unix_ms + since_ms).cast_signed() - unix_ms(self.mesh.world.now()).cast_signed()
    }

    /// Its node's copy of the member table.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        self.mesh.nodes[self.index].node.as_ref().expect("a running node").control.members().table()
    }

    /// How many logs its node asks others for, because their own nodes cannot be reached.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn logs_asked_of_others(&self) -> usize {
        self.mesh.nodes[self.index].node.as_ref().expect("a running node").control.logs_asked_of_others()
    }

    /// Index entries of its node, tombstones included.
    ///
    /// # Panics
    /// If it does not run.
    pub fn entries(&mut self) -> usize {
        let node = self.mesh.nodes[self.index].node.as_mut().expect("a running node");
        node.cores.iter_mut().map(|core| core.shard().store().entries()).sum()
    }

    /// An operator asks its node to remove a member for good.
    ///
    /// # Panics
    /// If it does not run, or refuses.
    pub fn remove_member(&mut self, node: NodeId) {
        let state = &mut self.mesh.nodes[self.index];
        let text = format!("{} removes node {node}", state.name);
        state.node.as_mut().expect("a running node").control.remove(node).expect("a member");
        self.mesh.tell(&text);
    }

    /// Its disk is replaced by an empty one: what starts next is a new node.
    pub fn replace_disk(&mut self) {
        self.mesh.replace_disk(self.index);
    }

    /// Starts the node again on what its disk holds.
    pub fn start(&mut self) {
        self.mesh.start(self.index);
    }

    /// Starts the node again with another number of cores.
    pub fn start_with_cores(&mut self, cores: u16) {
        self.mesh.nodes[self.index].cores = cores;
        self.mesh.start(self.index);
    }

    /// Whether its node runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.mesh.nodes[self.index].node.is_some()
    }

    /// Its next sync fails with EIO; later ones succeed without what this one should have written.
    pub fn fail_next_sync(&mut self) {
        self.mesh.world.fail_next_sync(self.mesh.nodes[self.index].settings.machine);
        let text = format!("the next sync of {} will fail", self.mesh.nodes[self.index].name);
        self.mesh.tell(&text);
    }

    /// Its disk is full, or has room again.
    pub fn set_disk_full(&mut self, full: bool) {
        self.mesh.set_disk_full(self.index, full);
    }

    /// How many system calls its node's file jobs (segments prepared, named, sealed, given up) have made so far.
    #[must_use]
    pub fn job_steps(&self) -> u64 {
        self.mesh.world.job_steps(self.mesh.nodes[self.index].settings.machine)
    }

    /// Runs until its file jobs have made `steps` system calls in all; whether they did, before the commands at hand ended.
    pub fn run_to_job_step(&mut self, steps: u64) -> bool {
        let limit = self.mesh.world.now().plus_ms(ANSWER_MS_MAX);
        let console = self.mesh.consoles[self.index];
        while self.job_steps() < steps {
            if !self.mesh.step(limit) {
                return false;
            }
            self.mesh.sound();
            if self.mesh.clients[console].is_idle() {
                return false;
            }
        }
        true
    }

    /// What it sends is packed or not, and a follower is brought up to date with so many bytes a second at most; from its next start on.
    pub fn set_flow(&mut self, packs: bool, catch_up_rate: u64) {
        let settings = &mut self.mesh.nodes[self.index].settings;
        (settings.packs, settings.catch_up_rate) = (packs, catch_up_rate);
    }

    /// A follower that has more bytes than this to be read for it gets those on a bulk connection; from its next start on.
    pub fn set_bulk_bytes_min(&mut self, bytes: u64) {
        self.mesh.nodes[self.index].settings.bulk_bytes_min = bytes;
    }

    /// Bytes of records, as they lie in the log, that its node sent to another region.
    #[must_use]
    pub fn sent_records_bytes(&self, to: &str) -> u64 {
        let status = self.mesh.nodes[self.index].node.as_ref().map(|node| node.status.read());
        let peers = status.map(|status| status.peers).unwrap_or_default();
        peers.iter().filter(|peer| peer.region == to).map(|peer| peer.sent_records_raw_bytes).sum()
    }

    /// Writes `key` with a value of about `bytes` bytes; returns what the client learnt.
    pub fn set(&mut self, key: &str, bytes: usize) -> Outcome {
        self.ask([Command::Set { key: key.into(), filler: bytes, px: None }]).remove(0)
    }

    /// As [`Region::set`], to expire after `px` milliseconds.
    pub fn set_px(&mut self, key: &str, bytes: usize, px: u64) -> Outcome {
        self.ask([Command::Set { key: key.into(), filler: bytes, px: Some(px) }]).remove(0)
    }

    /// Deletes `key`.
    pub fn del(&mut self, key: &str) -> Outcome {
        self.ask([Command::Del { key: key.into() }]).remove(0)
    }

    /// Reads `key`.
    pub fn get(&mut self, key: &str) -> Outcome {
        self.ask([Command::Get { key: key.into() }]).remove(0)
    }

    /// Writes `keys`, pipelined, each with a value of about `bytes` bytes.
    pub fn set_many(&mut self, keys: impl IntoIterator<Item = String>, bytes: usize) -> Vec<Outcome> {
        self.ask(keys.into_iter().map(|key| Command::Set { key: key.into(), filler: bytes, px: None }))
    }

    /// Hands commands to the region's console without waiting; [`Mesh::run_ms`] lets them happen.
    pub fn post(&mut self, commands: impl IntoIterator<Item = Command>) -> usize {
        let client = &mut self.mesh.clients[self.mesh.consoles[self.index]];
        let waker = client.waker();
        let Source::Script(script) = client.source() else { unreachable!("consoles follow a script") };
        let before = script.len();
        script.extend(commands);
        let count = script.len() - before;
        waker.wake();
        count
    }

    /// Runs commands and waits for all their answers.
    pub fn ask(&mut self, commands: impl IntoIterator<Item = Command>) -> Vec<Outcome> {
        let index = self.index;
        self.mesh.answers.retain(|note| note.region() != index);
        let count = self.post(commands);
        let limit = self.mesh.world.now().plus_ms(ANSWER_MS_MAX * (1 + count as u64 / 100));
        let mut outcomes = Vec::new();
        while outcomes.len() < count {
            if !self.mesh.step(limit) {
                break;
            }
            self.mesh.sound();
            if self.mesh.answers.is_empty() {
                continue;
            }
            for note in std::mem::take(&mut self.mesh.answers) {
                match note {
                    Note::Ended(operation, outcome) if operation.region == index => outcomes.push(outcome),
                    _ => {}
                }
            }
        }
        // What could not even be sent is given up as well.
        if let Source::Script(script) = self.mesh.clients[self.mesh.consoles[index]].source() {
            script.clear();
        }
        outcomes.resize(count, Outcome::Unknown);
        outcomes
    }
}
