//! Everything that looks at bytes, without a file: for fuzzing.

use wal::FrameKind;
use wal::recovery::scan_segment;

use super::dump::Dumper;
use super::output::{Output, Style};
use super::read::Contents;
use super::repair;
use super::segment::frames_of;
use super::show::{RecordStyle, record_line};
use super::snapshot::Collector;
use super::stats::Counts;
use super::verdict::{judge_directory, majority_node};

/// Scans, prints, counts and judges `bytes` as if they were all of the file `name`. Returns how many records were found. Must not
/// panic, whatever the bytes.
pub fn inspect_bytes(name: &str, bytes: &[u8]) -> u64 {
    let contents = Contents { scan: scan_segment(name, bytes), bytes };
    let mut records = 0;
    let mut output = Output::sink(Style::Pipe);
    if let Some(segment) = contents.scan.segment() {
        let mut dumper = Dumper::for_fuzzing();
        for frame in frames_of(bytes, segment) {
            let _ = dumper.frame(frame, &mut output);
            let is_local = frame.frame.kind() == FrameKind::Local;
            for record in frame.records() {
                records += 1;
                for json in [false, true] {
                    let _ = record_line(&record, RecordStyle { json, value_bytes_max: 16, long: !is_local });
                }
            }
        }
    }
    let mut collector = Collector::default();
    collector.segment(&contents);
    let mut counts = Counts::default();
    counts.segment(&contents);
    let scans = [contents.scan.clone(), contents.scan];
    let node = majority_node(&scans);
    for (scans, daemon_runs) in [(&scans[..1], false), (&scans[..1], true), (&scans[..], false)] {
        let judgement = judge_directory(node, scans, daemon_runs);
        for finding in &judgement.findings {
            let _ = repair::plan(finding);
        }
    }
    records
}
