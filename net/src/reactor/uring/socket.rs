//! What sends and connects keep alive while the kernel works on them.
//!
//! Unsafe: iovecs point into `Bytes` that live beside them.
#![allow(unsafe_code)]

use std::os::fd::RawFd;
use std::ptr;

use bytes::Bytes;
use io_uring::squeue::Entry;
use io_uring::{opcode, types};

/// Most runs per system call (`IOV_MAX`).
const IOVECS_MAX: usize = 1024;
/// Most bytes asked for at once; the kernel itself stops a little below 2 GiB.
const SEND_BYTES_MAX: usize = 1 << 30;

/// A send in flight; boxed, so that the header's address is stable, and recycled.
pub(crate) struct SendState {
    runs: Vec<Bytes>,
    /// First run that is not sent whole.
    next: usize,
    /// Bytes of it that are sent.
    offset: usize,
    iovecs: Vec<libc::iovec>,
    header: libc::msghdr,
}

impl SendState {
    pub(crate) fn new() -> Box<Self> {
        // SAFETY: msghdr is plain data; all zeros is an empty message.
        let header = unsafe { std::mem::zeroed() };
        Box::new(SendState { runs: Vec::new(), next: 0, offset: 0, iovecs: Vec::new(), header })
    }

    pub(crate) fn start(&mut self, runs: Vec<Bytes>) {
        self.runs = runs;
        self.next = 0;
        self.offset = 0;
        self.skip_empty();
    }

    /// Gives the runs back (to a caller that is told `Full`) and leaves the state ready for reuse.
    pub(crate) fn finish(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.runs)
    }

    fn skip_empty(&mut self) {
        while self.runs.get(self.next).is_some_and(|run| run.len() == self.offset) {
            self.next += 1;
            self.offset = 0;
        }
    }

    /// Notes that the first `bytes` of what remains are sent; returns whether all is.
    pub(crate) fn advance(&mut self, mut bytes: usize) -> bool {
        while let Some(run) = self.runs.get(self.next) {
            let step = bytes.min(run.len() - self.offset);
            self.offset += step;
            bytes -= step;
            if self.offset < run.len() {
                break;
            }
            self.next += 1;
            self.offset = 0;
        }
        self.next == self.runs.len()
    }

    /// The request that sends what remains. It points into `self`, which must stay where it is and unchanged until the
    /// completion. MSG_WAITALL lets the kernel itself go on after a short send.
    pub(crate) fn entry(&mut self, fd: RawFd) -> Entry {
        const FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let rest = &self.runs[self.next..];
        if let [run] = rest {
            let bytes = &run[self.offset..];
            let len = u32::try_from(bytes.len().min(SEND_BYTES_MAX)).unwrap_or(0);
            return opcode::Send::new(types::Fd(fd), bytes.as_ptr(), len).flags(FLAGS).build();
        }
        self.iovecs.clear();
        let mut offset = self.offset;
        let mut total = 0;
        for run in rest.iter().take(IOVECS_MAX) {
            let bytes = &run[offset..];
            offset = 0;
            total += bytes.len();
            if total > SEND_BYTES_MAX && !self.iovecs.is_empty() {
                break;
            }
            let iov_len = bytes.len().min(SEND_BYTES_MAX);
            self.iovecs.push(libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len });
        }
        self.header.msg_iov = self.iovecs.as_mut_ptr();
        self.header.msg_iovlen = self.iovecs.len();
        opcode::SendMsg::new(types::Fd(fd), ptr::from_ref(&self.header)).flags(FLAGS.cast_unsigned()).build()
    }
}
