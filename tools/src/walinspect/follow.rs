//! `dump --follow`: whole frames as they appear, across segments and restarts of the daemon.
//!
//! The daemon writes into a mapping: no file grows, and bytes behind the last whole frame are "not yet". A frame's header is
//! stored last, and a frame counts only with valid checksums, so that a half-written one is never shown.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use wal::{
    CoreId, FRAME_HEADER_BYTES, FrameError, Lsn, SEGMENT_HEADER_BYTES, SealBlock, SealState, SegmentHeader,
    SegmentNumber, frames,
};

use super::cli::DumpArgs;
use super::directory::DataDirectory;
use super::dump::Dumper;
use super::error::{InspectError, io_error};
use super::output::Output;
use super::read::{open, read_full};
use super::segment::PlacedFrame;
use super::verdict::LogName;

/// What is read at a time; more where one frame needs it.
const CHUNK_BYTES: usize = 1024 * 1024;

/// A segment that is read to its end.
#[derive(Debug)]
struct Tail {
    file: File,
    header: SegmentHeader,
    /// Position of the next frame.
    next: Lsn,
    previous_header_crc: Option<u32>,
    /// Nothing more will come.
    ended: bool,
    /// A frame that this program must not read stands at `next`.
    refused: Option<FrameError>,
}

/// Follows until standard output is closed or the process is ended.
pub(crate) fn run(args: &DumpArgs, json: bool, output: &mut Output, note: impl Fn(&str)) -> Result<(), InspectError> {
    let directory = DataDirectory::open(&args.dir)?;
    let mut dumper = Dumper::new(args, json);
    let mut follower = Follower { directory, tails: BTreeMap::new(), buffer: Vec::new() };
    if !args.durable {
        note("a record shown here may not be durable yet; --durable shows only what is");
    }
    loop {
        let progress = follower.poll(&mut dumper, output, &note)?;
        output.flush()?;
        if !progress {
            pause(args.poll_ms)?;
        }
    }
}

/// Waits for a while, or until nobody reads standard output any more.
fn pause(poll_ms: u32) -> Result<(), InspectError> {
    let stdout = io::stdout();
    let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
    let timeout = Timespec { tv_sec: i64::from(poll_ms / 1000), tv_nsec: i64::from(poll_ms % 1000) * 1_000_000 };
    match poll(&mut watched, Some(&timeout)) {
        Ok(0) | Err(Errno::INTR) => Ok(()),
        // Only an error or a hang-up is reported without having been asked for.
        Ok(_) => Err(InspectError::Output(io::ErrorKind::BrokenPipe.into())),
        Err(error) => Err(InspectError::Output(error.into())),
    }
}

struct Follower {
    directory: DataDirectory,
    /// `None`: read to its end, or not to be read.
    tails: BTreeMap<(CoreId, SegmentNumber), Option<Tail>>,
    buffer: Vec<u8>,
}

impl Follower {
    /// Shows what is new. Returns whether there was something.
    fn poll(&mut self, dumper: &mut Dumper, output: &mut Output, note: &impl Fn(&str)) -> Result<bool, InspectError> {
        let mut progress = false;
        let files = self.directory.list_again()?;
        for file in &files {
            if self.tails.contains_key(&(file.core, file.number)) || !dumper.filter().wants_core(file.core) {
                continue;
            }
            let path = self.directory.file(&file.name);
            match Tail::open(&path) {
                Ok(Ok(tail)) => {
                    progress = true;
                    self.tails.insert((file.core, file.number), Some(tail));
                }
                Ok(Err(why)) => {
                    note(&format!("{}: not followed: {why}", file.name));
                    self.tails.insert((file.core, file.number), None);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io_error(&path, "cannot be read")(error)),
            }
        }
        // By core and number: a segment's successor comes right behind it.
        let mut waiting_for: Option<LogName> = None;
        for ((core, number), slot) in &mut self.tails {
            let Some(tail) = slot else { continue };
            let log = LogName { core: *core, incarnation: tail.header.incarnation };
            if waiting_for == Some(log) {
                // What comes before it in the log has not ended yet.
                continue;
            }
            progress |= tail.advance(log, &mut self.buffer, dumper, output)?;
            if let Some(error) = tail.refused {
                note(&format!("core {core}, segment {number}: not followed any further, at {}: {error}", tail.next));
                *slot = None;
            } else if tail.ended || !files.iter().any(|file| (file.core, file.number) == (*core, *number)) {
                *slot = None;
            } else {
                waiting_for = Some(log);
            }
        }
        Ok(progress)
    }
}

/// Why a run of frames ended.
enum Stop {
    /// The segment's last frame was shown.
    SegmentEnd,
    /// A frame stands there that this program must not read.
    Refused(FrameError),
    /// The bytes at hand cut a frame off that needs so many, from the end of the last one on.
    CutOff(usize),
    /// All bytes at hand were shown.
    BytesEnd,
    /// No whole frame stands there.
    NotYet,
}

impl Tail {
    /// Opens a segment; the inner error says why it cannot be followed.
    fn open(path: &Path) -> io::Result<Result<Tail, String>> {
        let file = open(path, false)?;
        let mut page = vec![0; SEGMENT_HEADER_BYTES];
        let read = read_full(&file, &mut page, 0)?;
        let header = match SegmentHeader::parse(&page[..read]) {
            Ok(header) => header,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let next = header.first_frame();
        Ok(Ok(Tail { file, header, next, previous_header_crc: None, ended: false, refused: None }))
    }

    /// Shows the whole frames behind `next`. Returns whether there was one.
    fn advance(
        &mut self,
        log: LogName,
        buffer: &mut Vec<u8>,
        dumper: &mut Dumper,
        output: &mut Output,
    ) -> Result<bool, InspectError> {
        // The seal before the frames: what it covers is there when it is.
        let seal = self.seal();
        let end = seal.as_ref().map_or(self.header.base.plus(self.header.segment_bytes), |seal| seal.end);
        let start = self.next;
        // A quiet log costs no more than a look at one header.
        let mut wanted = FRAME_HEADER_BYTES;
        while let Some(left) = end.offset_from(self.next).filter(|left| *left >= FRAME_HEADER_BYTES as u64) {
            let left = usize::try_from(left).expect("a segment's size is bounded by its format");
            buffer.resize(wanted.min(left), 0);
            let offset = self.next.offset_from(self.header.base).unwrap_or(0);
            // A file that cannot be read now may be later; what was shown stays shown.
            let read = read_full(&self.file, buffer, offset).unwrap_or(0);
            wanted = match self.show(&buffer[..read], dumper, output)? {
                Stop::CutOff(needed) if needed <= left && needed > FRAME_HEADER_BYTES => CHUNK_BYTES.max(needed),
                Stop::BytesEnd if read > 0 => CHUNK_BYTES,
                Stop::CutOff(_) | Stop::BytesEnd | Stop::NotYet => break,
                Stop::SegmentEnd => {
                    self.ended = true;
                    break;
                }
                Stop::Refused(error) => {
                    self.refused = Some(error);
                    break;
                }
            };
            if read < buffer.len() {
                break;
            }
        }
        if let Some(seal) = seal {
            dumper.declare(log, seal.durable, output)?;
            // Nothing will be added to it.
            self.ended = true;
        }
        Ok(self.next > start)
    }

    fn show(&mut self, bytes: &[u8], dumper: &mut Dumper, output: &mut Output) -> Result<Stop, InspectError> {
        let mut reader = frames(bytes, self.next, self.header.cookie);
        if let Some(crc) = self.previous_header_crc {
            reader = reader.continuing(crc);
        }
        for frame in reader.by_ref() {
            match frame.and_then(|frame| frame.verify_records().map(|()| frame)) {
                Ok(frame) => {
                    dumper.frame(PlacedFrame { segment: &self.header, frame }, output)?;
                    self.next = frame.end();
                    self.previous_header_crc = Some(frame.header().header_crc);
                }
                Err(error) if error.is_intact() => return Ok(Stop::Refused(error)),
                Err(_) => return Ok(Stop::NotYet),
            }
        }
        Ok(match reader.needed() {
            _ if reader.segment_ended() => Stop::SegmentEnd,
            Some(needed) => Stop::CutOff(needed),
            None => Stop::BytesEnd,
        })
    }

    fn seal(&self) -> Option<SealBlock> {
        let mut page = vec![0; SEGMENT_HEADER_BYTES];
        let read = read_full(&self.file, &mut page, 0).ok()?;
        match SealBlock::read(&page[..read], self.header.link()) {
            SealState::Valid(seal) => Some(seal),
            _ => None,
        }
    }
}
