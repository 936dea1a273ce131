//! The samples of what nodes are asked when their values are compared; see [`super::samples`].

use bytes::Bytes;

use super::body::{Compare, Coverage, Covered, Entries, Entry, Fetch, Inspect, Lookup, Repair, Repaired, Sums, Survey};
use super::message::Message;
use super::samples::{Sample, sample};
use crate::ids::{Incarnation, LogId, NameError, NodeId, RegionName, Version};

pub(super) fn samples() -> Result<Vec<Sample>, NameError> {
    let (node, incarnation) = (NodeId(0x0a00_0001), Incarnation(0x1122_3344_5566_7788));
    let covered = Covered { log: LogId { node, incarnation }, first: Version(0x0100_0000), upto: Version(0x0200_0000) };
    let region = RegionName::parse("sfo")?;
    let regions = vec![region.clone(), RegionName::parse("ams")?];
    let coverage = Coverage { node, region, physical_ms: 1_767_225_600_000, logs: vec![covered] };
    let entry = Entry {
        version: Version(0x0180_0000),
        origin: node,
        crc: 0xc0ff_ee00,
        is_tombstone: true,
        expiry: 0,
        key_hash: 0x0102_0304_0506_0708,
        key: Bytes::from_static(b"user:1"),
    };
    let survey = Survey { upto: Version(0x0200_0000), expiry_above: 1_767_225_600_000, regions: regions.clone() };
    let inspect = Inspect { cursor: 0, leaves: vec![0x0102, 0x0304], regions };
    let lookup = Lookup { keys: vec![Bytes::from_static(b"user:1")], regions: Vec::new() };
    let compare = Compare { upto: survey.upto, expiry_above: survey.expiry_above };
    Ok(vec![
        sample(1, Message::Survey(survey), SURVEY),
        sample(2, Message::Inspect(inspect), INSPECT),
        sample(3, Message::Lookup(lookup), LOOKUP),
        sample(1, Message::Coverage(coverage), COVERAGE),
        sample(1, Message::Sums(Sums { more: true, keys: 2, first: 0x0102, sums: vec![3, 0, 4] }), SUMS),
        sample(2, Message::Entries(Entries { more: false, cursor: 0, entries: vec![entry] }), ENTRIES),
        sample(3, Message::Fetch(Fetch { keys: vec![Bytes::from_static(b"user:1")] }), FETCH),
        sample(1, Message::Compare(compare), COMPARE),
        sample(4, Message::Repair(Repair), REPAIR),
        sample(4, Message::Repaired(Repaired { compared: 2, not_compared: 1, lacking: 3, repaired: 3 }), REPAIRED),
    ])
}

// Golden frames, in order of the opcodes: the header on the first line, then the body.
const SURVEY: &str = "\
    c7011001000000001c00000001000000c755e6ab000000000000000006573134\
    000000020000000000a8da769b0100000200030073666f0300616d73";
const INSPECT: &str = "\
    c7011101000000001a000000020000007b04f0880000000000000000226d1167\
    00000000000000000200020104030200030073666f0300616d73";
const LOOKUP: &str = "\
    c7011201000000000c000000030000007647d07400000000000000008ce1e40f\
    01000600757365723a310000";
const COVERAGE: &str = "\
    c7011301000000002f000000010000001a81ce940000000000000000887a207c\
    0100000a030073666f00a8da769b01000001000100000a887766554433221100000001000000000000000200000000";
const SUMS: &str = "\
    c70114010000000026000000010000002e03144c00000000000000001c42dbb3\
    0100020000000000000002010300030000000000000000000000000000000400000000000000";
const ENTRIES: &str = "\
    c7011501000000003500000002000000718899e500000000000000000c982ae8\
    00000000000000000000010000008001000000000100000a00eeffc00100000000000000000807060504030201060075\
    7365723a31";
const FETCH: &str = "\
    c7011601000000000a000000030000000f73a09d00000000000000001bb87b35\
    01000600757365723a31";
const COMPARE: &str = "\
    c70117010000000010000000010000008421197500000000000000005a47be02\
    000000020000000000a8da769b010000";
const REPAIR: &str = "\
    c7011801000000000000000004000000000000000000000000000000430ea3a0";
const REPAIRED: &str = "\
    c7011901000000001400000004000000f55c971500000000000000007924185f\
    0200010003000000000000000300000000000000";
