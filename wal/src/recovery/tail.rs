//! The end of a sealed segment, verified without the rest of it.

use crate::format::SealBlock;
use crate::ids::Cookie;
use crate::lsn::Lsn;
use crate::reader::{frames, intact_headers};

/// What the last bytes of a sealed segment's frames are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// They end with the frame that the seal names, and every frame that begins in them is intact.
    Whole,
    /// No frame begins in them: more are needed.
    Longer,
    /// They are not what the seal says.
    Damaged,
}

/// Looks at `bytes`, which stand at `start`, a place where a frame may begin, and should reach to the end that `seal` fixes.
#[must_use]
pub fn look_at_tail(bytes: &[u8], start: Lsn, cookie: Cookie, seal: &SealBlock) -> Tail {
    if start.plus(bytes.len() as u64) != seal.end {
        return Tail::Damaged;
    }
    let Some((first, _)) = intact_headers(bytes, start, cookie).next() else { return Tail::Longer };
    let skipped = usize::try_from(first.0 - start.0).unwrap_or(bytes.len());
    let mut last = None;
    for frame in frames(&bytes[skipped..], first, cookie) {
        match frame.and_then(|frame| frame.verify_records().map(|()| frame)) {
            Ok(frame) => last = Some((frame.end(), frame.header().header_crc)),
            Err(_) => return Tail::Damaged,
        }
    }
    if last == Some((seal.end, seal.last_header_crc)) { Tail::Whole } else { Tail::Damaged }
}
