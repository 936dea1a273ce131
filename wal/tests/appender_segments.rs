//! The appender over many segments: where one ends, how the next continues it, and when it is sealed.

mod support;

use support::{BODY, PEER, SEGMENT_BYTES, TestLog, cookie_of, draft, version};
use wal::{
    AppendError, FRAME_HEADER_BYTES, FrameFlags, FrameKind, Lsn, MemoryMap, OriginRange, RecordDraft, SEAL_ENTRIES_MAX,
    SealBlock, SealState, SegmentNumber, SyncRequest,
};

#[test]
fn a_full_segment_ends_in_a_marked_frame_and_the_log_goes_on_in_the_next() {
    let mut test = TestLog::new();
    while test.log.append_position().0 == SegmentNumber(1) {
        test.put(FrameKind::Originated, 700);
    }
    let sealed = test.seal().expect("a group over two segments");
    let last = test.frames[test.frames.len() - 2];
    let first = test.frames[test.frames.len() - 1];
    assert_eq!((last.segment, first.segment), (SegmentNumber(1), SegmentNumber(2)));
    assert_eq!(first.lsn, Lsn(SEGMENT_BYTES + BODY as u64));
    assert!(last.end < Lsn(SEGMENT_BYTES) && sealed.upto == first.end);
    assert_eq!(test.header(&last).flags, FrameFlags::END_OF_SEGMENT);
    assert_eq!(test.header(&first).flags, FrameFlags::NONE);
    assert_eq!(test.header(&first).previous_header_crc, test.header(&last).header_crc);
    assert_eq!(test.start_sync(), Some(SyncRequest { segment: SegmentNumber(1), upto: last.end }), "the older first");
    test.finish_sync();
    assert_eq!(test.log.durable(), last.end);
    assert_eq!(test.start_sync(), Some(SyncRequest { segment: SegmentNumber(2), upto: first.end }));
}

#[test]
fn a_segment_whose_last_frame_is_sealed_already_ends_in_an_empty_one() {
    let mut test = TestLog::new();
    test.put(FrameKind::Originated, 2000);
    test.commit();
    test.put(FrameKind::Originated, 3000);
    test.commit();
    let [data, end, next] = &test.frames[..] else { panic!("three frames: {:?}", test.frames) };
    assert_eq!((data.records, end.records, next.records), (1, 0, 1));
    assert_eq!((end.kind, end.lsn, end.total_len), (FrameKind::Local, data.end, 64));
    assert_eq!(test.header(end).flags, FrameFlags::END_OF_SEGMENT);
    assert_eq!(test.header(next).previous_header_crc, test.header(end).header_crc);
}

#[test]
fn every_frame_chains_to_the_one_before_it_over_rotations_and_kinds() {
    let mut test = TestLog::new();
    for round in 0..60 {
        let kind = if round % 3 == 0 { FrameKind::Followed } else { FrameKind::Originated };
        test.put(kind, 150 + round);
        match round % 4 {
            0 => test.commit(),
            1 => {
                test.seal();
            }
            2 => {
                test.commit();
                assert!(test.idle());
            }
            _ => {}
        }
    }
    test.commit();
    assert!(test.files.len() > 3, "several rotations");
    let mut before = 0;
    for frame in &test.frames {
        let header = test.header(frame);
        assert_eq!(header.previous_header_crc, before);
        assert_eq!((header.kind, header.records, header.end()), (frame.kind, frame.records, frame.end));
        before = header.header_crc;
    }
    let in_frames: u32 = test.frames.iter().map(|frame| frame.records).sum();
    assert_eq!(in_frames, 60);
}

#[test]
fn a_record_that_fits_no_segment_is_refused_and_changes_nothing() {
    let mut test = TestLog::new();
    test.put(FrameKind::Originated, 10);
    let before = (test.positions(), test.live());
    // A header, the record, and the 64 bytes kept for an empty frame fill a segment exactly.
    let room = 4096 - 2 * FRAME_HEADER_BYTES;
    let value = vec![1; room - 32];
    assert_eq!(test.log.append_draft(FrameKind::Originated, &draft(1, b"k", &value)), Err(AppendError::TooLarge));
    let bytes = draft(1, b"k", &value).to_vec();
    assert_eq!(test.log.append(FrameKind::Followed, &bytes), Err(AppendError::TooLarge));
    let long_key = vec![1; 65_536];
    assert_eq!(test.log.append_draft(FrameKind::Originated, &draft(1, &long_key, b"")), Err(AppendError::TooLarge));
    assert_eq!((test.positions(), test.live()), before);
    test.supply();
    test.log.append_draft(FrameKind::Originated, &draft(1, b"k", &value[1..])).expect("this one fits exactly");
    assert_eq!((test.log.append_position().0, test.log.room()), (SegmentNumber(2), FRAME_HEADER_BYTES));
}

#[test]
fn what_room_was_made_for_lies_in_one_frame() {
    for before in [0, 1000, 2500, 3900] {
        for sealed in [false, true] {
            let mut test = TestLog::new();
            test.put(FrameKind::Followed, before);
            test.put(FrameKind::Originated, 10);
            if sealed {
                test.commit();
            }
            // Four records of 32 + 3 + 265 bytes.
            let bytes = 4 * 304;
            if test.log.reserve(FrameKind::Originated, bytes) == Err(AppendError::NoSegment) {
                test.supply();
                test.log.reserve(FrameKind::Originated, bytes).expect("supplied");
            }
            let first = test.log.staged();
            for at in 0..4 {
                test.log.append_draft(FrameKind::Originated, &draft(100 + at, b"key", &[1; 265])).expect("reserved");
            }
            test.seal();
            let last = *test.frames.last().expect("a frame");
            assert!(last.lsn <= first && last.records >= 4, "{before} {sealed}: {last:?}");
        }
    }
}

#[test]
fn room_that_no_segment_has_is_refused_and_a_failed_log_has_none() {
    let mut test = TestLog::new();
    test.supply();
    let before = (test.positions(), test.live());
    // The header page, a frame's header, and the 64 bytes kept for an empty frame.
    let most = 8192 - 4096 - 2 * FRAME_HEADER_BYTES;
    assert_eq!(test.log.reserve(FrameKind::Originated, most + 1), Err(AppendError::TooLarge));
    assert_eq!(test.log.reserve(FrameKind::Originated, usize::MAX), Err(AppendError::TooLarge));
    assert_eq!((test.positions(), test.live()), before);
    assert_eq!(test.log.reserve(FrameKind::Originated, most), Ok(()));
    test.log.sync_failed();
    assert_eq!(test.log.reserve(FrameKind::Originated, 10), Err(AppendError::Dead));
}

#[test]
fn without_a_next_segment_an_append_changes_nothing() {
    let mut test = TestLog::new();
    while test.try_put(FrameKind::Originated, 300).is_ok() {}
    assert!(test.log.needs_segment());
    let before = (test.positions(), test.log.append_position(), test.log.room(), test.live(), test.appended.len());
    for kind in [FrameKind::Originated, FrameKind::Followed] {
        assert_eq!(test.try_put(kind, 300), Err(AppendError::NoSegment));
    }
    let after = (test.positions(), test.log.append_position(), test.log.room(), test.live(), test.appended.len());
    assert_eq!(after, before);
    // A small one still fits, and the large one does once a segment is supplied.
    test.try_put(FrameKind::Originated, 0).expect("room for a small record");
    test.supply();
    assert_eq!(test.try_put(FrameKind::Originated, 300).expect("supplied").segment, SegmentNumber(2));
    test.commit();
    assert_eq!(
        support::recovered_records(&test.live(), &support::recover(&test.live()).expect("sound")),
        test.records()
    );
}

#[test]
fn idle_seals_use_up_a_segment_to_its_very_end() {
    let mut test = TestLog::new();
    while test.try_put(FrameKind::Originated, 0).is_ok() {
        test.commit();
        test.idle();
    }
    let last = *test.frames.last().expect("frames");
    let segment_end = Lsn(SEGMENT_BYTES);
    assert!(last.end == segment_end || test.log.room() < 3 * FRAME_HEADER_BYTES, "{last:?}");
    // Whatever is left, the log goes on and is recovered whole.
    test.put(FrameKind::Originated, 1000);
    test.commit();
    assert_eq!(test.seals, [SegmentNumber(1)]);
    assert_eq!(
        support::recovered_records(&test.live(), &support::recover(&test.live()).expect("sound")),
        test.records()
    );
}

#[test]
fn an_idle_seal_in_the_last_64_bytes_ends_the_segment() {
    let mut test = TestLog::new();
    // One frame that leaves exactly 64 bytes.
    test.put(FrameKind::Originated, 4096 - 128 - 32 - 5 - 3);
    test.commit();
    assert_eq!(test.log.room(), FRAME_HEADER_BYTES);
    test.supply();
    assert!(test.idle());
    let frame = *test.frames.last().expect("the empty frame");
    assert_eq!((frame.end, test.header(&frame).flags), (Lsn(SEGMENT_BYTES), FrameFlags::END_OF_SEGMENT));
    assert_eq!(test.log.room(), 0);
    assert!(!test.idle() && test.seals.is_empty());
    assert_eq!(test.put(FrameKind::Originated, 10).segment, SegmentNumber(2));
    test.write_seals();
    assert_eq!(test.seals, [SegmentNumber(1)], "it was durable when the log left it");
    test.commit();
    let next = *test.frames.last().expect("a frame");
    assert_eq!(test.header(&next).previous_header_crc, test.header(&frame).header_crc);
}

#[test]
fn a_seal_is_handed_out_only_once_its_segment_is_durable_throughout() {
    let mut test = TestLog::new();
    test.put(FrameKind::Originated, 2000);
    test.put(FrameKind::Followed, 500);
    test.put(FrameKind::Local, 10);
    test.put(FrameKind::Originated, 3000);
    assert!(test.log.take_seals().is_empty(), "staged");
    test.seal();
    assert!(test.log.take_seals().is_empty(), "written");
    test.start_sync().expect("of segment 1");
    assert!(test.log.take_seals().is_empty(), "in flight");
    test.finish_sync();
    assert_eq!(test.seals, [SegmentNumber(1)], "while segment 2 is not even synced");
    let file = test.files[&SegmentNumber(1)].live();
    let link = wal::SegmentLink { number: SegmentNumber(1), cookie: cookie_of(test.run, SegmentNumber(1)) };
    let SealState::Valid(seal) = SealBlock::read(&file, link) else { panic!("a seal") };
    let last = test.frames[test.frames.len() - 2];
    assert_eq!((seal.end, seal.durable, seal.records), (last.end, last.end, 3));
    assert_eq!(seal.last_header_crc, test.header(&last).header_crc);
    let own = OriginRange { origin: support::NODE, min: version(1001), max: version(1001) };
    let theirs = OriginRange { origin: PEER, min: version(1002), max: version(1002) };
    assert_eq!(seal.origins, Some(vec![own, theirs]), "local records have no range");
}

#[test]
fn a_seal_with_more_origins_than_entries_says_that_it_does_not_know() {
    for (count, known) in [(SEAL_ENTRIES_MAX, true), (SEAL_ENTRIES_MAX + 1, false)] {
        let identity = wal::LogIdentity { node: support::NODE, incarnation: support::RUN, core: support::CORE };
        let segment = |number: u64, base| wal::Segment {
            number: SegmentNumber(number),
            cookie: wal::Cookie(number + 9),
            base,
            map: MemoryMap::new(65_536),
        };
        let mut log = wal::Log::new(identity, 65_536, segment(1, Lsn(0)));
        log.supply(segment(2, Lsn(65_536)));
        for origin in 0..count {
            let origin = wal::NodeId(u32::try_from(origin).expect("small"));
            let draft = RecordDraft { origin, ..draft(1, b"k", b"") };
            log.append_draft(FrameKind::Followed, &draft).expect("room");
        }
        log.append_draft(FrameKind::Originated, &draft(1, b"k", &vec![0; 60_000])).expect("a next segment");
        log.seal_group(version(1)).expect("a group");
        log.next_commit().expect("of segment 1");
        log.sync_done();
        let [(number, block)] = &log.take_seals()[..] else { panic!("one seal") };
        let mut page = vec![0; BODY];
        support::write_seal(&mut page, block);
        let link = wal::SegmentLink { number: *number, cookie: wal::Cookie(10) };
        let SealState::Valid(seal) = SealBlock::read(&page, link) else { panic!("a seal") };
        assert_eq!(seal.records, count as u64);
        assert_eq!(seal.origins.map(|origins| origins.len()), known.then_some(count));
    }
}

#[test]
#[should_panic(expected = "a segment that was not planned")]
fn a_segment_that_was_not_planned_is_refused() {
    let mut test = TestLog::new();
    let link = Some(wal::SegmentLink { number: SegmentNumber(1), cookie: cookie_of(test.run, SegmentNumber(1)) });
    let (segment, _) = support::prepare(test.run, SegmentNumber(7), Lsn(SEGMENT_BYTES), link, |len| vec![0; len]);
    test.log.supply(segment);
}
