//! Clocks and randomness of the operating system, shared by both real siblings.

#![allow(clippy::disallowed_methods, reason = "the clocks and the randomness of both back-ends")]

use std::fs::File;
use std::io::{self, Read};
use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::Mono;

/// Monotonic time since the first call in this process, so that instants of different loops compare.
pub(crate) fn mono_now() -> Mono {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    // 584 years fit; one more nanosecond than none, because zero often means "never".
    Mono(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX).saturating_add(1))
}

/// Milliseconds since 1970; zero if the clock stands before that.
pub(crate) fn wall_unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Numbers drawn per system call.
const RANDOM_BATCH: usize = 64;

/// Random bits from the kernel, in batches.
#[derive(Debug)]
pub struct OsRandom {
    source: File,
    batch: [u8; RANDOM_BATCH * 8],
    used: usize,
}

impl OsRandom {
    /// Opens the kernel's source and draws the first batch.
    ///
    /// # Errors
    /// If `/dev/urandom` cannot be opened or read.
    pub fn new() -> io::Result<Self> {
        let mut random =
            OsRandom { source: File::open("/dev/urandom")?, batch: [0; RANDOM_BATCH * 8], used: RANDOM_BATCH * 8 };
        random.refill()?;
        Ok(random)
    }

    fn refill(&mut self) -> io::Result<()> {
        self.source.read_exact(&mut self.batch)?;
        self.used = 0;
        Ok(())
    }

    /// 64 random bits.
    ///
    /// # Panics
    /// If the kernel's source fails after it worked once.
    pub fn draw(&mut self) -> u64 {
        if self.used == self.batch.len() {
            // Identities are drawn from here, so a repeated batch would be worse than a stop.
            self.refill().expect("reading /dev/urandom succeeded at start and has no way to fail later");
        }
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.batch[self.used..self.used + 8]);
        self.used += 8;
        u64::from_ne_bytes(bytes)
    }
}
