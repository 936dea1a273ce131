//! Sizes that the format fixes or bounds, each with its unit in the name.

use crate::format::{FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES};

/// The unit in which a disk is assumed to write or lose bytes.
pub const SECTOR_BYTES: usize = 512;

/// Frames begin at multiples of this, which is also the size of their header.
pub const FRAME_ALIGN_BYTES: usize = 64;

/// Records begin at multiples of this.
pub const RECORD_ALIGN_BYTES: usize = 8;

/// The largest segment: the index of the store keeps `offset / 8` in 23 bits.
pub const SEGMENT_BYTES_MAX: u32 = 64 * 1024 * 1024;

/// The smallest segment: a header page and one page of frames.
pub const SEGMENT_BYTES_MIN: u32 = 8192;

/// Segments are multiples of a page, because they are mapped.
pub const SEGMENT_BYTES_STEP: u32 = 4096;

/// Segments kept ready beside the one that is appended to: one is taken at the rotation, and while the next is prepared, which
/// takes longer than a burst needs to fill a segment, the other one is there.
pub const SPARE_SEGMENTS: usize = 2;

/// Offsets, lengths and memory of direct writes are multiples of this: enough for devices with sectors of 4 KiB.
pub const DIRECT_ALIGN_BYTES: usize = 4096;

/// Whether `segment_bytes` is a size that this format allows.
#[must_use]
pub fn is_segment_size(segment_bytes: u64) -> bool {
    (u64::from(SEGMENT_BYTES_MIN)..=u64::from(SEGMENT_BYTES_MAX)).contains(&segment_bytes)
        && segment_bytes.is_multiple_of(u64::from(SEGMENT_BYTES_STEP))
}

const _: () = assert!(SEGMENT_HEADER_BYTES.is_multiple_of(FRAME_ALIGN_BYTES));
const _: () = assert!(FRAME_HEADER_BYTES == FRAME_ALIGN_BYTES);
const _: () = assert!(SEGMENT_BYTES_MIN as usize == 2 * SEGMENT_HEADER_BYTES);
const _: () = assert!(SEGMENT_BYTES_MAX.is_multiple_of(SEGMENT_BYTES_STEP));
// The header page is never part of a group's write.
const _: () = assert!(SEGMENT_HEADER_BYTES.is_multiple_of(DIRECT_ALIGN_BYTES));
const _: () = assert!((SEGMENT_BYTES_STEP as usize).is_multiple_of(DIRECT_ALIGN_BYTES));
