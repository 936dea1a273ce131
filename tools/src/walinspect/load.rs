//! Scanning the files of a directory and judging them, also while a daemon writes there.
//!
//! Files are not read at one instant. What is read later may speak about bytes that were not written yet when theirs were
//! read, and then looks like evidence of a loss. A bad verdict therefore counts only if reading again comes to exactly the same
//! one: real damage stays where it is, a moving end does not.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use wal::NodeId;
use wal::recovery::{SegmentScan, scan_segment};

use super::directory::{DataDirectory, SegmentFile};
use super::error::{InspectError, io_error};
use super::read::{Contents, SegmentReader, Source};
use super::verdict::{Action, Class, Finding, Judgement, judge_directory, majority_node, whole_file};

/// How often a bad verdict is looked at again before the log counts as being written.
const CONFIRMATIONS_MAX: usize = 8;

/// A directory that was scanned and judged.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) directory: DataDirectory,
    pub(crate) node: NodeId,
    pub(crate) scans: Vec<SegmentScan>,
    pub(crate) judgement: Judgement,
    /// Bytes of the files that were read once.
    pub(crate) bytes: u64,
}

impl Loaded {
    /// Opens and scans `path`, one segment after the other; `visit` sees each.
    pub(crate) fn each(
        path: &Path,
        mut visit: impl FnMut(&Contents<'_>) -> Result<(), InspectError>,
    ) -> Result<Loaded, InspectError> {
        let directory = DataDirectory::open(path)?;
        let mut reader = SegmentReader::default();
        let (mut scans, mut bytes) = (Vec::new(), 0);
        for file in &directory.segments {
            if let Some(contents) = scan_file(&mut reader, &directory, file)? {
                bytes += contents.bytes.len() as u64;
                visit(&contents)?;
                scans.push(contents.scan);
            }
        }
        Loaded::judged(directory, scans, bytes)
    }

    /// Opens and scans `path` with `threads` threads.
    pub(crate) fn parallel(path: &Path, threads: usize) -> Result<Loaded, InspectError> {
        let directory = DataDirectory::open(path)?;
        let found = Mutex::new(Vec::new());
        let bytes = each_file(&directory, threads, |reader, file| {
            let Some(contents) = scan_file(reader, &directory, file)? else { return Ok(0) };
            let len = contents.bytes.len() as u64;
            found.lock().expect("no worker panics while it holds this").push(contents.scan);
            Ok(len)
        })?;
        let mut scans = found.into_inner().expect("the workers ended");
        scans.sort_by(|a, b| a.file_name().cmp(b.file_name()));
        Loaded::judged(directory, scans, bytes)
    }

    fn judged(directory: DataDirectory, mut scans: Vec<SegmentScan>, bytes: u64) -> Result<Loaded, InspectError> {
        scans.extend(directory.temporary.iter().map(|name| scan_segment(name, &[])));
        let node = directory.node.unwrap_or_else(|| majority_node(&scans));
        let judgement = confirmed(&directory, node, &mut scans)?;
        Ok(Loaded { directory, node, scans, judgement, bytes })
    }

    /// A node does not start without its identity, however sound its logs are.
    pub(crate) fn identity_finding(&self) -> Option<Finding> {
        if self.directory.node.is_some() {
            return None;
        }
        let node = self.node;
        let evidence = format!("NODE is missing or damaged; by its segments the directory belongs to node {node}");
        let action = Action::Restore { name: "NODE".to_owned() };
        Some(whole_file(Class::Corrupt, "NODE", evidence, action))
    }

    /// What a reader of results has to know about the directory: a line each.
    pub(crate) fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        remarks.extend(self.identity_finding().map(|finding| finding.evidence));
        for finding in self.judgement.findings.iter().filter(|finding| finding.class.exit_code() != 0) {
            remarks.push(format!("{}: {}", finding.class, finding.evidence));
        }
        remarks
    }
}

/// Reads every file by `threads` threads. Returns the sum of what `work` returned.
pub(crate) fn each_file(
    directory: &DataDirectory,
    threads: usize,
    work: impl Fn(&mut SegmentReader, &SegmentFile) -> Result<u64, InspectError> + Sync,
) -> Result<u64, InspectError> {
    let next = AtomicUsize::new(0);
    let run = || {
        let mut reader = SegmentReader::default();
        let mut sum = 0;
        while let Some(file) = directory.segments.get(next.fetch_add(1, Ordering::Relaxed)) {
            sum += work(&mut reader, file)?;
        }
        Ok(sum)
    };
    let threads = threads.min(directory.segments.len()).max(1);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        let results = workers.into_iter().map(|worker| worker.join().expect("a worker does not panic"));
        results.sum()
    })
}

fn scan_file<'a>(
    reader: &'a mut SegmentReader,
    directory: &DataDirectory,
    file: &SegmentFile,
) -> Result<Option<Contents<'a>>, InspectError> {
    let path = directory.file(&file.name);
    let how = if directory.lock.is_held() { Source::Live } else { Source::Disk };
    reader.scan(&path, &file.name, how).map_err(io_error(&path, "cannot be read"))
}

fn suspects(judgement: &Judgement) -> Vec<&Finding> {
    judgement.findings.iter().filter(|finding| finding.class.exit_code() != 0).collect()
}

/// The verdict that reading again does not change.
fn confirmed(directory: &DataDirectory, node: NodeId, scans: &mut Vec<SegmentScan>) -> Result<Judgement, InspectError> {
    let daemon_runs = directory.lock.is_held();
    let mut judgement = judge_directory(node, scans, daemon_runs);
    let mut reader = SegmentReader::default();
    for _ in 0..CONFIRMATIONS_MAX {
        let before = suspects(&judgement);
        if before.is_empty() {
            return Ok(judgement);
        }
        let mut again = Vec::new();
        for file in directory.list_again()? {
            let is_suspect = before.iter().any(|finding| match finding.log {
                Some(log) => log.core == file.core,
                None => finding.file.as_deref() == Some(&file.name),
            });
            let known = scans.iter().find(|scan| scan.file_name() == file.name);
            match known {
                Some(known) if !is_suspect => again.push(known.clone()),
                _ => again.extend(scan_file(&mut reader, directory, &file)?.map(|contents| contents.scan)),
            }
        }
        again.extend(directory.temporary.iter().map(|name| scan_segment(name, &[])));
        let next = judge_directory(node, &again, daemon_runs);
        *scans = again;
        if suspects(&next) == before {
            return Ok(next);
        }
        judgement = next;
    }
    for finding in judgement.findings.iter_mut().filter(|finding| finding.class.exit_code() != 0) {
        finding.class = Class::Open;
        finding.evidence = format!("changes while it is read, a process writes it: {}", finding.evidence);
    }
    for log in judgement.logs.iter_mut().filter(|log| log.class.exit_code() != 0) {
        log.class = Class::Open;
    }
    Ok(judgement)
}
