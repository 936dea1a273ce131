//! `dump`: the records of all logs as lines.

use std::collections::{HashMap, VecDeque};

use wal::recovery::SegmentEvidence;
use wal::{FrameHeader, Lsn};

use super::cli::DumpArgs;
use super::error::InspectError;
use super::filter::Filter;
use super::load::Loaded;
use super::output::Output;
use super::segment::{PlacedFrame, frames_of};
use super::show::{RecordStyle, record_line};
use super::verdict::LogName;

/// Turns frames into lines, holding back what is not known to be durable where that was asked for.
#[derive(Debug)]
pub(crate) struct Dumper {
    filter: Filter,
    style: RecordStyle,
    durable_only: bool,
    logs: HashMap<LogName, HeldBack>,
}

/// Lines of a log whose frames nothing has declared durable yet, with the ends of those frames.
#[derive(Debug, Default)]
struct HeldBack {
    durable: Lsn,
    lines: VecDeque<(Lsn, Vec<String>)>,
}

impl Dumper {
    pub(crate) fn new(args: &DumpArgs, json: bool) -> Dumper {
        let value_bytes_max = if args.full { usize::MAX } else { args.value_bytes };
        let style = RecordStyle { json, value_bytes_max, long: args.long };
        Dumper { filter: args.filter.clone(), style, durable_only: args.durable, logs: HashMap::new() }
    }

    /// Shows all, and holds back what is not durable.
    pub(crate) fn for_fuzzing() -> Dumper {
        let style = RecordStyle { json: false, value_bytes_max: 16, long: true };
        Dumper { filter: Filter::default(), style, durable_only: true, logs: HashMap::new() }
    }

    pub(crate) fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Something says that a log is durable up to `durable`.
    pub(crate) fn declare(&mut self, log: LogName, durable: Lsn, output: &mut Output) -> Result<(), InspectError> {
        if !self.durable_only {
            return Ok(());
        }
        let held = self.logs.entry(log).or_default();
        held.durable = held.durable.max(durable);
        while let Some((end, _)) = held.lines.front() {
            if *end > held.durable {
                break;
            }
            let (_, lines) = held.lines.pop_front().unwrap_or_default();
            lines.iter().try_for_each(|line| output.line(line))?;
        }
        Ok(())
    }

    pub(crate) fn frame(&mut self, frame: PlacedFrame<'_>, output: &mut Output) -> Result<(), InspectError> {
        let log = LogName { core: frame.segment.core, incarnation: frame.segment.incarnation };
        let header: &FrameHeader = frame.frame.header();
        self.declare(log, header.durable, output)?;
        let mut held = Vec::new();
        for record in frame.records().filter(|record| self.filter.wants(record)) {
            let line = record_line(&record, self.style)?;
            if self.durable_only { held.push(line) } else { output.line(&line)? }
        }
        if !held.is_empty() {
            let log = self.logs.entry(log).or_default();
            log.lines.push_back((header.end(), held));
        }
        Ok(())
    }

    /// Frames whose records were held back to the end.
    pub(crate) fn held_back(&self) -> usize {
        self.logs.values().map(|log| log.lines.len()).sum()
    }
}

/// What is known to be durable by a segment's seal.
pub(crate) fn declared_by_seal(segment: SegmentEvidence<'_>) -> Option<Lsn> {
    segment.seal().map(|seal| seal.durable)
}

/// Dumps what is there now.
pub(crate) fn run(args: &DumpArgs, json: bool, output: &mut Output) -> Result<(Loaded, Vec<String>), InspectError> {
    let mut dumper = Dumper::new(args, json);
    let loaded = Loaded::each(&args.dir, |contents| {
        let Some(segment) = contents.scan.segment() else { return Ok(()) };
        let header = segment.header();
        if !dumper.filter().wants_core(header.core) {
            return Ok(());
        }
        for frame in frames_of(contents.bytes, segment) {
            dumper.frame(frame, output)?;
        }
        match declared_by_seal(segment) {
            Some(durable) => {
                dumper.declare(LogName { core: header.core, incarnation: header.incarnation }, durable, output)
            }
            None => Ok(()),
        }
    })?;
    let mut remarks = loaded.remarks();
    if dumper.held_back() > 0 {
        remarks.push(format!("{} frames were held back: nothing declares them durable", dumper.held_back()));
    }
    Ok((loaded, remarks))
}
