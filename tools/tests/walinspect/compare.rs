//! Two nodes' logs, and what keeps a segment.

use std::path::Path;

use wal::{ControlRecord, Incarnation, NodeId};

use crate::support::{NODE, PEER, PEER_RUN, RUN, Ran, TestLog, data_dir, inspect, version};

fn diff(left: &Path, right: &Path, args: &[&str]) -> Ran {
    let mut all = vec![right.to_str().expect("UTF-8")];
    all.extend(args);
    inspect("diff", left, &all)
}

#[test]
fn every_reason_for_a_difference() {
    let (left_dir, right_dir) = (data_dir(NODE), data_dir(PEER));
    let third = (NodeId(0x0a00_0003), Incarnation(3));
    let mut left = TestLog::new(left_dir.path(), NODE, RUN);
    left.open();
    let held = left.put("shared", "1");
    let covered = left.put("covered", "2");
    left.put("behind", "3");
    left.delete("deleted");
    left.put_until("expired", "x", 1);
    left.follow(third.0, version(4000), "third", "y");
    left.commit();
    left.write();

    let mut right = TestLog::new(right_dir.path(), PEER, PEER_RUN);
    right.open();
    right.follow(NODE, held, "shared", "1");
    right.put("only right", "4");
    right.commit();
    right.watermark(NODE, RUN, covered);
    right.commit();
    right.write();

    let ran = diff(left_dir.path(), right_dir.path(), &["--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let lines = ran.json();
    let of = |key: &str| {
        let line =
            lines.iter().find(|line| line["type"] == "key" && line["key"] == key).unwrap_or_else(|| panic!("{key}"));
        let text = |value: &serde_json::Value| value.as_str().unwrap_or("-").to_owned();
        [&line["left"]["state"], &line["right"]["state"], &line["ahead"], &line["reason"]].map(text).join(" ")
    };
    assert_eq!(of("covered"), "live absent left diverged");
    assert_eq!(of("behind"), "live absent left behind");
    assert_eq!(of("deleted"), "tombstone absent left behind");
    assert_eq!(of("expired"), "expired absent left behind");
    assert_eq!(of("third"), "live absent left unknown-log");
    assert_eq!(of("only%20right"), "absent live right never-told");
    let summary = lines.last().expect("a summary");
    assert_eq!((&summary["same"], &summary["differ"], &summary["left_ahead"]), (&1.into(), &6.into(), &5.into()));
    let log = lines.iter().find(|line| line["type"] == "log" && line["log_node"] == "0a000001").expect("the log");
    assert_eq!((&log["ahead"], &log["ahead_ms"]), (&"left".into(), &3.into()));

    let table = diff(left_dir.path(), right_dir.path(), &["--prefix", "beh", "--limit", "1"]);
    assert!(
        table.stdout.contains("behind log 0a000001/1122334455667788 held to 2020-01-01T00:00:01.003Z"),
        "{table:?}"
    );
    assert!(table.stderr.contains("0 keys are the same, 1 differ"), "{table:?}");
    let limited = diff(left_dir.path(), right_dir.path(), &["--limit", "2"]);
    assert!(limited.stderr.contains("only 2 of them are shown"), "{limited:?}");
}

#[test]
fn a_node_that_lacks_its_own_record_has_lost_it() {
    let (left_dir, right_dir) = (data_dir(NODE), data_dir(PEER));
    let mut left = TestLog::new(left_dir.path(), NODE, RUN);
    left.open();
    left.commit();
    left.write();
    let mut right = TestLog::new(right_dir.path(), PEER, PEER_RUN);
    right.follow(NODE, version(2000), "key", "value");
    right.commit();
    right.write();
    let ran = diff(left_dir.path(), right_dir.path(), &[]);
    assert!(ran.stdout.contains("own-lost log 0a000001/1122334455667788"), "{ran:?}");
}

#[test]
fn nobody_is_ahead_of_the_owner_of_a_log() {
    let (left_dir, right_dir) = (data_dir(NODE), data_dir(PEER));
    let mut left = TestLog::new(left_dir.path(), NODE, RUN);
    left.open();
    left.put("key", "value");
    left.commit();
    left.write();
    let mut right = TestLog::new(right_dir.path(), PEER, PEER_RUN);
    // An idle node claims more than its last record.
    right.watermark(NODE, RUN, version(9000));
    right.commit();
    right.write();
    for (left, right) in [(&left_dir, &right_dir), (&right_dir, &left_dir)] {
        let lines = diff(left.path(), right.path(), &["--json"]).json();
        let log = lines.iter().find(|line| line["type"] == "log" && line["log_node"] == "0a000001").expect("the log");
        assert_eq!((&log["ahead"], &log["ahead_ms"]), (&"-".into(), &0.into()));
    }
}

#[test]
fn retention_says_what_pins_a_segment_and_how_far_a_member_is() {
    let (dir, peer_dir) = (data_dir(NODE), data_dir(PEER));
    let mut test = TestLog::new(dir.path(), NODE, RUN);
    let ceiling = ControlRecord::ClockCeiling { version: version(9000) };
    test.open();
    test.control(&ceiling);
    let value = "x".repeat(1700);
    // Two records to a segment: all of the first segment's keys are written again later.
    let mut last_of_first = version(0);
    for key in ["a", "b", "a", "b", "a", "c"] {
        let written = test.put(key, &value);
        test.commit();
        if test.log.append_position().0 == wal::SegmentNumber(1) {
            last_of_first = written;
        }
    }
    test.delete("b");
    test.commit();
    // Repeated: only the last copy is needed.
    test.control(&ceiling);
    test.commit();
    test.write();
    let mut peer = TestLog::new(peer_dir.path(), PEER, PEER_RUN);
    peer.watermark(NODE, RUN, last_of_first);
    peer.commit();
    peer.write();

    let ran = inspect("retention", dir.path(), &["--json", "--peer", peer_dir.path().to_str().expect("UTF-8")]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let segments = ran.json();
    let [first, .., last] = &segments[..] else { panic!("{ran:?}") };
    assert_eq!((&first["live"], &first["opens"]), (&0.into(), &1.into()), "{ran:?}");
    assert_eq!(first["peers"][0]["passage"], "passed", "{ran:?}");
    assert_eq!((&last["live"], &last["tombstones"]), (&2.into(), &1.into()), "{ran:?}");
    assert_eq!((&last["peers"][0]["passage"], &last["peers"][0]["node"]), (&"behind".into(), &"0a000002".into()));
    let pins = |segment: &serde_json::Value| segment["pinned_by"].to_string();
    assert_eq!(pins(first), r#"["open","newest-run"]"#);
    assert_eq!(pins(last), r#"["live","tombstones","ceiling","newest-run"]"#);

    let same = inspect("retention", dir.path(), &["--peer", dir.path().to_str().expect("UTF-8")]);
    assert!(same.code == 1 && same.stderr.contains("belongs to the same node"), "{same:?}");
    let ls = inspect("ls", dir.path(), &[]);
    let states: Vec<&str> = ls.rows().iter().map(|row| row[1]).collect();
    assert_eq!(states, ["sealed", "sealed", "unsealed"], "{ls:?}");
}
