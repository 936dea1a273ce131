//! Every crash of small workloads: up to four operations, power lost after each, with every combination of what the
//! unsynced 512-byte sectors may hold. Recovery yields an exact prefix that contains everything acknowledged; where durable
//! bytes are damaged as well, it refuses or still yields such a prefix.

mod support;

use support::{Files, RUN, Seeded, TestLog, apply, offset, recover, recovered_records};
use wal::{CommitPath, FrameKind, Lsn, segment_file_name};

/// More combinations than this are sampled.
const COMBINATIONS_MAX: usize = 4096;

/// How many of them are looked at then, besides the extremes.
const SAMPLES: usize = 300;

/// In the long form (`GODWIT_LONG=1`, in release some minutes) every subset of up to this many unsynced sectors is tried: each as it is
/// in memory or as it was durable last. Only workloads with two rotations have more.
const SUBSET_SECTORS_MAX: usize = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A small record, of the other kind every second time.
    Append,
    /// The group is sealed and a sync begins, if none is in flight.
    SealAndStartSync,
    /// The sync in flight is done.
    SyncDone,
    /// A record that only the next segment can hold.
    Rotate,
    /// An empty frame, if everything is durable; a sync for it begins.
    SealIdle,
}

const STEPS: [Step; 5] = [Step::Append, Step::SealAndStartSync, Step::SyncDone, Step::Rotate, Step::SealIdle];

fn perform(test: &mut TestLog, step: Step) {
    match step {
        Step::Append => {
            let kind = if test.appended.len().is_multiple_of(2) { FrameKind::Originated } else { FrameKind::Followed };
            test.put(kind, 300);
        }
        Step::SealAndStartSync => {
            test.seal();
            test.start_sync();
        }
        Step::SyncDone => {
            test.finish_sync();
        }
        Step::Rotate => {
            let before = test.log.append_position().0;
            let len = (test.log.room().max(1200) - 300).min(3600);
            while test.log.append_position().0 == before {
                test.put(FrameKind::Originated, len);
            }
        }
        Step::SealIdle => {
            test.seal_idle();
            test.start_sync();
        }
    }
}

/// Where a workload begins.
#[derive(Clone, Copy, Debug)]
enum Start {
    /// An empty log in a new file.
    Fresh,
    /// A durable group, in a file that another log used before.
    Recycled,
    /// A durable group, a sealed one behind it whose sync is in flight.
    InFlight,
    /// A durable and idle-sealed log near the end of its segment.
    NearEnd,
}

fn begin(start: Start) -> TestLog {
    begin_on(start, CommitPath::Mmap)
}

fn begin_on(start: Start, path: CommitPath) -> TestLog {
    let old = if matches!(start, Start::Recycled) { support::recycled } else { |len| vec![0; len] };
    let mut test = TestLog::on_path(RUN, 1, old, path);
    match start {
        Start::Fresh => {}
        Start::Recycled => {
            test.put(FrameKind::Originated, 200);
            test.commit();
        }
        Start::InFlight => {
            test.put(FrameKind::Originated, 200);
            test.commit();
            test.put(FrameKind::Followed, 200);
            perform(&mut test, Step::SealAndStartSync);
        }
        Start::NearEnd => {
            test.put(FrameKind::Originated, 3300);
            test.commit();
            assert!(test.idle());
        }
    }
    test
}

/// Every sequence of at most `len` steps.
fn workloads(len: usize) -> Vec<Vec<Step>> {
    let mut all = vec![Vec::new()];
    let mut longest = 0;
    for _ in 0..len {
        let grown: Vec<Vec<Step>> =
            all[longest..].iter().flat_map(|steps| STEPS.map(|step| [&steps[..], &[step]].concat())).collect();
        longest = all.len();
        all.extend(grown);
    }
    all
}

/// What the disk may hold after power loss, each combination once where they are few enough.
fn for_each_crash(test: &TestLog, random: &mut Seeded, mut check: impl FnMut(&Files)) -> usize {
    let unsynced = test.unsynced();
    let durable = test.durable();
    let mut files = durable.clone();
    let mut apply = |choose: &mut dyn FnMut(usize) -> usize| {
        for (name, sector, held) in &unsynced {
            let range = sector * 512..(sector + 1) * 512;
            let choice = choose(held.len() + 1);
            let bytes = if choice == 0 { &durable[name][range.clone()] } else { &held[choice - 1][..] };
            files.get_mut(name).expect("a file")[range].copy_from_slice(bytes);
        }
        check(&files);
    };
    let combinations = unsynced.iter().try_fold(1usize, |product, (_, _, held)| {
        product.checked_mul(held.len() + 1).filter(|&product| product <= COMBINATIONS_MAX)
    });
    let Some(combinations) = combinations else {
        if std::env::var_os("GODWIT_LONG").is_some() && unsynced.len() <= SUBSET_SECTORS_MAX {
            for subset in 0..1usize << unsynced.len() {
                let mut sector = 0;
                apply(&mut |count| {
                    let kept = subset >> sector & 1 == 1;
                    sector += 1;
                    if kept { count - 1 } else { 0 }
                });
            }
            return 1 << unsynced.len();
        }
        apply(&mut |_| 0);
        apply(&mut |count| count - 1);
        // All but one sector lost, all but one kept: the crashes that tear exactly one thing.
        for only in 0..unsynced.len() {
            for (here, elsewhere) in [(true, false), (false, true)] {
                let mut index = 0;
                apply(&mut |count| {
                    let kept = if index == only { here } else { elsewhere };
                    index += 1;
                    if kept { count - 1 } else { 0 }
                });
            }
        }
        for _ in 0..SAMPLES {
            apply(&mut |count| random.below(count));
        }
        return 2 + 2 * unsynced.len() + SAMPLES;
    };
    for combination in 0..combinations {
        let mut rest = combination;
        apply(&mut |count| {
            let choice = rest % count;
            rest /= count;
            choice
        });
    }
    combinations
}

/// Recovers, and again after recovery's own writes: both times an exact prefix with everything acknowledged.
fn check_crash(test: &TestLog, files: &Files, what: &str) {
    let written = test.records();
    let recovery = recover(files).unwrap_or_else(|error| panic!("{what}: refused although no disk failed: {error}"));
    let found = recovered_records(files, &recovery);
    assert!(written.starts_with(&found), "{what}: not a prefix: {recovery:?}");
    assert!(found.len() >= test.acknowledged(), "{what}: {} of {} acknowledged", found.len(), test.acknowledged());
    let mut files = files.clone();
    apply(&mut files, &recovery);
    let again = recover(&files).unwrap_or_else(|error| panic!("{what}: refused after its own seals: {error}"));
    assert_eq!(recovered_records(&files, &again), found, "{what}: a second recovery");
}

fn enumerate(start: Start) {
    // The product of steps and sectors is what takes the time: four steps on one path, three on the other; in the long form three
    // on both.
    let long = std::env::var_os("GODWIT_LONG").is_some();
    enumerate_on(start, CommitPath::Mmap, if long { 3 } else { 4 });
    enumerate_on(start, CommitPath::Direct, 3);
}

fn enumerate_on(start: Start, path: CommitPath, len: usize) {
    let mut random = Seeded(start as u64);
    let (mut crashes, mut acknowledged) = (0, 0);
    for steps in workloads(len) {
        let mut test = begin_on(start, path);
        steps.iter().for_each(|&step| perform(&mut test, step));
        let what = format!("{path:?} {start:?} {steps:?}");
        crashes += for_each_crash(&test, &mut random, |files| check_crash(&test, files, &what));
        check_crash(&test, &test.live(), &what);
        acknowledged = acknowledged.max(test.acknowledged());
    }
    assert!(crashes > 100 && acknowledged > 0, "{start:?}: {crashes} crashes, at most {acknowledged} acknowledged");
}

#[test]
fn every_crash_of_a_new_log_leaves_a_prefix_with_everything_acknowledged() {
    enumerate(Start::Fresh);
}

#[test]
fn every_crash_in_a_recycled_file_leaves_a_prefix_with_everything_acknowledged() {
    enumerate(Start::Recycled);
}

#[test]
fn every_crash_with_a_sync_in_flight_leaves_a_prefix_with_everything_acknowledged() {
    enumerate(Start::InFlight);
}

#[test]
fn every_crash_near_the_end_of_a_segment_leaves_a_prefix_with_everything_acknowledged() {
    enumerate(Start::NearEnd);
}

#[test]
fn both_commit_paths_leave_the_same_bytes_on_the_disk() {
    for start in [Start::Fresh, Start::Recycled, Start::InFlight, Start::NearEnd] {
        for steps in workloads(3) {
            let [mapped, direct] = [CommitPath::Mmap, CommitPath::Direct].map(|path| {
                let mut test = begin_on(start, path);
                steps.iter().for_each(|&step| perform(&mut test, step));
                test.commit();
                test.durable()
            });
            assert!(mapped == direct, "{start:?} {steps:?}");
        }
    }
}

#[test]
fn damage_below_a_declared_position_is_refused_after_every_workload() {
    let mut refused = 0;
    for start in [Start::Recycled, Start::InFlight, Start::NearEnd] {
        for steps in workloads(3) {
            let mut test = begin(start);
            steps.iter().for_each(|&step| perform(&mut test, step));
            // The last frame sealed knows most.
            let declared = test.frames.last().map_or(Lsn(0), |last| test.header(last).durable);
            let files = test.live();
            for frame in &test.frames {
                let name = segment_file_name(support::CORE, frame.segment);
                let payload = usize::try_from(frame.payload_len).expect("small");
                for within in [0, 7, 30, 63, 64, 64 + payload / 2, 63 + payload] {
                    let mut damaged = files.clone();
                    damaged.get_mut(&name).expect("a file")[offset(frame) + within.min(63 + payload)] ^= 0x20;
                    let result = recover(&damaged);
                    if frame.end <= declared {
                        assert!(result.is_err(), "{start:?} {steps:?} {within} of {frame:?}: {result:?}");
                        refused += 1;
                    } else if let Ok(recovery) = result {
                        let found = recovered_records(&damaged, &recovery);
                        assert!(test.records().starts_with(&found), "{start:?} {steps:?} {within} of {frame:?}");
                    }
                }
            }
        }
    }
    assert!(refused > 1000, "{refused}");
}

#[test]
fn a_crash_with_durable_damage_is_refused_or_leaves_a_prefix() {
    let mut random = Seeded(3);
    let (mut refused, mut prefixes) = (0, 0);
    for start in [Start::Recycled, Start::InFlight, Start::NearEnd] {
        for steps in workloads(2) {
            let mut test = begin(start);
            steps.iter().for_each(|&step| perform(&mut test, step));
            let written = test.records();
            let mut damage = Seeded(17);
            for_each_crash(&test, &mut random, |files| {
                let mut files = files.clone();
                let index = damage.below(files.len());
                let file = files.values_mut().nth(index).expect("a file");
                let at = damage.below(file.len());
                file[at] ^= 1 << damage.below(8);
                match recover(&files) {
                    Err(_) => refused += 1,
                    Ok(recovery) => {
                        let found = recovered_records(&files, &recovery);
                        assert!(written.starts_with(&found), "{start:?} {steps:?} byte {at}: {recovery:?}");
                        prefixes += 1;
                    }
                }
            });
        }
    }
    assert!(refused > 100 && prefixes > 100, "{refused} refused, {prefixes} prefixes");
}
