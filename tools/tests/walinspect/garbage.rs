//! No bytes make the tool panic.

use std::fs;

use proptest::prelude::*;
use tools::walinspect::inspect_bytes;

use crate::support::{NODE, RUN, TestLog, data_dir, inspect, name_of, segments};

fn sound_segment() -> Vec<u8> {
    let dir = data_dir(NODE);
    let mut test = TestLog::new(dir.path(), NODE, RUN);
    test.open();
    for index in 0..12 {
        test.put(&format!("key {index}"), &"v".repeat(index * 20));
        if index % 3 == 0 {
            test.delete("key 0");
        }
        test.commit();
    }
    test.write();
    fs::read(dir.path().join(name_of(1))).expect("a segment")
}

#[test]
fn a_sound_segment_is_seen_whole() {
    assert_eq!(inspect_bytes(&name_of(1), &sound_segment()), 17);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
        inspect_bytes(&name_of(1), &bytes);
    }

    #[test]
    fn a_sound_segment_with_changes(
        changes in prop::collection::vec((0usize..8192, any::<u8>()), 1..8),
        cut in prop::option::of(0usize..8192),
    ) {
        let mut bytes = sound_segment();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        bytes.truncate(cut.unwrap_or(bytes.len()));
        prop_assert!(inspect_bytes(&name_of(1), &bytes) <= 17);
    }

    /// Checksums made valid again, so that the fields behind them are looked at.
    #[test]
    fn a_sound_segment_with_changes_under_valid_checksums(
        changes in prop::collection::vec((4104usize..4160, any::<u8>()), 1..4),
        head in prop::collection::vec((12usize..80, any::<u8>()), 0..3),
    ) {
        let mut bytes = sound_segment();
        for (at, byte) in changes.into_iter().chain(head) {
            bytes[at] = byte;
        }
        let crc = wal::crc32c(&bytes[4104..4160]);
        bytes[4100..4104].copy_from_slice(&crc.to_le_bytes());
        let crc = wal::crc32c(&bytes[12..512]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        inspect_bytes(&name_of(1), &bytes);
    }
}

#[test]
fn every_command_survives_a_directory_of_garbage() {
    let dir = data_dir(NODE);
    segments(dir.path());
    fs::write(dir.path().join(name_of(2)), b"not a segment").expect("written");
    fs::write(dir.path().join(name_of(3)), [0xff; 20_000]).expect("written");
    fs::write(dir.path().join(name_of(9)), b"").expect("written");
    fs::write(dir.path().join("NODE"), [0xff; 10_000]).expect("written");
    fs::write(dir.path().join("core-x.wal"), b"other").expect("written");
    let right = dir.path().to_str().expect("UTF-8");
    for (name, args, code) in [
        ("ls", &[][..], 0),
        ("dump", &[], 3),
        ("verify", &[], 3),
        ("stats", &[], 3),
        ("history", &["key"], 3),
        ("diff", &[right], 3),
        ("retention", &[], 3),
        ("repair", &["--dry-run"], 3),
    ] {
        for json in [&[][..], &["--json"]] {
            let ran = inspect(name, dir.path(), &[args, json].concat());
            assert_eq!(ran.code, code, "{name}: {ran:?}");
            assert!(!ran.stderr.contains("panicked"), "{name}: {ran:?}");
        }
    }
}
