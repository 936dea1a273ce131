//! One direction between two addresses: delay, jitter, loss, cuts, counters; and the tap for checkers.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use super::world::Inner;

/// First retransmission (the minimum of Linux), doubling after that.
pub(super) const RETRANSMIT_NS: u64 = 200_000_000;
/// With five losses in a row a segment is some six seconds late, within TCP_USER_TIMEOUT: other traffic makes real senders
/// repeat sooner (RACK), so loss alone ends no stream here.
const RETRANSMIT_DOUBLINGS_MAX: u32 = 5;
/// One way, where nothing was set.
const DELAY_NS_DEFAULT: u64 = 50_000;
/// Above, hardly anything gets through, and five repetitions would be too kind.
const LOSS_PPM_MAX: u64 = 400_000;

/// One direction between two addresses.
pub(super) struct Link {
    delay: u64,
    jitter: u64,
    loss: u64,
    /// Since when nothing arrives.
    pub(super) cut_since: Option<u64>,
    /// Payload bytes.
    pub(super) bytes: u64,
}

/// All directions that were ever spoken of. Streams keep the index of theirs.
#[derive(Default)]
pub(super) struct Links {
    index: BTreeMap<(IpAddr, IpAddr), usize>,
    all: Vec<Link>,
}

impl Links {
    /// The direction from `from` to `to`.
    pub(super) fn between(&mut self, from: IpAddr, to: IpAddr) -> usize {
        *self.index.entry((from, to)).or_insert_with(|| {
            self.all.push(Link { delay: DELAY_NS_DEFAULT, jitter: 0, loss: 0, cut_since: None, bytes: 0 });
            self.all.len() - 1
        })
    }

    pub(super) fn set_delay(&mut self, link: usize, ns: u64) {
        self.all[link].delay = ns;
    }

    pub(super) fn set_jitter(&mut self, link: usize, ns: u64) {
        self.all[link].jitter = ns;
    }

    pub(super) fn set_loss(&mut self, link: usize, parts_per_million: u64) {
        assert!(parts_per_million <= LOSS_PPM_MAX, "a link loses at most {LOSS_PPM_MAX} of a million segments");
        self.all[link].loss = parts_per_million;
    }

    pub(super) fn get(&self, link: usize) -> &Link {
        &self.all[link]
    }

    pub(super) fn get_mut(&mut self, link: usize) -> &mut Link {
        &mut self.all[link]
    }

    pub(super) fn is_cut(&self, link: usize) -> bool {
        self.all[link].cut_since.is_some()
    }
}

/// Bytes that one end of a mesh stream gave its kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Who sent them.
    pub from: IpAddr,
    /// To whom.
    pub to: SocketAddr,
    /// The stream, unique in its world.
    pub conn: u64,
    /// Which end sent: 0 the one that connected, 1 the one that accepted.
    pub side: usize,
    /// The bytes, in order with those of earlier entries of this stream and side.
    pub bytes: Bytes,
}

impl Inner {
    /// When something sent now arrives.
    pub(super) fn arrival(&mut self, link: usize) -> u64 {
        let Link { delay: base, jitter, loss, .. } = *self.network.links.get(link);
        let mut delay = base + self.random.below(base / 16 + 2_000);
        if jitter > 0 {
            delay += self.random.between(0, jitter);
        }
        if loss > 0 {
            let mut retransmit = RETRANSMIT_NS.max(2 * base);
            for _ in 0..RETRANSMIT_DOUBLINGS_MAX {
                if !self.random.chance(loss) {
                    break;
                }
                delay += retransmit;
                retransmit *= 2;
            }
        }
        self.now + delay
    }
}
