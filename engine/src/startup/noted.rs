//! Under which policy of residency a data directory was written: a file beside the logs, so that it is known before they are read.
//!
//! Without it the node was allowed everything. A node that may hold more than was noted lacks what nobody sent it: what its logs say
//! of others' logs counts no more ([`Recovering::forget_claims`]), and it asks for everything again. One that may hold less must have nothing
//! of the rest: its start reads all records, and is refused if there is one.

use std::path::Path;

use bytes::Bytes;
use net::reactor::FileJob;
use net::reactor::disk::Disk;
use wal::marks::{Mark, reach};
use wal::planted::{self, Fault};
use wal::{Incarnation, Version};

use super::{Recovering, StartError, io_error};
use crate::host::Host;
use crate::replication::residency::Allowed;

/// The file.
const NOTE_FILE: &str = "RESIDENCY";
/// It takes the place of the one before by its name.
const NEW_NOTE_FILE: &str = "prepare-residency.tmp";
/// A whole page, so that it is written like a segment.
const NOTE_BYTES: usize = 4096;

/// What is noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// What the node may hold.
    pub(super) allowed: Allowed,
    /// What was held of other nodes' logs before this version was held of less than that.
    pub(super) since: Version,
}

/// Reads the note; `None` if there is none.
pub(super) fn noted<D: Disk>(disk: &D, directory: &Path, names: &[String]) -> Result<Option<Note>, StartError> {
    if names.iter().any(|name| name == NEW_NOTE_FILE) {
        let path = directory.join(NEW_NOTE_FILE);
        disk.run(FileJob::Unlink { path: path.clone() }).map_err(io_error(&path, "cannot be removed"))?;
    }
    if !names.iter().any(|name| name == NOTE_FILE) {
        return Ok(None);
    }
    let path = directory.join(NOTE_FILE);
    let file = disk.open(&path).map_err(io_error(&path, "cannot be opened"))?;
    let bytes = disk.read_durable(&file, 0, NOTE_BYTES).map_err(io_error(&path, "cannot be read"))?;
    parse(&bytes).map(Some).ok_or(StartError::NoteDamaged(path))
}

/// Writes the note, durably, in place of the one before.
pub(super) fn note<D: Disk>(disk: &D, directory: &Path, note: &Note) -> Result<(), StartError> {
    let (temporary, path) = (directory.join(NEW_NOTE_FILE), directory.join(NOTE_FILE));
    let head = Bytes::from(format(note));
    disk.run(FileJob::Prepare { path: temporary.clone(), len: NOTE_BYTES as u64, head })
        .map_err(io_error(&temporary, "cannot be written"))?;
    disk.run(FileJob::Rename { from: temporary, to: path.clone() }).map_err(io_error(&path, "cannot be written"))?;
    Ok(())
}

fn format(note: &Note) -> Vec<u8> {
    let body = format!("godwit-residency 1 since={:016x} may-hold={}", note.since.0, note.allowed);
    let crc = net::wire::header::crc32c(body.as_bytes());
    format!("{body} crc={crc:08x}\n").into_bytes()
}

fn parse(bytes: &[u8]) -> Option<Note> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    if bytes[end + 1..].iter().any(|byte| *byte != 0) {
        return None;
    }
    let (body, crc) = std::str::from_utf8(&bytes[..end]).ok()?.rsplit_once(" crc=")?;
    if u32::from_str_radix(crc, 16).ok()? != net::wire::header::crc32c(body.as_bytes()) {
        return None;
    }
    let (since, allowed) = body.strip_prefix("godwit-residency 1 since=")?.split_once(" may-hold=")?;
    Some(Note { allowed: Allowed::parse(allowed)?, since: Version(u64::from_str_radix(since, 16).ok()?) })
}

impl<H: Host, D: Disk<File = H::File>> Recovering<'_, H, D> {
    /// Holds what this run may hold against what was noted, and notes it. What is read was read to that end: nothing is here that may not be.
    pub(super) fn keep_residency(&mut self, noted: Option<Note>) -> Result<(), StartError> {
        let allowed = self.settings.may_hold.clone();
        let before = noted.clone().unwrap_or(Note { allowed: Allowed::everything(), since: Version::ZERO });
        let mut since = before.since;
        if !before.allowed.covers(&allowed) {
            reach(Mark::ResidencyWidened);
            let text = "this region may hold more keys than before: everything is asked for again of the other nodes";
            self.report.push(text.to_owned());
            since = self.floor;
        }
        self.forget_claims(since);
        let now = Note { allowed, since };
        if now != before {
            note(self.disk, &self.settings.data_dir, &now)?;
        }
        Ok(())
    }

    /// What runs that began at or before `since` claimed to hold counts no more: those that may go on lie above it.
    fn forget_claims(&mut self, since: Version) {
        if since == Version::ZERO || planted::is(Fault::WideningKeepsClaims) {
            return;
        }
        let counts = |run: &Incarnation| {
            let first = self.runs.get(&run.0).and_then(|run| run.first);
            first.is_some_and(|(first, _)| first > since)
        };
        self.watermarks.retain(|(run, _)| counts(run));
        self.held_upto.retain(|run, _| counts(run));
        self.forgotten.held = self.held_upto.values().copied().max().unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_survives_its_file_and_damage_is_noticed() {
        let allowed = Allowed::parse("+,+eu/de/,-eu/").expect("it is what is written");
        let note = Note { allowed, since: Version(0x0123_4567_89ab_cdef) };
        let mut page = format(&note);
        page.resize(NOTE_BYTES, 0);
        assert_eq!(parse(&page), Some(note));
        for index in 0..100 {
            let mut damaged = page.clone();
            damaged[index] ^= 1;
            assert_eq!(parse(&damaged), None, "byte {index}");
        }
    }
}
