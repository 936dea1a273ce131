//! The table of settings: one row each. Flags, the check report and the document follow from it.

/// A setting. Its number is its row in [`SETTINGS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is described in its row of SETTINGS")]
pub enum Setting {
    Region,
    DiscoveryPeers,
    BindHost,
    AdvertiseHost,
    MeshInterface,
    DataDir,
    Cores,
    IoBackend,
    Durability,
    CommitPath,
    DiscoveryPort,
    ReplicationPort,
    StoragePort,
    CachePort,
    AdminPort,
    SegmentBytes,
    ValueBytesMax,
    MemoryLimit,
    WalRetain,
    Tombstones,
    Compression,
    CatchUpRate,
    Residency,
    AntiEntropyInterval,
    LogLevel,
    LabLinkDelays,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The setting.
    pub setting: Setting,
    /// Its name in the file and in the environment.
    pub key: &'static str,
    /// Its flag, without the dashes.
    pub flag: &'static str,
    /// What a value looks like, for `--help`.
    pub form: &'static str,
    /// What holds if it is not set, in words where it is derived.
    pub default: &'static str,
    /// One sentence.
    pub help: &'static str,
}

/// All settings, in the order of [`Setting`].
pub const SETTINGS: [Row; 26] = [
    Row {
        setting: Setting::Region,
        key: "REGION",
        flag: "region",
        form: "NAME",
        default: "local",
        help: "Name of this node's region: 1 to 32 of a-z, 0-9 and '-'; required with DISCOVERY_PEERS",
    },
    Row {
        setting: Setting::DiscoveryPeers,
        key: "DISCOVERY_PEERS",
        flag: "discovery-peers",
        form: "IP[:PORT],…",
        default: "none",
        help: "Discovery addresses of the other nodes; the port defaults to 10200",
    },
    Row {
        setting: Setting::BindHost,
        key: "BIND_HOST",
        flag: "bind-host",
        form: "IP,…",
        default: "the address that routes to the first peer, and 127.0.0.1",
        help: "Addresses to listen on, loopback or mesh only; 127.0.0.1 is added unless one of 127.0.0.0/8 is given",
    },
    Row {
        setting: Setting::AdvertiseHost,
        key: "ADVERTISE_HOST",
        flag: "advertise-host",
        form: "IP",
        default: "the address that routes to the first peer",
        help: "Address that the peers are told to use",
    },
    Row {
        setting: Setting::MeshInterface,
        key: "MESH_INTERFACE",
        flag: "mesh-interface",
        form: "NAME",
        default: "none",
        help: "A further interface whose addresses may be bound; WireGuard and TUN interfaces need no mention",
    },
    Row {
        setting: Setting::DataDir,
        key: "DATA_DIR",
        flag: "data-dir",
        form: "PATH",
        default: "godwit-data",
        help: "Directory of the log; a relative path starts at the working directory",
    },
    Row {
        setting: Setting::Cores,
        key: "CORES",
        flag: "cores",
        form: "COUNT",
        default: "all CPUs but one",
        help: "Core threads, 1 to 64",
    },
    Row {
        setting: Setting::IoBackend,
        key: "IO_BACKEND",
        flag: "io-backend",
        form: "auto|uring|epoll",
        default: "auto",
        help: "How sockets and files are driven; auto takes io_uring where it works",
    },
    Row {
        setting: Setting::Durability,
        key: "DURABILITY",
        flag: "durability",
        form: "fsync|os",
        default: "fsync",
        help: "When a write is acknowledged: once it is on the disk, or once the operating system has it",
    },
    Row {
        setting: Setting::CommitPath,
        key: "COMMIT_PATH",
        flag: "commit-path",
        form: "mmap|direct",
        default: "mmap",
        help: "How groups reach the disk: through a mapping that is synced, or by writes around the page cache",
    },
    Row {
        setting: Setting::DiscoveryPort,
        key: "DISCOVERY_PORT",
        flag: "discovery-port",
        form: "PORT",
        default: "10200",
        help: "Port of the discovery service; 0 lets the kernel choose (as for every port; for tests)",
    },
    Row {
        setting: Setting::ReplicationPort,
        key: "REPLICATION_PORT",
        flag: "replication-port",
        form: "PORT",
        default: "10400",
        help: "Port on which the other nodes replicate",
    },
    Row {
        setting: Setting::StoragePort,
        key: "STORAGE_PORT",
        flag: "storage-port",
        form: "PORT",
        default: "10600",
        help: "Port of the store, for Redis clients and those of the wire protocol",
    },
    Row {
        setting: Setting::CachePort,
        key: "CACHE_PORT",
        flag: "cache-port",
        form: "PORT",
        default: "10700",
        help: "Port of the cache, reserved: nothing listens on it yet",
    },
    Row {
        setting: Setting::AdminPort,
        key: "ADMIN_PORT",
        flag: "admin-port",
        form: "PORT",
        default: "10800",
        help: "HTTP port of metrics, health and status",
    },
    Row {
        setting: Setting::SegmentBytes,
        key: "SEGMENT_BYTES",
        flag: "segment-bytes",
        form: "BYTES",
        default: "64MiB",
        help: "Size of a log segment: a power of two from 1MiB to 64MiB",
    },
    Row {
        setting: Setting::ValueBytesMax,
        key: "VALUE_BYTES_MAX",
        flag: "value-bytes-max",
        form: "BYTES",
        default: "8MiB or a quarter of SEGMENT_BYTES, whichever is less",
        help: "Largest value accepted: from 1KiB to 8MiB and at most a quarter of SEGMENT_BYTES",
    },
    Row {
        setting: Setting::MemoryLimit,
        key: "MEMORY_LIMIT",
        flag: "memory-limit",
        form: "BYTES",
        default: "half of the machine's memory, or of its control group's",
        help: "Memory of the node: index, buffers, and the log segments that are read from memory; others are read from the disk",
    },
    Row {
        setting: Setting::WalRetain,
        key: "WAL_RETAIN",
        flag: "wal-retain",
        form: "BYTES",
        default: "1GiB",
        help: "How far a follower may be behind the end of a core's log and still hold segments that nobody else needs",
    },
    Row {
        setting: Setting::Tombstones,
        key: "TOMBSTONES",
        flag: "tombstones",
        form: "keep|collect",
        default: "collect",
        help: "Whether what was deleted, or has expired, is forgotten once every member of the mesh holds that",
    },
    Row {
        setting: Setting::Compression,
        key: "COMPRESSION",
        flag: "compression",
        form: "lz4|none",
        default: "lz4",
        help: "Whether batches of records are packed for the other regions where that makes them smaller; nodes need not agree",
    },
    Row {
        setting: Setting::CatchUpRate,
        key: "CATCH_UP_RATE",
        flag: "catch-up-rate",
        form: "BYTES",
        default: "0",
        help: "Bytes of its log a second that the node reads to bring one peer up to date; 0: as many as the link takes",
    },
    Row {
        setting: Setting::Residency,
        key: "RESIDENCY",
        flag: "residency",
        form: "PREFIX=REGION,…;…",
        default: "none",
        help: "Which regions may hold keys that begin with a prefix; other keys may be anywhere. The same on all nodes",
    },
    Row {
        setting: Setting::AntiEntropyInterval,
        key: "ANTI_ENTROPY_INTERVAL",
        flag: "anti-entropy-interval",
        form: "SECONDS",
        default: "600",
        help: "How often the node compares itself with each peer and fetches what it lost; 0: only when it is asked",
    },
    Row {
        setting: Setting::LogLevel,
        key: "LOG_LEVEL",
        flag: "log-level",
        form: "error|warn|info|debug|trace",
        default: "info",
        help: "The least important messages that are logged",
    },
    Row {
        setting: Setting::LabLinkDelays,
        key: "LAB_LINK_DELAYS",
        flag: "lab-link-delays",
        form: "IP=MS,…",
        default: "none",
        help: "Lab only: one-way delay in ms of what arrives from each address; every bind address must be loopback",
    },
];

// A setting is used as an index into the table.
const _: () = {
    let mut row = 0;
    while row < SETTINGS.len() {
        assert!(SETTINGS[row].setting as usize == row);
        row += 1;
    }
};

impl Setting {
    /// Its row.
    #[must_use]
    pub fn row(self) -> &'static Row {
        &SETTINGS[self as usize]
    }

    /// The setting with this name in a file or an environment.
    #[must_use]
    pub fn from_key(key: &str) -> Option<Setting> {
        SETTINGS.iter().find(|row| row.key == key).map(|row| row.setting)
    }
}

/// The setting whose name resembles `key`, if one does.
#[must_use]
pub fn suggestion(key: &str) -> Option<&'static str> {
    let wanted = key.to_ascii_uppercase().replace('-', "_");
    // Names longer than any setting cannot resemble one, and comparing costs their product.
    if wanted.len() > 64 {
        return None;
    }
    let (distance, best) = SETTINGS.iter().map(|row| (edit_distance(&wanted, row.key), row.key)).min()?;
    (distance <= 1 + best.len() / 4).then_some(best)
}

/// Insertions, deletions and substitutions between two names (Levenshtein), one row of the table at a time.
fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut previous: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut current = vec![i + 1];
        for (j, b) in right.iter().enumerate() {
            let substituted = previous[j] + usize::from(a != *b);
            current.push(substituted.min(previous[j + 1] + 1).min(current[j] + 1));
        }
        previous = current;
    }
    previous[right.len()]
}
