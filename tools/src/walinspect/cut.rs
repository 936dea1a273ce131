//! `repair --cut`: gives up what stands at and behind damage in a log, so that the node starts again and fetches from its peers what it lost so.
//!
//! Nothing is thrown away: the files as they were go into a directory beside them. What remains is an exact prefix of the log, which the
//! next start reads like any other; nothing is made up, and no checksum is renewed.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use net::reactor::disk::{Disk, OsDisk};
use wal::recovery::SegmentEvidence;
use wal::{FileKind, Lsn, SEAL_OFFSET, SEGMENT_HEADER_BYTES, file_kind};

use super::error::{EXIT_REFUSED, InspectError, io_error};
use super::load::Loaded;
use super::note;
use super::verdict::{Action, Class, Finding, LogName};

/// A directory has at most so many logs that are damaged, and each is cut once for each thing that is wrong with it.
const CUTS_MAX: usize = 1024;

/// Cuts every log that recovery refuses because something of it is damaged or missing. How many cuts that took.
pub(super) fn run(dir: &Path) -> Result<usize, InspectError> {
    // No daemon begins meanwhile.
    let lock_path = dir.join("LOCK");
    let _lock = OsDisk.lock(&lock_path).map_err(io_error(&lock_path, "is held: stop the node first"))?;
    let mut aside = None;
    for cuts in 0..CUTS_MAX {
        let loaded = Loaded::each(dir, |_| Ok(()))?;
        let refused = loaded.judgement.findings.iter().filter(|finding| finding.class.exit_code() == EXIT_REFUSED);
        let refused: Vec<&Finding> = refused.collect();
        let Some(worst) = refused.first() else { return Ok(cuts) };
        let Some((log, from)) = refused.iter().find_map(|finding| place(finding)) else {
            let text = format!("{}; no cut helps here: see `walinspect repair --dry-run`", worst.evidence);
            return Err(InspectError::Usage(text));
        };
        let aside = match &aside {
            Some(aside) => aside,
            None => aside.insert(make_aside(dir)?),
        };
        cut(&loaded, log, from, aside)?;
    }
    Err(InspectError::Usage("the logs are not sound after very many cuts; wipe this node and refill it".to_owned()))
}

/// The log to cut and where, if that is what helps.
fn place(finding: &Finding) -> Option<(LogName, Lsn)> {
    let is_loss = matches!(finding.action, Action::Refill | Action::Restore { .. });
    let cuttable = is_loss && matches!(finding.class, Class::Corrupt | Class::Misplaced | Class::Gap);
    finding.log.zip(finding.range.map(|range| range.from)).filter(|_| cuttable)
}

/// A directory that is not there yet.
fn make_aside(dir: &Path) -> Result<PathBuf, InspectError> {
    let mut number = 1;
    loop {
        let path = dir.join(format!("damaged-{number}"));
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(io_error(&path, "cannot be made")(error)),
        }
    }
}

/// Ends a log at `from`.
fn cut(loaded: &Loaded, log: LogName, from: Lsn, aside: &Path) -> Result<(), InspectError> {
    let dir = &loaded.directory.path;
    forget_checkpoints(dir)?;
    let is_of_log = |segment: &SegmentEvidence<'_>| {
        let header = segment.header();
        header.core == log.core && header.incarnation == log.incarnation
    };
    let segments = loaded.scans.iter().filter_map(|scan| Some((scan.file_name(), scan.segment()?)));
    let mut segments: Vec<_> = segments.filter(|(_, segment)| is_of_log(segment)).collect();
    segments.sort_by_key(|(_, segment)| segment.header().base);
    let mut moved = 0;
    // The last ones first, so that a crash in between leaves no gap.
    for (file, segment) in segments.into_iter().rev() {
        let (path, header) = (dir.join(file), segment.header());
        if header.base >= from {
            fs::rename(&path, aside.join(file)).map_err(io_error(&path, "cannot be moved aside"))?;
            moved += 1;
            continue;
        }
        let holds_it = from.0 < header.base.0 + header.segment_bytes;
        let seal_says_more = segment.seal().is_some_and(|seal| seal.durable > from || holds_it);
        if !holds_it && !seal_says_more {
            continue;
        }
        let copy = aside.join(file);
        fs::copy(&path, &copy).map_err(io_error(&path, "cannot be copied"))?;
        File::open(&copy).and_then(|copy| copy.sync_all()).map_err(io_error(&copy, "cannot be synced"))?;
        let begins = if holds_it { from.0 - header.base.0 } else { header.segment_bytes };
        blank(&path, begins, header.segment_bytes).map_err(io_error(&path, "cannot be cut"))?;
    }
    for path in [aside, dir] {
        File::open(path).and_then(|dir| dir.sync_all()).map_err(io_error(path, "cannot be synced"))?;
    }
    let LogName { core, incarnation } = log;
    note(&format!(
        "core {core}, incarnation {incarnation}: cut at {from}, {moved} files behind it moved; the files as they were are in {}",
        aside.display()
    ));
    Ok(())
}

/// Zeros from `begins` to the end, and in place of the seal. A start seals the segment again.
fn blank(path: &Path, begins: u64, end: u64) -> std::io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let zeros = vec![0; 64 * 1024];
    let seal_bytes = SEGMENT_HEADER_BYTES as u64 - SEAL_OFFSET;
    // The frames first: a seal that promises them keeps the node from starting on half of a cut.
    for (mut at, end) in [(begins, end), (SEAL_OFFSET, SEAL_OFFSET + seal_bytes)] {
        while at < end {
            let len = (end - at).min(zeros.len() as u64);
            file.write_all_at(&zeros[..usize::try_from(len).unwrap_or(0)], at)?;
            at += len;
        }
        file.sync_all()?;
    }
    Ok(())
}

/// A checkpoint names segments as they were.
fn forget_checkpoints(dir: &Path) -> Result<(), InspectError> {
    for entry in fs::read_dir(dir).map_err(io_error(dir, "cannot be listed"))? {
        let path = entry.map_err(io_error(dir, "cannot be listed"))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if matches!(file_kind(name), FileKind::Checkpoint { .. }) {
            fs::remove_file(&path).map_err(io_error(&path, "cannot be removed"))?;
        }
    }
    Ok(())
}
