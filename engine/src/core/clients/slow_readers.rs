//! Clients that do not take what they asked for. A large value is sent straight from its segment, which stays in memory, and on the
//! disk, until it is sent: whoever lets that take too long is closed.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use net::reactor::{Mono, Tag};
use wal::marks::{Mark, reach};

use super::mark;
use crate::core::CoreLoop;
use crate::frontend::replies::RUN_BYTES_MIN;
use crate::host::Host;

/// How long a send of large values may take, besides what a slow line needs.
const SEND_MS: u64 = 10_000;

/// The same while much memory is held by such sends.
const SEND_SHORT_MS: u64 = 1_000;

/// What a slow line carries at least, in bytes per millisecond: 4 Mbit/s.
const BYTES_PER_MS: u64 = 512;

/// How often it is looked for them.
const LOOK_MS: u64 = 500;

/// A send on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sending {
    pub(super) tag: Tag,
    since: Mono,
    /// Bytes of large values in it.
    pinned: u64,
}

impl Sending {
    pub(super) fn new(tag: Tag, pinned: u64, since: Mono) -> Sending {
        Sending { tag, since, pinned }
    }

    /// Whether it should have ended by `now`.
    fn is_too_slow(&self, now: Mono, send_ms: u64) -> bool {
        self.pinned > 0 && now > self.since.plus_ms(send_ms + self.pinned / BYTES_PER_MS)
    }
}

/// Bytes of large values in what is about to be sent.
pub(super) fn pinned_bytes(runs: &[Bytes]) -> u64 {
    runs.iter().map(|run| run.len()).filter(|len| *len >= RUN_BYTES_MIN).sum::<usize>() as u64
}

impl<H: Host> CoreLoop<H> {
    /// Closes connections whose clients take large values too slowly.
    pub(in crate::core) fn close_slow_readers(&mut self) {
        let now = self.now();
        if now < self.clients.slow_readers_at {
            return;
        }
        self.clients.slow_readers_at = now.plus_ms(LOOK_MS);
        let send_ms = if self.much_is_pinned() { SEND_SHORT_MS } else { SEND_MS };
        for (index, connection) in &mut self.clients.connections {
            let slow = connection.sending.is_some_and(|sending| sending.is_too_slow(now, send_ms));
            if slow && !connection.broken {
                reach(Mark::SlowReaderClosed);
                self.gauges.slow_readers_closed.fetch_add(1, Ordering::Relaxed);
                let client = connection.session.id;
                tracing::warn!(core = self.core, client, "a client that does not read its replies was closed");
                connection.broken = true;
                let index = u32::try_from(index).expect("bounded by CONNECTIONS_MAX");
                mark(&mut self.clients.dirty, &mut connection.dirty, index);
            }
        }
    }
}
