//! The disk thread of one epoll reactor: epoll knows no files, and a loop must not wait for one.

use std::io;
use std::os::unix::fs::FileExt;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use crossbeam::channel::{self, Receiver, Sender, TrySendError};

use crate::reactor::lease::{HeapBuffer, HeapPool};
use crate::reactor::{Completion, OsFile, Outcome, Tag, Waker, file_job};

/// Requests that may wait; a full queue is `Full`.
const REQUESTS_MAX: usize = 1024;

pub(super) enum Request {
    Read { file: OsFile, offset: u64, len: u32 },
    Write { file: OsFile, offset: u64, bytes: Bytes, dsync: bool },
    Sync { file: OsFile },
}

/// What a request gave: the bytes of a read, nothing of the others.
type Answer = (Tag, io::Result<Option<Vec<u8>>>);

pub(super) struct DiskThread {
    /// `None` only while dropping.
    requests: Option<Sender<(Request, Tag)>>,
    answers: Receiver<Answer>,
    thread: Option<JoinHandle<()>>,
    waiting: usize,
    reads: HeapPool,
}

impl DiskThread {
    pub(super) fn spawn(waker: Waker) -> io::Result<Self> {
        let (requests, queue) = channel::bounded::<(Request, Tag)>(REQUESTS_MAX);
        let (answer, answers) = channel::unbounded();
        let thread = thread::Builder::new().name("disk".into()).spawn(move || {
            for (request, tag) in queue {
                if answer.send((tag, perform(request))).is_err() {
                    return;
                }
                waker.wake();
            }
        })?;
        Ok(DiskThread {
            requests: Some(requests),
            answers,
            thread: Some(thread),
            waiting: 0,
            reads: HeapPool::new(usize::MAX),
        })
    }

    /// Hands a request over, or back when too many wait.
    pub(super) fn submit(&mut self, request: Request, tag: Tag) -> Result<(), Request> {
        let Some(requests) = &self.requests else { return Err(request) };
        match requests.try_send((request, tag)) {
            Ok(()) => {
                self.waiting += 1;
                Ok(())
            }
            Err(TrySendError::Full((request, _)) | TrySendError::Disconnected((request, _))) => Err(request),
        }
    }

    pub(super) fn drain(&mut self, out: &mut Vec<Completion<OsFile>>) {
        while self.waiting > 0 {
            let Ok((tag, result)) = self.answers.try_recv() else { break };
            self.waiting -= 1;
            out.push(match result {
                Ok(Some(bytes)) => {
                    let buf = Some(HeapBuffer::adopt(&self.reads, bytes));
                    Completion { tag, result: Ok(Outcome::Data), more: false, buf }
                }
                Ok(None) => Completion::last(tag, Ok(Outcome::Done)),
                Err(error) => Completion::last(tag, Err(error)),
            });
        }
    }
}

impl Drop for DiskThread {
    fn drop(&mut self) {
        // What was accepted is still performed: a write that was handed over is not torn by a shutdown.
        self.requests = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the disk thread panicked");
        }
    }
}

fn perform(request: Request) -> io::Result<Option<Vec<u8>>> {
    match request {
        Request::Read { file, offset, len } => file_job::read_bulk(file.as_file(), offset, len as usize).map(Some),
        Request::Write { file, offset, bytes, dsync: false } => {
            file.as_file().write_all_at(&bytes, offset).map(|()| None)
        }
        Request::Write { file, offset, bytes, dsync: true } => write_durable(&file, offset, &bytes).map(|()| None),
        Request::Sync { file } => file.as_file().sync_data().map(|()| None),
    }
}

/// One call for the write and its sync; a short write goes on where it ended.
fn write_durable(file: &OsFile, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let run = [io::IoSlice::new(bytes)];
        match rustix::io::pwritev2(file.as_file(), &run, offset, rustix::io::ReadWriteFlags::DSYNC) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(done) => {
                offset += done as u64;
                bytes = &bytes[done..];
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
