//! Bytes that nobody wrote: every flipped byte is found, nothing panics, and a record that was not written never appears.

mod support;

use proptest::prelude::*;
use support::{BODY, Files, TestLog, cookie_of, draft, name_of, offset, recover, recovered_records};
use wal::recovery::{RecoveryError, Row};
use wal::{
    ControlRecord, Cookie, FRAME_HEADER_BYTES, FrameKind, FrameView, Lsn, RecordError, RecordView, SealBlock,
    SegmentHeader, SegmentLink, SegmentNumber, crc32c, frames,
};

/// A segment with four groups, the last one declared durable by an idle seal, and room behind.
fn small_log() -> TestLog {
    let mut test = TestLog::new();
    for kind in [FrameKind::Originated, FrameKind::Followed, FrameKind::Local, FrameKind::Originated] {
        test.put(kind, 40);
        test.put(kind, 90);
        test.commit();
    }
    assert!(test.idle());
    test
}

/// Two segments; the first one is sealed.
fn two_segments() -> TestLog {
    let mut test = TestLog::new();
    for len in [40, 1900, 300, 1500, 1000] {
        test.put(FrameKind::Originated, len);
        test.commit();
    }
    assert_eq!(test.seals, [SegmentNumber(1)]);
    test
}

/// Every way in which the tests change a byte.
fn flips(byte: u8) -> impl Iterator<Item = u8> {
    (0..8).map(move |bit| byte ^ (1 << bit)).chain([byte ^ 0xff])
}

#[test]
fn every_flipped_byte_of_a_record_is_found() {
    let sound = draft(7, b"a key", b"and its value").to_vec();
    RecordView::parse(&sound).expect("sound");
    for at in 0..sound.len() {
        for byte in flips(sound[at]) {
            let mut record = sound.clone();
            record[at] = byte;
            RecordView::parse(&record).expect_err("not what was written");
            let known_by_crc = matches!(RecordView::parse(&record), Err(RecordError::Crc { .. }));
            assert!(known_by_crc || !(4..50).contains(&at), "byte {at} is under the checksum");
        }
    }
}

#[test]
fn every_flipped_byte_of_a_segment_is_found() {
    let test = small_log();
    let name = name_of(1);
    let sound = test.live();
    let written = test.records();
    let idle = *test.frames.last().expect("the idle seal");
    let end = usize::try_from(test.log.staged().0).expect("small");
    for at in 0..sound[&name].len() {
        let mut files = sound.clone();
        for byte in flips(sound[&name][at]) {
            files.get_mut(&name).expect("the file")[at] = byte;
            let result = recover(&files);
            if at < 512 {
                assert!(matches!(result, Err(RecoveryError::Header { .. })), "byte {at}: {result:?}");
            } else if at < BODY {
                let recovery = result.expect("without its seal the segment is whole");
                assert!(recovery.report[0].contains("its seal block is damaged"), "byte {at}: {recovery:?}");
                assert_eq!(recovered_records(&files, &recovery), written, "byte {at}");
            } else if at < offset(&idle) {
                // Four groups were durable: damage there is no torn tail.
                let hit = test.frames.iter().rfind(|frame| offset(frame) <= at).expect("a frame");
                let Err(RecoveryError::Corrupt { file, from, to, offset, .. }) = result else {
                    panic!("byte {at}: {result:?}")
                };
                assert_eq!((file, from, to, offset), (name.clone(), hit.lsn, idle.lsn, hit.offset.into()), "byte {at}");
            } else {
                // The idle seal itself, or what was never written: a cut that loses no record.
                let recovery = result.expect("nothing durable is damaged");
                let log = &recovery.logs[0];
                assert_eq!(log.row, Row::TornTail, "byte {at}");
                let cut = log.cut.expect("bytes that do not count");
                assert_eq!(cut.position, if at < end { idle.lsn } else { idle.end }, "byte {at}");
                assert_eq!(recovered_records(&files, &recovery), written, "byte {at}");
            }
        }
    }
}

#[test]
fn every_flipped_byte_of_a_sealed_segment_is_found_or_without_effect() {
    let test = two_segments();
    let name = name_of(1);
    let sound = test.live();
    let written = test.records();
    let last = test.frames.iter().rfind(|frame| frame.segment == SegmentNumber(1)).expect("frames");
    let end = offset(last) + usize::try_from(last.total_len).expect("small");
    let seal_end = 512 + 64 + 24;
    for at in 0..sound[&name].len() {
        let mut files = sound.clone();
        for byte in flips(sound[&name][at]) {
            files.get_mut(&name).expect("the file")[at] = byte;
            let result = recover(&files);
            match at {
                0..512 => assert!(matches!(result, Err(RecoveryError::Header { .. })), "byte {at}: {result:?}"),
                _ if (BODY..end).contains(&at) => {
                    assert!(matches!(result, Err(RecoveryError::Corrupt { .. })), "byte {at}: {result:?}");
                }
                _ => {
                    let recovery = result.expect("nothing durable is damaged");
                    let found = recovery.report[0].contains("its seal block is damaged");
                    assert_eq!(found, at < seal_end, "byte {at}: {recovery:?}");
                    assert_eq!(recovered_records(&files, &recovery), written, "byte {at}");
                }
            }
        }
    }
}

#[test]
fn a_zeroed_or_misplaced_sector_of_durable_frames_is_found() {
    let test = small_log();
    let name = name_of(1);
    let sound = test.live();
    let idle = test.frames.last().expect("the idle seal").offset;
    let last = usize::try_from(idle).expect("small") / 512;
    for sector in BODY / 512..last {
        for source in (BODY / 512..BODY / 512 + 6).filter(|source| *source != sector).map(Some).chain([None]) {
            let mut files = sound.clone();
            let replacement =
                source.map_or_else(|| vec![0; 512], |source| sound[&name][source * 512..][..512].to_vec());
            files.get_mut(&name).expect("the file")[sector * 512..][..512].copy_from_slice(&replacement);
            let result = recover(&files);
            assert!(matches!(result, Err(RecoveryError::Corrupt { .. })), "{sector} from {source:?}: {result:?}");
        }
    }
    assert!(last - BODY / 512 >= 2, "the test looks at some sectors");
}

/// Whatever was done to the files, recovery refuses or gives a prefix of what was written.
fn refused_or_prefix(files: &Files, written: &[Vec<u8>]) {
    if let Ok(recovery) = recover(files) {
        let found = recovered_records(files, &recovery);
        assert!(written.starts_with(&found), "{} records that were not written so: {recovery:?}", found.len());
    }
}

#[derive(Clone, Debug)]
enum Mutation {
    Byte(prop::sample::Index, u8),
    Zero(prop::sample::Index, usize),
    Copy(prop::sample::Index, prop::sample::Index, usize),
    Noise(prop::sample::Index, Vec<u8>),
    Truncate(prop::sample::Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let index = any::<prop::sample::Index>;
    let len = || prop_oneof![Just(8usize), Just(64), Just(512), Just(4096)];
    prop_oneof![
        6 => (index(), any::<u8>()).prop_map(|(at, byte)| Mutation::Byte(at, byte)),
        3 => (index(), len()).prop_map(|(at, len)| Mutation::Zero(at, len)),
        4 => (index(), index(), len()).prop_map(|(from, to, len)| Mutation::Copy(from, to, len)),
        3 => (index(), prop::collection::vec(any::<u8>(), 1..100)).prop_map(|(at, noise)| Mutation::Noise(at, noise)),
        1 => index().prop_map(Mutation::Truncate),
    ]
}

fn mutate(file: &mut Vec<u8>, mutation: &Mutation) {
    if file.is_empty() {
        return;
    }
    // Copies and zeros hit whole aligned blocks, as misplaced writes do.
    let block = |at: &prop::sample::Index, len: usize| at.index(file.len()) / len * len;
    match mutation {
        Mutation::Byte(at, byte) => {
            let at = at.index(file.len());
            file[at] = *byte;
        }
        Mutation::Zero(at, len) => {
            let start = block(at, *len);
            let end = (start + len).min(file.len());
            file[start..end].fill(0);
        }
        Mutation::Copy(from, to, len) => {
            let (from, to) = (block(from, *len), block(to, *len));
            let len = (*len).min(file.len() - from).min(file.len() - to);
            file.copy_within(from..from + len, to);
        }
        Mutation::Noise(at, noise) => {
            let start = at.index(file.len());
            let len = noise.len().min(file.len() - start);
            file[start..start + len].copy_from_slice(&noise[..len]);
        }
        Mutation::Truncate(at) => file.truncate(at.index(file.len())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn mutated_segments_are_refused_or_give_a_prefix(
        two in any::<bool>(), mutations in prop::collection::vec((any::<bool>(), mutation()), 1..5),
    ) {
        let test = if two { two_segments() } else { small_log() };
        let mut files = test.live();
        for (second, mutation) in &mutations {
            mutate(files.get_mut(&name_of(1 + u64::from(*second && two))).expect("a file"), mutation);
        }
        refused_or_prefix(&files, &test.records());
    }

    #[test]
    fn frames_forged_without_the_cookie_do_not_count(
        at in any::<prop::sample::Index>(), forged in any::<u64>(),
    ) {
        // A value that holds the image of a frame, as a client could send it.
        let test = small_log();
        let mut image = vec![];
        let number = SegmentNumber(1);
        let start = Lsn(BODY as u64);
        let body = test.files[&number].live()[BODY..].to_vec();
        let frame = frames(&body, start, cookie_of(test.run, number)).next().expect("a frame").expect("sound");
        let mut header = *frame.header();
        header.cookie = Cookie(forged);
        prop_assume!(header.cookie != cookie_of(test.run, number));
        image.extend(header.encode());
        image.extend(frame.payload());
        let mut files = test.live();
        let file = files.get_mut(&name_of(1)).expect("the file");
        let free = usize::try_from(test.log.staged().0).expect("small");
        let at = free + at.index((file.len() - free - image.len()) / 64) * 64;
        file[at..at + image.len()].copy_from_slice(&image);
        let recovery = recover(&files).expect("nothing durable is damaged");
        prop_assert_eq!(recovered_records(&files, &recovery), test.records());
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_panic_nowhere(bytes in prop::collection::vec(any::<u8>(), 0..9000), lsn in any::<u64>(), cookie in any::<u64>()) {
        let lsn = Lsn(lsn >> 1);
        let link = SegmentLink { number: SegmentNumber(1), cookie: Cookie(cookie) };
        let _ = RecordView::parse(&bytes);
        let _ = RecordView::parse_trusted(&bytes);
        let _ = FrameView::parse(&bytes, lsn, Cookie(cookie));
        let _ = SegmentHeader::parse(&bytes);
        let _ = SealBlock::read(&bytes, link);
        prop_assert!(frames(&bytes, lsn, Cookie(cookie)).all(|frame| frame.is_err()));
        let files = Files::from([(name_of(1), bytes)]);
        prop_assert!(recover(&files).is_err());
    }

    #[test]
    fn arbitrary_control_records_panic_nowhere(kind in 0..8u8, value in prop::collection::vec(any::<u8>(), 0..120)) {
        if let Ok(record) = ControlRecord::decode(&[kind], &value) {
            prop_assert_eq!(record.encode(), (vec![kind], value));
        }
    }

    #[test]
    fn arbitrary_records_under_a_valid_checksum_panic_nowhere(mut bytes in prop::collection::vec(any::<u8>(), 32..200), op in 0..5u8) {
        let len = u32::try_from(bytes.len()).expect("small");
        bytes[..4].copy_from_slice(&len.to_le_bytes());
        (bytes[28], bytes[29], bytes[31]) = (op, bytes[29] & 1, 0);
        let crc = crc32c(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        if let Ok((record, _)) = RecordView::parse(&bytes) {
            prop_assert_eq!(record.bytes, &bytes[..]);
            let fixed = 32 + record.expiry.map_or(0, |_| 8);
            prop_assert_eq!(fixed + record.key.len() + record.value.len(), bytes.len());
        }
    }

    #[test]
    fn arbitrary_headers_under_a_valid_checksum_panic_nowhere(
        fields in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), header in any::<bool>(),
    ) {
        let test = small_log();
        let mut files = test.live();
        let file = files.get_mut(&name_of(1)).expect("the file");
        let (start, crc_at, end) = if header { (12, 8, 80) } else { (BODY + 8, BODY + 4, BODY + FRAME_HEADER_BYTES) };
        for (at, byte) in &fields {
            file[start + at.index(end - start)] = *byte;
        }
        let covered = if header { 12..512 } else { start..end };
        let crc = crc32c(&file[covered]);
        file[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
        if header {
            let _ = recover(&files);
        } else {
            refused_or_prefix(&files, &test.records());
        }
    }

    #[test]
    fn arbitrary_seals_under_a_valid_checksum_panic_nowhere(
        fields in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let test = two_segments();
        let mut files = test.live();
        let file = files.get_mut(&name_of(1)).expect("the file");
        for (at, byte) in &fields {
            file[524 + at.index(64 + 24 - 12)] = *byte;
        }
        let entries = usize::from(u16::from_le_bytes([file[526], file[527]])).min(100);
        let crc = crc32c(&file[524..512 + 64 + 24 * entries]);
        file[520..524].copy_from_slice(&crc.to_le_bytes());
        refused_or_prefix(&files, &test.records());
    }
}
