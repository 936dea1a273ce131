//! What lies where on disk: the only module that knows offsets. docs/WAL_FORMAT.md is the same in prose; a test ties them.
//!
//! All integers are little-endian. Structures are read and written through zerocopy, which refuses hidden padding.

mod brief;
mod control;
mod frame;
mod record;
mod seal;
mod segment;

pub use brief::{Brief, BriefError};
pub use control::{ControlError, ControlKind, ControlRecord, MemberState, REGION_NAME_BYTES_MAX};
pub use frame::{
    FRAME_FIELDS, FRAME_HEADER_BYTES, FRAME_MAGIC, FrameError, FrameFlags, FrameHeader, FrameKind, frame_bytes,
};
pub use record::{
    RECORD_FIELDS, RECORD_HEADER_BYTES, RecordDraft, RecordError, RecordFlags, RecordOp, RecordView, key_hash,
    padded_record_bytes, padded_record_len,
};
pub use seal::{
    OriginRange, SEAL_BYTES_MAX, SEAL_ENTRIES_MAX, SEAL_ENTRY_FIELDS, SEAL_FIELDS, SEAL_HEADER_BYTES, SEAL_MAGIC,
    SEAL_OFFSET, SealBlock, SealState,
};
pub use segment::{
    FORMAT_VERSION, SEGMENT_FIELDS, SEGMENT_HEADER_BYTES, SEGMENT_MAGIC, SegmentHeader, SegmentHeaderError,
};

pub(crate) use record::{RecordFacts, record_facts};

/// A field of a structure on disk: name, offset and size in bytes.
pub type Field = (&'static str, usize, usize);

/// Lists the fields of a raw structure as [`Field`]s, from the source of truth.
macro_rules! fields {
    ($raw:ty: $($field:ident),+ $(,)?) => {
        &[$((
            stringify!($field),
            std::mem::offset_of!($raw, $field),
            $crate::format::field_size(|raw: &$raw| &raw.$field),
        )),+]
    };
}
use fields;

const fn field_size<S, F>(_: fn(&S) -> &F) -> usize {
    size_of::<F>()
}

/// Rounds up to a multiple of 8 or 64.
#[inline]
pub(crate) const fn round_up(bytes: usize, align: usize) -> usize {
    bytes.next_multiple_of(align)
}
