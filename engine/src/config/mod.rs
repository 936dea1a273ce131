//! The node's configuration: defaults, then `--env-file`, then the environment, then flags; parsed into types once and
//! validated as a whole, so that nothing behind it checks again.
//!
//! Everything it needs from outside comes through [`Surroundings`], so that all of it is tested without a network.

#![allow(clippy::disallowed_methods, reason = "reads the environment and region.env")]

mod addresses;
pub mod command;
pub mod env_file;
pub mod interfaces;
mod memory;
mod origin;
pub mod settings;
pub mod values;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ArgMatches;
use net::ids::RegionName;
use net::reactor::IoBackend;
use net::wire::body::Compression;
use tracing::Level;
use wal::CommitPath;

use self::addresses::Network;
use self::interfaces::{Interfaces, Machine, Routes};
use self::origin::Given;
use self::settings::{SETTINGS, Setting};
use crate::node::Durability;
use crate::replication::residency::Policy;

pub use self::command::{command, wants_check};
pub use self::origin::Origin;

/// Why there is no configuration: one line that says where, what, and what to write instead.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file of settings could not be read.
    #[error("{}: {source}; check the path and permissions of --env-file", path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file of settings is malformed.
    #[error("{}:{}: {source}", path.display(), source.line)]
    File {
        /// The file.
        path: PathBuf,
        /// Line and problem.
        source: env_file::EnvFileError,
    },
    /// The file has a key that is no setting.
    #[error("{}:{line}: unknown setting {key}; {advice}", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// Line from 1.
        line: usize,
        /// The key.
        key: String,
        /// What to do.
        advice: String,
    },
    /// A setting has no acceptable value.
    #[error("{origin}: {key}{}{value}: {problem}", if value.is_empty() { "" } else { "=" })]
    Setting {
        /// The setting.
        key: &'static str,
        /// Where its value was written.
        origin: Origin,
        /// The value as written, shortened; empty if there was none.
        value: String,
        /// What is wrong and what to write.
        problem: String,
    },
    /// The kernel did not list the interfaces.
    #[error("the network interfaces could not be listed ({0}); addresses cannot be judged without them")]
    Interfaces(io::Error),
}

/// All that configuration reads besides the command line.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// A variable of the environment.
    pub environment: &'a dyn Fn(&str) -> Option<OsString>,
    /// A file's content.
    pub read_file: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
    /// The interfaces of the machine.
    pub interfaces: &'a dyn Interfaces,
    /// The routes of the machine.
    pub routes: &'a dyn Routes,
    /// CPUs that this process may use.
    pub cpus: usize,
}

impl Surroundings<'static> {
    /// Those of this process.
    #[must_use]
    pub fn of_this_process() -> Surroundings<'static> {
        Surroundings {
            environment: &|key| std::env::var_os(key),
            read_file: &read_bounded,
            interfaces: &Machine,
            routes: &Machine,
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// Reads a file of settings, one byte beyond the bound at most (`--env-file /dev/zero` ends, too).
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(env_file::ENV_FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The ports of a node; 0 lets the kernel choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Discovery.
    pub discovery: u16,
    /// Replication between nodes.
    pub replication: u16,
    /// The store's clients.
    pub storage: u16,
    /// The cache's clients.
    pub cache: u16,
    /// Metrics, health, status.
    pub admin: u16,
}

/// A node's configuration, valid as a whole.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's region.
    pub region: RegionName,
    /// Discovery addresses of the other nodes; none of them is this node.
    pub discovery_peers: Vec<SocketAddr>,
    /// Where every port listens; at least one is loopback.
    pub bind_addresses: Vec<IpAddr>,
    /// What the peers are told.
    pub advertise_address: IpAddr,
    /// A further interface that may be bound.
    pub mesh_interface: Option<String>,
    /// The log's directory.
    pub data_dir: PathBuf,
    /// Core threads, at least one.
    pub cores: u16,
    /// The reactor.
    pub io_backend: IoBackend,
    /// When writes are acknowledged.
    pub durability: Durability,
    /// How groups reach the disk.
    pub commit_path: CommitPath,
    /// The ports.
    pub ports: Ports,
    /// Bytes of a segment, a power of two.
    pub segment_bytes: u32,
    /// Bytes of the largest value; at most a quarter of a segment.
    pub value_bytes_max: u32,
    /// Bytes of memory that the node may take, where there is a bound.
    pub memory_limit: Option<u64>,
    /// Bytes that a follower may be behind and still hold segments that nobody else needs.
    pub wal_retain_bytes: u64,
    /// Whether what was deleted, or has expired, is forgotten once every member of the mesh holds that.
    pub collects_tombstones: bool,
    /// Whether records are packed for the other regions.
    pub compression: Compression,
    /// Bytes a second that a peer is brought up to date with; 0: no bound.
    pub catch_up_rate: u64,
    /// Which regions may hold which keys.
    pub residency: Policy,
    /// Seconds between two comparisons with the same peer; 0: none but those that are asked for.
    pub anti_entropy_seconds: u32,
    /// The least important messages that are logged.
    pub log_level: Level,
    /// One-way delay of what arrives from each address; empty outside the lab.
    pub lab_link_delays: Vec<(IpAddr, Duration)>,
    origins: Vec<Origin>,
}

impl Config {
    /// Reads and validates everything. `matches` are those of [`command()`].
    ///
    /// # Errors
    /// [`ConfigError`], the first problem found.
    pub fn load(matches: &ArgMatches, around: &Surroundings<'_>) -> Result<Config, ConfigError> {
        let mut given = Given::collect(matches, around)?;
        let discovery_peers = given.parsed(Setting::DiscoveryPeers, values::peers)?.unwrap_or_default();
        let region = region(&given, &discovery_peers)?;
        let ports = ports(&given)?;

        let interfaces = around.interfaces.list().map_err(ConfigError::Interfaces)?;
        let mesh_interface = given.text(Setting::MeshInterface).map(str::to_owned);
        let network = Network { interfaces: &interfaces, mesh: mesh_interface.as_deref(), routes: around.routes };
        given.parsed(Setting::MeshInterface, |name| network.check_mesh(name))?;
        let bind_addresses = match given.parsed(Setting::BindHost, |text| network.bind_given(text))? {
            Some(addresses) => addresses,
            None => {
                let derived = network.bind_derived(&discovery_peers);
                let derived = derived.map_err(|problem| given.error(Setting::BindHost, problem))?;
                given.derived(Setting::BindHost, derived.because);
                derived.value
            }
        };
        // Before reachability: "that peer is you" explains more than what would follow from it.
        refuse_self(&given, &discovery_peers, &bind_addresses, ports)?;
        network
            .check_reachable(&bind_addresses, &discovery_peers)
            .map_err(|problem| given.error(Setting::BindHost, problem))?;
        let advertise = network
            .advertise(given.text(Setting::AdvertiseHost), &bind_addresses, &discovery_peers)
            .map_err(|problem| given.error(Setting::AdvertiseHost, problem))?;
        given.derived(Setting::AdvertiseHost, advertise.because);
        refuse_self(&given, &discovery_peers, &[advertise.value], ports)?;

        let (segment_bytes, value_bytes_max) = sizes(&given)?;
        let cores = given.parsed(Setting::Cores, values::cores)?.unwrap_or_else(|| cores_default(around.cpus));
        let memory_limit = memory_limit(&mut given, around, cores, segment_bytes)?;
        let durability =
            given.parsed(Setting::Durability, |text| values::choice(text, DURABILITIES))?.unwrap_or(Durability::Fsync);
        let lab_link_delays =
            given.parsed(Setting::LabLinkDelays, |text| match bind_addresses.iter().find(|ip| !ip.is_loopback()) {
                None => values::link_delays(text),
                Some(ip) => Err(format!("delays are for the lab, but this node binds {ip}; remove the setting")),
            })?;
        Ok(Config {
            region,
            discovery_peers,
            bind_addresses,
            advertise_address: advertise.value,
            mesh_interface,
            data_dir: given.text(Setting::DataDir).unwrap_or(Setting::DataDir.row().default).into(),
            cores,
            io_backend: given.parsed(Setting::IoBackend, |text| values::choice(text, IO_BACKENDS))?.unwrap_or_default(),
            durability,
            commit_path: given
                .parsed(Setting::CommitPath, |text| match values::choice(text, COMMIT_PATHS)? {
                    CommitPath::Direct if durability == Durability::Os => {
                        Err("DURABILITY=os leaves the bytes to the operating system, which needs COMMIT_PATH=mmap"
                            .into())
                    }
                    path => Ok(path),
                })?
                .unwrap_or_default(),
            ports,
            segment_bytes,
            value_bytes_max,
            memory_limit,
            wal_retain_bytes: given.parsed(Setting::WalRetain, values::bytes)?.unwrap_or(WAL_RETAIN_BYTES),
            collects_tombstones: given
                .parsed(Setting::Tombstones, |text| values::choice(text, TOMBSTONES))?
                .unwrap_or(true),
            compression: given
                .parsed(Setting::Compression, |text| values::choice(text, COMPRESSIONS))?
                .unwrap_or(Compression::Lz4),
            catch_up_rate: given.parsed(Setting::CatchUpRate, values::rate)?.unwrap_or(0),
            residency: given
                .parsed(Setting::Residency, |text| Policy::parse(text).map_err(|error| error.to_string()))?
                .unwrap_or_default(),
            anti_entropy_seconds: given
                .parsed(Setting::AntiEntropyInterval, values::seconds)?
                .unwrap_or(ANTI_ENTROPY_SECONDS),
            log_level: given.parsed(Setting::LogLevel, |text| values::choice(text, LOG_LEVELS))?.unwrap_or(Level::INFO),
            lab_link_delays: lab_link_delays.unwrap_or_default(),
            origins: given.into_origins(),
        })
    }

    /// Bytes of memory that each core may count, where there is a bound.
    #[must_use]
    pub fn memory_bytes_of_core(&self) -> Option<u64> {
        self.memory_limit.map(|limit| memory::of_each_core(limit, self.cores))
    }

    /// Where the value of a setting was written.
    #[must_use]
    pub fn origin(&self, setting: Setting) -> &Origin {
        &self.origins[setting as usize]
    }

    /// The value in force, in the form in which it would be written.
    #[must_use]
    pub fn value(&self, setting: Setting) -> String {
        match setting {
            Setting::Region => self.region.as_str().to_owned(),
            Setting::DiscoveryPeers => joined(&self.discovery_peers),
            Setting::BindHost => joined(&self.bind_addresses),
            Setting::AdvertiseHost => self.advertise_address.to_string(),
            Setting::MeshInterface => self.mesh_interface.clone().unwrap_or_default(),
            Setting::DataDir => self.data_dir.display().to_string(),
            Setting::Cores => self.cores.to_string(),
            Setting::IoBackend => word(IO_BACKENDS, self.io_backend),
            Setting::Durability => word(DURABILITIES, self.durability),
            Setting::CommitPath => word(COMMIT_PATHS, self.commit_path),
            Setting::DiscoveryPort => self.ports.discovery.to_string(),
            Setting::ReplicationPort => self.ports.replication.to_string(),
            Setting::StoragePort => self.ports.storage.to_string(),
            Setting::CachePort => self.ports.cache.to_string(),
            Setting::AdminPort => self.ports.admin.to_string(),
            Setting::SegmentBytes => self.segment_bytes.to_string(),
            Setting::ValueBytesMax => self.value_bytes_max.to_string(),
            Setting::MemoryLimit => self.memory_limit.map(|bytes| bytes.to_string()).unwrap_or_default(),
            Setting::WalRetain => self.wal_retain_bytes.to_string(),
            Setting::Tombstones => word(TOMBSTONES, self.collects_tombstones),
            Setting::Compression => word(COMPRESSIONS, self.compression),
            Setting::CatchUpRate => self.catch_up_rate.to_string(),
            Setting::Residency => self.residency.to_string(),
            Setting::AntiEntropyInterval => self.anti_entropy_seconds.to_string(),
            Setting::LogLevel => word(LOG_LEVELS, self.log_level),
            Setting::LabLinkDelays => {
                let delay = |(ip, delay): &(IpAddr, Duration)| format!("{ip}={}", delay.as_secs_f64() * 1000.0);
                self.lab_link_delays.iter().map(delay).collect::<Vec<_>>().join(",")
            }
        }
    }

    /// A table of every effective value and its origin, for `--check`; each line ends in a newline.
    #[must_use]
    pub fn check_report(&self) -> String {
        let rows = SETTINGS.iter().map(|row| {
            let value = self.value(row.setting);
            let value = if value.is_empty() { "-".to_owned() } else { value };
            (row.key, value, self.origin(row.setting).to_string())
        });
        let rows: Vec<(&str, String, String)> = rows.collect();
        let key_width = rows.iter().map(|(key, ..)| key.chars().count()).max().unwrap_or(0).max("SETTING".len());
        let value_width = rows.iter().map(|(_, value, _)| value.chars().count()).max().unwrap_or(0).max("VALUE".len());
        let mut report = format!("{:key_width$}  {:value_width$}  ORIGIN\n", "SETTING", "VALUE");
        for (key, value, origin) in rows {
            // Writing to a String cannot fail.
            let _ = writeln!(report, "{key:key_width$}  {value:value_width$}  {origin}");
        }
        report
    }
}

/// Some seconds of a busy core, some days of a quiet one.
const WAL_RETAIN_BYTES: u64 = 1 << 30;

/// Equal nodes exchange some 9 KiB for a comparison, others 0.5 MiB: less than 1 kB/s.
const ANTI_ENTROPY_SECONDS: u32 = 600;

const IO_BACKENDS: &[(&str, IoBackend)] =
    &[("auto", IoBackend::Auto), ("uring", IoBackend::Uring), ("epoll", IoBackend::Epoll)];
const TOMBSTONES: &[(&str, bool)] = &[("keep", false), ("collect", true)];
const DURABILITIES: &[(&str, Durability)] = &[("fsync", Durability::Fsync), ("os", Durability::Os)];
const COMMIT_PATHS: &[(&str, CommitPath)] = &[("mmap", CommitPath::Mmap), ("direct", CommitPath::Direct)];
const COMPRESSIONS: &[(&str, Compression)] = &[("lz4", Compression::Lz4), ("none", Compression::None)];
const LOG_LEVELS: &[(&str, Level)] = &[
    ("error", Level::ERROR),
    ("warn", Level::WARN),
    ("info", Level::INFO),
    ("debug", Level::DEBUG),
    ("trace", Level::TRACE),
];

fn word<T: Copy + PartialEq>(choices: &[(&str, T)], value: T) -> String {
    choices.iter().find(|(_, choice)| *choice == value).map_or_else(String::new, |(word, _)| (*word).to_owned())
}

fn joined<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn cores_default(cpus: usize) -> u16 {
    u16::try_from(cpus.saturating_sub(1)).unwrap_or(u16::MAX).clamp(1, values::CORES_MAX)
}

fn region(given: &Given, peers: &[SocketAddr]) -> Result<RegionName, ConfigError> {
    let text = match given.text(Setting::Region) {
        Some(text) => text,
        None if peers.is_empty() => Setting::Region.row().default,
        None => {
            let problem = "DISCOVERY_PEERS is set, so this node's region needs a name; write REGION=sfo, for example";
            return Err(given.error(Setting::Region, problem.into()));
        }
    };
    RegionName::parse(text).map_err(|error| given.error(Setting::Region, error.to_string()))
}

fn ports(given: &Given) -> Result<Ports, ConfigError> {
    let settings = [
        Setting::DiscoveryPort,
        Setting::ReplicationPort,
        Setting::StoragePort,
        Setting::CachePort,
        Setting::AdminPort,
    ];
    let mut ports = [0_u16; 5];
    for (at, setting) in settings.into_iter().enumerate() {
        let default = || values::port(setting.row().default).map_err(|problem| given.error(setting, problem));
        ports[at] = given.parsed(setting, values::port)?.map_or_else(default, Ok)?;
        if let Some(same) = ports[..at].iter().position(|port| *port == ports[at] && *port != 0) {
            // Blame the one that somebody wrote: a default cannot be edited.
            let (blamed, other) =
                if given.text(setting).is_some() { (setting, settings[same]) } else { (settings[same], setting) };
            let problem =
                format!("port {} is also {}; write another port for one of the two", ports[at], other.row().key);
            return Err(given.error(blamed, problem));
        }
    }
    let [discovery, replication, storage, cache, admin] = ports;
    Ok(Ports { discovery, replication, storage, cache, admin })
}

fn sizes(given: &Given) -> Result<(u32, u32), ConfigError> {
    let segment = given.parsed(Setting::SegmentBytes, values::segment_bytes)?;
    let segment = segment.unwrap_or(*values::SEGMENT_BYTES_RANGE.end());
    let most = values::VALUE_BYTES_CEILING.min(segment / 4);
    let value = given.parsed(Setting::ValueBytesMax, |text| {
        let size = values::small_bytes(text)?;
        if (values::VALUE_BYTES_FLOOR..=most).contains(&size) {
            Ok(size)
        } else {
            let least = values::VALUE_BYTES_FLOOR;
            Err(format!("with SEGMENT_BYTES={segment} a value has from {least} to {most} bytes; write one of these"))
        }
    })?;
    Ok((segment, value.unwrap_or(most)))
}

fn memory_limit(
    given: &mut Given,
    around: &Surroundings<'_>,
    cores: u16,
    segment_bytes: u32,
) -> Result<Option<u64>, ConfigError> {
    let least = memory::least(cores, segment_bytes);
    let written = given.parsed(Setting::MemoryLimit, |text| {
        let limit = values::bytes(text)?;
        let mib = least.div_ceil(1 << 20);
        if limit >= least {
            Ok(limit)
        } else {
            Err(format!("with CORES={cores} and SEGMENT_BYTES={segment_bytes} a node needs {mib}MiB; write at least that, or less for one of the two"))
        }
    })?;
    if written.is_some() {
        return Ok(written);
    }
    let Some((half, because)) = memory::half_of_machine(around) else { return Ok(None) };
    given.derived(Setting::MemoryLimit, Some(because.to_owned()));
    Ok(Some(half.max(least)))
}

/// A node that is its own peer would replicate to itself for ever.
fn refuse_self(given: &Given, peers: &[SocketAddr], own: &[IpAddr], ports: Ports) -> Result<(), ConfigError> {
    let Some(own) = peers.iter().find(|peer| peer.port() == ports.discovery && own.contains(&peer.ip())) else {
        return Ok(());
    };
    let others: Vec<SocketAddr> = peers.iter().copied().filter(|peer| peer != own).collect();
    let instead = if others.is_empty() {
        "write the other nodes' addresses".to_owned()
    } else {
        format!("write DISCOVERY_PEERS={}", joined(&others))
    };
    Err(given.error(Setting::DiscoveryPeers, format!("{own} is this node itself; {instead}")))
}
