//! The end of a log at a clean stop: its last segment is sealed, nothing follows, and its last frames can be verified by themselves.

mod support;

use support::{BODY, RUN, TestLog, cookie_of, name_of, recover};
use wal::recovery::{Row, Tail, look_at_tail};
use wal::{AppendError, FrameKind, Lsn, SealBlock, SealState, SegmentLink, SegmentNumber};

/// A log of several segments that was closed.
fn closed() -> TestLog {
    let mut test = TestLog::new();
    for len in [300, 40, 900, 10].into_iter().cycle().take(30) {
        test.put(FrameKind::Originated, len);
        test.commit();
    }
    assert!(test.idle());
    assert!(test.log.close());
    test.write_seals();
    test
}

fn seal_of(test: &TestLog, number: u64) -> SealBlock {
    let link = SegmentLink { number: SegmentNumber(number), cookie: cookie_of(RUN, SegmentNumber(number)) };
    match SealBlock::read(&test.live()[&name_of(number)], link) {
        SealState::Valid(seal) => seal,
        other => panic!("segment {number}: {other:?}"),
    }
}

#[test]
fn a_closed_log_is_sealed_to_its_end_and_takes_nothing_more() {
    let mut test = closed();
    let recovery = recover(&test.live()).expect("sound");
    let log = &recovery.logs[0];
    assert_eq!((log.row, log.end, log.cut), (Row::SealedCut, test.log.durable(), None));
    assert!(log.segments.len() > 1 && log.segments.iter().all(|segment| segment.sealed));
    assert_eq!(test.try_put(FrameKind::Originated, 10), Err(AppendError::Dead));
    assert!(!test.log.close(), "it has ended");
}

#[test]
fn only_a_log_that_is_durable_throughout_can_be_closed() {
    let mut test = TestLog::new();
    assert!(TestLog::new().log.close(), "one that holds nothing has nothing to seal");
    test.put(FrameKind::Originated, 10);
    assert!(!test.log.close(), "staged");
    test.seal();
    assert!(!test.log.close(), "written");
    test.start_sync();
    assert!(!test.log.close(), "in flight");
    test.finish_sync();
    assert!(test.log.close());
    test.write_seals();
    assert_eq!(seal_of(&test, 1).end, test.log.durable());
}

#[test]
fn the_last_frames_of_a_sealed_segment_are_verified_from_any_place_on() {
    let test = closed();
    let files = test.live();
    for number in 1..=u64::try_from(files.len()).unwrap() {
        let (bytes, cookie) = (&files[&name_of(number)], cookie_of(RUN, SegmentNumber(number)));
        let seal = seal_of(&test, number);
        let base = (number - 1) * bytes.len() as u64;
        let end = usize::try_from(seal.end.0 - base).unwrap();
        let mut whole = 0;
        for start in (BODY..end).step_by(64) {
            let tail = |bytes: &[u8]| look_at_tail(&bytes[start..end], Lsn(base + start as u64), cookie, &seal);
            match tail(bytes) {
                Tail::Whole => whole += 1,
                other => assert_eq!(other, Tail::Longer, "from {start} of segment {number}"),
            }
            // A damaged header is no frame, so that the tail begins behind it; any other flipped bit is seen.
            let first = (start..end).step_by(64).find(|at| tail_begins(bytes, *at, base, cookie)).unwrap_or(end);
            let mut damaged = bytes.clone();
            damaged[(first + 64 + start % 997).min(end - 1)] ^= 1;
            assert_ne!(tail(&damaged), Tail::Whole, "from {start} of segment {number}");
        }
        assert!(whole > 1);
        assert_eq!(look_at_tail(&bytes[BODY..end - 64], Lsn(base + BODY as u64), cookie, &seal), Tail::Damaged);
    }
}

fn tail_begins(bytes: &[u8], at: usize, base: u64, cookie: wal::Cookie) -> bool {
    wal::FrameHeader::parse(&bytes[at..], Lsn(base + at as u64), cookie).is_ok()
}
