//! Deliberate faults, so that the harness can show that it would notice. Without the feature `planted` [`is`] is `false` at
//! compile time and nothing of this is left.

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Reading goes on behind a torn gap and ignores seals, as if a segment were reused after a cut.
    StaleFrameAfterCut,
    /// A claim takes effect when the first core that received a part of it is durable.
    ClaimBeforeSlowestCore,
    /// A record that is here already counts as durable although it may only be staged.
    HaveItBeforeSync,
    /// A segment is given up before what superseded its records is durable.
    RemoveBeforeReplaced,
    /// A segment is given up although it holds the newest word on other nodes' logs.
    RepeatNothing,
    /// A follower that was not sent a removed segment may claim before it holds what superseded its records.
    ClaimBeforeReplaced,
    /// The file of a segment is used again before its old name is gone from the disk.
    RecycleBeforeRename,
}

#[cfg(feature = "planted")]
mod active {
    use std::cell::Cell;

    use super::Fault;

    thread_local! {
        static FAULT: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    /// Plants `fault` on this thread, in place of the one before; `None` plants nothing.
    pub fn set(fault: Option<Fault>) {
        FAULT.set(fault);
    }

    /// What is planted on this thread.
    #[must_use]
    pub fn get() -> Option<Fault> {
        FAULT.get()
    }
}

#[cfg(feature = "planted")]
pub use active::{get, set};

/// Whether `fault` is planted on this thread.
#[cfg(feature = "planted")]
#[must_use]
pub fn is(fault: Fault) -> bool {
    get() == Some(fault)
}

/// Whether `fault` is planted on this thread: never, without the feature `planted`.
#[cfg(not(feature = "planted"))]
#[must_use]
#[inline]
pub const fn is(_fault: Fault) -> bool {
    false
}
