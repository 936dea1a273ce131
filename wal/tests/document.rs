//! Ties docs/WAL_FORMAT.md to the source: a document that drifts is worse than none.

mod support;

use std::collections::BTreeSet;

use support::{NODE, RUN, SEGMENT_BYTES, draft, version};
use wal::limits::{
    FRAME_ALIGN_BYTES, RECORD_ALIGN_BYTES, SECTOR_BYTES, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENT_BYTES_STEP,
};
use wal::recovery::{RecoveryError, Row};
use wal::{
    ControlKind, ControlRecord, Cookie, CoreId, EPOCH_2020_UNIX_MS, FORMAT_VERSION, FRAME_FIELDS, FRAME_HEADER_BYTES,
    FRAME_MAGIC, Field, FrameError, FrameFlags, FrameHeader, FrameKind, FrameView, Lsn, MemberState, OriginRange,
    RECORD_FIELDS, RECORD_HEADER_BYTES, REGION_NAME_BYTES_MAX, RecordDraft, RecordError, RecordFlags, RecordOp,
    RecordView, SEAL_BYTES_MAX, SEAL_ENTRIES_MAX, SEAL_ENTRY_FIELDS, SEAL_FIELDS, SEAL_HEADER_BYTES, SEAL_MAGIC,
    SEAL_OFFSET, SEGMENT_FIELDS, SEGMENT_HEADER_BYTES, SEGMENT_MAGIC, SealBlock, SealState, SegmentHeader,
    SegmentHeaderError, SegmentLink, SegmentNumber, Version, checkpoint_file_name, crc32c, frame_bytes,
    segment_file_name, temporary_file_name,
};

const DOCUMENT: &str = include_str!("../../docs/WAL_FORMAT.md");

/// The document from behind the heading on.
fn section(heading: &str) -> &'static str {
    let start = DOCUMENT.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading:?}"));
    &DOCUMENT[start + heading.len() + 2..]
}

/// The cells of the first table under the heading, without its two head lines; backticks removed.
fn table(heading: &str) -> Vec<Vec<String>> {
    section(heading)
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect())
        .collect()
}

/// Two columns of a table as a set; every cell is filled.
fn pairs(heading: &str) -> BTreeSet<(String, String)> {
    let rows = table(heading);
    assert!(rows.iter().flatten().all(|cell| !cell.is_empty()), "{heading}: an empty cell");
    let pairs: BTreeSet<_> = rows.iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    assert_eq!(pairs.len(), rows.len(), "{heading}: a row twice");
    pairs
}

fn set<A: ToString, B: ToString>(rows: impl IntoIterator<Item = (A, B)>) -> BTreeSet<(String, String)> {
    rows.into_iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
}

/// The hexadecimal sample of that name.
fn golden(name: &str) -> String {
    let fence = format!("```golden {name}\n");
    let start = DOCUMENT.find(&fence).unwrap_or_else(|| panic!("no golden sample of {name}")) + fence.len();
    let block = &DOCUMENT[start..start + DOCUMENT[start..].find("```").expect("an end")];
    block.split_whitespace().collect()
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    (0..hex.len()).step_by(2).map(byte).collect()
}

/// Compares without the padding of a test's output, so that a new sample can be copied from it.
fn assert_golden(name: &str, bytes: &[u8]) {
    let actual: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(golden(name) == actual, "the sample {name:?} is not what the source writes:\n{actual}");
}

#[test]
fn the_field_tables_have_the_offsets_and_sizes_of_the_structures() {
    let structures: [(&str, &[Field], usize); 5] = [
        ("## Segment header", SEGMENT_FIELDS, 80),
        ("## Seal block", SEAL_FIELDS, SEAL_HEADER_BYTES),
        ("### Seal entry", SEAL_ENTRY_FIELDS, 24),
        ("## Frame", FRAME_FIELDS, FRAME_HEADER_BYTES),
        ("## Record", RECORD_FIELDS, RECORD_HEADER_BYTES),
    ];
    for (heading, fields, size) in structures {
        let documented: Vec<(String, usize, usize)> = table(heading)
            .into_iter()
            .map(|row| {
                assert!(row.len() == 4 && !row[3].is_empty(), "{heading}: {row:?}");
                (row[0].clone(), row[1].parse().expect("an offset"), row[2].parse().expect("a size"))
            })
            .collect();
        let actual: Vec<(String, usize, usize)> =
            fields.iter().map(|(name, offset, size)| ((*name).to_owned(), *offset, *size)).collect();
        assert_eq!(documented, actual, "{heading}");
        let mut end = 0;
        for (name, offset, size) in actual {
            assert_eq!(offset, end, "{heading}: {name} does not follow its predecessor");
            end = offset + size;
        }
        assert_eq!(end, size, "{heading}");
    }
}

#[test]
fn every_field_stands_in_the_byte_grid_of_its_structure() {
    for (heading, fields) in [
        ("## Segment header", SEGMENT_FIELDS),
        ("## Seal block", SEAL_FIELDS),
        ("## Frame", FRAME_FIELDS),
        ("## Record", RECORD_FIELDS),
    ] {
        let grid = section(heading).split("```").nth(1).expect("a grid");
        for &(name, offset, size) in fields {
            let row = format!("{:>4} |", offset / 8 * 8);
            let line = grid.lines().find(|line| line.starts_with(&row)).unwrap_or_else(|| panic!("{heading}: {row}"));
            // A byte is nine characters wide; cells end in bars.
            let start = 5 + offset % 8 * 9;
            let cell = &line[start..=start + size * 9];
            assert!(cell.starts_with('|') && cell.ends_with('|'), "{heading}: {name}: {cell:?}");
            assert_eq!(cell.trim_matches('|').trim(), name, "{heading}");
        }
    }
}

#[test]
fn the_constants_table_has_the_values_of_the_source() {
    let actual = [
        ("FORMAT_VERSION", FORMAT_VERSION.to_string()),
        ("SEGMENT_MAGIC", format!("{SEGMENT_MAGIC:#018x}")),
        ("SEAL_MAGIC", format!("{SEAL_MAGIC:#018x}")),
        ("FRAME_MAGIC", format!("{FRAME_MAGIC:#010x}")),
        ("SECTOR_BYTES", SECTOR_BYTES.to_string()),
        ("SEGMENT_HEADER_BYTES", SEGMENT_HEADER_BYTES.to_string()),
        ("SEGMENT_BYTES_MIN", SEGMENT_BYTES_MIN.to_string()),
        ("SEGMENT_BYTES_MAX", SEGMENT_BYTES_MAX.to_string()),
        ("SEGMENT_BYTES_STEP", SEGMENT_BYTES_STEP.to_string()),
        ("SEAL_OFFSET", SEAL_OFFSET.to_string()),
        ("SEAL_HEADER_BYTES", SEAL_HEADER_BYTES.to_string()),
        ("SEAL_BYTES_MAX", SEAL_BYTES_MAX.to_string()),
        ("SEAL_ENTRIES_MAX", SEAL_ENTRIES_MAX.to_string()),
        ("FRAME_HEADER_BYTES", FRAME_HEADER_BYTES.to_string()),
        ("FRAME_ALIGN_BYTES", FRAME_ALIGN_BYTES.to_string()),
        ("RECORD_HEADER_BYTES", RECORD_HEADER_BYTES.to_string()),
        ("RECORD_ALIGN_BYTES", RECORD_ALIGN_BYTES.to_string()),
        ("REGION_NAME_BYTES_MAX", REGION_NAME_BYTES_MAX.to_string()),
    ];
    assert_eq!(pairs("## Constants"), set(actual));
    for (magic, text) in [
        (SEGMENT_MAGIC.to_le_bytes().to_vec(), "`GODWITSG`"),
        (SEAL_MAGIC.to_le_bytes().to_vec(), "`GODWITSL`"),
        (FRAME_MAGIC.to_le_bytes().to_vec(), "`GWFR`"),
    ] {
        assert_eq!(text.trim_matches('`').as_bytes(), magic);
        assert!(section("## Constants").contains(text), "{text}");
    }
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    assert!(DOCUMENT.contains("0xe3069283") && DOCUMENT.contains("0x82f63b78"));
}

#[test]
fn the_numbers_of_every_enumeration_are_documented() {
    let kinds = [
        FrameKind::Originated,
        FrameKind::Followed,
        FrameKind::Local,
        FrameKind::Compacted,
        FrameKind::CompactedFollowed,
    ];
    assert_eq!(pairs("### Frame kinds"), set(kinds.map(|kind| (kind as u8, format!("{kind:?}")))));
    assert_eq!(pairs("### Frame flags"), set([(FrameFlags::END_OF_SEGMENT.0, "END_OF_SEGMENT")]));
    assert_eq!(
        pairs("### Record ops"),
        set([
            (RecordOp::Put as u8, "put"),
            (RecordOp::Delete as u8, "delete"),
            (RecordOp::Control as u8, "control"),
            (4, "counter"),
            (5, "chunk"),
            (6, "set-expiry")
        ])
    );
    assert_eq!(pairs("### Record flags"), set([(RecordFlags::EXPIRY.0, "EXPIRY"), (RecordFlags::STUB.0, "STUB")]));
    let kinds = [
        ControlKind::Open,
        ControlKind::Watermark,
        ControlKind::ClockCeiling,
        ControlKind::Forgotten,
        ControlKind::Bootstrap,
        ControlKind::Close,
        ControlKind::Membership,
    ];
    assert_eq!(pairs("## Control records"), set(kinds.map(|kind| (kind as u8, format!("{kind:?}")))));
    let states = format!("{} joined, {} removed", MemberState::Joined as u8, MemberState::Removed as u8);
    assert!(section("### Body of Membership").contains(&states), "{states}");
}

#[test]
fn the_reserved_numbers_are_refused_as_the_document_says() {
    let mut record = draft(1, b"key", b"value").to_vec();
    for row in table("### Record ops").iter().filter(|row| row[2] == "Reserved.") {
        record[28] = row[0].parse().expect("a number");
        assert_eq!(RecordView::parse_trusted(&record), Err(RecordError::NewerOp(record[28])));
    }
    assert_eq!(table("### Record ops").iter().filter(|row| row[2] == "Reserved.").count(), 3);
}

#[test]
fn the_version_table_is_the_layout_of_a_version() {
    let mut documented = Vec::new();
    for row in table("### Versions") {
        let bits: u32 = row[1].parse().expect("bits");
        let lowest: u32 = row[2].parse().expect("a bit");
        documented.push((row[0].clone(), ((1u128 << bits) - 1) << lowest));
    }
    let actual = [
        ("ms", Version::new(Version::MS_MAX, 0, 0)),
        ("logic", Version::new(0, u16::MAX, 0)),
        ("tag", Version::new(0, 0, u16::MAX)),
    ];
    assert_eq!(documented, actual.map(|(part, version)| (part.to_owned(), u128::from(version.0))));
    let epoch = DOCUMENT.replace(',', "");
    assert!(epoch.contains(&format!("{EPOCH_2020_UNIX_MS} ms since 1970")), "{EPOCH_2020_UNIX_MS}");
}

#[test]
fn the_bodies_of_control_records_have_the_documented_fields() {
    let at = version(1);
    let records = [
        ControlRecord::Open { node: NODE, incarnation: RUN, first: at, cores: 2 },
        ControlRecord::Watermark { node: NODE, incarnation: RUN, version: at, flags: 0, rests_on: Vec::new() },
        ControlRecord::ClockCeiling { version: at },
        ControlRecord::Forgotten { version: at, held: at },
        ControlRecord::Bootstrap { begun: at, ended: at, version: at, held: at },
        ControlRecord::Close { node: NODE, incarnation: RUN, version: at },
        ControlRecord::Membership { node: NODE, state: MemberState::Joined, region: String::new(), at },
    ];
    for record in records {
        let (_, body) = record.encode();
        let mut end = 0;
        for row in table(&format!("### Body of {:?}", record.kind())) {
            assert_eq!(row[1].parse(), Ok(end), "{row:?}");
            // A size that depends on another field is 0 in these records.
            end += row[2].parse().unwrap_or(0);
            if row[0] == "version" || row[0] == "first" || row[0] == "at" {
                assert_eq!(body[end - 8..end], at.0.to_le_bytes(), "{row:?}");
            }
        }
        assert_eq!(end, body.len(), "{record:?}");
    }
    let one = ControlRecord::Watermark {
        node: NODE,
        incarnation: RUN,
        version: at,
        flags: 0,
        rests_on: vec![(RUN, CoreId(1), Lsn(2))],
    };
    assert_eq!(one.encode().1.len(), 26 + 18);
}

#[test]
fn the_file_names_are_those_of_the_document() {
    let (core, number) = (CoreId(3), SegmentNumber(42));
    let names: Vec<String> = table("## Files").into_iter().map(|row| row[0].clone()).collect();
    assert_eq!(names, [segment_file_name(core, number), temporary_file_name(core, number), checkpoint_file_name(core)]);
}

#[test]
fn every_finding_at_a_position_is_in_the_table_with_its_class() {
    let findings = [
        FrameError::Incomplete { needed: 64, available: 0 },
        FrameError::Blank,
        FrameError::Magic,
        FrameError::HeaderCrc,
        FrameError::ForeignCookie(Cookie(1)),
        FrameError::Misplaced(Lsn(0)),
        FrameError::Chain { expected: 0, found: 1 },
        FrameError::Newer("frame kind"),
        FrameError::Value("durable beyond itself"),
        FrameError::PayloadCrc,
        FrameError::Padding,
        FrameError::Record { index: 0, error: RecordError::Padding },
        FrameError::RecordCount { expected: 1, found: 0 },
    ];
    // A new finding does not compile until it is listed above and here.
    let name = |finding: &FrameError| match finding {
        FrameError::Incomplete { .. } => "Incomplete",
        FrameError::Blank => "Blank",
        FrameError::Magic => "Magic",
        FrameError::HeaderCrc => "HeaderCrc",
        FrameError::ForeignCookie(_) => "ForeignCookie",
        FrameError::Misplaced(_) => "Misplaced",
        FrameError::Chain { .. } => "Chain",
        FrameError::Newer(_) => "Newer",
        FrameError::Value(_) => "Value",
        FrameError::PayloadCrc => "PayloadCrc",
        FrameError::Padding => "Padding",
        FrameError::Record { .. } => "Record",
        FrameError::RecordCount { .. } => "RecordCount",
    };
    let actual = findings.iter().map(|f| (name(f), if f.is_intact() { "refuse" } else { "cut" }));
    assert_eq!(pairs("## What stands at a position"), set(actual));
}

#[test]
fn every_decision_of_recovery_is_in_the_table_with_a_reason() {
    let file = String::new;
    let refusals = [
        RecoveryError::Header { file: file(), error: SegmentHeaderError::Magic },
        RecoveryError::Misnamed { file: file(), belongs: file() },
        RecoveryError::ForeignNode { file: file(), found: NODE, expected: NODE },
        RecoveryError::Duplicate { file: file(), other: file() },
        RecoveryError::MissingSegment {
            before: file(),
            after: file(),
            number: SegmentNumber(1),
            from: Lsn(0),
            to: Lsn(1),
        },
        RecoveryError::Corrupt { file: file(), from: Lsn(0), to: Lsn(1), offset: 0, reason: FrameError::Blank },
        RecoveryError::Unreadable { file: file(), at: Lsn(0), error: FrameError::Newer("") },
        RecoveryError::SealContradicts { file: file(), seal: file(), frames: file() },
    ];
    // A new refusal does not compile until it is listed above and here.
    let name = |refusal: &RecoveryError| match refusal {
        RecoveryError::Header { .. } => "Header",
        RecoveryError::Misnamed { .. } => "Misnamed",
        RecoveryError::ForeignNode { .. } => "ForeignNode",
        RecoveryError::Duplicate { .. } => "Duplicate",
        RecoveryError::MissingSegment { .. } => "MissingSegment",
        RecoveryError::Corrupt { .. } => "Corrupt",
        RecoveryError::Unreadable { .. } => "Unreadable",
        RecoveryError::SealContradicts { .. } => "SealContradicts",
    };
    let rows = table("## Recovery");
    assert!(rows.iter().all(|row| row.len() == 3 && row.iter().all(|cell| !cell.is_empty())), "{rows:?}");
    let documented: BTreeSet<&str> = rows.iter().map(|row| row[1].as_str()).collect();
    let mut actual: BTreeSet<&str> = refusals.iter().map(name).collect();
    actual.extend(Row::ALL.map(Row::label));
    actual.insert("removed");
    assert_eq!(documented, actual);
    for row in Row::ALL {
        assert_eq!(rows.iter().filter(|cells| cells[1] == row.label()).count(), 1, "{row}");
    }
}

fn sample_header() -> SegmentHeader {
    SegmentHeader {
        segment_bytes: SEGMENT_BYTES,
        node: NODE,
        incarnation: RUN,
        core: CoreId(3),
        number: SegmentNumber(2),
        cookie: Cookie(0xc0c0_c0c0_0000_0002),
        base: Lsn(SEGMENT_BYTES),
        previous: Some(SegmentLink { number: SegmentNumber(1), cookie: Cookie(0xc0c0_c0c0_0000_0001) }),
    }
}

#[test]
fn the_golden_segment_header_is_what_the_source_writes_and_reads() {
    let page = sample_header().encode_page();
    assert_golden("segment", &page[..80]);
    let mut read = bytes_of(&golden("segment"));
    read.resize(SEGMENT_HEADER_BYTES, 0);
    assert_eq!(SegmentHeader::parse(&read), Ok(sample_header()));
}

#[test]
fn the_golden_seal_is_what_the_source_writes_and_reads() {
    let segment = sample_header().link();
    let seal = SealBlock {
        segment,
        end: Lsn(SEGMENT_BYTES + 4096 + 192),
        durable: Lsn(SEGMENT_BYTES + 4096 + 192),
        records: 2,
        last_header_crc: 0x1234_5678,
        origins: Some(vec![OriginRange { origin: NODE, min: version(1000), max: version(1001) }]),
    };
    let block = seal.encode();
    assert!(block.len() == SECTOR_BYTES && block[88..].iter().all(|&byte| byte == 0));
    assert_golden("seal", &block[..88]);
    let mut page = vec![0; SEGMENT_HEADER_BYTES];
    support::write_seal(&mut page, &bytes_of(&golden("seal")));
    assert_eq!(SealBlock::read(&page, segment), SealState::Valid(seal));
}

#[test]
fn the_golden_frame_is_what_the_source_writes_and_reads() {
    let first = draft(1000, b"greeting", b"hello");
    let second = RecordDraft { expiry: Some(1_700_000_000_000), ..draft(1001, b"k", b"gone soon") };
    let payload = [first.to_vec(), second.to_vec()].concat();
    let (lsn, cookie) = (Lsn(4096), Cookie(0xc0c0_c0c0_0000_0001));
    let mut header = FrameHeader {
        header_crc: 0,
        lsn,
        cookie,
        durable: lsn,
        hlc: version(1001),
        payload_len: u32::try_from(payload.len()).expect("small"),
        payload_crc: crc32c(&payload),
        records: 2,
        kind: FrameKind::Originated,
        flags: FrameFlags::NONE,
        previous_header_crc: 0,
    };
    let mut frame = header.encode().to_vec();
    frame.extend(&payload);
    frame.resize(frame_bytes(payload.len()), 0);
    assert_golden("frame", &frame);
    let read = bytes_of(&golden("frame"));
    let view = FrameView::parse(&read, lsn, cookie).expect("a frame");
    assert_eq!(view.verify_records(), Ok(()));
    let records: Vec<_> = view
        .records()
        .map(|record| record.expect("a record"))
        .map(|record| (record.version, record.key, record.value, record.expiry))
        .collect();
    assert_eq!(
        records,
        [
            (first.version, &b"greeting"[..], &b"hello"[..], None),
            (second.version, &b"k"[..], &b"gone soon"[..], second.expiry)
        ]
    );
}

#[test]
fn the_golden_control_record_is_what_the_source_writes_and_reads() {
    let open = ControlRecord::Open { node: NODE, incarnation: RUN, first: version(1000), cores: 2 };
    let (key, value) = open.encode();
    let record = RecordDraft { op: RecordOp::Control, ..draft(1000, &key, &value) }.to_vec();
    assert_golden("control", &record);
    let read = bytes_of(&golden("control"));
    let (record, padded) = RecordView::parse(&read).expect("a record");
    assert_eq!((record.op, padded), (RecordOp::Control, read.len()));
    assert_eq!(ControlRecord::decode(record.key, record.value), Ok(open));
}
