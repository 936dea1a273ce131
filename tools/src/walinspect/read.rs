//! Reading whole segments: around the page cache where that is possible and wanted.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Advice, OFlags, fadvise};
use wal::recovery::{SegmentScan, scan_segment};
use wal::{SEGMENT_BYTES_MAX, SEGMENT_HEADER_BYTES, SealBlock, SealState, SegmentHeader, SegmentHeaderError};

/// What one read asks for. Large enough for the device's own limit, small enough to be shared out by it.
const CHUNK_BYTES: usize = 1024 * 1024;

/// What direct reads have to be aligned to at most.
const DIRECT_ALIGN: usize = 4096;

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// What the disk holds, around the page cache. Falls back where the file system has no such reads.
    Disk,
    /// Beside a running daemon: the same for sealed segments. A direct read of one that is written would make the kernel
    /// write its pages out first, in the daemon's way.
    Live,
}

/// A buffer for one segment, used again for the next.
#[derive(Debug, Default)]
pub(crate) struct SegmentReader {
    buffer: Vec<u8>,
}

/// What was found in a file.
#[derive(Debug)]
pub(crate) struct Contents<'a> {
    pub(crate) scan: SegmentScan,
    /// All of it, if it has a usable header.
    pub(crate) bytes: &'a [u8],
}

/// The first page of a segment.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) header: SegmentHeader,
    pub(crate) seal: SealState,
}

impl SegmentReader {
    /// Reads and scans the file `name` in `directory`. `None` if it is gone.
    pub(crate) fn scan(&mut self, path: &Path, name: &str, how: Source) -> io::Result<Option<Contents<'_>>> {
        match self.read(path, how) {
            Ok(Ok(bytes)) => Ok(Some(Contents { scan: scan_segment(name, bytes), bytes })),
            Ok(Err(error)) => Ok(Some(Contents { scan: SegmentScan::unusable(name, error), bytes: &[] })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The bytes of a segment, at most [`SEGMENT_BYTES_MAX`], unless its header or its length makes reading it pointless.
    pub(crate) fn read(&mut self, path: &Path, how: Source) -> io::Result<Result<&[u8], SegmentHeaderError>> {
        let direct = how == Source::Disk || self.is_sealed(path)?;
        let found = match self.read_range(path, direct) {
            // Some file systems take the flag and refuse the read.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => self.read_range(path, false),
            other => other,
        };
        Ok(found?.map(|range| &self.buffer[range]))
    }

    /// The first page of a segment.
    pub(crate) fn read_head(&mut self, path: &Path) -> io::Result<Result<Head, SegmentHeaderError>> {
        let file = open(path, false)?;
        let mut page = vec![0; SEGMENT_HEADER_BYTES];
        let head = read_full(&file, &mut page, 0)?;
        let file_bytes = file.metadata()?.len();
        Ok(SegmentHeader::parse(&page[..head]).and_then(|header| {
            if header.segment_bytes != file_bytes {
                return Err(SegmentHeaderError::Size { expected: header.segment_bytes, actual: file_bytes });
            }
            Ok(Head { header, seal: SealBlock::read(&page, header.link()) })
        }))
    }

    fn is_sealed(&mut self, path: &Path) -> io::Result<bool> {
        Ok(self.read_head(path)?.is_ok_and(|head| matches!(head.seal, SealState::Valid(_))))
    }

    fn read_range(&mut self, path: &Path, direct: bool) -> io::Result<Result<Range<usize>, SegmentHeaderError>> {
        let file = open(path, direct)?;
        let start = self.aligned_start();
        let page = &mut self.buffer[start..start + SEGMENT_HEADER_BYTES];
        let head = read_full(&file, page, 0)?;
        let header = match SegmentHeader::parse(&page[..head]) {
            Ok(header) => header,
            Err(error) => return Ok(Err(error)),
        };
        // A file that is larger than it may be is not read at all: it may be larger than memory.
        let actual = file.metadata()?.len();
        let expected = header.segment_bytes;
        if actual != expected {
            return Ok(Err(SegmentHeaderError::Size { expected, actual }));
        }
        let len = usize::try_from(expected).expect("a segment's size is bounded by its format");
        let read = read_full(&file, &mut self.buffer[start..start + len], 0)?;
        if read < len {
            return Ok(Err(SegmentHeaderError::Size { expected, actual: read as u64 }));
        }
        Ok(Ok(start..start + len))
    }

    /// Where in the buffer an aligned segment fits.
    fn aligned_start(&mut self) -> usize {
        let room = usize::try_from(SEGMENT_BYTES_MAX).expect("64-bit target") + DIRECT_ALIGN;
        if self.buffer.len() < room {
            // A vector is aligned to its element only.
            self.buffer = vec![0; room];
        }
        self.buffer.as_ptr().align_offset(DIRECT_ALIGN)
    }
}

/// Opens for reading only, and never waits: a pipe that was named like a segment has no writer.
pub(crate) fn open(path: &Path, direct: bool) -> io::Result<File> {
    let flags = if direct { OFlags::DIRECT | OFlags::NONBLOCK } else { OFlags::NONBLOCK };
    let flags = i32::try_from(flags.bits()).expect("flags of open");
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is named like a segment and is no regular file"));
    }
    if !direct {
        let _ = fadvise(&file, 0, None, Advice::Sequential);
    }
    Ok(file)
}

/// Reads until the buffer is full or the file ends.
pub(crate) fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        let end = buffer.len().min(done + CHUNK_BYTES);
        match file.read_at(&mut buffer[done..end], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => {
                done += count;
                if !count.is_multiple_of(DIRECT_ALIGN) {
                    // The file ends here; a direct read could not go on from an odd place anyway.
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
