//! Walking the records of a segment that was scanned.

use wal::recovery::SegmentEvidence;
use wal::{FRAME_HEADER_BYTES, FrameView, Lsn, RecordView, SEGMENT_HEADER_BYTES, SegmentHeader, frames};

/// A frame and where it lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlacedFrame<'a> {
    pub(crate) segment: &'a SegmentHeader,
    pub(crate) frame: FrameView<'a>,
}

/// A record and where it lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlacedRecord<'a> {
    pub(crate) segment: &'a SegmentHeader,
    pub(crate) frame: FrameView<'a>,
    pub(crate) record: RecordView<'a>,
    /// Position of its first byte.
    pub(crate) lsn: Lsn,
}

impl<'a> PlacedFrame<'a> {
    /// Its records. They were verified with the frame, so that none is missing here.
    pub(crate) fn records(self) -> impl Iterator<Item = PlacedRecord<'a>> {
        let mut records = self.frame.records();
        let payload = self.frame.lsn().plus(FRAME_HEADER_BYTES as u64);
        std::iter::from_fn(move || {
            let lsn = payload.plus(records.position() as u64);
            let record = records.next()?.ok()?;
            Some(PlacedRecord { segment: self.segment, frame: self.frame, record, lsn })
        })
    }
}

impl PlacedRecord<'_> {
    /// Offset of its first byte in its file.
    pub(crate) fn file_offset(&self) -> u64 {
        self.lsn.offset_from(self.segment.base).unwrap_or(0)
    }
}

/// The frames of a segment up to the end that its scan found. `bytes` are those that were scanned.
pub(crate) fn frames_of<'a>(bytes: &'a [u8], segment: SegmentEvidence<'a>) -> impl Iterator<Item = PlacedFrame<'a>> {
    let header = segment.header();
    let end = segment.end().offset_from(header.base).and_then(|end| usize::try_from(end).ok());
    let body = end.and_then(|end| bytes.get(SEGMENT_HEADER_BYTES..end)).unwrap_or(&[]);
    let frames = frames(body, header.first_frame(), header.cookie);
    frames.map_while(Result::ok).map(move |frame| PlacedFrame { segment: header, frame })
}
