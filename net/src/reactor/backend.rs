//! Which of the two real siblings this process uses.

use super::uring;

/// What the operator asked for (`IO_BACKEND`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoBackend {
    /// io_uring if it works here, else epoll.
    #[default]
    Auto,
    /// io_uring; the daemon does not start without.
    Uring,
    /// epoll.
    Epoll,
}

/// What is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// [`uring::UringIo`].
    Uring,
    /// [`super::epoll::EpollIo`].
    Epoll,
}

/// Decides by the self-test. The second value says why io_uring is not used although it was wanted: one log line for
/// `Auto`; a reason not to start for `Uring` (whose answer is `Epoll` then, too).
#[must_use]
pub fn choose_backend(wanted: IoBackend) -> (Backend, Option<String>) {
    match wanted {
        IoBackend::Epoll => (Backend::Epoll, None),
        IoBackend::Auto | IoBackend::Uring => match uring::probe() {
            Ok(()) => (Backend::Uring, None),
            Err(refused) => (Backend::Epoll, Some(refused.to_string())),
        },
    }
}
