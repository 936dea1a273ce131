//! The helper thread, one per node: file jobs of all its reactors, bulk reads, and one future of the caller's (the
//! admin port), so that none of them stalls a loop.
//!
//! With io_uring it is a tokio-uring runtime and bulk reads overlap; otherwise a tokio current-thread runtime with the
//! pread twin. Other jobs run one after the other in the order of their submission.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam::channel::{self, Receiver, Sender};
use tokio::sync::{Semaphore, mpsc};

use super::file_job::{self, Prepare};
use super::{Backend, Completion, FileJob, OsFile, Outcome, Tag, Waker};

/// A future that never leaves the helper thread.
pub type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;

/// Jobs waiting on a node: more than a spare segment and a read per core and peer ever need at once.
const JOBS_MAX: usize = 256;
/// Bulk reads in flight at a time; a few keep a device busy (FACTS), more only hold memory.
const BULK_READS_MAX: usize = 8;

struct Request {
    job: FileJob<OsFile>,
    tag: Tag,
    reply: Reply,
}

/// The way back to the submitting reactor.
struct Reply {
    sender: Sender<(Tag, io::Result<Outcome<OsFile>>)>,
    waker: Waker,
}

impl Reply {
    fn send(self, tag: Tag, result: io::Result<Outcome<OsFile>>) {
        // A reactor that is gone wants no answer.
        if self.sender.send((tag, result)).is_ok() {
            self.waker.wake();
        }
    }
}

/// Hands jobs to the helper thread. The thread ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct HelperHandle {
    requests: mpsc::Sender<Request>,
}

/// The thread itself.
#[derive(Debug)]
pub struct Helper {
    handle: HelperHandle,
    thread: JoinHandle<()>,
}

impl Helper {
    /// Starts the thread. `extra` is called on it, and its future runs beside the jobs; it is dropped when the jobs
    /// end.
    ///
    /// # Errors
    /// Those of starting a thread, and of creating its runtime.
    pub fn spawn(backend: Backend, extra: impl FnOnce() -> LocalFuture + Send + 'static) -> io::Result<Helper> {
        let (requests, queue) = mpsc::channel(JOBS_MAX);
        let (started, outcome) = channel::bounded(1);
        let thread =
            thread::Builder::new().name("helper".into()).spawn(move || main(backend, extra, queue, &started))?;
        outcome.recv().map_err(|_| io::Error::other("the helper thread ended before it began"))??;
        Ok(Helper { handle: HelperHandle { requests }, thread })
    }

    /// A handle for one reactor.
    #[must_use]
    pub fn handle(&self) -> HelperHandle {
        self.handle.clone()
    }

    /// Waits for the thread's end, which comes when all other handles (those of the reactors) are dropped and their
    /// jobs done.
    ///
    /// # Errors
    /// If the thread panicked.
    pub fn join(self) -> io::Result<()> {
        drop(self.handle);
        self.thread.join().map_err(|_| io::Error::other("the helper thread panicked; see its message above"))
    }
}

fn main(
    backend: Backend,
    extra: impl FnOnce() -> LocalFuture,
    queue: mpsc::Receiver<Request>,
    started: &Sender<io::Result<()>>,
) {
    // `Runtime::new` and not `start`, which panics where io_uring is refused (FACTS).
    if backend == Backend::Uring
        && let Ok(runtime) = tokio_uring::Runtime::new(&tokio_uring::builder())
    {
        let _ = started.send(Ok(()));
        runtime.block_on(serve(Backend::Uring, extra(), queue));
        return;
    }
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let _ = started.send(Ok(()));
            tokio::task::LocalSet::new().block_on(&runtime, serve(Backend::Epoll, extra(), queue));
        }
        Err(error) => {
            let _ = started.send(Err(error));
        }
    }
}

/// Works until the last handle is dropped.
async fn serve(backend: Backend, extra: LocalFuture, mut queue: mpsc::Receiver<Request>) {
    let extra = tokio::task::spawn_local(extra);
    let bulk_reads = Arc::new(Semaphore::new(BULK_READS_MAX));
    while let Some(Request { job, tag, reply }) = queue.recv().await {
        match job {
            FileJob::Prepare { path, len, head } => {
                let result = match Prepare::start(path, len, head) {
                    Ok(prepare) => prepare_kindly(prepare).await,
                    Err(error) => Err(error),
                };
                reply.send(tag, result);
            }
            FileJob::Warm { file } => reply.send(tag, warm_kindly(&file).await.map(|()| Outcome::Done)),
            FileJob::ReadBulk { file, offset, len } if backend == Backend::Uring => {
                let Ok(permit) = Arc::clone(&bulk_reads).acquire_owned().await else { return };
                tokio::task::spawn_local(async move {
                    let result = read_bulk_uring(&file, offset, len).await;
                    drop(permit);
                    reply.send(tag, result);
                });
            }
            job => reply.send(tag, file_job::run(job)),
        }
    }
    // Reads in flight still answer.
    let _ = bulk_reads.acquire_many(u32::try_from(BULK_READS_MAX).unwrap_or(u32::MAX)).await;
    extra.abort();
    let _ = extra.await;
}

/// Lets the admin port and reads have the thread between the steps.
async fn prepare_kindly(mut prepare: Prepare) -> io::Result<Outcome<OsFile>> {
    loop {
        if let Some(file) = prepare.step()? {
            return Ok(Outcome::Opened(file));
        }
        tokio::task::yield_now().await;
    }
}

/// As [`prepare_kindly`].
async fn warm_kindly(file: &OsFile) -> io::Result<()> {
    let mut scratch = vec![0; file_job::WARM_BYTES];
    let mut at = 0;
    while let Some(next) = file_job::warm_step(file, at, &mut scratch)? {
        at = next;
        tokio::task::yield_now().await;
    }
    Ok(())
}

async fn read_bulk_uring(file: &OsFile, offset: u64, len: u32) -> io::Result<Outcome<OsFile>> {
    use tokio_uring::buf::BoundedBuf;

    file_job::check_bulk(len)?;
    let len = len as usize;
    // A descriptor of its own: the runtime's file closes what it is given.
    let own = tokio_uring::fs::File::from_std(file.as_file().try_clone()?);
    let mut bytes = Vec::with_capacity(len);
    let mut result = Ok(());
    while bytes.len() < len {
        let done = bytes.len();
        let (read, rest) = own.read_at(bytes.slice(done..len), offset + done as u64).await;
        bytes = rest.into_inner();
        match read {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    own.close().await?;
    result.map(|()| Outcome::Bulk(bytes.into()))
}

/// One reactor's end: jobs out, completions back.
pub(crate) struct HelperLink {
    handle: HelperHandle,
    sender: Sender<(Tag, io::Result<Outcome<OsFile>>)>,
    receiver: Receiver<(Tag, io::Result<Outcome<OsFile>>)>,
    waker: Waker,
    /// Jobs whose completion has not been seen.
    waiting: usize,
}

impl HelperLink {
    pub(crate) fn new(handle: HelperHandle, waker: Waker) -> Self {
        let (sender, receiver) = channel::unbounded();
        HelperLink { handle, sender, receiver, waker, waiting: 0 }
    }

    /// Hands a job over, or back when too many wait.
    pub(crate) fn submit(&mut self, job: FileJob<OsFile>, tag: Tag) -> Result<(), FileJob<OsFile>> {
        let reply = Reply { sender: self.sender.clone(), waker: self.waker.clone() };
        match self.handle.requests.try_send(Request { job, tag, reply }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(request)) => return Err(request.job),
            Err(mpsc::error::TrySendError::Closed(request)) => {
                request.reply.send(tag, Err(io::Error::other("the helper thread has ended; restart the process")));
            }
        }
        self.waiting += 1;
        Ok(())
    }

    /// Takes the completions that are there.
    pub(crate) fn drain(&mut self, out: &mut Vec<Completion<OsFile>>) {
        while self.waiting > 0 {
            let Ok((tag, result)) = self.receiver.try_recv() else { break };
            self.waiting -= 1;
            out.push(Completion::last(tag, result));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::reactor::uring;

    /// Says so when it is dropped.
    struct Guard(Arc<AtomicBool>);

    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn the_extra_future_runs_and_the_thread_ends_with_the_last_handle() {
        let mut backends = vec![Backend::Epoll];
        if uring::probe().is_ok() {
            backends.push(Backend::Uring);
        }
        for backend in backends {
            let (said, heard) = channel::bounded(1);
            let dropped = Arc::new(AtomicBool::new(false));
            let guard = Guard(Arc::clone(&dropped));
            let helper = Helper::spawn(backend, move || {
                Box::pin(async move {
                    // Not Send, a timer, and a socket: what an admin server needs.
                    let guard = Rc::new(guard);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                    said.send(listener.local_addr().unwrap()).unwrap();
                    let _ = listener.accept().await;
                    drop(guard);
                })
            })
            .unwrap();
            let handle = helper.handle();
            assert_ne!(heard.recv().unwrap().port(), 0);
            let path = std::env::temp_dir().join("no-such-directory").join("no-such-file");
            let mut link = HelperLink::new(handle, Waker::flag());
            link.submit(FileJob::Open { path }, Tag(7)).unwrap();
            let (tag, result) = link.receiver.recv().unwrap();
            assert_eq!((tag, result.unwrap_err().kind()), (Tag(7), io::ErrorKind::NotFound));
            drop(link);
            helper.join().unwrap();
            assert!(dropped.load(Ordering::SeqCst), "the extra future is dropped with the thread");
        }
    }

    #[test]
    fn a_full_queue_hands_the_job_back() {
        let (requests, _queue) = mpsc::channel(1);
        let mut link = HelperLink::new(HelperHandle { requests }, Waker::flag());
        link.submit(FileJob::Open { path: "a".into() }, Tag(1)).unwrap();
        match link.submit(FileJob::Open { path: "b".into() }, Tag(2)) {
            Err(FileJob::Open { path }) => assert_eq!(path.to_str(), Some("b")),
            other => panic!("expected the job back, got {other:?}"),
        }
    }

    #[test]
    fn a_job_for_an_ended_helper_completes_with_an_error() {
        let (requests, queue) = mpsc::channel(1);
        drop(queue);
        let waker = Waker::flag();
        let mut link = HelperLink::new(HelperHandle { requests }, waker.clone());
        link.submit(FileJob::Open { path: "a".into() }, Tag(1)).unwrap();
        assert!(waker.is_pending());
        let mut out = Vec::new();
        link.drain(&mut out);
        assert!(out[0].result.is_err() && out[0].tag == Tag(1));
    }
}
