//! The io_uring sibling (kernel 6.1 or newer that passes [`probe`]).
//!
//! One ring per loop, created on its thread (SINGLE_ISSUER, DEFER_TASKRUN), at most one `enter` per poll. Receives are
//! multishot into a ring of provided buffers; everything else is one request per operation, resubmitted while it is
//! short.
//!
//! Unsafe because the kernel works on memory that requests point to. The one rule that makes it sound: whatever a
//! request points to lives in `ops` (or `wake_count`, or the buffer ring), at an address that does not change, until
//! its terminal completion; and `Drop` waits for all terminal completions before anything is freed.
#![allow(unsafe_code)]

pub(crate) mod buffers;
mod complete;
mod file;
mod probe;
mod socket;
mod submit;

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use io_uring::squeue::Entry;
use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, types};
use socket2::{SockAddr, SockRef};

use self::buffers::RingBuffers;
use self::file::{ReadState, WriteState};
use self::socket::SendState;
use super::helper::{HelperHandle, HelperLink};
use super::lease::HeapPool;
use super::listen::Listening;
use super::os::{OsRandom, mono_now, wall_unix_ms};
use super::table::{ENTRIES_MAX, Table};
use super::{
    Completion, Full, Io, Listener, Mono, Op, OsFile, ReactorConfig, Socket, StreamKind, Tag, Wait, Waker, misuse,
    sockopt,
};

pub use probe::{Refused, probe};

type Operation = Op<OsFile>;

/// Submission queue entries; when more arrive between two polls, they are flushed with an extra `enter`.
const SQ_ENTRIES: u32 = 512;
/// Multishot operations complete many times per submission (FACTS: at least four times the SQ).
const CQ_ENTRIES: u32 = 4 * SQ_ENTRIES;
/// Completions handed out per poll, so that one tick stays short; the rest waits in the ring.
const COMPLETIONS_PER_POLL_MAX: usize = 256;
/// Send states kept for reuse.
const SEND_STATES_MAX: usize = 1024;

/// User data of requests that are not operations; keys of operations fit 32 bits.
const USER_DATA_WAKE: u64 = u64::MAX;
const USER_DATA_IGNORED: u64 = u64::MAX - 1;

/// A connected stream.
struct Stream {
    fd: OwnedFd,
    in_flight: u32,
    sending: bool,
}

/// An operation the kernel works on.
struct InFlight {
    tag: Tag,
    cancelled: bool,
    kind: Kind,
}

enum Kind {
    Accept,
    Recv(Socket),
    Send(Socket, Box<SendState>),
    Connect(Box<ConnectState>),
    Close,
    Read(ReadState),
    Write(WriteState),
    /// The file is held, so that the descriptor stays open.
    Sync(OsFile),
}

struct ConnectState {
    fd: OwnedFd,
    addr: SockAddr,
}

/// A reactor over one io_uring. Thread-confined.
pub struct UringIo {
    ring: IoUring,
    /// Shared with leases, which may outlive the reactor.
    buffers: Rc<RingBuffers>,
    ops: Table<InFlight>,
    ops_max: usize,
    sockets: Table<Stream>,
    listeners: Vec<Listening>,
    /// Keys of multishots and connects in flight by tag: the common subjects of `cancel`. Others are searched for.
    cancellable: HashMap<Tag, u32>,
    /// Completions that did not come from the ring.
    ready: VecDeque<Completion<OsFile>>,
    #[expect(clippy::vec_box, reason = "the kernel knows the address of each")]
    send_states: Vec<Box<SendState>>,
    reads: HeapPool,
    helper: Option<HelperLink>,
    random: OsRandom,
    waker: Waker,
    wake_file: Arc<File>,
    /// Where the kernel reads the event count to.
    wake_count: Box<u64>,
    wake_armed: bool,
    /// Requests submitted that are not in `ops` and whose completion has not come (cancels).
    ignored: usize,
    /// Reused between polls.
    completed: Vec<cqueue::Entry>,
}

impl UringIo {
    /// A reactor for the calling thread; `helper` performs its file jobs.
    ///
    /// # Errors
    /// Those of io_uring_setup and of registering the buffers; ask [`probe`] first.
    pub fn new(config: ReactorConfig, helper: &HelperHandle) -> io::Result<Self> {
        let mut io = Self::without_helper(config)?;
        io.helper = Some(HelperLink::new(helper.clone(), io.waker.clone()));
        Ok(io)
    }

    fn without_helper(config: ReactorConfig) -> io::Result<Self> {
        let ops_max = usize::try_from(config.operations_max).unwrap_or(usize::MAX).min(ENTRIES_MAX - 1);
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(CQ_ENTRIES)
            .build(SQ_ENTRIES)?;
        if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            return Err(io::Error::from_raw_os_error(libc::ENOSYS));
        }
        let buffers = RingBuffers::new(config.receive_buffers)?;
        // SAFETY: `Drop` waits for everything in flight and closes the ring before `buffers` is released.
        unsafe { buffers.register(&ring.submitter())? };
        // SAFETY: no pointers are passed.
        let wake_fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if wake_fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor just created, owned by nobody else.
        let wake_file = Arc::new(unsafe { File::from_raw_fd(wake_fd) });
        Ok(UringIo {
            ring,
            buffers,
            ops: Table::new(),
            ops_max,
            sockets: Table::new(),
            listeners: Vec::new(),
            cancellable: HashMap::new(),
            ready: VecDeque::new(),
            send_states: Vec::new(),
            reads: HeapPool::new(usize::MAX),
            helper: None,
            random: OsRandom::new()?,
            waker: Waker::eventfd(Arc::clone(&wake_file)),
            wake_file,
            wake_count: Box::new(0),
            wake_armed: false,
            ignored: 0,
            completed: Vec::with_capacity(COMPLETIONS_PER_POLL_MAX),
        })
    }

    /// Takes over a connected stream.
    fn adopt(&mut self, fd: OwnedFd) -> io::Result<Socket> {
        self.sockets
            .insert(Stream { fd, in_flight: 0, sending: false })
            .map(Socket)
            .map_err(|_| io::Error::from_raw_os_error(libc::EMFILE))
    }

    /// A file without a name, for the self-test.
    fn anonymous_file(&self) -> io::Result<OsFile> {
        // SAFETY: the name is a static C string.
        let fd = unsafe { libc::memfd_create(c"reactor-self-test".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor just created, owned by nobody else.
        let file = unsafe { File::from_raw_fd(fd) };
        Ok(OsFile::new(file, PathBuf::new()))
    }

    /// Queues a request, flushing the queue once if it is full. `false`: the kernel takes no more now.
    fn push(&mut self, entry: &Entry) -> bool {
        for _ in 0..2 {
            // SAFETY: the callers of `push` keep what the entry points to alive until its completion (module doc).
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return true;
            }
            // An error shows as a queue that is still full.
            let _ = self.ring.submit();
        }
        false
    }

    /// Starts an operation: stores it, builds its request from where it is stored, queues that. Hands the kind back if
    /// there is no room.
    fn start(&mut self, tag: Tag, kind: Kind, entry: impl FnOnce(&mut Kind) -> Entry) -> Result<u32, Kind> {
        let key = self.ops.insert(InFlight { tag, cancelled: false, kind }).map_err(|operation| operation.kind)?;
        let Some(operation) = self.ops.get_mut(key) else { unreachable!("just inserted") };
        let entry = entry(&mut operation.kind).user_data(u64::from(key));
        if self.push(&entry) {
            return Ok(key);
        }
        match self.ops.remove(key) {
            Some(operation) => Err(operation.kind),
            None => unreachable!("just inserted"),
        }
    }

    /// Refuses an operation with a completion of its own.
    fn refuse(&mut self, tag: Tag, error: io::Error) -> Result<(), (Operation, Full)> {
        self.ready.push_back(Completion::last(tag, Err(error)));
        Ok(())
    }

    /// Asks the kernel to end one request, or all (`None`).
    fn push_cancel(&mut self, key: Option<u32>) {
        let target = match key {
            Some(key) => CancelBuilder::user_data(u64::from(key)),
            None => CancelBuilder::any(),
        };
        if self.push(&opcode::AsyncCancel2::new(target).build().user_data(USER_DATA_IGNORED)) {
            self.ignored += 1;
        } else {
            tracing::error!("io_uring takes no cancel; the operation ends on its own");
        }
    }

    /// Keeps a read of the eventfd in flight.
    fn arm_wake(&mut self) {
        if self.wake_armed {
            return;
        }
        let count: *mut u64 = &raw mut *self.wake_count;
        let entry = opcode::Read::new(types::Fd(self.wake_file.as_raw_fd()), count.cast(), 8).build();
        self.wake_armed = self.push(&entry.user_data(USER_DATA_WAKE));
    }

    /// One `enter` at most: submits, and waits for a completion if there is a deadline in the future.
    fn enter(&mut self, deadline: Option<Mono>) -> io::Result<()> {
        let pause = deadline.map_or(0, |deadline| deadline.since(mono_now()));
        let result = if pause > 0 {
            let time = Timespec::new().sec(pause / 1_000_000_000).nsec((pause % 1_000_000_000) as u32);
            self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time))
        } else {
            let queue = self.ring.submission();
            let idle = queue.is_empty() && !queue.taskrun() && !queue.cq_overflow();
            drop(queue);
            if idle {
                return Ok(());
            }
            self.ring.submit()
        };
        match result {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // The deadline passed; a signal came; the completion queue is full (it is drained next).
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }
}

impl Io for UringIo {
    type File = OsFile;
    const SYNCS_RANGES: bool = true;

    fn now(&self) -> Mono {
        mono_now()
    }

    fn wall_unix_ms(&self) -> u64 {
        wall_unix_ms()
    }

    fn random(&mut self) -> u64 {
        self.random.draw()
    }

    fn listen(&mut self, addr: SocketAddr, kind: StreamKind, shared: bool) -> io::Result<Listener> {
        let id = u32::try_from(self.listeners.len()).map_err(io::Error::other)?;
        self.listeners.push(Listening::bind(addr, kind, shared)?);
        Ok(Listener(id))
    }

    fn local_addr(&self, listener: Listener) -> io::Result<SocketAddr> {
        self.listeners
            .get(listener.0 as usize)
            .map(|listening| listening.addr)
            .ok_or_else(|| misuse("unknown listener"))
    }

    fn submit(&mut self, op: Operation, tag: Tag) -> Result<(), (Operation, Full)> {
        if self.ops.len() >= self.ops_max {
            return Err((op, Full));
        }
        match op {
            Op::Accept { listener } => self.submit_accept(listener, tag),
            Op::Recv { socket } => self.submit_recv(socket, tag),
            Op::Send { socket, runs } => self.submit_send(socket, runs, tag),
            Op::Connect { local, to, kind } => self.submit_connect(local, to, kind, tag),
            Op::Close { socket } => self.submit_close(socket, tag),
            Op::Read { file, offset, len } => self.submit_read(file, offset, len, tag),
            Op::Write { file, offset, bytes, dsync } => {
                self.submit_write(WriteState { file, offset, bytes, done: 0, dsync }, tag)
            }
            Op::Sync { file, range } => self.submit_sync(file, range, tag),
            Op::File(job) => match &mut self.helper {
                Some(helper) => helper.submit(job, tag).map_err(|job| (Op::File(job), Full)),
                None => self.refuse(tag, misuse("this reactor has no helper for file jobs")),
            },
        }
    }

    fn give_way(&mut self, socket: Socket) {
        if let Some(stream) = self.sockets.get(socket.0) {
            sockopt::give_way(&SockRef::from(&stream.fd));
        }
    }

    fn cancel(&mut self, tag: Tag) {
        let known = self.cancellable.get(&tag).copied();
        let key = known.or_else(|| self.ops.iter().find(|(_, operation)| operation.tag == tag).map(|(key, _)| key));
        let Some(key) = key else { return };
        if let Some(operation) = self.ops.get_mut(key) {
            operation.cancelled = true;
            self.push_cancel(Some(key));
        }
    }

    fn poll(&mut self, wait: Wait, out: &mut Vec<Completion<OsFile>>) -> io::Result<()> {
        self.arm_wake();
        let before = out.len();
        out.extend(self.ready.drain(..));
        if let Some(helper) = &mut self.helper {
            helper.drain(out);
        }
        let deadline = match wait {
            Wait::Until(deadline) if out.len() == before && self.ring.completion().is_empty() => Some(deadline),
            _ => None,
        };
        self.enter(deadline)?;
        let woken = self.complete(out);
        if woken && let Some(helper) = &mut self.helper {
            helper.drain(out);
        }
        Ok(())
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }
}

impl Drop for UringIo {
    fn drop(&mut self) {
        self.push_cancel(None);
        let mut out = Vec::new();
        // Memory and descriptors are freed only when the kernel has let go of all of them: a sync on a worker is
        // waited for. Resubmissions of short operations cannot happen: all are marked as cancelled.
        let keys: Vec<u32> = self.ops.iter().map(|(key, _)| key).collect();
        for key in keys {
            if let Some(operation) = self.ops.get_mut(key) {
                operation.cancelled = true;
            }
        }
        while self.ops.len() > 0 || self.wake_armed || self.ignored > 0 {
            if let Err(error) = self.enter(Some(mono_now().plus_ms(100))) {
                // Leaking is the only safe answer: the kernel may still write to what the operations own.
                tracing::error!(%error, "cannot wait for io_uring to let go; leaking its memory");
                std::mem::forget(std::mem::replace(&mut self.ops, Table::new()));
                std::mem::forget(std::mem::replace(&mut self.wake_count, Box::new(0)));
                std::mem::forget(Rc::clone(&self.buffers));
                return;
            }
            self.complete(&mut out);
            if (self.ops.len() > 0 || self.wake_armed) && self.ignored == 0 && out.is_empty() {
                // A request that was just running when the first cancel came may have armed itself again.
                self.push_cancel(None);
            }
            out.clear();
        }
    }
}
