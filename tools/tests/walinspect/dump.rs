//! Lines, filters and what is held back.

use wal::{ControlRecord, Version};

use crate::support::{NODE, PEER, PEER_RUN, RUN, TestLog, data_dir, inspect, name_of, version};

/// A log with something of everything.
fn mixed(dir: &std::path::Path) -> TestLog {
    let mut test = TestLog::new(dir, NODE, RUN);
    test.open();
    test.put("user:1", "Ann=a b");
    test.commit();
    test.delete("user:1");
    test.put_until("session", "s", 1_577_836_800_500);
    test.commit();
    test.follow(PEER, version(5000), "user:2", &"z".repeat(200));
    test.watermark(PEER, PEER_RUN, version(5000));
    test.commit();
    test.write();
    test
}

#[test]
fn every_kind_of_record_is_a_line() {
    let dir = data_dir(NODE);
    mixed(dir.path());
    let ran = inspect("dump", dir.path(), &[]);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!((ran.code, lines.len(), &ran.stderr[..]), (0, 6, ""), "{ran:?}");
    assert!(lines[0].starts_with("VCTL open node=0a000001 incarnation=1122334455667788 first=2020-01-01T00:00:01"));
    assert_eq!(lines[1], "VPUT user:1=Ann%3Da%20b@2020-01-01T00:00:01.002Z/0x00000000fa800007");
    assert_eq!(lines[2], "VDEL user:1@2020-01-01T00:00:01.003Z/0x00000000fac00007");
    assert!(lines[3].ends_with(" expires=2020-01-01T00:00:00.500Z"), "{}", lines[3]);
    assert!(lines[4].contains("zzz…[128 of 200 bytes]@"), "{}", lines[4]);
    assert!(lines[5].starts_with("VCTL watermark node=0a000002"), "{}", lines[5]);
    let full = inspect("dump", dir.path(), &["--full", "--long", "--origin", "0a000002"]);
    assert!(full.stdout.contains(&"z".repeat(200)) && full.stdout.contains("segment=1 lsn=0x"), "{full:?}");
    assert_eq!(full.stdout.lines().count(), 1);
}

#[test]
fn json_lines_name_schema_and_type_and_give_numbers_back_exactly() {
    let dir = data_dir(NODE);
    let test = mixed(dir.path());
    let lines = inspect("dump", dir.path(), &["--json"]).json();
    let kinds: Vec<String> = lines.iter().map(|line| line["type"].to_string()).collect();
    assert_eq!(kinds.join(" "), r#""control" "put" "delete" "put" "put" "control""#);
    assert_eq!((&lines[0]["control"]["kind"], &lines[0]["control"]["cores"]), (&"open".into(), &1.into()));
    assert_eq!((&lines[1]["key"], &lines[1]["value"]), (&"user:1".into(), &"Ann%3Da%20b".into()));
    assert_eq!(lines[1]["version"], format!("{:#018x}", version(1002).0));
    assert_eq!((&lines[1]["segment"], &lines[1]["frame"]), (&1.into(), &"originated".into()));
    assert_eq!(lines[3]["expiry_unix_ms"], 1_577_836_800_500_u64);
    assert_eq!(lines[4]["value"].as_str().map(str::len), Some(200), "JSON never cuts");
    assert_eq!(lines[5]["control"]["rests_on"][0]["lsn"], test.frames[1].end.0);
    assert!(lines.iter().all(|line| line["lsn"] == line["file_offset"]), "the first segment begins at 0");
}

#[test]
fn filters_leave_what_passes_all_of_them() {
    let dir = data_dir(NODE);
    let test = mixed(dir.path());
    let second = test.frames[1].lsn.0.to_string();
    let at_1003 = format!("{:#x}", version(1003).0);
    for (args, expected) in [
        (&["--key", "user:1"][..], "PUT DEL"),
        (&["--key", "user%3A1", "--op", "delete"], "DEL"),
        (&["--prefix", "user:"], "PUT DEL PUT"),
        (&["--origin", "0a000002"], "PUT"),
        (&["--op", "control"], "CTL CTL"),
        (&["--op", "put", "--op", "delete"], "PUT DEL PUT PUT"),
        (&["--since", "2020-01-01T00:00:01.003Z", "--op", "delete"], "DEL"),
        (&["--until", "2020-01-01T00:00:01.003Z"], "CTL PUT"),
        (&["--version-min", &at_1003, "--version-max", &at_1003], "DEL"),
        (&["--lsn-min", &second, "--op", "put"], "PUT PUT"),
        (&["--lsn-end", &second], "CTL PUT"),
        (&["--core", "1"], ""),
        (&["--prefix", "nobody"], ""),
    ] {
        let ran = inspect("dump", dir.path(), args);
        let ops: Vec<&str> = ran.stdout.lines().filter_map(|line| line.get(1..4)).collect();
        assert_eq!((ran.code, ops.join(" ")), (0, expected.to_owned()), "{args:?}: {ran:?}");
    }
}

#[test]
fn durable_holds_back_what_nothing_declares_durable() {
    let dir = data_dir(NODE);
    let mut test = TestLog::new(dir.path(), NODE, RUN);
    test.put("first", "1");
    test.commit();
    test.put("second", "2");
    test.commit();
    test.write();
    assert_eq!(inspect("dump", dir.path(), &[]).stdout.lines().count(), 2);
    let ran = inspect("dump", dir.path(), &["--durable"]);
    assert!(ran.stdout.starts_with("VPUT first=1@") && ran.stdout.lines().count() == 1, "{ran:?}");
    assert!(ran.stderr.contains("1 frames were held back"), "{ran:?}");
    test.idle();
    test.write();
    let ran = inspect("dump", dir.path(), &["--durable"]);
    assert_eq!((ran.stdout.lines().count(), &ran.stderr[..]), (2, ""), "{ran:?}");
}

#[test]
fn history_is_in_the_order_of_versions_and_the_last_one_counts() {
    let dir = data_dir(NODE);
    let mut test = TestLog::new(dir.path(), NODE, RUN);
    test.put("a key", "newer");
    test.follow(PEER, version(7), "a key", "older");
    test.put("another", "x");
    test.commit();
    test.write();
    let ran = inspect("history", dir.path(), &["a%20key"]);
    let rows = ran.rows();
    assert_eq!(rows.iter().map(|row| row[2]).collect::<Vec<_>>(), ["older", "newer"], "{ran:?}");
    assert_eq!((rows[0][4], rows[0][5], rows[0][6]), ("0a000002", "followed", &name_of(1)[..]));
    assert_eq!(inspect("history", dir.path(), &["a key", "--json"]).json().len(), 2);
    let none = inspect("history", dir.path(), &["nobody"]);
    assert!(none.code == 0 && none.stdout.is_empty() && none.stderr.contains("no record of nobody"), "{none:?}");
}

#[test]
fn stats_count_groups_gaps_and_what_is_live() {
    let dir = data_dir(NODE);
    let mut test = TestLog::new(dir.path(), NODE, RUN);
    for value in ["1", "2", "3"] {
        test.put("same", value);
    }
    test.commit();
    test.ms += 99;
    test.put("other", "4");
    test.commit();
    test.delete("other");
    test.commit();
    test.write();
    let lines = inspect("stats", dir.path(), &["--json"]).json();
    let of = |kind: &str| lines.iter().find(|line| line["type"] == kind).expect("a line").clone();
    let (log, origin, total) = (of("log"), of("origin"), of("total"));
    assert_eq!((&log["groups"], &log["records"], &log["frames"]), (&3.into(), &5.into(), &3.into()));
    assert_eq!((&log["group_records"]["max"], &log["gap_ms"]["max"]), (&3.into(), &100.into()));
    assert_eq!((&origin["puts"], &origin["deletes"], &origin["live_records"]), (&4.into(), &1.into(), &1.into()));
    assert_eq!((&total["keys"], &total["live"], &total["tombstones"]), (&2.into(), &1.into(), &1.into()));
    assert_eq!(total["live_bytes"], 40, "32 bytes of header, 'same', '3', padded to 8");
    assert_eq!(origin["version_max"], format!("{:#018x}", Version::new(test.ms, 0, 7).0));
}

#[test]
fn a_watermark_that_rests_on_lost_positions_is_void() {
    let dir = data_dir(NODE);
    let mut test = TestLog::new(dir.path(), NODE, RUN);
    test.put("key", "value");
    test.commit();
    let record = |lsn: wal::Lsn| ControlRecord::Watermark {
        node: PEER,
        incarnation: PEER_RUN,
        version: version(9000 + lsn.0),
        flags: 0,
        rests_on: vec![(RUN, wal::CoreId(0), lsn)],
    };
    let durable = test.log.durable();
    test.control(&record(durable));
    test.control(&record(wal::Lsn(1 << 20)));
    test.commit();
    test.write();
    let lines = inspect("diff", dir.path(), &[dir.path().to_str().expect("UTF-8"), "--json"]).json();
    let log = lines.iter().find(|line| line["type"] == "log" && line["log_node"] == "0a000002").expect("the log");
    assert_eq!(log["left"], format!("{:#018x}", version(9000 + durable.0).0));
}
