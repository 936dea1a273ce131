//! Which records are wanted.

use clap::{Args, ValueEnum};
use wal::{CoreId, Lsn, NodeId, RecordOp, RecordView, Version};

use super::segment::PlacedRecord;
use super::text;

/// Percent-encoded bytes on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyArg(pub(crate) Vec<u8>);

pub(crate) fn key(text: &str) -> Result<KeyArg, String> {
    text::percent_decode(text).map(KeyArg)
}

fn node(text: &str) -> Result<NodeId, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let wrong = |_| format!("'{text}' is no node id; write its 8 hexadecimal digits, such as 0a000001");
    u32::from_str_radix(digits, 16).map(NodeId).map_err(wrong)
}

fn lsn(text: &str) -> Result<Lsn, String> {
    text::parse_number(text).map(Lsn)
}

/// What a record does, on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OpArg {
    Put,
    Delete,
    Control,
}

/// The filters of `dump`. A record is shown if it passes all that are given.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Filter {
    /// Only this key, percent-encoded as it is shown
    #[arg(long, value_name = "KEY", value_parser = key, help_heading = "Filters")]
    key: Option<KeyArg>,
    /// Only keys that begin so, percent-encoded
    #[arg(long, value_name = "PREFIX", value_parser = key, help_heading = "Filters")]
    prefix: Option<KeyArg>,
    /// Only records that this node originated
    #[arg(long, value_name = "NODE", value_parser = node, help_heading = "Filters")]
    origin: Option<NodeId>,
    /// Only records of this op; may be repeated
    #[arg(long, value_name = "OP", help_heading = "Filters")]
    op: Vec<OpArg>,
    /// Only records written at this time or later, UTC
    #[arg(long, value_name = "TIME", value_parser = text::parse_time, help_heading = "Filters")]
    since: Option<u64>,
    /// Only records written before this time, UTC
    #[arg(long, value_name = "TIME", value_parser = text::parse_time, help_heading = "Filters")]
    until: Option<u64>,
    /// Only this version or higher ones
    #[arg(long, value_name = "VERSION", value_parser = text::parse_version, help_heading = "Filters")]
    version_min: Option<Version>,
    /// Only this version or lower ones
    #[arg(long, value_name = "VERSION", value_parser = text::parse_version, help_heading = "Filters")]
    version_max: Option<Version>,
    /// Only records at this position of their log or behind it
    #[arg(long, value_name = "LSN", value_parser = lsn, help_heading = "Filters")]
    lsn_min: Option<Lsn>,
    /// Only records before this position of their log
    #[arg(long, value_name = "LSN", value_parser = lsn, help_heading = "Filters")]
    lsn_end: Option<Lsn>,
    /// Only logs of this core
    #[arg(long, value_name = "CORE", help_heading = "Filters")]
    core: Option<u16>,
}

impl Filter {
    /// Whether logs of this core are wanted at all.
    pub(crate) fn wants_core(&self, core: CoreId) -> bool {
        self.core.is_none_or(|wanted| wanted == core.0)
    }

    pub(crate) fn wants(&self, placed: &PlacedRecord<'_>) -> bool {
        let record = &placed.record;
        self.wants_core(placed.segment.core)
            && self.wants_key(record)
            && self.origin.is_none_or(|origin| origin == record.origin)
            && (self.op.is_empty() || self.op.contains(&op(record.op)))
            && self.since.is_none_or(|since| record.version.unix_ms() >= since)
            && self.until.is_none_or(|until| record.version.unix_ms() < until)
            && self.version_min.is_none_or(|min| record.version >= min)
            && self.version_max.is_none_or(|max| record.version <= max)
            && self.lsn_min.is_none_or(|min| placed.lsn >= min)
            && self.lsn_end.is_none_or(|end| placed.lsn < end)
    }

    fn wants_key(&self, record: &RecordView<'_>) -> bool {
        if self.key.is_none() && self.prefix.is_none() {
            return true;
        }
        // The key of a control record is none that a client gave.
        record.op != RecordOp::Control
            && self.key.as_ref().is_none_or(|key| key.0 == record.key)
            && self.prefix.as_ref().is_none_or(|prefix| record.key.starts_with(&prefix.0))
    }
}

fn op(op: RecordOp) -> OpArg {
    match op {
        RecordOp::Put => OpArg::Put,
        RecordOp::Delete => OpArg::Delete,
        RecordOp::Control => OpArg::Control,
    }
}
