//! A record as a line.

use serde::Serialize;
use wal::{ControlRecord, FrameKind, MemberState, RecordOp, Version};

use super::error::InspectError;
use super::output::json_line;
use super::segment::PlacedRecord;
use super::text;

/// How records are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordStyle {
    pub(crate) json: bool,
    /// Longest value in a human line, in bytes.
    pub(crate) value_bytes_max: usize,
    /// With origin and place.
    pub(crate) long: bool,
}

#[derive(Serialize)]
struct RecordJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    control: Option<ControlJson>,
    version: String,
    time: String,
    origin: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiry_unix_ms: Option<u64>,
    core: u16,
    incarnation: String,
    segment: u64,
    lsn: u64,
    file_offset: u64,
    bytes: usize,
    crc: String,
    frame: &'a str,
    frame_lsn: u64,
}

/// A control record's fields.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum ControlJson {
    Open { node: String, incarnation: String, first: String, cores: u16 },
    Watermark { node: String, incarnation: String, version: String, flags: u32, rests_on: Vec<RestJson> },
    ClockCeiling { version: String },
    Forgotten { version: String, held: String },
    Bootstrap { begun: String, ended: String, version: String, held: String },
    Close { node: String, incarnation: String, version: String },
    Membership { node: String, state: &'static str, region: String, at: String },
    Unreadable { key: String, value: String, problem: String },
}

#[derive(Serialize)]
struct RestJson {
    incarnation: String,
    core: u16,
    lsn: u64,
}

fn control_json(key: &[u8], value: &[u8]) -> ControlJson {
    let hex = |version: Version| format!("{:#018x}", version.0);
    match ControlRecord::decode(key, value) {
        Err(error) => ControlJson::Unreadable {
            key: text::percent_encode(key),
            value: text::percent_encode(value),
            problem: error.to_string(),
        },
        Ok(ControlRecord::Open { node, incarnation, first, cores }) => {
            ControlJson::Open { node: node.to_string(), incarnation: incarnation.to_string(), first: hex(first), cores }
        }
        Ok(ControlRecord::Watermark { node, incarnation, version, flags, rests_on }) => {
            let rest = |(incarnation, core, lsn): (wal::Incarnation, wal::CoreId, wal::Lsn)| RestJson {
                incarnation: incarnation.to_string(),
                core: core.0,
                lsn: lsn.0,
            };
            ControlJson::Watermark {
                node: node.to_string(),
                incarnation: incarnation.to_string(),
                version: hex(version),
                flags,
                rests_on: rests_on.into_iter().map(rest).collect(),
            }
        }
        Ok(ControlRecord::ClockCeiling { version }) => ControlJson::ClockCeiling { version: hex(version) },
        Ok(ControlRecord::Forgotten { version, held }) => {
            ControlJson::Forgotten { version: hex(version), held: hex(held) }
        }
        Ok(ControlRecord::Bootstrap { begun, ended, version, held }) => {
            ControlJson::Bootstrap { begun: hex(begun), ended: hex(ended), version: hex(version), held: hex(held) }
        }
        Ok(ControlRecord::Close { node, incarnation, version }) => {
            ControlJson::Close { node: node.to_string(), incarnation: incarnation.to_string(), version: hex(version) }
        }
        Ok(ControlRecord::Membership { node, state, region, at }) => ControlJson::Membership {
            node: node.to_string(),
            state: member_state(state),
            region: text::percent_encode(region.as_bytes()),
            at: hex(at),
        },
    }
}

fn member_state(state: MemberState) -> &'static str {
    match state {
        MemberState::Joined => "joined",
        MemberState::Removed => "removed",
    }
}

pub(crate) fn frame_kind(kind: FrameKind) -> &'static str {
    match kind {
        FrameKind::Originated => "originated",
        FrameKind::Followed => "followed",
        FrameKind::Local => "local",
        FrameKind::Compacted => "compacted",
        FrameKind::CompactedFollowed => "compacted-followed",
    }
}

/// The record's line, without its end.
pub(crate) fn record_line(placed: &PlacedRecord<'_>, style: RecordStyle) -> Result<String, InspectError> {
    if style.json { record_json(placed) } else { Ok(record_text(placed, style)) }
}

fn record_text(placed: &PlacedRecord<'_>, style: RecordStyle) -> String {
    let record = &placed.record;
    let mut line = String::with_capacity(96 + record.key.len());
    match record.op {
        RecordOp::Put => {
            line.push_str("VPUT ");
            text::push_percent_encoded(&mut line, record.key);
            line.push('=');
            let shown = record.value.get(..style.value_bytes_max).unwrap_or(record.value);
            text::push_percent_encoded(&mut line, shown);
            if shown.len() < record.value.len() {
                line += &format!("…[{} of {} bytes]", shown.len(), record.value.len());
            }
        }
        RecordOp::Delete => {
            line.push_str("VDEL ");
            text::push_percent_encoded(&mut line, record.key);
        }
        RecordOp::Control => {
            line.push_str("VCTL ");
            line.push_str(&control_text(record.key, record.value));
        }
    }
    line.push('@');
    line.push_str(&text::version(record.version));
    if let Some(expiry) = record.expiry {
        line += &format!(" expires={}", text::rfc3339(expiry));
    }
    if style.long {
        let header = placed.segment;
        line += &format!(
            " origin={} core={} incarnation={} segment={} lsn={} frame={}",
            record.origin,
            header.core,
            header.incarnation,
            header.number,
            placed.lsn,
            frame_kind(placed.frame.kind())
        );
    }
    line
}

fn record_json(placed: &PlacedRecord<'_>) -> Result<String, InspectError> {
    let record = &placed.record;
    let header = placed.segment;
    let is_control = record.op == RecordOp::Control;
    let kind = match record.op {
        RecordOp::Put => "put",
        RecordOp::Delete => "delete",
        RecordOp::Control => "control",
    };
    let fields = RecordJson {
        key: (!is_control).then(|| text::percent_encode(record.key)),
        value: (record.op == RecordOp::Put).then(|| text::percent_encode(record.value)),
        control: is_control.then(|| control_json(record.key, record.value)),
        version: format!("{:#018x}", record.version.0),
        time: text::rfc3339(record.version.unix_ms()),
        origin: record.origin.to_string(),
        expiry_unix_ms: record.expiry,
        core: header.core.0,
        incarnation: header.incarnation.to_string(),
        segment: header.number.0,
        lsn: placed.lsn.0,
        file_offset: placed.file_offset(),
        bytes: record.bytes.len(),
        crc: format!("{:#010x}", record.crc()),
        frame: frame_kind(placed.frame.kind()),
        frame_lsn: placed.frame.lsn().0,
    };
    json_line(kind, &fields)
}

/// A control record in words; what cannot be read is shown as it is.
pub(crate) fn control_text(key: &[u8], value: &[u8]) -> String {
    match ControlRecord::decode(key, value) {
        Err(error) => {
            format!("unreadable key={} value={} ({error})", text::percent_encode(key), text::percent_encode(value))
        }
        Ok(ControlRecord::Open { node, incarnation, first, cores }) => {
            format!("open node={node} incarnation={incarnation} first={} cores={cores}", text::version(first))
        }
        Ok(ControlRecord::Watermark { node, incarnation, version, flags, rests_on }) => {
            let rests: Vec<String> =
                rests_on.iter().map(|(incarnation, core, lsn)| format!("{incarnation}/{core}/{lsn}")).collect();
            format!(
                "watermark node={node} incarnation={incarnation} version={} flags={flags:#x} rests-on={}",
                text::version(version),
                rests.join(",")
            )
        }
        Ok(ControlRecord::ClockCeiling { version }) => format!("clock-ceiling version={}", text::version(version)),
        Ok(ControlRecord::Forgotten { version, held }) => {
            format!("forgotten version={} held={}", text::version(version), text::version(held))
        }
        Ok(ControlRecord::Bootstrap { begun, ended, version, held }) => {
            let [begun, ended, version, held] = [begun, ended, version, held].map(text::version);
            format!("bootstrap begun={begun} ended={ended} version={version} held={held}")
        }
        Ok(ControlRecord::Close { node, incarnation, version }) => {
            format!("close node={node} incarnation={incarnation} version={}", text::version(version))
        }
        Ok(ControlRecord::Membership { node, state, region, at }) => {
            let state = member_state(state);
            let region = text::percent_encode(region.as_bytes());
            format!("membership node={node} state={state} region={region} at={}", text::version(at))
        }
    }
}
