//! Ties docs/WIRE_PROTOCOL.md to the source: a document that drifts is worse than none.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use net::wire::Opcode;
use net::wire::body::{
    ConditionKind, EntryState, ErrorCode, LogState, MemberState, Outcome, Purpose, RefuseCode, RefusedCode,
};
use net::wire::header::{FIELDS, HEADER_BYTES};
use net::wire::limits;
use net::wire::opcode::RETIRED;
use net::wire::samples::{packed_more, packed_records, samples};

const DOCUMENT: &str = include_str!("../../docs/WIRE_PROTOCOL.md");

/// The cells of the table under the heading, without its two head lines; backticks removed.
fn table(heading: &str) -> Vec<Vec<String>> {
    let start = DOCUMENT.find(heading).unwrap_or_else(|| panic!("no heading {heading:?}"));
    DOCUMENT[start..]
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect())
        .collect()
}

#[test]
fn the_header_table_has_the_offsets_of_the_struct() {
    let documented: Vec<(String, usize, usize)> = table("## Header")
        .into_iter()
        .map(|row| (row[0].clone(), row[1].parse().unwrap(), row[2].parse().unwrap()))
        .collect();
    let actual: Vec<(String, usize, usize)> =
        FIELDS.iter().map(|(name, offset, size)| ((*name).to_owned(), *offset, *size)).collect();
    assert_eq!(documented, actual);
    let mut end = 0;
    for (name, offset, size) in actual {
        assert_eq!(offset, end, "{name} does not follow its predecessor");
        end = offset + size;
    }
    assert_eq!(end, HEADER_BYTES);
}

#[test]
fn the_command_table_lists_every_opcode() {
    let documented: Vec<(u16, String)> = table("## Commands")
        .into_iter()
        .map(|row| {
            assert!(row.len() == 5 && row.iter().all(|cell| !cell.is_empty()), "{row:?}");
            (u16::from_str_radix(row[0].trim_start_matches("0x"), 16).unwrap(), row[1].clone())
        })
        .collect();
    let mut actual: Vec<(u16, String)> = Opcode::ALL.iter().map(|o| (o.code(), o.name().to_owned())).collect();
    actual.extend(RETIRED.iter().map(|(code, name)| (*code, (*name).to_owned())));
    actual.sort();
    assert_eq!(documented, actual);
}

#[test]
fn the_limits_table_has_the_values_of_the_source() {
    let documented: BTreeMap<String, usize> = table("## Limits that both sides keep")
        .into_iter()
        .map(|row| (row[0].clone(), row[1].parse().unwrap()))
        .collect();
    let actual = [
        ("CONTROL_BODY_BYTES_MAX", limits::CONTROL_BODY_BYTES_MAX),
        ("RECORDS_PAYLOAD_BYTES_MAX", limits::RECORDS_PAYLOAD_BYTES_MAX),
        ("MORE_RAW_BYTES_MAX", limits::MORE_RAW_BYTES_MAX),
        ("MEMBERS_MAX", limits::MEMBERS_MAX),
        ("WATERMARKS_MAX", limits::WATERMARKS_MAX),
        ("LOGS_MAX", limits::LOGS_MAX),
        ("LEAVES", limits::LEAVES),
        ("LEAVES_PER_PART", limits::LEAVES_PER_PART),
        ("PARTS", limits::PARTS),
        ("SUMS_MAX", limits::SUMS_MAX),
        ("INSPECT_LEAVES_MAX", limits::INSPECT_LEAVES_MAX),
        ("REGIONS_MAX", limits::REGIONS_MAX),
        ("ENTRIES_MAX", limits::ENTRIES_MAX),
        ("REFUSED_MAX", limits::REFUSED_MAX),
        ("TEXT_BYTES_MAX", limits::TEXT_BYTES_MAX),
        ("METADATA_BYTES_MAX", limits::METADATA_BYTES_MAX),
        ("PROOF_BYTES_MAX", limits::PROOF_BYTES_MAX),
        ("KEY_BYTES_MAX", limits::KEY_BYTES_MAX),
        ("VALUE_BYTES_MAX", limits::VALUE_BYTES_MAX),
        ("HOLDERS_MAX", limits::HOLDERS_MAX),
        ("TOKEN_NODES_MAX", limits::TOKEN_NODES_MAX),
        ("TOKEN_BYTES_MAX", limits::TOKEN_BYTES_MAX),
        ("SESSION_MS_MAX", limits::SESSION_MS_MAX as usize),
        ("KEYS_MAX", limits::KEYS_MAX),
        ("CLIENT_NAME_BYTES_MAX", limits::CLIENT_NAME_BYTES_MAX),
        ("KEYED_BODY_BYTES_MAX", limits::KEYED_BODY_BYTES_MAX),
        ("KEYS_BODY_BYTES_MAX", limits::KEYS_BODY_BYTES_MAX),
        ("VALUE_BODY_BYTES_MAX", limits::VALUE_BODY_BYTES_MAX),
        ("WRITE_BODY_BYTES_MAX", limits::WRITE_BODY_BYTES_MAX),
    ];
    assert_eq!(documented, actual.into_iter().map(|(name, value)| (name.to_owned(), value)).collect());
}

#[test]
fn every_message_has_a_section_and_its_golden_sample() {
    let headings: Vec<&str> =
        DOCUMENT.lines().filter_map(|line| line.strip_prefix("### ")).flat_map(|line| line.split(", ")).collect();
    let names: Vec<&str> = Opcode::ALL.iter().map(|opcode| opcode.name()).collect();
    assert_eq!(headings, names);
    for sample in samples().unwrap() {
        let name = sample.message.opcode().name();
        let fence = format!("```golden {name}\n");
        let start = DOCUMENT.find(&fence).unwrap_or_else(|| panic!("no golden sample of {name}")) + fence.len();
        let block = &DOCUMENT[start..start + DOCUMENT[start..].find("```").unwrap()];
        let documented: String = block.split_whitespace().collect();
        assert_eq!(documented, sample.frame_hex, "{name}");
    }
}

#[test]
fn the_packed_samples_are_documented() {
    for (name, sample) in [("Records", packed_records().0), ("More", packed_more().0)] {
        let fence = format!("```golden packed {name}\n");
        let start = DOCUMENT.find(&fence).expect("the packed sample") + fence.len();
        let documented: String = DOCUMENT[start..].lines().take_while(|line| *line != "```").collect();
        assert_eq!(documented, sample.frame_hex, "{name}");
    }
}

#[test]
fn the_codes_of_every_enumeration_are_documented() {
    let rows: [(&str, &str, Vec<u16>); 9] = [
        ("### Hello,", "purpose", Purpose::ALL.iter().map(|c| c.code().into()).collect()),
        ("### Hello,", "members", MemberState::ALL.iter().map(|c| c.code().into()).collect()),
        ("### Refuse", "code", RefuseCode::ALL.iter().map(|c| c.code()).collect()),
        ("### Error", "code", ErrorCode::ALL.iter().map(|c| c.code()).collect()),
        ("### ListReply", "entries", EntryState::ALL.iter().map(|c| c.code().into()).collect()),
        ("### FederatedAck", "refused", RefusedCode::ALL.iter().map(|c| c.code()).collect()),
        ("### Put", "condition", ConditionKind::ALL.iter().map(|c| c.code().into()).collect()),
        ("### Written", "outcome", Outcome::ALL.iter().map(|c| c.code().into()).collect()),
        ("### Logs", "logs", LogState::ALL.iter().map(|c| c.code().into()).collect()),
    ];
    for (section, field, codes) in rows {
        let row = table(section).into_iter().find(|row| row[0] == field).unwrap();
        let numbers: Vec<u16> =
            row[2].split(|c: char| !c.is_alphanumeric()).filter_map(|word| word.parse().ok()).collect();
        assert!(numbers.ends_with(&codes), "{section} {field}: {numbers:?} are documented, {codes:?} exist");
    }
}
