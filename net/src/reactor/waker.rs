//! Ends a blocking `poll` from any thread.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A handle that ends a blocking `poll` of its reactor. Wakes that arrive before the reactor has seen the first are
/// merged, so that only that one costs a system call. A wake is never lost: the reactor forgets it before it returns
/// from `poll`, hence before the caller looks at whatever the wake announced.
#[derive(Clone)]
pub struct Waker {
    pending: Arc<AtomicBool>,
    target: Target,
}

#[derive(Clone)]
enum Target {
    Eventfd(Arc<File>),
    Mio(Arc<mio::Waker>),
    /// The simulator looks at `pending` itself.
    Flag,
}

impl Waker {
    pub(crate) fn eventfd(file: Arc<File>) -> Self {
        Waker { pending: Arc::default(), target: Target::Eventfd(file) }
    }

    pub(crate) fn mio(waker: Arc<mio::Waker>) -> Self {
        Waker { pending: Arc::default(), target: Target::Mio(waker) }
    }

    pub(crate) fn flag() -> Self {
        Waker { pending: Arc::default(), target: Target::Flag }
    }

    /// Makes the reactor's current or next blocking `poll` return.
    pub fn wake(&self) {
        if self.pending.swap(true, Ordering::SeqCst) {
            return;
        }
        let result = match &self.target {
            // The counter cannot overflow, since a second write waits for `clear`.
            Target::Eventfd(file) => (&**file).write(&1u64.to_ne_bytes()).map(|_| ()),
            Target::Mio(waker) => waker.wake(),
            Target::Flag => Ok(()),
        };
        if let Err(error) = result {
            // Let the next wake try again; the loop's own deadline bounds the delay.
            self.pending.store(false, Ordering::SeqCst);
            tracing::error!(%error, "cannot wake a reactor");
        }
    }

    /// Forgets the wake; returns whether there was one. Called by the reactor.
    pub(crate) fn clear(&self) -> bool {
        self.pending.swap(false, Ordering::SeqCst)
    }

    pub(crate) fn is_pending(&self) -> bool {
        self.pending.load(Ordering::SeqCst)
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Waker(pending: {})", self.is_pending())
    }
}
