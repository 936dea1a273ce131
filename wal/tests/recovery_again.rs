//! Recovery after recovery: a crash between its writes changes nothing, and what was cut never comes back.
//!
//! The story behind it: a process dies while a group is on its way to the disk. The group's first sector is lost, its later
//! ones are not. Recovery cuts. If the next process wrote into the same segment, its frames could adjoin the stale ones and
//! bring them back to life; hence the seal, and hence a new segment with a new cookie for every run.

mod support;

use support::{CORE, Files, RUN, SEGMENT_BYTES, Seeded, TestLog, apply, name_of, offset, recover, recovered_records};
use wal::recovery::{Recovery, Row};
use wal::{FrameKind, Incarnation, Lsn, SegmentNumber};

fn sound(files: &Files) -> Recovery {
    recover(files).unwrap_or_else(|error| panic!("refused: {error}"))
}

/// A log over three segments that was torn in the second one: a cut with stale frames behind it in its own segment and in
/// the next. Also gives the records that remain.
fn torn_over_two_segments() -> (TestLog, Files, Vec<Vec<u8>>) {
    let mut test = TestLog::new();
    for len in [500, 2000, 1700] {
        test.put(FrameKind::Originated, len);
        test.commit();
    }
    let kept = test.records();
    assert_eq!(test.log.append_position().0, SegmentNumber(2));
    for len in [400, 500, 3000, 200] {
        test.put(FrameKind::Originated, len);
        test.seal();
    }
    assert_eq!(test.log.append_position().0, SegmentNumber(3));
    let mut files = test.live();
    // The first of the four groups tore.
    let torn = test.frames.iter().find(|frame| frame.lsn == test.log.durable()).expect("the first group");
    let at = offset(torn);
    files.get_mut(&name_of(2)).expect("segment 2")[at..at + 64].fill(0);
    (test, files, kept)
}

#[test]
fn zero_tail_and_reordered_append_recovery() {
    // Any of the sectors of two groups may have reached the disk, in any order, the others being zeros.
    let mut test = TestLog::new();
    for _ in 0..2 {
        test.put(FrameKind::Originated, 100);
        test.commit();
    }
    let durable = test.durable();
    let kept = test.records();
    for _ in 0..2 {
        test.put(FrameKind::Originated, 800);
        test.seal();
    }
    let unsynced: Vec<usize> = test.unsynced().into_iter().map(|(_, sector, _)| sector).collect();
    assert_eq!(unsynced.len(), 4);
    let mut seen = [0; 3];
    for subset in 0..1usize << unsynced.len() {
        let mut files = durable.clone();
        for (index, sector) in unsynced.iter().enumerate() {
            if subset & (1 << index) != 0 {
                let at = sector * 512..(sector + 1) * 512;
                let live = test.live()[&name_of(1)][at.clone()].to_vec();
                files.get_mut(&name_of(1)).expect("the file")[at].copy_from_slice(&live);
            }
        }
        let found = recovered_records(&files, &sound(&files));
        assert!(found.len() >= kept.len() && test.records().starts_with(&found), "{subset:#b}");
        seen[found.len() - kept.len()] += 1;
    }
    assert_eq!(seen, [12, 3, 1], "how often none, one or both of the groups survived");
}

#[test]
fn a_stale_frame_behind_a_cut_does_not_parse_again() {
    let (_, mut files, kept) = torn_over_two_segments();
    let first = sound(&files);
    assert_eq!((first.logs[0].row, recovered_records(&files, &first)), (Row::TornTail, kept.clone()));
    assert_eq!(first.recyclable, [name_of(3)]);
    apply(&mut files, &first);

    // The next run begins a segment of its own.
    let mut next = TestLog::on(Incarnation(2), 4, |len| vec![0; len]);
    next.put(FrameKind::Originated, 50);
    next.commit();
    let mut expected = kept;
    expected.extend(next.records());
    files.extend(next.live());
    assert_eq!(recovered_records(&files, &sound(&files)), expected);

    // More stale bytes arrive behind the cut: now even the torn sector is there, as written.
    let (test, _, _) = torn_over_two_segments();
    let end = usize::try_from(first.logs[0].end.0 - SEGMENT_BYTES).expect("small");
    let stale = test.live()[&name_of(2)][end..].to_vec();
    files.get_mut(&name_of(2)).expect("segment 2")[end..].copy_from_slice(&stale);
    let again = sound(&files);
    assert_eq!(recovered_records(&files, &again), expected);
    assert_eq!(again.end_of(RUN, CORE), Some(first.logs[0].end));
    assert_eq!(again.logs[0].row, Row::SealedCut);
}

#[test]
fn stale_frames_are_no_evidence_against_the_cut_that_made_them_stale() {
    // They declare durable what was durable when they were sealed: never more than what the cut kept.
    let (_, mut files, kept) = torn_over_two_segments();
    let first = sound(&files);
    apply(&mut files, &first);
    // Even when the seal is lost later.
    files.get_mut(&name_of(2)).expect("segment 2")[512..1024].fill(0);
    let again = sound(&files);
    assert_eq!((again.logs[0].row, again.logs[0].end), (Row::TornTail, first.logs[0].end));
    assert_eq!(recovered_records(&files, &again), kept);
}

#[test]
fn recovery_comes_to_the_same_end_after_a_crash_between_any_of_its_writes() {
    let (_, torn, kept) = torn_over_two_segments();
    // A spare, and a log whose ended segments were never sealed.
    let (mut test, _, _) = torn_over_two_segments();
    test.commit();
    test.supply();
    let mut unsealed = test.live();
    unsealed.values_mut().for_each(|file| file[512..1024].fill(0));
    for (files, kept) in [(torn, kept), (unsealed, test.records())] {
        let first = sound(&files);
        let seals: Vec<(&String, _)> = first.logs[0]
            .segments
            .iter()
            .filter_map(|segment| Some((&segment.file_name, segment.seal_block()?)))
            .collect();
        let writes = seals.len() + first.recyclable.len();
        assert!(writes >= 2 && !first.recyclable.is_empty() && !seals.is_empty());
        for done in 0..1usize << writes {
            let mut files = files.clone();
            for (index, (name, block)) in seals.iter().enumerate() {
                if done & (1 << index) != 0 {
                    support::write_seal(files.get_mut(*name).expect("a file"), block);
                }
            }
            for (index, name) in first.recyclable.iter().enumerate() {
                if done & (1 << (seals.len() + index)) != 0 {
                    files.remove(name).expect("a file");
                }
            }
            let again = sound(&files);
            assert_eq!(again.end_of(RUN, CORE), first.end_of(RUN, CORE), "{done:#b}");
            assert_eq!(recovered_records(&files, &again), kept, "{done:#b}");
            apply(&mut files, &again);
            let last = sound(&files);
            assert_eq!(recovered_records(&files, &last), kept, "{done:#b}");
            assert!(last.recyclable.is_empty() && last.logs[0].segments.iter().all(|segment| segment.sealed));
        }
    }
}

#[test]
fn a_seal_that_tore_while_it_was_written_changes_nothing() {
    let (_, files, kept) = torn_over_two_segments();
    let first = sound(&files);
    let segment = &first.logs[0].segments[1];
    let block = segment.seal_block().expect("not sealed yet");
    let mut random = Seeded(7);
    for cut in 1..block.len() {
        let mut files = files.clone();
        let mut torn = block.to_vec();
        if cut % 2 == 0 {
            torn[cut..].fill(0)
        } else {
            torn[random.below(88)] ^= 0x40
        }
        support::write_seal(files.get_mut(&segment.file_name).expect("a file"), &torn);
        let again = sound(&files);
        assert_eq!(again.logs[0].end, first.logs[0].end, "{cut}");
        assert_eq!(recovered_records(&files, &again), kept, "{cut}");
    }
}

#[test]
fn every_restart_keeps_what_the_ones_before_it_kept() {
    let mut random = Seeded(42);
    let mut files = Files::new();
    let mut kept: Vec<Vec<u8>> = Vec::new();
    let mut number = 1;
    for run in 1..=25 {
        let mut test = TestLog::on(Incarnation(run), number, support::recycled);
        for _ in 0..1 + random.below(8) {
            test.put(FrameKind::Originated, random.below(1500));
            match random.below(3) {
                0 => test.commit(),
                1 => {
                    test.seal();
                }
                _ => {}
            }
        }
        // Power loss: each unsynced sector as it happens.
        let acknowledged = test.acknowledged();
        let mut left = test.durable();
        for (name, sector, held) in test.unsynced() {
            if let Some(bytes) = held.get(random.below(held.len() + 1)) {
                left.get_mut(&name).expect("a file")[sector * 512..][..512].copy_from_slice(bytes);
            }
        }
        number += test.files.len() as u64;
        files.extend(left);
        let recovery = sound(&files);
        let found = recovered_records(&files, &recovery);
        assert!(found.starts_with(&kept), "run {run}");
        let new = &found[kept.len()..];
        assert!(test.records().starts_with(new) && new.len() >= acknowledged, "run {run}");
        kept = found;
        apply(&mut files, &recovery);
    }
    assert!(kept.len() > 30, "the runs left records: {}", kept.len());
}

#[test]
fn a_segment_without_records_is_recycled_and_its_run_forgotten() {
    let mut files = TestLog::on(Incarnation(9), 3, |len| vec![0; len]).live();
    let recovery = sound(&files);
    apply(&mut files, &recovery);
    assert!(files.is_empty() && recovery.end_of(Incarnation(9), CORE).is_none());
    assert_eq!(recovery.logs.iter().map(|log| log.end).max(), None::<Lsn>);
}

/// With the harness's fault planted, the test above must fail: a test that never fails proves nothing.
#[cfg(planted)]
#[test]
fn reuse_of_a_segment_behind_a_cut_is_noticed() {
    let (_, mut files, kept) = torn_over_two_segments();
    let first = sound(&files);
    apply(&mut files, &first);
    wal::planted::set(Some(wal::planted::Fault::StaleFrameAfterCut));
    let again = recover(&files);
    let noticed = match &again {
        Ok(again) => recovered_records(&files, again) != kept,
        Err(_) => true,
    };
    wal::planted::set(None);
    assert!(noticed, "{again:?}");
}
