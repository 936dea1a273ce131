//! `ls`: the segments. Of a sealed one only the first page is read.

use std::io;
use std::path::Path;

use serde::Serialize;
use wal::recovery::{Finding, SegmentEvidence};
use wal::{FrameError, SealState, SegmentHeader};

use super::directory::{DataDirectory, Lock, SegmentFile};
use super::error::{InspectError, io_error};
use super::note;
use super::output::{Output, Rows};
use super::read::{SegmentReader, Source};
use super::text;
use super::verify::optional;

#[derive(Serialize)]
struct SegmentJson {
    file: String,
    core: u16,
    segment: u64,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    incarnation: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base_lsn: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_lsn: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    used_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    records: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// Lists the segments of `path`.
pub(crate) fn run(path: &Path, output: &mut Output) -> Result<(), InspectError> {
    let directory = DataDirectory::open(path)?;
    let mut reader = SegmentReader::default();
    let header = ["file", "state", "incarnation", "base", "end", "used", "of", "records", "problem"];
    let mut rows = Rows::new("", &header, &[3, 4, 5, 6, 7]);
    for file in &directory.segments {
        let Some(found) = look(&mut reader, &directory, file)? else { continue };
        if output.is_json() {
            output.json("segment", &found)?;
            continue;
        }
        let hex = |lsn: Option<u64>| optional(lsn.map(|lsn| format!("{lsn:#x}")));
        rows.push(vec![
            found.file,
            found.state,
            optional(found.incarnation),
            hex(found.base_lsn),
            hex(found.end_lsn),
            optional(found.used_bytes.map(text::bytes)),
            optional(found.file_bytes.map(text::bytes)),
            optional(found.records),
            optional(found.problem),
        ]);
    }
    output.table(&rows)?;
    output.flush()?;
    if !output.is_json() {
        let node = optional(directory.node);
        let daemon = match directory.lock {
            Lock::Held(pid) => format!("process {pid} has the directory"),
            Lock::NotSeen => "no process is seen to have the directory".to_owned(),
        };
        let (temporary, checkpoints) = (directory.temporary.len(), directory.checkpoints);
        let segments = directory.segments.len();
        note(&format!(
            "node {node}, {segments} segments, {temporary} temporary files, {checkpoints} checkpoint files; {daemon}"
        ));
    }
    Ok(())
}

fn look(
    reader: &mut SegmentReader,
    directory: &DataDirectory,
    file: &SegmentFile,
) -> Result<Option<SegmentJson>, InspectError> {
    let path = directory.file(&file.name);
    let head = match reader.read_head(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(io_error(&path, "cannot be read"))?,
    };
    let mut row = SegmentJson {
        file: file.name.clone(),
        core: file.core.0,
        segment: file.number.0,
        state: "unusable".to_owned(),
        node: None,
        incarnation: None,
        base_lsn: None,
        end_lsn: None,
        file_bytes: None,
        used_bytes: None,
        records: None,
        problem: None,
    };
    let head = match head {
        Ok(head) => head,
        Err(error) => {
            row.problem = Some(error.to_string());
            return Ok(Some(row));
        }
    };
    row.fill(&head.header);
    if let SealState::Valid(seal) = head.seal
        && wal::segment_file_name(head.header.core, head.header.number) == file.name
    {
        row.state = "sealed".to_owned();
        row.end_lsn = Some(seal.end.0);
        row.used_bytes = seal.end.offset_from(head.header.base);
        row.records = Some(seal.records);
        return Ok(Some(row));
    }
    let how = if directory.lock.is_held() { Source::Live } else { Source::Disk };
    let contents = reader.scan(&path, &file.name, how).map_err(io_error(&path, "cannot be read"))?;
    let Some(contents) = contents else { return Ok(None) };
    match contents.scan.finding() {
        Finding::Segment(segment) => row.describe(segment, directory.lock.is_held()),
        Finding::Misnamed(belongs) => row.problem = Some(format!("it belongs into {belongs}")),
        Finding::Unusable(error) => row.problem = Some(error.to_string()),
        Finding::Temporary => {}
    }
    Ok(Some(row))
}

impl SegmentJson {
    fn fill(&mut self, header: &SegmentHeader) {
        self.node = Some(header.node.to_string());
        self.incarnation = Some(header.incarnation.to_string());
        self.base_lsn = Some(header.base.0);
        self.file_bytes = Some(header.segment_bytes);
    }

    fn describe(&mut self, segment: SegmentEvidence<'_>, daemon_runs: bool) {
        let is_new = segment.first_frame().is_none();
        let ends_quietly = match segment.stop() {
            None | Some(FrameError::ForeignCookie(_)) => true,
            Some(FrameError::Blank) => segment.is_blank_behind(),
            Some(_) => false,
        };
        let state = match (segment.seal().is_some(), is_new) {
            (true, _) => "sealed",
            (false, true) if ends_quietly => "spare",
            (false, _) if segment.ends_segment() => "complete",
            (false, _) if daemon_runs => "open",
            (false, _) => "unsealed",
        };
        self.state = state.to_owned();
        self.end_lsn = Some(segment.end().0);
        self.used_bytes = segment.end().offset_from(segment.header().base);
        self.records = Some(segment.records());
        let may_be_written = daemon_runs && segment.seal().is_none();
        if !(ends_quietly || may_be_written) {
            self.problem = segment.stop().map(|stop| stop.to_string());
        }
    }
}
