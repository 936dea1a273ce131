//! The rows of the decision table that leave a log behind: where it ends, why, and what is sealed or thrown away.

mod support;

use support::{
    BODY, CORE, Files, NODE, RUN, SEGMENT_BYTES, TestLog, apply, name_of, offset, recover, recovered_records, recycled,
    version,
};
use wal::recovery::{Cut, RecoveredLog, Recovery, Row};
use wal::{FrameError, FrameKind, Incarnation, Lsn, OriginRange, SegmentNumber, temporary_file_name};

/// Recovers what must be sound.
fn sound(files: &Files) -> Recovery {
    recover(files).unwrap_or_else(|error| panic!("refused: {error}"))
}

fn only_log(recovery: &Recovery) -> &RecoveredLog {
    let [log] = &recovery.logs[..] else { panic!("one log: {recovery:?}") };
    log
}

/// `count` groups of one record in one segment, all durable.
fn groups(count: usize) -> TestLog {
    let mut test = TestLog::new();
    for _ in 0..count {
        test.put(FrameKind::Originated, 100);
        test.commit();
    }
    test
}

#[test]
fn clean_end_nothing_stands_behind_the_last_frame() {
    let test = groups(3);
    let files = test.live();
    let recovery = sound(&files);
    let log = only_log(&recovery);
    assert_eq!((log.row, log.cut, log.end), (Row::CleanEnd, None, test.log.durable()));
    assert_eq!((log.core, log.incarnation, log.hlc), (CORE, RUN, version(test.ms)));
    let [segment] = &log.segments[..] else { panic!("one segment") };
    assert_eq!((segment.number, segment.base, segment.end), (SegmentNumber(1), Lsn(0), log.end));
    assert_eq!((segment.records, segment.sealed, segment.segment_bytes), (3, false, SEGMENT_BYTES));
    assert_eq!(segment.origins, Some(vec![OriginRange { origin: NODE, min: version(1001), max: version(1003) }]));
    assert_eq!(recovered_records(&files, &recovery), test.records());
    assert!(recovery.recyclable.is_empty());
    assert_eq!(recovery.end_of(RUN, CORE), Some(log.end));
    assert_eq!(recovery.end_of(Incarnation(1), CORE), None);
}

#[test]
fn an_empty_directory_and_an_unused_segment_leave_no_log() {
    assert_eq!(sound(&Files::new()), Recovery::default());
    let files = TestLog::new().live();
    let recovery = sound(&files);
    assert_eq!((recovery.logs.len(), recovery.recyclable), (0, vec![name_of(1)]));
}

#[test]
fn recycled_bytes_a_frame_of_another_use_of_the_file_ends_the_log() {
    let mut test = TestLog::on(RUN, 1, recycled);
    test.put(FrameKind::Originated, 150);
    test.commit();
    let files = test.live();
    let recovery = sound(&files);
    let log = only_log(&recovery);
    assert_eq!((log.row, log.cut, log.end), (Row::RecycledBytes, None, test.log.durable()));
    assert_eq!(recovered_records(&files, &recovery), test.records());
}

#[test]
fn a_recycled_file_without_a_frame_of_its_own_leaves_no_log() {
    let files = TestLog::on(RUN, 1, recycled).live();
    let recovery = sound(&files);
    assert_eq!((recovery.logs.len(), recovery.recyclable), (0, vec![name_of(1)]));
}

#[test]
fn a_seal_of_an_earlier_use_of_the_file_is_not_used() {
    let mut test = groups(2);
    test.put(FrameKind::Originated, 3800);
    test.commit();
    let old_seal = test.live()[&name_of(1)][512..1024].to_vec();
    let mut reused = TestLog::on(Incarnation(77), 1, |len| vec![0; len]);
    reused.put(FrameKind::Originated, 10);
    reused.commit();
    let mut files = reused.live();
    files.get_mut(&name_of(1)).expect("the file")[512..1024].copy_from_slice(&old_seal);
    let recovery = sound(&files);
    assert_eq!(only_log(&recovery).end, reused.log.durable());
    assert!(!only_log(&recovery).segments[0].sealed);
    assert!(recovery.report[0].contains("its seal block is damaged and was not used"), "{:?}", recovery.report);
}

#[test]
fn torn_tail_a_group_that_no_sync_covered_is_cut_wherever_it_tore() {
    let mut test = groups(2);
    let end = test.log.durable();
    let durable = test.records();
    test.put(FrameKind::Originated, 1500);
    test.seal().expect("a group that is not synced");
    let torn = test.durable()[&name_of(1)].clone();
    let start = usize::try_from(end.0).expect("small");
    let lost_header = start / 512;
    for sector in lost_header..=(start + 1500) / 512 {
        let mut files = test.live();
        let at = sector * 512..(sector + 1) * 512;
        files.get_mut(&name_of(1)).expect("the file")[at.clone()].copy_from_slice(&torn[at]);
        let recovery = sound(&files);
        let log = only_log(&recovery);
        let reason = if sector == lost_header { FrameError::Blank } else { FrameError::PayloadCrc };
        assert_eq!((log.row, log.end, log.cut), (Row::TornTail, end, Some(Cut { position: end, reason })));
        assert_eq!(recovered_records(&files, &recovery), durable);
        assert!(recovery.report[0].contains("torn tail"), "{:?}", recovery.report);
    }
    let whole = sound(&test.live());
    assert_eq!((only_log(&whole).row, only_log(&whole).end), (Row::CleanEnd, test.log.written()));
}

#[test]
fn a_torn_group_takes_along_the_whole_frames_behind_it() {
    let mut test = groups(1);
    let end = test.log.durable();
    for kind in [FrameKind::Originated, FrameKind::Followed, FrameKind::Originated] {
        test.put(kind, 700);
    }
    test.seal().expect("three frames in one group");
    let mut files = test.live();
    files.get_mut(&name_of(1)).expect("the file")[offset(&test.frames[1]) + 300] ^= 1;
    let recovery = sound(&files);
    assert_eq!(only_log(&recovery).end, end);
    assert_eq!(recovered_records(&files, &recovery), test.records()[..1]);
}

#[test]
fn a_frame_of_this_segment_behind_recycled_bytes_makes_it_a_torn_tail() {
    let mut test = TestLog::on(RUN, 1, recycled);
    test.put(FrameKind::Originated, 150);
    test.commit();
    let end = test.log.durable();
    for _ in 0..2 {
        test.put(FrameKind::Originated, 600);
        test.seal();
    }
    // The first of the two groups is lost, so that a frame of the file's earlier use stands there again.
    let mut files = test.live();
    let start = usize::try_from(end.0).expect("small");
    let until = offset(&test.frames[2]);
    let old = test.durable()[&name_of(1)][start..until].to_vec();
    files.get_mut(&name_of(1)).expect("the file")[start..until].copy_from_slice(&old);
    let recovery = sound(&files);
    let log = only_log(&recovery);
    assert_eq!((log.row, log.end), (Row::TornTail, end));
    assert!(matches!(log.cut, Some(Cut { reason: FrameError::ForeignCookie(_), .. })), "{:?}", log.cut);
}

#[test]
fn sealed_cut_an_earlier_recovery_ended_the_log_here() {
    let mut test = groups(2);
    test.put(FrameKind::Originated, 700);
    test.seal();
    let mut files = test.live();
    files.get_mut(&name_of(1)).expect("the file")[offset(&test.frames[2]) + 300] ^= 1;
    let first = sound(&files);
    apply(&mut files, &first);
    let second = sound(&files);
    let log = only_log(&second);
    assert_eq!((log.row, log.cut, log.end), (Row::SealedCut, None, only_log(&first).end));
    assert!(log.segments[0].sealed && log.segments[0].seal_block().is_none());
    assert_eq!(recovered_records(&files, &second), test.records()[..2]);
    // Not even a frame that would otherwise be refused is looked at behind the seal.
    let at = offset(&test.frames[2]);
    support::rewrite(files.get_mut(&name_of(1)).expect("the file"), at, |header| header[52] = 9);
    assert_eq!(sound(&files), second);
}

#[test]
fn end_of_files_the_last_segment_was_ended_and_the_next_is_not_there() {
    let mut test = groups(2);
    test.put(FrameKind::Originated, 3500);
    test.seal();
    test.start_sync().expect("of segment 1");
    test.finish_sync();
    let mut files = test.live();
    files.remove(&name_of(2)).expect("segment 2");
    let recovery = sound(&files);
    let log = only_log(&recovery);
    assert_eq!((log.row, log.cut, log.end), (Row::EndOfFiles, None, test.log.durable()));
    assert_eq!(recovered_records(&files, &recovery), test.records()[..2]);
}

#[test]
fn end_of_files_a_gap_behind_which_nothing_was_durable_ends_the_log() {
    let mut test = groups(2);
    test.put(FrameKind::Originated, 3500);
    test.put(FrameKind::Originated, 3500);
    test.seal().expect("a group over three segments");
    test.start_sync().expect("of segment 1");
    test.finish_sync();
    let mut files = test.live();
    files.remove(&name_of(2)).expect("segment 2");
    let recovery = sound(&files);
    let log = only_log(&recovery);
    assert_eq!((log.row, log.end), (Row::EndOfFiles, test.log.durable()));
    assert_eq!(recovery.recyclable, [name_of(3)]);
    assert_eq!(recovered_records(&files, &recovery), test.records()[..2]);
}

#[test]
fn a_log_over_many_segments_is_one_log() {
    let mut test = TestLog::new();
    for round in 0..20 {
        test.put(if round % 2 == 0 { FrameKind::Originated } else { FrameKind::Followed }, 900);
        test.commit();
    }
    let files = test.live();
    let recovery = sound(&files);
    let log = only_log(&recovery);
    assert!(log.segments.len() >= 5 && log.segments.windows(2).all(|pair| pair[0].number < pair[1].number));
    assert!(log.segments.iter().rev().skip(1).all(|segment| segment.sealed), "all but the current one");
    assert_eq!(log.end, test.log.durable());
    assert_eq!(recovered_records(&files, &recovery), test.records());
    // The seals of ended segments may be lost: the frames say the same.
    let mut unsealed = files;
    unsealed.values_mut().for_each(|file| file[512..BODY].fill(0));
    assert_eq!(recovered_records(&unsealed, &sound(&unsealed)), test.records());
}

#[test]
fn the_oldest_segments_of_a_log_may_be_gone() {
    let mut test = TestLog::new();
    for _ in 0..12 {
        test.put(FrameKind::Originated, 900);
        test.commit();
    }
    let mut files = test.live();
    let kept = sound(&files).logs[0].segments[1].records;
    files.remove(&name_of(1)).expect("segment 1");
    let recovery = sound(&files);
    let log = only_log(&recovery);
    assert_eq!((log.end, log.segments[0].number), (test.log.durable(), SegmentNumber(2)));
    let found = recovered_records(&files, &recovery);
    assert!(test.records().ends_with(&found) && found.len() as u64 > kept);
}

#[test]
fn spares_of_the_last_run_are_thrown_away() {
    let mut test = groups(2);
    test.supply();
    test.supply();
    let recovery = sound(&test.live());
    assert_eq!(recovery.recyclable, [name_of(2), name_of(3)]);
    assert_eq!(only_log(&recovery).end, test.log.durable());
}

#[test]
fn a_temporary_file_holds_nothing_whatever_is_in_it() {
    let mut files = groups(1).live();
    let name = temporary_file_name(CORE, SegmentNumber(2));
    files.insert(name.clone(), b"half a header".to_vec());
    assert_eq!(sound(&files).recyclable, [name]);
}

#[test]
fn the_logs_of_several_runs_and_cores_are_told_apart() {
    let mut files = groups(2).live();
    let mut next = TestLog::on(Incarnation(2), 5, |len| vec![0; len]);
    next.put(FrameKind::Originated, 100);
    next.commit();
    files.extend(next.live());
    let recovery = sound(&files);
    let runs: Vec<(Incarnation, Lsn)> = recovery.logs.iter().map(|log| (log.incarnation, log.end)).collect();
    assert_eq!(runs, [(RUN, Lsn(4096 + 2 * 256)), (Incarnation(2), next.log.durable())], "by age, not by number");
}
