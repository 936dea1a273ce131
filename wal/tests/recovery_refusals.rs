//! The rows of the decision table that refuse: something durable is damaged, missing, foreign or newer. No file is changed.

mod support;

use support::{
    BODY, Files, NODE, PEER, RUN, SEGMENT_BYTES, TestLog, apply, cookie_of, draft, name_of, offset, recover,
};
use wal::recovery::{RecoveryError, judge, scan_segment};
use wal::{
    CoreId, FrameError, FrameHeader, FrameKind, FrameView, Incarnation, Lsn, RecordError, SealBlock, SealState,
    SegmentHeader, SegmentHeaderError, SegmentLink, SegmentNumber, crc32c, segment_file_name,
};

fn refusal(files: &Files) -> RecoveryError {
    recover(files).expect_err("these files must not be used")
}

fn groups(count: usize) -> TestLog {
    let mut test = TestLog::new();
    for _ in 0..count {
        test.put(FrameKind::Originated, 100);
        test.commit();
    }
    test
}

/// A log of three full segments, all durable.
fn three_segments() -> TestLog {
    let mut test = TestLog::new();
    while test.log.append_position().0 < SegmentNumber(4) {
        test.put(FrameKind::Originated, 900);
        test.commit();
    }
    test
}

#[test]
fn midlog_bitflip_is_not_torn_tail() {
    let test = groups(4);
    let (hit, last) = (test.frames[1], test.frames[3]);
    for (within, reason) in [(5, FrameError::HeaderCrc), (0, FrameError::Magic), (70, FrameError::PayloadCrc)] {
        let mut files = test.live();
        files.get_mut(&name_of(1)).expect("the file")[offset(&hit) + within] ^= 0x10;
        let expected =
            RecoveryError::Corrupt { file: name_of(1), from: hit.lsn, to: last.lsn, offset: hit.offset.into(), reason };
        assert_eq!(refusal(&files), expected);
        assert!(expected.to_string().contains("no torn tail"), "{expected}");
    }
}

#[test]
fn last_frame_rot_is_not_a_torn_tail() {
    let mut test = groups(2);
    assert!(test.idle());
    let (hit, idle) = (test.frames[1], test.frames[2]);
    let mut files = test.live();
    files.get_mut(&name_of(1)).expect("the file")[offset(&hit) + 100] ^= 1;
    let reason = FrameError::PayloadCrc;
    let expected =
        RecoveryError::Corrupt { file: name_of(1), from: hit.lsn, to: idle.lsn, offset: hit.offset.into(), reason };
    assert_eq!(refusal(&files), expected);
}

#[test]
fn rot_at_the_end_of_a_segment_is_shown_by_the_next_one() {
    let test = three_segments();
    let hit = *test.frames.iter().rfind(|frame| frame.segment == SegmentNumber(2)).expect("frames");
    let next = *test.frames.iter().find(|frame| frame.segment == SegmentNumber(3)).expect("frames");
    let mut files = test.live();
    let file = files.get_mut(&name_of(2)).expect("the file");
    file[offset(&hit) + 60] ^= 1;
    // Even when all seals are gone as well.
    files.values_mut().for_each(|file| file[512..BODY].fill(0));
    let RecoveryError::Corrupt { file, from, to, .. } = refusal(&files) else { panic!("corrupt") };
    assert_eq!((file, from), (name_of(2), hit.lsn));
    assert!(to > next.lsn, "durable at least as far as the frames of segment 3 say");
}

#[test]
fn rot_in_a_sealed_segment_is_shown_by_its_seal() {
    let test = groups(2);
    let mut files = test.live();
    let recovery = recover(&files).expect("sound");
    apply(&mut files, &recovery);
    let hit = test.frames[1];
    files.get_mut(&name_of(1)).expect("the file")[offset(&hit) + 100] ^= 1;
    let expected = RecoveryError::Corrupt {
        file: name_of(1),
        from: hit.lsn,
        to: hit.end,
        offset: hit.offset.into(),
        reason: FrameError::PayloadCrc,
    };
    assert_eq!(refusal(&files), expected);
}

#[test]
fn a_seal_that_contradicts_sound_frames_is_refused() {
    let test = three_segments();
    let link = SegmentLink { number: SegmentNumber(2), cookie: cookie_of(RUN, SegmentNumber(2)) };
    let mut files = test.live();
    let file = files.get_mut(&name_of(2)).expect("the file");
    let SealState::Valid(seal) = SealBlock::read(file, link) else { panic!("sealed") };
    support::write_seal(file, &SealBlock { records: seal.records + 1, ..seal.clone() }.encode());
    let RecoveryError::SealContradicts { file, seal: says, frames } = refusal(&files) else { panic!("contradicts") };
    assert_eq!(file, name_of(2));
    assert!(says.starts_with(&format!("{} records", seal.records + 1)), "{says}");
    assert!(frames.starts_with(&format!("{} records", seal.records)), "{frames}");
    let file = files.get_mut(&name_of(2)).expect("the file");
    support::write_seal(file, &SealBlock { last_header_crc: !seal.last_header_crc, ..seal.clone() }.encode());
    assert!(matches!(refusal(&files), RecoveryError::SealContradicts { .. }));
    // A seal that says less than there is cuts nothing that the next segment declares durable.
    let file = files.get_mut(&name_of(2)).expect("the file");
    let second = *test.frames.iter().filter(|frame| frame.segment == SegmentNumber(2)).nth(1).expect("frames");
    support::write_seal(file, &SealBlock { end: second.lsn, durable: second.lsn, ..seal }.encode());
    assert!(recover(&files).is_err());
}

#[test]
fn a_damaged_seal_is_reported_and_not_needed() {
    let test = three_segments();
    let mut files = test.live();
    files.get_mut(&name_of(2)).expect("the file")[530] ^= 1;
    let recovery = recover(&files).expect("the frames say the same");
    assert_eq!(support::recovered_records(&files, &recovery), test.records());
    assert!(recovery.report[0].starts_with(&name_of(2)) && recovery.report[0].contains("seal block is damaged"));
    let segment = &recovery.logs[0].segments[1];
    assert!(!segment.sealed && segment.seal_block().is_some(), "it is written again");
    // A seal with a valid checksum and an impossible end is no better.
    let link = SegmentLink { number: SegmentNumber(2), cookie: cookie_of(RUN, SegmentNumber(2)) };
    let sound = test.live();
    let SealState::Valid(seal) = SealBlock::read(&sound[&name_of(2)], link) else { panic!("sealed") };
    for (end, durable) in [
        (Lsn(seal.end.0 + 1), seal.durable.plus(1)),
        (seal.end, Lsn(seal.end.0 - 64)),
        (Lsn(SEGMENT_BYTES), seal.durable),
        (Lsn(3 * SEGMENT_BYTES), Lsn(3 * SEGMENT_BYTES)),
    ] {
        let mut files = sound.clone();
        let file = files.get_mut(&name_of(2)).expect("the file");
        support::write_seal(file, &SealBlock { end, durable, ..seal.clone() }.encode());
        assert!(recover(&files).expect("not used").report[0].contains("seal block is damaged"), "{end} {durable}");
    }
}

#[test]
fn a_segment_missing_between_others_is_named_with_its_positions() {
    let test = three_segments();
    let mut files = test.live();
    files.remove(&name_of(2)).expect("segment 2");
    let end_of_1 = test.frames.iter().rfind(|frame| frame.segment == SegmentNumber(1)).expect("frames").end;
    let RecoveryError::MissingSegment { before, after, number, from, to } = refusal(&files) else {
        panic!("a segment is missing")
    };
    assert_eq!((before, after, number, from), (name_of(1), name_of(3), SegmentNumber(2), end_of_1));
    assert!(to > Lsn(2 * SEGMENT_BYTES) && to <= test.log.durable());
}

#[test]
fn a_segment_that_continues_another_one_than_the_file_before_it_is_refused() {
    let test = three_segments();
    let mut files = test.live();
    let file = files.get_mut(&name_of(2)).expect("the file");
    let mut header = SegmentHeader::parse(file).expect("sound");
    header.previous = header.previous.map(|link| SegmentLink { cookie: wal::Cookie(link.cookie.0 ^ 2), ..link });
    file[..512].copy_from_slice(&header.encode_page()[..512]);
    let RecoveryError::MissingSegment { before, after, .. } = refusal(&files) else { panic!("another history") };
    assert_eq!((before, after), (name_of(1), name_of(2)));
}

#[test]
fn a_missing_last_segment_is_refused_when_an_earlier_seal_says_that_it_was_durable() {
    let mut test = groups(2);
    test.put(FrameKind::Originated, 3500);
    test.seal();
    // Killed before segment 1 was sealed; recovery finds both segments whole and seals them.
    let mut files = test.live();
    let recovery = recover(&files).expect("sound");
    let end = recovery.logs[0].end;
    apply(&mut files, &recovery);
    let end_of_1 = recovery.logs[0].segments[0].end;
    let mut missing = files.clone();
    missing.remove(&name_of(2)).expect("segment 2");
    let RecoveryError::MissingSegment { before, number, from, to, .. } = refusal(&missing) else { panic!("missing") };
    assert_eq!((before, number, from, to), (name_of(1), SegmentNumber(2), end_of_1, end));
    // The same where the file is there and its only frame and its seal are damaged.
    let file = files.get_mut(&name_of(2)).expect("segment 2");
    file[512..BODY].fill(0);
    file[BODY + 100] ^= 1;
    let RecoveryError::Corrupt { file, from, to, offset, .. } = refusal(&files) else { panic!("corrupt") };
    assert_eq!((file, from, to, offset), (name_of(2), Lsn(SEGMENT_BYTES + BODY as u64), end, BODY as u64));
}

#[test]
fn a_duplicated_segment_is_refused() {
    let test = groups(1);
    let contents = test.live()[&name_of(1)].clone();
    let scans = vec![scan_segment(&name_of(1), &contents), scan_segment(&name_of(1), &contents)];
    let expected = RecoveryError::Duplicate { file: name_of(1), other: name_of(1) };
    assert_eq!(judge(NODE, scans).expect_err("twice the same"), expected);
    // Under another number it claims the same place in the log.
    let mut copy = contents.clone();
    let header = SegmentHeader { number: SegmentNumber(9), ..SegmentHeader::parse(&contents).expect("sound") };
    copy[..BODY].copy_from_slice(&header.encode_page());
    let files = Files::from([(name_of(1), contents), (name_of(9), copy)]);
    assert!(matches!(refusal(&files), RecoveryError::Duplicate { .. }));
}

#[test]
fn one_number_used_by_two_runs_is_refused() {
    let first = groups(1).live()[&name_of(1)].clone();
    let mut second = TestLog::on(Incarnation(2), 1, |len| vec![0; len]);
    second.put(FrameKind::Originated, 10);
    second.commit();
    let second = second.live()[&name_of(1)].clone();
    let scans = vec![scan_segment(&name_of(1), &first), scan_segment(&name_of(1), &second)];
    assert!(matches!(judge(NODE, scans), Err(RecoveryError::Duplicate { .. })));
}

#[test]
fn a_segment_of_another_node_is_refused() {
    let files = groups(1).live();
    let scans = files.iter().map(|(name, bytes)| scan_segment(name, bytes)).collect();
    let expected = RecoveryError::ForeignNode { file: name_of(1), found: NODE, expected: PEER };
    assert_eq!(judge(PEER, scans).expect_err("foreign"), expected);
}

#[test]
fn a_renamed_segment_is_refused() {
    let mut files = groups(1).live();
    let contents = files.remove(&name_of(1)).expect("the file");
    for name in [name_of(3), segment_file_name(CoreId(1), SegmentNumber(1))] {
        let files = Files::from([(name.clone(), contents.clone())]);
        assert_eq!(refusal(&files), RecoveryError::Misnamed { file: name, belongs: name_of(1) });
    }
}

#[test]
fn a_file_without_a_usable_header_is_refused() {
    let sound = groups(1).live();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut files = sound.clone();
        change(files.get_mut(&name_of(1)).expect("the file"));
        let RecoveryError::Header { file, error } = refusal(&files) else { panic!("a header error") };
        assert_eq!(file, name_of(1));
        error
    };
    assert_eq!(with(&|file| file.truncate(100)), SegmentHeaderError::Short(100));
    assert_eq!(with(&|file| file[0] ^= 1), SegmentHeaderError::Magic);
    assert_eq!(with(&|file| file[..512].fill(0)), SegmentHeaderError::Magic);
    assert_eq!(with(&|file| file[300] ^= 1), SegmentHeaderError::Crc);
    let size = |actual| SegmentHeaderError::Size { expected: SEGMENT_BYTES, actual };
    assert_eq!(with(&|file| file.truncate(4096)), size(4096));
    assert_eq!(with(&|file| file.push(0)), size(8193));
    let newer = with(&|file| {
        file[12] = 2;
        let crc = crc32c(&file[12..512]);
        file[8..12].copy_from_slice(&crc.to_le_bytes());
    });
    assert_eq!(newer, SegmentHeaderError::NewerFormat(2));
    assert!(newer.to_string().contains("start the newer program"));
}

#[test]
fn frames_and_records_of_a_newer_program_are_refused_and_never_cut() {
    let test = groups(2);
    let last = test.frames[1];
    let at = offset(&last);
    let mut files = test.live();
    support::rewrite(files.get_mut(&name_of(1)).expect("the file"), at, |header| header[52] = 9);
    let error = FrameError::Newer("frame kind");
    assert_eq!(refusal(&files), RecoveryError::Unreadable { file: name_of(1), at: last.lsn, error });

    let mut files = test.live();
    let file = files.get_mut(&name_of(1)).expect("the file");
    let mut record = draft(9, b"key", b"value").to_vec();
    record[28] = 6;
    let crc = crc32c(&record[8..]);
    record[4..8].copy_from_slice(&crc.to_le_bytes());
    file[at + 64..at + 64 + record.len()].copy_from_slice(&record);
    let (len, crc) = (u32::try_from(record.len()).expect("small"), crc32c(&record));
    file[at + 64 + record.len()..].fill(0);
    support::rewrite(file, at, |header| {
        header[40..44].copy_from_slice(&len.to_le_bytes());
        header[44..48].copy_from_slice(&crc.to_le_bytes());
    });
    let error = FrameError::Record { index: 0, error: RecordError::NewerOp(6) };
    assert_eq!(refusal(&files), RecoveryError::Unreadable { file: name_of(1), at: last.lsn, error });
}

#[test]
fn a_newer_frame_behind_a_torn_one_is_refused_as_well() {
    let mut test = groups(1);
    for _ in 0..2 {
        test.put(FrameKind::Originated, 300);
        test.seal();
    }
    let mut files = test.live();
    let file = files.get_mut(&name_of(1)).expect("the file");
    file[offset(&test.frames[1]) + 100] ^= 1;
    support::rewrite(file, offset(&test.frames[2]), |header| header[53] = 4);
    let error = FrameError::Newer("frame flags");
    assert_eq!(refusal(&files), RecoveryError::Unreadable { file: name_of(1), at: test.frames[2].lsn, error });
}

#[test]
fn a_sound_frame_that_does_not_continue_the_log_is_refused() {
    let test = groups(2);
    let mut files = test.live();
    let first = FrameView::parse(&files[&name_of(1)][BODY..], Lsn(BODY as u64), cookie_of(RUN, SegmentNumber(1)))
        .expect("a frame")
        .header()
        .header_crc;
    let last = test.frames[1];
    let file = files.get_mut(&name_of(1)).expect("the file");
    support::rewrite(file, offset(&last), |header| header[56..60].copy_from_slice(&(!first).to_le_bytes()));
    let error = FrameError::Chain { expected: first, found: !first };
    assert_eq!(refusal(&files), RecoveryError::Unreadable { file: name_of(1), at: last.lsn, error });
    // The first frame of a run continues nothing.
    let mut files = groups(1).live();
    support::rewrite(files.get_mut(&name_of(1)).expect("the file"), BODY, |header| header[56] = 1);
    let error = FrameError::Chain { expected: 0, found: 1 };
    assert_eq!(refusal(&files), RecoveryError::Unreadable { file: name_of(1), at: Lsn(BODY as u64), error });
}

#[test]
fn the_chain_is_checked_from_segment_to_segment() {
    let test = three_segments();
    let mut files = test.live();
    let file = files.get_mut(&name_of(3)).expect("the file");
    let at = BODY;
    let before: FrameHeader =
        *FrameView::parse(&file[at..], Lsn(2 * SEGMENT_BYTES + BODY as u64), cookie_of(RUN, SegmentNumber(3)))
            .expect("a frame")
            .header();
    // Segment 3 from another history, one frame long: the seal and the frames behind would contradict anyway.
    file[512..BODY].fill(0);
    file[at + usize::try_from(before.total_bytes()).expect("small")..].fill(0);
    files.remove(&name_of(4));
    let file = files.get_mut(&name_of(3)).expect("the file");
    support::rewrite(file, at, |header| header[56] ^= 1);
    let RecoveryError::Unreadable { file, at, error: FrameError::Chain { expected, .. } } = refusal(&files) else {
        panic!("a broken chain")
    };
    assert_eq!((file, at, expected), (name_of(3), before.lsn, before.previous_header_crc));
}
