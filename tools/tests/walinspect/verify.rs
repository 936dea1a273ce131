//! Every class of finding, with its evidence, its exit code and its plan.

use std::fs;

use wal::{Cookie, CoreId, Incarnation, Lsn, SegmentHeader, SegmentNumber, crc32c};

use crate::support::{
    NODE, PEER, RUN, SEGMENT_BYTES, TestLog, change, data_dir, groups, hold, inspect, name_of, segments,
};

/// Changes a frame's header and makes its checksum valid again.
fn rewrite(bytes: &mut [u8], at: usize, change: impl FnOnce(&mut [u8])) {
    change(&mut bytes[at..at + 64]);
    let crc = crc32c(&bytes[at + 8..at + 64]);
    bytes[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
}

fn at(offset: u32) -> usize {
    usize::try_from(offset).expect("small")
}

#[test]
fn a_sound_log_is_sound_and_nothing_is_to_be_done() {
    let dir = data_dir(NODE);
    segments(dir.path());
    let ran = inspect("verify", dir.path(), &[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let rows = ran.rows();
    assert_eq!((rows.len(), rows[0][0], rows[0][3]), (1, "sound", &name_of(4)[..]), "{ran:?}");
    assert!(ran.stderr.contains("sound: node 0a000001, 4 files"), "{}", ran.stderr);
    let plan = inspect("repair", dir.path(), &["--dry-run"]);
    assert_eq!((plan.code, &plan.stdout[..]), (0, ""), "{plan:?}");
}

#[test]
fn torn_is_what_no_sync_covered() {
    let dir = data_dir(NODE);
    let mut test = groups(dir.path(), 2);
    let end = test.log.durable();
    test.put("lost", &"y".repeat(600));
    test.seal();
    test.write();
    change(dir.path(), &name_of(1), |bytes| bytes[usize::try_from(end.0).expect("small") + 300] ^= 1);
    let ran = inspect("verify", dir.path(), &["--json"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    let [torn] = &ran.findings("torn")[..] else { panic!("{ran:?}") };
    assert_eq!((&torn["from_lsn"], &torn["file_offset"]), (&end.0.into(), &end.0.into()));
    assert_eq!((&torn["to_lsn"], &torn["file"]), (&SEGMENT_BYTES.into(), &name_of(1).into()));
    assert!(torn["evidence"].as_str().is_some_and(|text| text.contains("payload checksum")), "{torn}");
    let plan = inspect("repair", dir.path(), &["--dry-run"]);
    assert!(plan.code == 2 && plan.stdout.contains("cut: seal core-000-0000000001.wal"), "{plan:?}");
    // What was shown without the torn group is complete.
    let dump = inspect("dump", dir.path(), &[]);
    assert!(dump.code == 0 && dump.stdout.lines().count() == 2 && dump.stderr.contains("torn"), "{dump:?}");
}

#[test]
fn corrupt_is_what_something_later_declares_durable_and_the_damage_is_bounded() {
    let dir = data_dir(NODE);
    let test = groups(dir.path(), 4);
    let (hit, next, last) = (test.frames[1], test.frames[2], test.frames[3]);
    change(dir.path(), &name_of(1), |bytes| bytes[at(hit.offset) + 70] ^= 1);
    let ran = inspect("verify", dir.path(), &["--json"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    let [corrupt] = &ran.findings("corrupt")[..] else { panic!("{ran:?}") };
    assert_eq!((&corrupt["from_lsn"], &corrupt["to_lsn"]), (&hit.lsn.0.into(), &last.lsn.0.into()));
    assert_eq!(corrupt["resumes_lsn"], next.lsn.0);
    let plan = inspect("repair", dir.path(), &["--dry-run"]);
    assert!(plan.code == 3 && plan.stdout.contains("refill core-000-0000000001.wal"), "{plan:?}");
    assert_eq!(inspect("dump", dir.path(), &[]).code, 3);
}

#[test]
fn every_damaged_segment_is_named_not_only_the_first() {
    let dir = data_dir(NODE);
    let test = segments(dir.path());
    for number in [1, 3] {
        let hit = test.frames.iter().filter(|frame| frame.segment == SegmentNumber(number)).nth(1).expect("frames");
        change(dir.path(), &name_of(number), |bytes| bytes[at(hit.offset) + 100] ^= 1);
    }
    let ran = inspect("verify", dir.path(), &["--json"]);
    let files: Vec<String> = ran.findings("corrupt").iter().map(|finding| finding["file"].to_string()).collect();
    assert_eq!(files, [format!("\"{}\"", name_of(1)), format!("\"{}\"", name_of(3))], "{ran:?}");
    assert!(ran.findings("corrupt").iter().all(|finding| finding["resumes_lsn"].is_u64()), "{ran:?}");
}

#[test]
fn gap_is_a_missing_file_and_only_its_positions() {
    let dir = data_dir(NODE);
    segments(dir.path());
    fs::remove_file(dir.path().join(name_of(2))).expect("removed");
    let ran = inspect("verify", dir.path(), &["--json"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    let [gap] = &ran.findings("gap")[..] else { panic!("{ran:?}") };
    assert_eq!((&gap["file"], &gap["to_lsn"]), (&name_of(2).into(), &(2 * SEGMENT_BYTES).into()));
    let plan = inspect("repair", dir.path(), &["--dry-run"]);
    assert!(plan.stdout.contains("restore core-000-0000000002.wal"), "{plan:?}");
}

#[test]
fn misplaced_is_a_frame_or_a_file_where_another_belongs() {
    let dir = data_dir(NODE);
    let test = groups(dir.path(), 4);
    let (from, to) = (at(test.frames[0].offset), at(test.frames[1].offset));
    change(dir.path(), &name_of(1), |bytes| bytes.copy_within(from..from + 128, to));
    let ran = inspect("verify", dir.path(), &["--json"]);
    let [misplaced] = &ran.findings("misplaced")[..] else { panic!("{ran:?}") };
    assert!(ran.code == 3 && misplaced["evidence"].to_string().contains("belongs at 0x1000"), "{ran:?}");

    let dir = data_dir(NODE);
    groups(dir.path(), 1);
    fs::rename(dir.path().join(name_of(1)), dir.path().join(name_of(7))).expect("renamed");
    let ran = inspect("verify", dir.path(), &["--json"]);
    assert!(ran.code == 3 && ran.findings("misplaced").len() == 1, "{ran:?}");
    let plan = inspect("repair", dir.path(), &["--dry-run"]);
    assert!(plan.stdout.contains("rename core-000-0000000007.wal to core-000-0000000001.wal"), "{plan:?}");
}

#[test]
fn stale_bytes_of_a_recycled_file_are_no_damage() {
    let other = data_dir(NODE);
    groups(other.path(), 20);
    let old = fs::read(other.path().join(name_of(1))).expect("a segment")[4096..].to_vec();
    let dir = data_dir(NODE);
    let mut test = TestLog::from(dir.path(), NODE, Incarnation(77), 1, &old);
    test.put("key 0", "value");
    test.commit();
    test.write();
    let ran = inspect("verify", dir.path(), &["--json"]);
    let [stale] = &ran.findings("stale")[..] else { panic!("{ran:?}") };
    assert!(ran.code == 0 && stale["evidence"].to_string().contains("earlier use of this file"), "{ran:?}");

    // The end stands inside an old frame, where none begins.
    let mut shifted = old.clone();
    shifted[128..256].fill(0x55);
    let dir = data_dir(NODE);
    let mut test = TestLog::from(dir.path(), NODE, Incarnation(78), 1, &shifted);
    test.put("key 0", "value");
    test.commit();
    test.write();
    let ran = inspect("verify", dir.path(), &["--json"]);
    let [stale] = &ran.findings("stale")[..] else { panic!("{ran:?}") };
    assert!(ran.code == 0 && stale["evidence"].to_string().contains("no frame begins"), "{ran:?}");
}

#[test]
fn foreign_duplicate_and_newer_segments_are_told_apart() {
    let dir = data_dir(PEER);
    groups(dir.path(), 1);
    let ran = inspect("verify", dir.path(), &["--json"]);
    assert!(ran.code == 3 && ran.findings("foreign").len() == 1, "{ran:?}");

    let dir = data_dir(NODE);
    groups(dir.path(), 1);
    let header = SegmentHeader {
        segment_bytes: SEGMENT_BYTES,
        node: NODE,
        incarnation: RUN,
        core: CoreId(0),
        number: SegmentNumber(5),
        cookie: Cookie(5),
        base: Lsn(0),
        previous: None,
    };
    let mut copy = header.encode_page().to_vec();
    copy.resize(8192, 0);
    fs::write(dir.path().join(name_of(5)), copy).expect("written");
    let ran = inspect("verify", dir.path(), &["--json"]);
    assert!(ran.code == 3 && ran.findings("duplicate").len() == 1, "{ran:?}");

    let dir = data_dir(NODE);
    let test = groups(dir.path(), 2);
    let hit = at(test.frames[1].offset);
    change(dir.path(), &name_of(1), |bytes| rewrite(bytes, hit, |header| header[52] = 9));
    let ran = inspect("verify", dir.path(), &["--json"]);
    assert!(ran.code == 3 && ran.findings("newer").len() == 1, "{ran:?}");
    assert!(inspect("repair", dir.path(), &["--dry-run"]).stdout.contains("start the newer program"));
}

#[test]
fn open_is_what_a_running_daemon_writes() {
    let dir = data_dir(NODE);
    let mut test = groups(dir.path(), 2);
    test.put("half", &"y".repeat(600));
    test.seal();
    test.write();
    let end = usize::try_from(test.log.durable().0).expect("small");
    change(dir.path(), &name_of(1), |bytes| bytes[end..end + 64].fill(0));
    assert_eq!(inspect("verify", dir.path(), &[]).code, 2);
    let held = hold(dir.path());
    let ran = inspect("verify", dir.path(), &["--json"]);
    assert!(ran.code == 0 && ran.findings("open").len() == 1, "{ran:?}");
    let summary = ran.json().pop().expect("a summary");
    assert_eq!(summary["daemon_pid"], std::process::id());
    drop(held);
    assert_eq!(inspect("verify", dir.path(), &[]).code, 2);
}

#[test]
fn files_that_hold_nothing_are_unused() {
    let dir = data_dir(NODE);
    groups(dir.path(), 1);
    fs::write(dir.path().join(wal::temporary_file_name(CoreId(0), SegmentNumber(9))), "x").expect("written");
    let ran = inspect("verify", dir.path(), &["--json"]);
    assert!(ran.code == 0 && ran.findings("unused").len() == 1, "{ran:?}");
}

#[test]
fn a_header_that_cannot_be_read_is_corrupt_whatever_else_is_sound() {
    let dir = data_dir(NODE);
    segments(dir.path());
    change(dir.path(), &name_of(2), |bytes| bytes[20] ^= 1);
    change(dir.path(), &name_of(3), |bytes| bytes.truncate(6000));
    let ran = inspect("verify", dir.path(), &["--json"]);
    let evidence: Vec<String> = ran.findings("corrupt").iter().map(|found| found["evidence"].to_string()).collect();
    assert!(ran.code == 3 && evidence.iter().any(|text| text.contains("header's checksum")), "{ran:?}");
    assert!(evidence.iter().any(|text| text.contains("6000 bytes")), "{ran:?}");
}

#[test]
fn a_sound_log_without_an_owner_is_not_sound() {
    let dir = data_dir(NODE);
    groups(dir.path(), 1);
    fs::remove_file(dir.path().join("NODE")).expect("removed");
    let ran = inspect("verify", dir.path(), &["--json"]);
    let [missing] = &ran.findings("corrupt")[..] else { panic!("{ran:?}") };
    assert!(ran.code == 3 && missing["file"] == "NODE", "{ran:?}");
    // All the records are there to be seen.
    let dump = inspect("dump", dir.path(), &[]);
    assert!(dump.code == 0 && dump.stdout.lines().count() == 1 && dump.stderr.contains("0a000001"), "{dump:?}");
}
