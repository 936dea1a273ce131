//! The reactor: the only door through which a loop thread reaches sockets, files and clocks.
//!
//! Completion-based and statically dispatched. Three siblings implement [`Io`] with the same file names inside:
//! [`uring`] (kernel 6.1 or newer), [`epoll`] (mio; file work on a disk thread) and [`sim`] (one thread, one seed). One
//! conformance suite runs over all three.
//!
//! Rules every sibling keeps:
//! - `submit` never completes inline: the completion arrives from a later `poll`.
//! - Every accepted operation ends in exactly one *terminal* completion (`more == false`), cancelled ones included.
//!   Multishot operations (`Accept`, `Recv`) deliver any number of completions with `more == true` before it;
//!   `more == false` means the operation is over and must be submitted again to go on (also after `ENOBUFS`).
//! - A `Send` completes whole or fails; one send per socket is in flight at a time (a second is refused as a bug).
//! - A `Recv` that completes with zero bytes is the end of the stream.
//! - A `Recv` that ends with `ENOBUFS` ([`Completion::is_out_of_buffers`]) found every buffer leased out: drop leases,
//!   then submit it again. Nothing is lost.
//! - A refused operation (a second `Send`, a `Close` while something is in flight, an unknown socket) completes with
//!   `ErrorKind::InvalidInput`.
//! - `cancel` names an operation by its tag; tags of operations that may be cancelled are unique among those in flight.
//! - `Close` is submitted only when nothing is in flight on the socket (cancel, await the terminal completion, close).
//! - Tags are opaque to the reactor and never pointers.

pub mod backend;
pub mod disk;
pub mod epoll;
mod file_job;
pub mod helper;
mod lease;
mod listen;
mod os;
mod os_file;
pub mod sim;
pub mod sockopt;
mod table;
pub mod uring;
mod waker;

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;

use bytes::Bytes;

pub use backend::{Backend, IoBackend, choose_backend};
pub use lease::Lease;
pub use os::OsRandom;
pub use os_file::OsFile;
pub use waker::Waker;

/// Monotonic time of this process in nanoseconds since an arbitrary start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

impl Mono {
    /// This instant plus `millis` milliseconds, saturating.
    #[must_use]
    pub fn plus_ms(self, millis: u64) -> Mono {
        Mono(self.0.saturating_add(millis.saturating_mul(1_000_000)))
    }

    /// Nanoseconds since `earlier`, zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Mono) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The caller's name for an operation; returned with each of its completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub u64);

/// A connected stream owned by the reactor until `Close`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Socket(pub u32);

/// A listening socket owned by the reactor for its whole life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Listener(pub u32);

/// What a stream is for; decides socket options (FACTS: never SO_SNDBUF/SO_RCVBUF, always TCP_NODELAY).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// A client of this node: TCP_NODELAY.
    Client,
    /// A link to another region's discovery: TCP_NODELAY, bbr when available, keepalive, TCP_USER_TIMEOUT, a low NOTSENT_LOWAT.
    Discovery,
    /// A link to another region that carries records: the same with a higher NOTSENT_LOWAT.
    Replication,
}

impl StreamKind {
    /// Whether such a stream leads to another region.
    #[must_use]
    pub fn is_mesh(self) -> bool {
        self != StreamKind::Client
    }
}

/// One operation. `F` is the sibling's file handle.
#[derive(Debug)]
pub enum Op<F> {
    /// Multishot. Each completion carries [`Outcome::Accepted`].
    Accept {
        /// Where to accept.
        listener: Listener,
    },
    /// Multishot. Each completion carries a [`Lease`]; an empty one is the end of the stream.
    Recv {
        /// The stream.
        socket: Socket,
    },
    /// Sends all runs in order. Completes with [`Outcome::Done`] when the last byte is with the kernel.
    Send {
        /// The stream.
        socket: Socket,
        /// Bytes in order; kept alive by the reactor until the completion.
        runs: Vec<Bytes>,
    },
    /// Completes with [`Outcome::Connected`]. `local` binds the source address (port 0) first.
    Connect {
        /// Source address, if it matters.
        local: Option<std::net::IpAddr>,
        /// The peer.
        to: SocketAddr,
        /// Decides socket options.
        kind: StreamKind,
    },
    /// Closes the stream. Completes with [`Outcome::Done`].
    Close {
        /// The stream.
        socket: Socket,
    },
    /// Reads up to `len` bytes at `offset`; completes with a [`Lease`] (shorter only at the end of the file).
    Read {
        /// The file.
        file: F,
        /// Byte offset.
        offset: u64,
        /// Bytes wanted.
        len: u32,
    },
    /// Writes all of `bytes` at `offset`; with `dsync` the data is durable at completion.
    Write {
        /// The file.
        file: F,
        /// Byte offset.
        offset: u64,
        /// The data.
        bytes: Bytes,
        /// Durable at completion.
        dsync: bool,
    },
    /// fdatasync. What was stored before the submission is durable after success.
    Sync {
        /// The file.
        file: F,
        /// Which bytes need it; all of them if `None`. A sibling may sync more than that.
        range: Option<Range<u64>>,
    },
    /// Work that may block for long; performed on the node's helper thread.
    File(FileJob<F>),
}

/// Slow file work, one syscall sequence each; performed off the loop threads.
#[derive(Debug)]
pub enum FileJob<F> {
    /// Creates `path` (must not exist; mode 0600), fills `len` bytes with zeros as buffered 4 KiB writes (small
    /// folios, see FACTS), stores `head` at offset 0, fdatasyncs, keeps the pages cached. Completes with
    /// [`Outcome::Opened`] (read and write). On error the partial file is unlinked. `ENOSPC` arrives here and never as
    /// SIGBUS.
    Prepare {
        /// The new file.
        path: PathBuf,
        /// Its final length in bytes, a multiple of 4096.
        len: u64,
        /// First bytes of the file.
        head: Bytes,
    },
    /// Makes a file that [`FileJob::Prepare`] made, and that was used since, ready for another use: opens it, stores `head` at
    /// offset 0, fdatasyncs. What stands behind `head` stays. Completes with [`Outcome::Opened`] (read and write).
    /// `InvalidInput` if the file is not `len` bytes long.
    Recycle {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        len: u64,
        /// First bytes of the file.
        head: Bytes,
    },
    /// Reads the whole file into the page cache.
    Warm {
        /// The file.
        file: F,
    },
    /// Writes `bytes` at `offset` and fdatasyncs.
    WriteSync {
        /// The file.
        file: F,
        /// Byte offset.
        offset: u64,
        /// The data.
        bytes: Bytes,
    },
    /// Renames `from` to `to` and syncs the directory of `to`.
    Rename {
        /// Existing path.
        from: PathBuf,
        /// New path.
        to: PathBuf,
    },
    /// Unlinks `path` and syncs its directory.
    Unlink {
        /// The file.
        path: PathBuf,
    },
    /// Opens `path` for reading. Completes with [`Outcome::Opened`].
    Open {
        /// The file.
        path: PathBuf,
    },
    /// Bulk read for the tailer (≥ 256 KiB pays): tokio-uring, or its `pread` twin. Completes with [`Outcome::Bulk`],
    /// shorter than `len` only at the end of the file.
    ReadBulk {
        /// The file.
        file: F,
        /// Byte offset.
        offset: u64,
        /// Bytes wanted.
        len: u32,
    },
}

/// The result of an operation that succeeded.
#[derive(Debug)]
pub enum Outcome<F> {
    /// Nothing more to say: `Send`, `Close`, `Write`, `Sync`, most file jobs. (The terminal completion of a cancelled
    /// operation is the raw error `ECANCELED` instead, see [`Completion::is_cancelled`].)
    Done,
    /// A new stream and its peer.
    Accepted(Socket, SocketAddr),
    /// An outgoing stream is up.
    Connected(Socket),
    /// Received or read bytes; see [`Completion::buf`].
    Data,
    /// A file was opened or prepared.
    Opened(F),
    /// Bytes of a bulk read.
    Bulk(Bytes),
}

/// One completion.
#[derive(Debug)]
pub struct Completion<F> {
    /// The operation's tag.
    pub tag: Tag,
    /// What happened.
    pub result: io::Result<Outcome<F>>,
    /// Whether more completions of this operation will follow.
    pub more: bool,
    /// The data of `Recv` and `Read`; dropping it returns the buffer to the reactor.
    pub buf: Option<Lease>,
}

impl<F> Completion<F> {
    /// A terminal completion that carries only a result.
    pub(crate) fn last(tag: Tag, result: io::Result<Outcome<F>>) -> Self {
        Completion { tag, result, more: false, buf: None }
    }

    /// Whether the operation ended because it was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.result.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ECANCELED))
    }

    /// Whether an `Accept` failed for want of a descriptor or of memory, and not because of who connected. Submitted again at
    /// once it would fail again at once.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        let code = self.result.as_ref().err().and_then(io::Error::raw_os_error);
        matches!(code, Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
    }

    /// Whether a `Recv` ended for a reason that is not the peer's: cancelled, out of buffers, interrupted.
    #[must_use]
    pub fn is_to_be_repeated(&self) -> bool {
        let interrupted = self.result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Interrupted);
        self.is_cancelled() || self.is_out_of_buffers() || interrupted
    }

    /// Whether a `Recv` ended because every receive buffer is leased out: drop leases and submit it again.
    #[must_use]
    pub fn is_out_of_buffers(&self) -> bool {
        self.result.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ENOBUFS))
    }
}

/// The error of a cancelled operation, the same in all siblings.
pub(crate) fn cancelled() -> io::Error {
    io::Error::from_raw_os_error(libc::ECANCELED)
}

/// The error of an operation that breaks a rule of this module.
pub(crate) fn misuse(rule: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, rule)
}

/// Bytes of one receive buffer. Larger than most requests; a larger value arrives in several leases.
pub const RECV_BUFFER_BYTES: usize = 16 * 1024;

/// Sizes of one reactor.
#[derive(Clone, Copy, Debug)]
pub struct ReactorConfig {
    /// Receive buffers of [`RECV_BUFFER_BYTES`], a power of two up to 32,768. Default 256 = 128 that the loop may hold
    /// while it works through one tick (the most completions it is given per tick that carry a buffer) + 64 held by
    /// connections in the middle of a request + 64 for the kernel to fill meanwhile.
    pub receive_buffers: u16,
    /// Operations in flight before `submit` answers `Full`: three per connection (receive, send, close) at 16 Ki
    /// connections, and file work. At most 2^20.
    pub operations_max: u32,
}

impl Default for ReactorConfig {
    fn default() -> Self {
        ReactorConfig { receive_buffers: 256, operations_max: 65_536 }
    }
}

/// How long `poll` may block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Collect what is there.
    Now,
    /// Until something completes, a waker fires, or this instant passes.
    Until(Mono),
}

/// The submission queue is full; `poll` and try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// One loop thread's door to the outside.
pub trait Io: Sized {
    /// Handle of an open file; clones share it.
    type File: Clone + std::fmt::Debug + 'static;

    /// Whether [`Op::Sync`] writes the range that it is given and leaves other dirty bytes of the file alone.
    const SYNCS_RANGES: bool;

    /// Monotonic time.
    fn now(&self) -> Mono;
    /// Wall time in milliseconds since 1970 (may jump; only the clock module may use it).
    fn wall_unix_ms(&self) -> u64;
    /// Random bits (seeded in the simulator).
    fn random(&mut self) -> u64;
    /// Listens on `addr`. `shared`: several loops of this process listen on the same address (SO_REUSEPORT); the first
    /// bind probes without it, so that a second daemon is refused with `AddrInUse`.
    ///
    /// # Errors
    /// Those of bind and listen.
    fn listen(&mut self, addr: SocketAddr, kind: StreamKind, shared: bool) -> io::Result<Listener>;
    /// The bound address (the port matters when 0 was asked).
    ///
    /// # Errors
    /// If the handle is unknown.
    fn local_addr(&self, listener: Listener) -> io::Result<SocketAddr>;
    /// Hands over an operation.
    ///
    /// # Errors
    /// `Full` with the operation handed back.
    fn submit(&mut self, op: Op<Self::File>, tag: Tag) -> Result<(), (Op<Self::File>, Full)>;
    /// What is sent on this stream gives way to other traffic, where something on the way looks at that. In the simulator nothing does.
    fn give_way(&mut self, _socket: Socket) {}
    /// Asks for the end of the operation with this tag; its terminal completion still arrives (it may be a success).
    fn cancel(&mut self, tag: Tag);
    /// Submits, waits as told, appends completions to `out`.
    ///
    /// # Errors
    /// Only those that make the loop unusable.
    fn poll(&mut self, wait: Wait, out: &mut Vec<Completion<Self::File>>) -> io::Result<()>;
    /// A handle that ends a blocking `poll` from any thread.
    fn waker(&self) -> Waker;
}
