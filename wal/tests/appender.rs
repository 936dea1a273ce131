//! The appender: staged → written → durable, over one segment and over many.

mod support;

use support::{BODY, PEER, SEGMENT_BYTES, TestLog, cookie_of, draft, version};
use wal::{
    AppendError, FRAME_HEADER_BYTES, FrameKind, Lsn, MemoryMap, RecordDraft, RecordView, SegmentNumber, SyncRequest,
    frames,
};

#[test]
fn a_record_is_staged_then_written_then_durable() {
    let mut test = TestLog::new();
    let start = Lsn(BODY as u64);
    assert_eq!(test.positions(), [start, start, start]);
    let placement = test.put(FrameKind::Originated, 10);
    assert_eq!(test.positions(), [start, start, placement.end]);
    let sealed = test.seal().expect("a group");
    assert_eq!((sealed.from, sealed.upto), (start, test.log.staged()));
    assert_eq!(test.positions(), [start, sealed.upto, sealed.upto]);
    assert_eq!(test.start_sync(), Some(SyncRequest { segment: SegmentNumber(1), upto: sealed.upto }));
    assert_eq!(test.positions(), [start, sealed.upto, sealed.upto]);
    test.finish_sync();
    assert_eq!(test.positions(), [sealed.upto, sealed.upto, sealed.upto]);
    assert!(placement.end <= sealed.upto && sealed.upto.0.is_multiple_of(64));
}

#[test]
fn the_next_group_fills_while_one_sync_is_in_flight() {
    let mut test = TestLog::new();
    test.put(FrameKind::Originated, 10);
    let first = test.seal().expect("a group");
    test.start_sync().expect("a sync");
    let late = test.put(FrameKind::Originated, 10);
    let second = test.seal().expect("a second group");
    test.put(FrameKind::Originated, 10);
    assert_eq!(test.log.next_commit(), None, "one sync at a time");
    test.finish_sync();
    assert_eq!(test.log.durable(), first.upto, "what was sealed after the sync began is not durable by it");
    assert!(late.end > test.log.durable());
    assert_eq!(test.start_sync().expect("the second").upto, second.upto);
    test.finish_sync();
    assert_eq!(test.log.durable(), second.upto);
    assert_eq!(test.start_sync(), None, "the open group is not sealed");
    assert!(test.log.staged() > test.log.written());
}

#[test]
fn a_frame_says_how_far_the_log_was_durable_when_it_was_sealed() {
    let mut test = TestLog::new();
    for _ in 0..3 {
        test.put(FrameKind::Originated, 10);
        test.commit();
    }
    let file = test.files[&SegmentNumber(1)].live();
    let mut end = Lsn(BODY as u64);
    let mut seen = 0;
    for frame in frames(&file[BODY..], Lsn(BODY as u64), cookie_of(test.run, SegmentNumber(1))).take(3) {
        let frame = frame.expect("a frame");
        assert_eq!(frame.header().durable, end);
        end = frame.end();
        seen += 1;
    }
    assert_eq!((seen, end), (3, test.log.durable()));
}

#[test]
fn nothing_appended_is_nothing_to_seal_or_sync() {
    let mut test = TestLog::new();
    assert_eq!(test.seal(), None);
    assert_eq!(test.log.next_commit(), None);
    assert!(!test.idle(), "an empty log has nothing to declare");
    test.put(FrameKind::Originated, 10);
    test.commit();
    assert_eq!(test.seal(), None);
    assert_eq!(test.log.next_commit(), None);
}

#[test]
fn a_change_of_kind_closes_the_frame_and_keeps_the_order() {
    let mut test = TestLog::new();
    for kind in [
        FrameKind::Originated,
        FrameKind::Originated,
        FrameKind::Followed,
        FrameKind::Local,
        FrameKind::Followed,
        FrameKind::Originated,
    ] {
        test.put(kind, 20);
    }
    test.commit();
    let kinds: Vec<(FrameKind, u32)> = test.frames.iter().map(|frame| (frame.kind, frame.records)).collect();
    assert_eq!(
        kinds,
        [
            (FrameKind::Originated, 2),
            (FrameKind::Followed, 1),
            (FrameKind::Local, 1),
            (FrameKind::Followed, 1),
            (FrameKind::Originated, 1)
        ]
    );
    for pair in test.frames.windows(2) {
        assert_eq!(pair[0].end, pair[1].lsn, "frames of a group adjoin");
    }
    assert_eq!(test.frames[0].max_version, version(1002));
    assert_eq!(test.frames[1].max_version, version(1003));
}

#[test]
fn a_followed_record_keeps_its_bytes() {
    let mut test = TestLog::new();
    let foreign = RecordDraft { origin: PEER, expiry: Some(99), ..draft(5, b"theirs", b"value") }.to_vec();
    let record = RecordView::parse(&foreign).expect("a record").0;
    let padded = test.log.append(FrameKind::Followed, &foreign).expect("room");
    let unpadded = test.log.append(FrameKind::Followed, record.bytes).expect("room");
    test.commit();
    let file = test.files[&SegmentNumber(1)].live();
    for placement in [padded, unpadded] {
        let at = usize::try_from(placement.offset).expect("small");
        assert_eq!(usize::try_from(placement.len).expect("small"), record.bytes.len());
        assert_eq!(file[at..at + foreign.len()], foreign);
    }
}

#[test]
fn a_record_stands_where_its_placement_says() {
    let mut test = TestLog::new();
    for len in 0..40 {
        let placement = test.put(FrameKind::Originated, len);
        let file = test.files[&placement.segment].live();
        let (record, padded) = RecordView::parse(&file[usize::try_from(placement.offset).expect("small")..])
            .expect("a record before it is sealed");
        assert_eq!((record.value.len(), u64::from(placement.len)), (len, record.bytes.len() as u64));
        let base = test.log.next_segment_plan().base.0 - SEGMENT_BYTES;
        assert_eq!(placement.end, Lsn(base + u64::from(placement.offset) + padded as u64));
    }
}

#[test]
fn padding_over_old_bytes_is_zeroed() {
    let mut test = TestLog::on(support::RUN, 1, |len| vec![0xee; len]);
    test.put(FrameKind::Originated, 3);
    test.put(FrameKind::Followed, 70);
    let foreign = draft(5, b"k", b"as it was received").to_vec();
    let record = RecordView::parse(&foreign).expect("a record").0.bytes;
    assert!(record.len() < foreign.len(), "it needs padding");
    test.log.append(FrameKind::Originated, record).expect("room");
    test.commit();
    let file = test.files[&SegmentNumber(1)].live();
    let mut read = frames(&file[BODY..], Lsn(BODY as u64), cookie_of(test.run, SegmentNumber(1)));
    for _ in 0..3 {
        read.next().expect("a frame").expect("acceptable").verify_records().expect("acceptable records");
    }
    assert_eq!(BODY + read.consumed(), usize::try_from(test.log.staged().0).expect("small"));
}

#[test]
fn a_failed_sync_is_final() {
    let mut test = TestLog::new();
    test.put(FrameKind::Originated, 10);
    test.commit();
    let durable = test.log.durable();
    test.put(FrameKind::Originated, 10);
    test.seal();
    test.log.next_commit().expect("a sync");
    test.log.sync_failed();
    assert!(test.log.is_dead() && !test.log.needs_segment());
    assert_eq!(test.log.next_commit(), None, "no retry: the second sync would succeed without the bytes being on disk");
    assert_eq!(test.try_put(FrameKind::Originated, 10), Err(AppendError::Dead));
    let foreign = draft(5, b"k", b"v").to_vec();
    assert_eq!(test.log.append(FrameKind::Followed, &foreign), Err(AppendError::Dead));
    assert_eq!(test.log.seal_group(version(2000)), None);
    assert!(!test.log.seal_idle(version(2000)));
    assert_eq!(test.log.durable(), durable);
}

#[test]
#[should_panic(expected = "a sync was requested before it is done")]
fn a_sync_that_was_not_requested_cannot_be_done() {
    let mut test = TestLog::new();
    test.put(FrameKind::Originated, 10);
    test.seal();
    test.log.sync_done();
}

#[test]
fn a_quiet_log_is_sealed_once_by_an_empty_frame_that_declares_all_durable() {
    let mut test = TestLog::new();
    test.put(FrameKind::Originated, 10);
    assert!(!test.log.seal_idle(version(2000)), "not while something is staged");
    test.seal();
    assert!(!test.log.seal_idle(version(2000)), "not while something is written and not durable");
    test.sync();
    let end = test.log.durable();
    assert!(test.idle());
    let frame = *test.frames.last().expect("the empty frame");
    assert_eq!((frame.lsn, frame.records, frame.total_len, frame.kind), (end, 0, 64, FrameKind::Local));
    assert_eq!(test.header(&frame).durable, end);
    assert!(!test.idle(), "once");
    test.put(FrameKind::Originated, 10);
    test.commit();
    assert!(test.idle(), "and again after the next group");
}

#[test]
fn nothing_behind_the_staged_end_is_touched() {
    let mut test = TestLog::new();
    test.put(FrameKind::Originated, 100);
    test.put(FrameKind::Followed, 100);
    test.commit();
    let staged = usize::try_from(test.log.staged().0).expect("small");
    let map = MemoryMap::from(test.files[&SegmentNumber(1)].live());
    assert!(support::is_blank_from(&map, staged));
    assert!(!support::is_blank_from(&map, staged - FRAME_HEADER_BYTES));
}
