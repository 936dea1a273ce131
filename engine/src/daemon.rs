//! The daemon: configuration → recovered node → threads → clean stop.
//!
//! Threads: one per core, one control thread, one helper thread (file jobs and the admin port). The main thread waits for
//! signals and for the first thread that ends.

#![allow(clippy::disallowed_methods, reason = "assembles a node from the system's parts")]

use std::collections::HashMap;
use std::io;
use std::marker::PhantomData;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use net::reactor::disk::OsDisk;
use net::reactor::epoll::EpollIo;
use net::reactor::helper::{Helper, HelperHandle};
use net::reactor::uring::UringIo;
use net::reactor::{Backend, Io, IoBackend, Mono, OsFile, OsRandom, ReactorConfig, choose_backend};
use net::wire::body::Compression;
use wal::MappedFile;

use crate::clock::Time;
use crate::config::Config;
use crate::control::status::StatusBoard;
use crate::control::{ControlLoop, ControlParts, MeshSettings, Port};
use crate::core::{CHECKPOINT_MS_MAX, CoreLoop, CoreParts};
use crate::host::Host;
use crate::mailbox::{Mailbox, Outbox, Receiver};
use crate::messages::{MAILBOX_MESSAGES, ToControl, ToCore};
use crate::monitor::http::{self, Monitor};
use crate::node::{CoreGauges, NodeFacts};
use crate::replication::residency::Residency;
use crate::startup::{self, StartError, StartSettings, Started};
use crate::storage::index::TABLE_BITS;

/// How long the threads have to come up.
const WIRING_WAIT: Duration = Duration::from_secs(10);

/// How long they have to finish after a stop was asked for: with what is under way, and with their checkpoints.
const STOP_WAIT: Duration = Duration::from_millis(10_000 + CHECKPOINT_MS_MAX);

/// How long the others have to follow after one failed.
const FAILED_WAIT: Duration = Duration::from_millis(200);

/// Exit code after a failed sync, or a page of the log that the disk does not give.
pub(crate) const EXIT_LOG_FAILED: u8 = 4;

/// A process that was killed holds its ports until the kernel has taken its io_uring down, which a supervisor's restart can
/// come before.
const LISTEN_WAIT: Duration = Duration::from_millis(500);

/// The real machine under a reactor.
#[derive(Debug)]
pub struct Os<I>(PhantomData<I>);

impl<I: Io<File = OsFile> + 'static> Host for Os<I> {
    type Io = I;
    type File = OsFile;
    type Map = MappedFile;

    fn map(file: &OsFile, len: u64) -> io::Result<MappedFile> {
        MappedFile::map(file.as_file(), usize::try_from(len).map_err(io::Error::other)?)
    }

    fn map_private(file: &OsFile, len: u64) -> io::Result<MappedFile> {
        MappedFile::map_private(file.as_file(), usize::try_from(len).map_err(io::Error::other)?)
    }

    fn open_direct(file: &OsFile) -> io::Result<OsFile> {
        file.open_direct()
    }
}

/// A reactor of the real machine.
pub trait OsIo: Io<File = OsFile> + Sized + 'static {
    /// Creates it on the calling thread.
    ///
    /// # Errors
    /// Those of the kernel's part.
    fn create(helper: &HelperHandle) -> io::Result<Self>;
}

impl OsIo for UringIo {
    fn create(helper: &HelperHandle) -> io::Result<Self> {
        UringIo::new(ReactorConfig::default(), helper)
    }
}

impl OsIo for EpollIo {
    fn create(helper: &HelperHandle) -> io::Result<Self> {
        EpollIo::new(ReactorConfig::default(), helper)
    }
}

/// Why the daemon ended; [`DaemonError::exit_code`] tells a supervisor.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The data directory.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The reactor that was asked for does not work here.
    #[error("IO_BACKEND=uring, but io_uring does not work here ({0}); set IO_BACKEND=auto or epoll")]
    Backend(String),
    /// An address cannot be listened on.
    #[error("cannot listen on {addr} for {what}: {source}; is another daemon running? Choose another port or stop it")]
    Listen {
        /// Which address.
        addr: SocketAddr,
        /// For what.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A thread could not be started or its reactor failed.
    #[error("{what}: {source}")]
    Thread {
        /// Which.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// A sync failed.
    #[error(
        "the log failed: {0}; nothing was acknowledged after it. Check the disk, then restart: recovery trusts only what is on it"
    )]
    LogFailed(String),
}

impl DaemonError {
    /// 1 for what a restart may cure, 3 for a log that must be looked at, 4 after a failed sync. (2 is a wrong setting.)
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            DaemonError::Start(StartError::Recovery(_) | StartError::Record(_) | StartError::IdentityDamaged(_)) => 3,
            DaemonError::LogFailed(_) => EXIT_LOG_FAILED,
            _ => 1,
        }
    }
}

/// Asks a running daemon to stop; may be used from a signal handler's thread.
#[derive(Clone, Debug, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// Asks.
    pub fn stop(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it was asked.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Runs a node until `stop` is set or it fails.
///
/// # Errors
/// See [`DaemonError`].
pub fn run(config: &Config, stop: &StopFlag) -> Result<(), DaemonError> {
    raise_file_limit();
    let (backend, refused) = choose_backend(config.io_backend);
    if let Some(reason) = refused {
        if config.io_backend == IoBackend::Uring {
            return Err(DaemonError::Backend(reason));
        }
        tracing::warn!(reason, "io_uring is refused here; using epoll");
    }
    match backend {
        Backend::Uring => run_on::<UringIo>(config, stop, "uring", backend),
        Backend::Epoll => run_on::<EpollIo>(config, stop, "epoll", backend),
    }
}

/// Every connection is a descriptor; the usual soft limit of 1,024 is meant for programs that use `select`.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!(%error, "the limit of open files cannot be raised; connections beyond it will be refused");
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn run_on<I: OsIo>(config: &Config, stop: &StopFlag, name: &str, backend: Backend) -> Result<(), DaemonError> {
    let settings = StartSettings {
        data_dir: config.data_dir.clone(),
        cores: config.cores,
        segment_bytes: config.segment_bytes,
        value_bytes_max: config.value_bytes_max,
        commit_path: config.commit_path,
        index_table_bits: TABLE_BITS,
        may_hold: config.residency.of(&config.region),
    };
    let began = std::time::Instant::now();
    let time = Time { mono: Mono(0), unix_ms: unix_ms() };
    let mut random = OsRandom::new()
        .map_err(|source| DaemonError::Thread { what: "the random source of the system".into(), source })?;
    let monitor = Monitor::default();
    let helper = spawn_helper(config, backend, &monitor);
    let progress = |progress| monitor.start().tell(progress, began.elapsed());
    let started = startup::start::<Os<I>, _>(&OsDisk, &settings, &mut || random.draw(), time, &progress)?;
    // Whoever has the address may have had the directory, which start-up explains better.
    let helper = helper.or_else(|_| spawn_helper(config, backend, &monitor))?;
    for line in &started.report {
        tracing::info!("recovery: {line}");
    }
    tracing::info!(
        node = format!("{:08x}", started.node.0),
        region = %config.region,
        records = started.records,
        millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        backend = name,
        "recovered"
    );
    let node = Node::<I>::assemble(config, started, name, &monitor, helper)?;
    let ports = &config.ports;
    tracing::info!(
        addresses = ?config.bind_addresses,
        storage = ports.storage,
        discovery = ports.discovery,
        replication = ports.replication,
        admin = ports.admin,
        "serving"
    );
    node.run(stop)
}

/// The threads of a running node.
struct Node<I> {
    threads: Vec<(String, thread::JoinHandle<Result<(), DaemonError>>)>,
    control_stop: StopFlag,
    helper: Helper,
    ended: crossbeam::channel::Receiver<()>,
    _io: PhantomData<I>,
}

/// What a core thread needs to build its loop.
struct CoreSeed<I: OsIo> {
    parts: CorePartsSeed<I>,
    file: (wal::SegmentNumber, OsFile),
    listen: Vec<SocketAddr>,
    shared: bool,
}

type CorePartsSeed<I> = Box<dyn FnOnce(Vec<Outbox<ToCore>>, Outbox<ToControl>) -> CoreParts<Os<I>> + Send>;

impl<I: OsIo> Node<I> {
    fn assemble<L: Send + 'static>(
        config: &Config,
        started: Started<Os<I>, L>,
        backend_name: &str,
        monitor: &Monitor,
        helper: Helper,
    ) -> Result<Node<I>, DaemonError> {
        let cores = config.cores;
        let gauges: Vec<Arc<CoreGauges>> = (0..cores).map(|_| Arc::default()).collect();
        let facts = Arc::new(NodeFacts {
            region: config.region.to_string(),
            node: started.node,
            incarnation: started.incarnation,
            cores,
            durability: config.durability,
            io_backend: backend_name.to_owned(),
            storage_port: config.ports.storage,
            started_unix_ms: started.begins_unix_ms,
            gauges,
            slow_log: Default::default(),
            lost: Default::default(),
            holders: Default::default(),
            residency: Residency::new(config.residency.clone(), &config.region),
        });
        let status = StatusBoard::default();
        monitor.run(Arc::clone(&facts), status.clone());
        let (ended_sender, ended) = crossbeam::channel::unbounded();
        let core_boxes: Vec<Mailbox<ToCore>> = (0..cores).map(|_| Mailbox::new(MAILBOX_MESSAGES)).collect();
        let control_box: Mailbox<ToControl> = Mailbox::new(MAILBOX_MESSAGES);
        let ships = !config.discovery_peers.is_empty();
        let listen: Vec<SocketAddr> =
            config.bind_addresses.iter().map(|ip| SocketAddr::new(*ip, config.ports.storage)).collect();

        // Each thread creates its reactor and hands out its waker; then all of them get all senders.
        let mut seeds = Vec::new();
        for (index, (shard, number, file)) in started.shards.into_iter().enumerate() {
            let core = u16::try_from(index).expect("a node has at most 64 cores");
            let (facts, data_dir) = (Arc::clone(&facts), config.data_dir.clone());
            let (segment_bytes, memory_bytes_max) = (u64::from(config.segment_bytes), config.memory_bytes_of_core());
            let mailbox: Receiver<ToCore> = core_boxes[index].receiver();
            let parts: CorePartsSeed<I> = Box::new(move |cores, control| CoreParts {
                core,
                facts,
                shard,
                data_dir,
                segment_bytes,
                mailbox,
                cores,
                control,
                memory_bytes_max,
                ships,
            });
            seeds.push(CoreSeed { parts, file: (number, file), listen: listen.clone(), shared: cores > 1 });
        }
        let wiring = Wiring::new(usize::from(cores) + 1);
        let control_stop = StopFlag::default();
        let mut threads = Vec::new();
        for (core, seed) in (0..cores).zip(seeds) {
            let (wiring, handle, boxes) = (wiring.clone(), helper.handle(), clones(&core_boxes));
            let (control_box, ended) = (control_box.clone_box(), ended_sender.clone());
            let body = move || {
                let outcome = core_thread(core, seed, &wiring, &handle, &boxes, &control_box);
                let _ = ended.send(());
                outcome
            };
            threads.push(spawn(format!("core-{core}"), body)?);
        }
        let mesh = mesh_settings(config);
        let parts = {
            let (facts, data_dir, mailbox) = (Arc::clone(&facts), config.data_dir.clone(), control_box.receiver());
            let (logs, old_runs) = (started.logs, started.old_runs);
            let (watermarks, known, secret) = (started.watermarks, started.known, started.secret);
            let (members, forgotten) = (started.members, started.forgotten);
            move |cores| ControlParts {
                facts,
                mesh,
                data_dir,
                logs,
                old_runs,
                watermarks,
                members,
                known,
                forgotten,
                secret,
                mailbox,
                cores,
                status,
            }
        };
        let listen = config
            .bind_addresses
            .iter()
            .flat_map(|ip| {
                [
                    (SocketAddr::new(*ip, config.ports.discovery), Port::Discovery),
                    (SocketAddr::new(*ip, config.ports.replication), Port::Replication),
                ]
            })
            .collect::<Vec<_>>();
        let (stop, lock) = (control_stop.clone(), started.lock);
        let (handle, boxes) = (helper.handle(), clones(&core_boxes));
        let body = move || {
            let outcome = control_thread::<I>(parts, &listen, &wiring, &handle, &boxes, &stop, cores);
            let _ = ended_sender.send(());
            // The directory stays locked as long as anything may write to it.
            drop(lock);
            outcome
        };
        threads.push(spawn("control".into(), body)?);
        Ok(Node { threads, control_stop, helper, ended, _io: PhantomData })
    }

    /// Waits for the stop or the first thread that ends, then for all.
    fn run(self, stop: &StopFlag) -> Result<(), DaemonError> {
        while !stop.is_set() {
            match self.ended.recv_timeout(Duration::from_millis(50)) {
                Err(crossbeam::channel::RecvTimeoutError::Timeout) => {}
                _ => break,
            }
        }
        self.control_stop.stop();
        let began = std::time::Instant::now();
        let mut outcome = Ok(());
        let mut threads = self.threads;
        while let Some((name, _)) = threads.first() {
            // Whoever ended comes first: it knows the reason, and the others may wait for it in vain.
            let Some(at) = threads.iter().position(|(_, thread)| thread.is_finished()) else {
                // After a failure nothing has to be finished: recovery takes what is durable.
                if began.elapsed() >= if outcome.is_ok() { STOP_WAIT } else { FAILED_WAIT } {
                    let source = io::Error::other("did not stop in time");
                    return outcome.and(Err(DaemonError::Thread { what: format!("thread {name}"), source }));
                }
                thread::sleep(Duration::from_millis(5));
                continue;
            };
            let (name, thread) = threads.remove(at);
            let ended = thread.join().unwrap_or_else(|_| {
                let source = io::Error::other("panicked; its message is above");
                Err(DaemonError::Thread { what: format!("thread {name}"), source })
            });
            outcome = match (outcome, ended) {
                // What explains most is kept: a failed log makes every other thread end, too.
                (_, Err(error @ DaemonError::LogFailed(_))) => Err(error),
                (Ok(()), ended) => ended,
                (earlier, _) => earlier,
            };
        }
        drop(self.helper);
        outcome
    }
}

fn spawn(
    name: String,
    body: impl FnOnce() -> Result<(), DaemonError> + Send + 'static,
) -> Result<(String, thread::JoinHandle<Result<(), DaemonError>>), DaemonError> {
    let thread = thread::Builder::new()
        .name(name.clone())
        .spawn(body)
        .map_err(|source| DaemonError::Thread { what: format!("thread {name}"), source })?;
    Ok((name, thread))
}

fn clones(boxes: &[Mailbox<ToCore>]) -> Vec<Mailbox<ToCore>> {
    boxes.iter().map(Mailbox::clone_box).collect()
}

/// Wakers by loop.
type Wakers = HashMap<usize, net::reactor::Waker>;

/// Wakers of all loops, exchanged once every reactor exists.
#[derive(Clone)]
struct Wiring {
    shared: Arc<(std::sync::Mutex<Wakers>, std::sync::Condvar, usize)>,
}

impl Wiring {
    fn new(loops: usize) -> Wiring {
        Wiring { shared: Arc::new((std::sync::Mutex::default(), std::sync::Condvar::new(), loops)) }
    }

    /// Hands in one waker and waits for all. `None` if a loop did not come up in time.
    fn exchange(&self, index: usize, waker: net::reactor::Waker) -> Option<Wakers> {
        let (wakers, changed, loops) = &*self.shared;
        let mut wakers = wakers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        wakers.insert(index, waker);
        changed.notify_all();
        let (wakers, timeout) = changed
            .wait_timeout_while(wakers, WIRING_WAIT, |wakers| wakers.len() < *loops)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        (!timeout.timed_out()).then(|| wakers.clone())
    }
}

fn wiring_failed(what: &str) -> DaemonError {
    DaemonError::Thread { what: what.to_owned(), source: io::Error::other("another thread did not start") }
}

fn reactor<I: OsIo>(what: &str, helper: &HelperHandle) -> Result<I, DaemonError> {
    I::create(helper).map_err(|source| DaemonError::Thread { what: format!("the reactor of {what}"), source })
}

fn core_thread<I: OsIo>(
    core: u16,
    seed: CoreSeed<I>,
    wiring: &Wiring,
    helper: &HelperHandle,
    boxes: &[Mailbox<ToCore>],
    control: &Mailbox<ToControl>,
) -> Result<(), DaemonError> {
    let what = format!("core {core}");
    let io: I = reactor(&what, helper)?;
    let wakers = wiring.exchange(usize::from(core), io.waker()).ok_or_else(|| wiring_failed(&what))?;
    let cores = boxes.iter().enumerate().map(|(index, mailbox)| Outbox::new(mailbox.sender(wakers[&index].clone())));
    let parts = (seed.parts)(cores.collect(), Outbox::new(control.sender(wakers[&boxes.len()].clone())));
    let mut core = CoreLoop::<Os<I>>::new(io, parts);
    core.add_segment_file(seed.file.0, seed.file.1)
        .map_err(|source| DaemonError::Thread { what: format!("the first segment of {what}"), source })?;
    for addr in seed.listen {
        until_listening(|| core.listen(addr, seed.shared).map(|_| ())).map_err(|source| DaemonError::Listen {
            addr,
            what: "storage",
            source,
        })?;
    }
    while !core.is_stopped() {
        core.tick().map_err(|source| DaemonError::Thread { what: what.clone(), source })?;
    }
    Ok(())
}

/// Listens, waiting up to [`LISTEN_WAIT`] for the address.
fn until_listening(mut attempt: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let deadline = std::time::Instant::now() + LISTEN_WAIT;
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && std::time::Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

fn control_thread<I: OsIo>(
    parts: impl FnOnce(Vec<Outbox<ToCore>>) -> ControlParts,
    listen: &[(SocketAddr, Port)],
    wiring: &Wiring,
    helper: &HelperHandle,
    boxes: &[Mailbox<ToCore>],
    stop: &StopFlag,
    cores: u16,
) -> Result<(), DaemonError> {
    let io: I = reactor("the control thread", helper)?;
    let wakers = wiring.exchange(boxes.len(), io.waker()).ok_or_else(|| wiring_failed("the control thread"))?;
    let senders = boxes.iter().enumerate().map(|(index, mailbox)| Outbox::new(mailbox.sender(wakers[&index].clone())));
    let mut control = ControlLoop::<Os<I>>::new(io, parts(senders.collect()));
    for (addr, port) in listen {
        let what = if *port == Port::Discovery { "discovery" } else { "replication" };
        until_listening(|| control.listen(*addr, *port).map(|_| ())).map_err(|source| DaemonError::Listen {
            addr: *addr,
            what,
            source,
        })?;
    }
    let mut stopping = false;
    while control.stopped_cores() < usize::from(cores) {
        control.tick().map_err(|source| DaemonError::Thread { what: "the control thread".into(), source })?;
        if let Some(reason) = control.failure() {
            return Err(DaemonError::LogFailed(reason.to_owned()));
        }
        if stop.is_set() && !stopping {
            stopping = true;
            control.stop_cores();
        }
    }
    Ok(())
}

/// The helper thread, which serves the admin port from the beginning of a start.
fn spawn_helper(config: &Config, backend: Backend, monitor: &Monitor) -> Result<Helper, DaemonError> {
    let (admin, router) = (admin_listeners(config)?, monitor.router());
    Helper::spawn(backend, move || Box::pin(http::serve(admin, router, std::future::pending::<()>())))
        .map_err(|source| DaemonError::Thread { what: "the helper thread".into(), source })
}

fn admin_listeners(config: &Config) -> Result<Vec<TcpListener>, DaemonError> {
    let listen = |ip: &std::net::IpAddr| {
        let addr = SocketAddr::new(*ip, config.ports.admin);
        TcpListener::bind(addr).map_err(|source| DaemonError::Listen { addr, what: "the admin port", source })
    };
    config.bind_addresses.iter().map(listen).collect()
}

/// Where processes of this host reach the node: a loopback address, which is always among the bound ones.
fn local_address(config: &Config) -> std::net::IpAddr {
    let loopback = config.bind_addresses.iter().find(|ip| ip.is_loopback());
    loopback.or(config.bind_addresses.first()).copied().unwrap_or(config.advertise_address)
}

fn mesh_settings(config: &Config) -> MeshSettings {
    let at = |port| SocketAddr::new(config.advertise_address, port);
    MeshSettings {
        advertise: config.advertise_address,
        local: local_address(config),
        peers: config.discovery_peers.clone(),
        discovery: at(config.ports.discovery),
        replication: at(config.ports.replication),
        services: vec![
            ("discovery".to_owned(), config.ports.discovery),
            ("replication".to_owned(), config.ports.replication),
            ("storage".to_owned(), config.ports.storage),
            ("monitoring".to_owned(), config.ports.admin),
        ],
        delays_ns: config
            .lab_link_delays
            .iter()
            .map(|(ip, delay)| (*ip, u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX)))
            .collect(),
        bind_outgoing: !config.discovery_peers.is_empty(),
        value_bytes_max: config.value_bytes_max,
        wal_retain_bytes: config.wal_retain_bytes,
        collects_tombstones: config.collects_tombstones,
        packs: config.compression == Compression::Lz4,
        catch_up_rate: config.catch_up_rate,
        anti_entropy_ms: Some(u64::from(config.anti_entropy_seconds) * 1_000).filter(|ms| *ms > 0),
        bulk_bytes_min: crate::control::bulk::BULK_BYTES_MIN,
    }
}
