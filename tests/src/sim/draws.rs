//! What a plan draws from generators of its own, so that worlds are what they were before it was drawn.

use net::reactor::sim::Random;

/// In most worlds nodes compare themselves with each other, all the time in some. Drawn by a generator of its own.
pub(super) fn comparisons(seed: u64) -> Option<u64> {
    let mut random = Random::new(seed ^ 0xA271_E472_0000_0005);
    [None, Some(400), Some(1_000), Some(4_000)][random.index(4)]
}
