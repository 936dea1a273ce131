//! `history`: every record of one key.

use super::cli::HistoryArgs;
use super::error::InspectError;
use super::load::Loaded;
use super::output::{Output, Rows};
use super::segment::frames_of;
use super::show::{RecordStyle, frame_kind, record_line};
use super::text;
use super::verify::optional;

/// Longest value in a table, in bytes.
const VALUE_BYTES_MAX: usize = 128;

/// A record of the key: its rank, its line of JSON, its row.
type Found = ((u64, u32), String, Vec<String>);

/// Shows the history of the key.
pub(crate) fn run(args: &HistoryArgs, output: &mut Output) -> Result<Loaded, InspectError> {
    let mut found: Vec<Found> = Vec::new();
    let json = RecordStyle { json: true, value_bytes_max: usize::MAX, long: true };
    let value_bytes_max = if args.full { usize::MAX } else { VALUE_BYTES_MAX };
    let is_json = output.is_json();
    let loaded = Loaded::each(&args.dir, |contents| {
        let Some(segment) = contents.scan.segment() else { return Ok(()) };
        for placed in frames_of(contents.bytes, segment).flat_map(|frame| frame.records()) {
            let record = &placed.record;
            if record.key != args.key.0 || record.op == wal::RecordOp::Control {
                continue;
            }
            let line = if is_json { record_line(&placed, json)? } else { String::new() };
            let shown = record.value.get(..value_bytes_max).unwrap_or(record.value);
            let cut = if shown.len() < record.value.len() { "…" } else { "" };
            let row = vec![
                text::version(record.version),
                if record.op == wal::RecordOp::Put { "put" } else { "delete" }.to_owned(),
                format!("{}{cut}", text::percent_encode(shown)),
                optional(record.expiry.map(text::rfc3339)),
                record.origin.to_string(),
                frame_kind(placed.frame.kind()).to_owned(),
                contents.scan.file_name().to_owned(),
                placed.lsn.to_string(),
            ];
            found.push(((record.version.0, record.original_crc()), line, row));
        }
        Ok(())
    })?;
    found.sort_by_key(|(rank, ..)| *rank);
    if is_json {
        found.iter().try_for_each(|(_, line, _)| output.line(line))?;
    } else if found.is_empty() {
        output.flush()?;
        super::note(&format!("no record of {}", text::percent_encode(&args.key.0)));
    } else {
        let header = ["version", "op", "value", "expires", "origin", "frame", "file", "lsn"];
        let mut rows = Rows::new("", &header, &[7]);
        found.into_iter().for_each(|(.., row)| rows.push(row));
        output.table(&rows)?;
        output.remark("The last one counts.")?;
    }
    output.flush()?;
    Ok(loaded)
}
