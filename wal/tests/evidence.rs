//! What a scan shows of one segment, for tools.

mod support;

use support::{BODY, NODE, TestLog, name_of, offset, recycled, version};
use wal::recovery::{Finding, SegmentScan, scan_segment};
use wal::{FrameError, FrameKind, Lsn, OriginRange, SegmentHeaderError, SegmentNumber, temporary_file_name};

fn groups(count: usize) -> TestLog {
    let mut test = TestLog::new();
    for _ in 0..count {
        test.put(FrameKind::Originated, 100);
        test.commit();
    }
    test
}

fn scan(bytes: &[u8]) -> SegmentScan {
    scan_segment(&name_of(1), bytes)
}

#[test]
fn a_sound_segment_shows_its_frames_and_its_end() {
    let test = groups(3);
    let scan = scan(&test.live()[&name_of(1)]);
    let segment = scan.segment().expect("a segment");
    assert_eq!((scan.file_name(), segment.header().number), (&name_of(1)[..], SegmentNumber(1)));
    assert_eq!((segment.end(), segment.records(), segment.hlc()), (test.log.durable(), 3, version(test.ms)));
    assert_eq!(segment.first_frame().map(|frame| frame.lsn), Some(test.frames[0].lsn));
    assert_eq!(segment.last_frame().map(|frame| frame.lsn), Some(test.frames[2].lsn));
    assert_eq!((segment.stop(), segment.is_blank_behind()), (Some(FrameError::Blank), true));
    assert_eq!(segment.origins(), Some(vec![OriginRange { origin: NODE, min: version(1001), max: version(1003) }]));
    assert!(segment.seal().is_none() && !segment.seal_is_damaged() && !segment.ends_segment());
    assert!(!segment.has_foreign_frames_behind());
    assert_eq!((segment.resumes_at(), segment.durable_behind()), (None, None));
}

#[test]
fn damage_is_bounded_by_the_next_intact_header_sealed_or_not() {
    let test = groups(4);
    let (hit, next) = (test.frames[1], test.frames[2]);
    // In the header, and in the payload, where the frame's own header stays intact.
    for within in [5, 70] {
        let mut files = test.live();
        files.get_mut(&name_of(1)).expect("the file")[offset(&hit) + within] ^= 1;
        let scan = scan(&files[&name_of(1)]);
        let segment = scan.segment().expect("a segment");
        assert_eq!((segment.end(), segment.resumes_at()), (hit.lsn, Some(next.lsn)));
        assert_eq!(segment.durable_behind(), Some(test.frames[3].lsn));
    }
    let mut test = TestLog::new();
    while test.log.append_position().0 < SegmentNumber(2) {
        test.put(FrameKind::Originated, 900);
        test.commit();
    }
    let (hit, next) = (test.frames[1], test.frames[2]);
    let mut files = test.live();
    files.get_mut(&name_of(1)).expect("the file")[offset(&hit) + 70] ^= 1;
    let scan = scan(&files[&name_of(1)]);
    let segment = scan.segment().expect("a segment");
    assert_eq!((segment.seal().is_some(), segment.resumes_at()), (true, Some(next.lsn)));
    assert_eq!(segment.durable_behind(), None, "behind a seal nothing is evidence");
}

#[test]
fn what_is_no_segment_says_so() {
    let temporary = scan_segment(&temporary_file_name(wal::CoreId(0), SegmentNumber(1)), b"");
    assert!(matches!(temporary.finding(), Finding::Temporary));
    let short = scan(b"short");
    assert!(matches!(short.finding(), Finding::Unusable(SegmentHeaderError::Short(5))) && short.segment().is_none());
    let bytes = &groups(1).live()[&name_of(1)];
    assert!(matches!(scan_segment(&name_of(2), bytes).finding(), Finding::Misnamed(name) if name == name_of(1)));
    let size = SegmentHeaderError::Size { expected: 8192, actual: 1 };
    assert!(matches!(SegmentScan::unusable("a", size).finding(), Finding::Unusable(found) if found == size));
    let unused = TestLog::on(support::RUN, 1, recycled).live();
    let scan = scan(&unused[&name_of(1)]);
    let segment = scan.segment().expect("a segment");
    assert_eq!((segment.first_frame(), segment.end()), (None, Lsn(BODY as u64)));
    assert!(matches!(segment.stop(), Some(FrameError::ForeignCookie(_))) && segment.has_foreign_frames_behind());
}
