//! What the command line takes.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use net::reactor::IoBackend;
use serde::{Deserialize, Serialize};

use super::load::RECORD_BYTES_MIN;
use super::prepare::Preparation;

/// Measures the log against the disk it lies on, and a node against its clients.
///
/// Every result of the log is printed as a ratio to the device floor: the same bytes made durable without a log, on a file
/// prepared alike, in windows that alternate with the log's. docs/WALBENCH.md says what each number means.
#[derive(Debug, Parser)]
#[command(name = "walbench", version)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The log beside the device floor; without --matrix or --rate the project's targets, in about a minute.
    Log(LogOptions),
    /// The device floor alone; with --stall how long a store waits while a sync is in flight.
    Floor(FloorOptions),
    /// Load on a running node, in a closed or (--rate) an open loop.
    Net(NetOptions),
    /// Compare two results of --json (also spelled --compare); exit code 3 when B is slower than A.
    Compare(CompareOptions),
    /// Kill -9 a writing process again and again and verify what it acknowledged (also spelled --crash).
    Crash(CrashOptions),
    /// The process that is killed.
    #[command(hide = true)]
    CrashChild(ChildOptions),
}

/// How a group reaches the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CommitPath {
    /// Stores into a shared mapping, then fdatasync.
    Mmap,
    /// Staged in private memory, written around the page cache, durable at completion.
    Direct,
}

impl CommitPath {
    pub(crate) fn name(self) -> &'static str {
        match self {
            CommitPath::Mmap => "mmap",
            CommitPath::Direct => "direct",
        }
    }
}

impl From<CommitPath> for wal::CommitPath {
    fn from(path: CommitPath) -> wal::CommitPath {
        match path {
            CommitPath::Mmap => wal::CommitPath::Mmap,
            CommitPath::Direct => wal::CommitPath::Direct,
        }
    }
}

/// How sockets and files are driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WantedBackend {
    /// io_uring if it works here, else epoll.
    Auto,
    /// io_uring.
    Uring,
    /// epoll, with a thread for the disk.
    Epoll,
}

impl From<WantedBackend> for IoBackend {
    fn from(wanted: WantedBackend) -> IoBackend {
        match wanted {
            WantedBackend::Auto => IoBackend::Auto,
            WantedBackend::Uring => IoBackend::Uring,
            WantedBackend::Epoll => IoBackend::Epoll,
        }
    }
}

/// Where results go beside the table.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Outputs {
    /// Write everything as JSON here; "-" is standard output, in place of the tables
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write percentile distributions here, one file per case: DIR/CASE.hgrm
    #[arg(long, value_name = "DIR")]
    pub(crate) hgrm: Option<PathBuf>,
    /// Write an interval log (HdrHistogram V2) of all windows here
    #[arg(long, value_name = "FILE")]
    pub(crate) hlog: Option<PathBuf>,
    /// Draw latency by percentile here
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LogOptions {
    /// Directory on the disk to measure; everything made there is removed again
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// How sockets and files are driven
    #[arg(long, value_name = "BACKEND", default_value = "auto")]
    pub(crate) io_backend: WantedBackend,
    /// Measure every combination of the lists below, instead of the targets; --rate, --writers, --group or several values of
    /// another list imply it
    #[arg(long)]
    pub(crate) matrix: bool,
    /// Commit paths
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "mmap,direct")]
    pub(crate) commit: Vec<CommitPath>,
    /// Bytes of a whole record, header included
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "128",
        value_parser = clap::value_parser!(u32).range(i64::from(RECORD_BYTES_MIN)..=1 << 20))]
    pub(crate) record: Vec<u32>,
    /// Most bytes of a group; 0: whatever comes while the commit before it is in flight (default)
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(0..=16 << 20))]
    pub(crate) group: Vec<u64>,
    /// Writers with one record outstanding each; 1,1000 by default
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) writers: Vec<u32>,
    /// How the segments (and the floor's file) were prepared; zeros4k,recycled with --matrix, else recycled
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) prepare: Vec<Preparation>,
    /// Open loop at this many records per second, instead of the targets
    #[arg(long, value_name = "PER_SECOND", value_parser = positive)]
    pub(crate) rate: Option<f64>,
    /// Seconds per case, floor included
    #[arg(long, value_name = "SECONDS", default_value = "4", value_parser = positive)]
    pub(crate) seconds: f64,
    /// Length of a window in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 200, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub(crate) window: u64,
    /// Size of a segment in bytes: a power of two from 1 MiB to 64 MiB
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 20, value_parser = segment_bytes)]
    pub(crate) segment_bytes: u64,
    /// Leave the store's index out
    #[arg(long)]
    pub(crate) no_index: bool,
    /// Pin the log's thread (and the kernel's worker for its syncs) to this CPU
    #[arg(long, value_name = "CPU")]
    pub(crate) cpu: Option<usize>,
    #[command(flatten)]
    pub(crate) outputs: Outputs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct FloorOptions {
    /// Directory on the disk to measure; everything made there is removed again
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Bytes made durable at a time
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "128,4096,16384,65536",
        value_parser = clap::value_parser!(u32).range(1..=4 << 20))]
    pub(crate) bytes: Vec<u32>,
    /// How the file was prepared
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "zeros4k,recycled")]
    pub(crate) prepare: Vec<Preparation>,
    /// Seconds per combination, and per kind of mapping with --stall
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = positive)]
    pub(crate) seconds: f64,
    /// Measure how long stores into a mapping wait while syncs (or direct writes) are in flight, on a file of the first preparation
    #[arg(long)]
    pub(crate) stall: bool,
    #[command(flatten)]
    pub(crate) outputs: Outputs,
}

/// What a node's client port speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    /// RESP2, as Redis clients do.
    #[default]
    Resp,
    /// The project's own.
    Native,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct NetOptions {
    /// The node's storage port
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:10600")]
    pub(crate) addr: SocketAddr,
    /// What to speak
    #[arg(long, value_name = "PROTOCOL", default_value = "resp")]
    pub(crate) protocol: Protocol,
    /// How sockets are driven
    #[arg(long, value_name = "BACKEND", default_value = "auto")]
    pub(crate) io_backend: WantedBackend,
    /// Connections
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) connections: u32,
    /// Commands outstanding per connection
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) pipeline: u32,
    /// Per cent of the commands that are GET; the others are SET (natively Get and Put)
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub(crate) get: u32,
    /// Different keys
    #[arg(long, value_name = "COUNT", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) keys: u32,
    /// Set every key once before measuring, so that no GET finds nothing
    #[arg(long)]
    pub(crate) fill: bool,
    /// Bytes of a value
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=8 << 20))]
    pub(crate) value: u32,
    /// Open loop at this many commands per second over all connections
    #[arg(long, value_name = "PER_SECOND", value_parser = positive)]
    pub(crate) rate: Option<f64>,
    /// Seconds to measure
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = positive)]
    pub(crate) seconds: f64,
    /// Length of a window in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub(crate) window: u64,
    /// Which keys in which order
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) outputs: Outputs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct CompareOptions {
    /// The result to compare with
    pub(crate) a: PathBuf,
    /// The result in question
    pub(crate) b: PathBuf,
    /// Per cent by which B may be slower before it counts as a regression
    #[arg(long, value_name = "PERCENT", default_value = "5", value_parser = not_negative)]
    pub(crate) threshold: f64,
    /// Judge absolute numbers, too, where both results have a floor: only on one quiet machine
    #[arg(long)]
    pub(crate) absolute: bool,
    /// Seed of the bootstrap
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct CrashOptions {
    /// Directory for the logs; everything made there is removed again
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Kills per commit path
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Commit paths
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "mmap,direct")]
    pub(crate) commit: Vec<CommitPath>,
    /// How sockets and files are driven
    #[arg(long, value_name = "BACKEND", default_value = "auto")]
    pub(crate) io_backend: WantedBackend,
    /// Decides when the process is killed; drawn if not given
    #[arg(long)]
    pub(crate) seed: Option<u64>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ChildOptions {
    #[arg(long)]
    pub(crate) dir: PathBuf,
    #[arg(long)]
    pub(crate) commit: CommitPath,
    #[arg(long)]
    pub(crate) prepare: Preparation,
    #[arg(long)]
    pub(crate) io_backend: WantedBackend,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 1e9 => Ok(value),
        _ => Err("expected a number above 0 and up to 1e9".to_owned()),
    }
}

fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=1e6).contains(&value) => Ok(value),
        _ => Err("expected a number of at least 0".to_owned()),
    }
}

fn segment_bytes(text: &str) -> Result<u64, String> {
    match text.parse::<u64>() {
        Ok(value) if value.is_power_of_two() && (1 << 20..=64 << 20).contains(&value) => Ok(value),
        _ => Err("expected a power of two from 1048576 to 67108864".to_owned()),
    }
}
