//! One simulated node: what the daemon assembles from a data directory, with all its loops in one thread.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::clock::Time;
use engine::control::status::StatusBoard;
use engine::control::{ControlLoop, ControlParts, MeshSettings, Port};
use engine::core::{CoreLoop, CoreParts};
use engine::host::{Host, segment_path};
use engine::mailbox::{Mailbox, Outbox};
use engine::messages::{MAILBOX_MESSAGES, ToControl, ToCore};
use engine::node::{CoreGauges, Durability, NodeFacts};
use engine::replication::residency::{Policy, Residency};
use engine::shard::ImmutableSegment;
use engine::startup::{self, StartError, StartSettings};
use engine::storage::NodeSecret;
use net::ids::RegionName;
use net::reactor::disk::Disk;
use net::reactor::sim::{LoopId, NodeIndex, SimDisk, SimFile, SimIo, SimLock, World};
use net::reactor::{FileJob, Io, Wait};
use wal::{CommitPath, MemoryMap};

/// TCP ports, the same on every simulated node as on real ones.
pub const STORAGE_PORT: u16 = 10_600;
/// See [`STORAGE_PORT`].
pub const REPLICATION_PORT: u16 = 10_400;
/// See [`STORAGE_PORT`].
pub const DISCOVERY_PORT: u16 = 10_200;

/// Small segments, so that a run of some thousand writes rotates dozens of them.
pub const SEGMENT_BYTES: u32 = 64 * 1024;
/// A segment holds at least a few of the largest values.
pub const VALUE_BYTES_MAX: u32 = 16 * 1024;

/// The simulated machine under the engine's loops.
#[derive(Debug)]
pub struct SimHost;

impl Host for SimHost {
    type Io = SimIo;
    type File = SimFile;
    type Map = MemoryMap;

    fn map(file: &SimFile, _len: u64) -> io::Result<MemoryMap> {
        Ok(MemoryMap::shared(file.live()))
    }

    fn map_private(file: &SimFile, _len: u64) -> io::Result<MemoryMap> {
        Ok(MemoryMap::from(MemoryMap::shared(file.live()).to_vec()))
    }

    fn open_direct(file: &SimFile) -> io::Result<SimFile> {
        Ok(file.clone())
    }
}

/// Where a node keeps its data on its simulated disk.
#[must_use]
pub fn data_dir() -> &'static Path {
    Path::new("/data")
}

/// What does not change over a node's restarts.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Its region.
    pub region: String,
    /// Its machine.
    pub machine: NodeIndex,
    /// Its address.
    pub ip: IpAddr,
    /// The addresses of the other regions' nodes.
    pub peers: Vec<IpAddr>,
    /// Segment size in bytes.
    pub segment_bytes: u32,
    /// How groups reach the disk.
    pub commit_path: CommitPath,
    /// How far a slow follower may be behind and hold segments, in bytes per core.
    pub wal_retain_bytes: u64,
    /// Whether what was deleted is forgotten once all hold that.
    pub collects_tombstones: bool,
    /// Whether it packs what it sends.
    pub packs: bool,
    /// Bytes a second that a follower is brought up to date with; 0: no bound.
    pub catch_up_rate: u64,
    /// Which regions may hold which keys.
    pub policy: Policy,
    /// How often it compares itself with each peer, in milliseconds; `None`: never.
    pub anti_entropy_ms: Option<u64>,
    /// A follower that has more bytes than this to be read for it gets those on a bulk connection.
    pub bulk_bytes_min: u64,
    /// Bytes of memory for each core, where there is a bound.
    pub memory_bytes_max: Option<u64>,
}

/// Whose turn it is inside a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A core's loop.
    Core(usize),
    /// The control loop.
    Control,
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    /// Its cores.
    pub cores: Vec<CoreLoop<SimHost>>,
    /// Its control loop.
    pub control: ControlLoop<SimHost>,
    /// Its id, which lives on its disk.
    pub id: wal::NodeId,
    /// This run.
    pub incarnation: wal::Incarnation,
    /// Places keys on cores.
    pub secret: NodeSecret,
    /// What its monitor would show.
    pub status: StatusBoard,
    /// What recovery said.
    pub report: Vec<String>,
    /// Its gauges.
    pub facts: Arc<NodeFacts>,
    parts: Vec<(LoopId, Part)>,
    disk: SimDisk,
    _lock: SimLock,
}

impl Node {
    /// Recovers the node's disk and builds its loops. On an error the machine's processes must be killed.
    ///
    /// # Errors
    /// Those of start-up.
    ///
    /// # Panics
    /// If a listener cannot be bound, which on a simulated machine is a bug of the harness.
    pub fn start(world: &World, settings: &NodeSettings, cores: u16) -> Result<Node, StartError> {
        let control_io = SimIo::new(world, settings.machine);
        let region = RegionName::parse(&settings.region).expect("the regions have names");
        let residency = Residency::new(settings.policy.clone(), &region);
        let start = StartSettings {
            data_dir: data_dir().to_owned(),
            cores,
            segment_bytes: settings.segment_bytes,
            value_bytes_max: VALUE_BYTES_MAX,
            commit_path: settings.commit_path,
            index_table_bits: 2,
            may_hold: residency.here().clone(),
        };
        let time = Time { mono: world.node_now(settings.machine), unix_ms: control_io.wall_unix_ms() };
        let disk = world.startup_disk(settings.machine);
        let started = startup::start::<SimHost, _>(&disk, &start, &mut || world.random_below(u64::MAX), time, &|_| {})?;

        let gauges: Vec<Arc<CoreGauges>> = (0..cores).map(|_| Arc::default()).collect();
        let facts = Arc::new(NodeFacts {
            region: settings.region.clone(),
            node: started.node,
            incarnation: started.incarnation,
            cores,
            durability: Durability::Fsync,
            io_backend: "sim".to_owned(),
            storage_port: STORAGE_PORT,
            started_unix_ms: started.begins_unix_ms,
            gauges,
            slow_log: Default::default(),
            lost: Default::default(),
            holders: Default::default(),
            residency,
        });
        let core_ios: Vec<SimIo> = (0..cores).map(|_| SimIo::new(world, settings.machine)).collect();
        let core_boxes: Vec<Mailbox<ToCore>> = (0..cores).map(|_| Mailbox::new(MAILBOX_MESSAGES)).collect();
        let control_box: Mailbox<ToControl> = Mailbox::new(MAILBOX_MESSAGES);
        let core_wakers: Vec<_> = core_ios.iter().map(Io::waker).collect();
        let outboxes = || -> Vec<Outbox<ToCore>> {
            core_boxes
                .iter()
                .zip(&core_wakers)
                .map(|(mailbox, waker)| Outbox::new(mailbox.sender(waker.clone())))
                .collect()
        };
        let mut parts = vec![(control_io.id(), Part::Control)];
        let mut loops = Vec::new();
        for (((core, io), (shard, number, file)), mailbox) in
            (0..cores).zip(core_ios).zip(started.shards).zip(&core_boxes)
        {
            parts.push((io.id(), Part::Core(usize::from(core))));
            let mut core = CoreLoop::<SimHost>::new(
                io,
                CoreParts {
                    core,
                    facts: Arc::clone(&facts),
                    shard,
                    data_dir: data_dir().to_owned(),
                    segment_bytes: u64::from(settings.segment_bytes),
                    mailbox: mailbox.receiver(),
                    cores: outboxes(),
                    control: Outbox::new(control_box.sender(control_io.waker())),
                    memory_bytes_max: settings.memory_bytes_max,
                    ships: true,
                },
            );
            core.add_segment_file(number, file).expect("simulated files open again");
            core.listen(SocketAddr::new(settings.ip, STORAGE_PORT), cores > 1).expect("the storage port is free");
            loops.push(core);
        }
        let status = StatusBoard::default();
        let mut control = ControlLoop::<SimHost>::new(
            control_io,
            ControlParts {
                facts: Arc::clone(&facts),
                mesh: mesh_settings(settings),
                data_dir: PathBuf::from(data_dir()),
                logs: started.logs,
                old_runs: started.old_runs,
                watermarks: started.watermarks,
                members: started.members,
                known: started.known,
                forgotten: started.forgotten,
                secret: started.secret,
                mailbox: control_box.receiver(),
                cores: outboxes(),
                status: status.clone(),
            },
        );
        for (port, kind) in [(DISCOVERY_PORT, Port::Discovery), (REPLICATION_PORT, Port::Replication)] {
            control.listen(SocketAddr::new(settings.ip, port), kind).expect("the mesh ports are free");
        }
        Ok(Node {
            cores: loops,
            control,
            id: started.node,
            incarnation: started.incarnation,
            secret: started.secret,
            status,
            report: started.report,
            facts,
            parts,
            disk,
            _lock: started.lock,
        })
    }

    /// Brings all segments back into memory, for checkers that look at everything.
    ///
    /// # Panics
    /// If one of them has no file, which a node never lets happen.
    pub fn bring_into_memory(&mut self) {
        for core in &mut self.cores {
            let shard = core.shard();
            // One in which nothing counts may have lost its file already.
            let is_cold = |segment: &ImmutableSegment| !segment.is_in_memory && segment.uses > 0;
            let cold: Vec<_> = shard.immutable_segments().filter(is_cold).collect();
            for segment in cold {
                let path = segment_path(data_dir(), segment.id.core, segment.id.number);
                let file = self.disk.open(&path).expect("a segment that counts has a file");
                shard.enter_memory(segment.slot, MemoryMap::shared(file.live()));
            }
        }
    }

    /// Its loops.
    #[must_use]
    pub fn loops(&self) -> Vec<(LoopId, Part)> {
        self.parts.clone()
    }

    /// Whether all of it has ended after it was asked to stop.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        self.control.stopped_cores() == self.cores.len()
    }

    /// Runs one tick of a part.
    ///
    /// # Panics
    /// If the reactor fails, which the simulated one never does.
    pub fn tick(&mut self, part: Part) {
        let ticked = match part {
            Part::Core(core) => self.cores[core].tick(),
            Part::Control => self.control.tick(),
        };
        ticked.expect("the simulated reactor does not fail");
    }

    /// How long the part's thread sleeps now, with its mailbox armed.
    pub fn wait(&mut self, part: Part) -> Wait {
        match part {
            Part::Core(core) => self.cores[core].wait(),
            Part::Control => self.control.wait(),
        }
    }
}

/// Gives an empty disk the identity `id`, in the form in which start-up writes it.
///
/// # Panics
/// If the disk is not empty.
pub fn name(disk: &SimDisk, id: u32) {
    const IDENTITY_BYTES: u64 = 4096;
    let body = format!("godwit-node 1 id={id:08x} secret={:016x}", u64::from(id) << 7);
    let crc = wal::crc32c(body.as_bytes());
    let head = format!("{body} crc={crc:08x}\n").into_bytes().into();
    let (temporary, path) = (data_dir().join("prepare-node.tmp"), data_dir().join("NODE"));
    disk.run(FileJob::Prepare { path: temporary.clone(), len: IDENTITY_BYTES, head }).expect("an empty disk has room");
    disk.run(FileJob::Rename { from: temporary, to: path }).expect("the file was just made");
}

fn mesh_settings(settings: &NodeSettings) -> MeshSettings {
    MeshSettings {
        advertise: settings.ip,
        local: std::net::Ipv4Addr::LOCALHOST.into(),
        peers: settings.peers.iter().map(|ip| SocketAddr::new(*ip, DISCOVERY_PORT)).collect(),
        discovery: SocketAddr::new(settings.ip, DISCOVERY_PORT),
        replication: SocketAddr::new(settings.ip, REPLICATION_PORT),
        services: vec![
            ("discovery".to_owned(), DISCOVERY_PORT),
            ("replication".to_owned(), REPLICATION_PORT),
            ("storage".to_owned(), STORAGE_PORT),
        ],
        delays_ns: HashMap::new(),
        bind_outgoing: true,
        value_bytes_max: VALUE_BYTES_MAX,
        wal_retain_bytes: settings.wal_retain_bytes,
        collects_tombstones: settings.collects_tombstones,
        packs: settings.packs,
        catch_up_rate: settings.catch_up_rate,
        anti_entropy_ms: settings.anti_entropy_ms,
        bulk_bytes_min: settings.bulk_bytes_min,
    }
}
