//! What a plan draws from generators of its own, so that worlds are what they were before it was drawn.

use net::reactor::sim::Random;

/// In most worlds nodes compare themselves with each other, all the time in some. Drawn by a generator of its own.
pub(super) fn comparisons(seed: u64) -> Option<u64> {
    let mut random = Random::new(seed ^ 0xA271_E472_0000_0005);
    [None, Some(400), Some(1_000), Some(4_000)][random.index(4)]
}

/// In every other world memory is short. From a stream of its own.
pub(super) fn memory(seed: u64) -> Option<u64> {
    let mut random = Random::new(seed ^ 0x3E30_2710_0000_0007);
    random.coin().then(|| [1, 2, 3, 6][random.index(4)])
}

/// In one world of six catching up is bounded, so that it goes on for a while. Drawn by a generator of its own.
pub(super) fn rate(seed: u64) -> u64 {
    let mut random = Random::new(seed ^ 0xCA7C_4000_0000_0003);
    [0, 0, 0, 0, 0, 2_000_000 << random.below(3)][random.index(6)]
}
