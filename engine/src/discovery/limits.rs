//! Discovery's times and sizes, with their whys.

/// Time to live of an instance that names none.
pub const TTL_MS_DEFAULT: u32 = 15_000;
/// Shorter ones would expire between two runs of a busy instance.
pub const TTL_MS_MIN: u32 = 1_000;
/// Longer ones would keep the dead listed for longer than an operator waits.
pub const TTL_MS_MAX: u32 = 600_000;

/// Each peer gets all local instances this often: the repair beneath the pushes.
pub const EXCHANGE_MS: u64 = 5_000;
/// An exchange that is not acknowledged by then has missed: six round trips of the longest link.
pub const DEADLINE_MS: u64 = 1_000;
/// Misses in a row after which the link is given up: two lost exchanges are weather, three are a dead path.
pub const MISSES_MAX: u32 = 3;
/// The first wait before a given-up link is dialled again; doubles with each time.
pub const REDIAL_MS_MIN: u64 = 1_000;
/// The longest such wait: a healed region is back within this.
pub const REDIAL_MS_MAX: u64 = 30_000;

/// How long after its time to live a local instance is gone. The third refresh after two lost ones is due exactly at
/// its end (three times 5 s); timers are late.
pub const LOCAL_GRACE_MS: u64 = 1_000;
/// The same for what a peer forwarded. A healthy instance is forwarded with as little as 10 s left; the third exchange
/// after two lost ones comes 15 s later, plus its deadline and a late timer.
pub const PEER_GRACE_MS: u64 = 7_000;
/// A peer not heard from for this long makes its instances suspect: two missed exchanges and a deadline.
pub const SUSPECT_AFTER_MS: u64 = 2 * EXCHANGE_MS + DEADLINE_MS;
/// How long a gone instance is remembered, so that an operator sees it and an earlier life of it is refused.
pub const GONE_MEMORY_MS: u64 = 60_000;

/// After a start, every live local instance has refreshed by then; before it, absence means unknown.
pub const LEARNING_MS: u64 = 16_000;
/// After a start, every live peer has sent a snapshot by then, even if it started at the same moment.
pub const PEER_LEARNING_MS: u64 = LEARNING_MS + EXCHANGE_MS + DEADLINE_MS;

/// Instances of one source, remembered ones included.
pub const ENTRIES_PER_SOURCE_MAX: usize = 4_096;

const _: () = assert!(TTL_MS_DEFAULT as u64 >= 3 * EXCHANGE_MS, "two refreshes may be lost");
const _: () = assert!(PEER_GRACE_MS > EXCHANGE_MS + DEADLINE_MS, "two exchanges may be lost");
const _: () = assert!(DEADLINE_MS < EXCHANGE_MS, "a miss is known before the next exchange");
