//! Disks: what survives, what fails, what rots.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use super::*;

#[test]
fn a_crash_keeps_what_was_synced_and_any_subset_of_sectors_of_the_rest() {
    let mut kept = BTreeSet::new();
    for seed in 0..40 {
        let mut pair = Pair::new(seed);
        let disk = pair.world.disk(pair.nodes[A]);
        let file = prepared(&disk, "/d/tmp", 4096);
        disk.run(FileJob::Rename { from: "/d/tmp".into(), to: "/d/log".into() }).unwrap();
        fill(&file, 1);
        pair.submit(A, Op::Sync { file: file.clone(), range: None }, 1);
        // Stored after the submission: not part of it.
        fill(&file, 2);
        assert!(pair.expect(A, 1).result.is_ok());
        assert_eq!(disk.read_durable(&file, 0, 4096).unwrap(), vec![1; 4096]);
        pair.world.crash(pair.nodes[A]);
        let file = disk.open(Path::new("/d/log")).unwrap();
        let after = disk.read_durable(&file, 0, 4096).unwrap();
        assert_eq!(*file.live().lock().unwrap(), after);
        for sector in after.chunks(512) {
            assert!(sector == [1; 512] || sector == [2; 512], "a sector is old or new");
        }
        kept.insert(after);
    }
    assert!(kept.len() > 30, "any subset, not all or nothing");
}

#[test]
fn directory_entries_survive_a_crash_only_after_a_directory_sync() {
    let (mut lost, mut survived) = (0, 0);
    for seed in 0..40 {
        let pair = Pair::new(seed);
        let disk = pair.world.disk(pair.nodes[A]);
        disk.create_dir_all(Path::new("/d")).unwrap();
        prepared(&disk, "/d/tmp", 4096);
        disk.run(FileJob::Rename { from: "/d/tmp".into(), to: "/d/kept".into() }).unwrap();
        prepared(&disk, "/d/other", 4096);
        pair.world.crash(pair.nodes[A]);
        match disk.list(Path::new("/d")).unwrap().as_slice() {
            [kept] if kept == "kept" => lost += 1,
            [kept, other] if kept == "kept" && other == "other" => survived += 1,
            names => panic!("{names:?}"),
        }
    }
    assert!(lost > 5 && survived > 5, "{lost} {survived}");
}

#[test]
fn a_crash_can_fall_between_a_rename_and_its_directory_sync() {
    let mut states = BTreeSet::new();
    for seed in 0..60 {
        let mut pair = Pair::new(seed);
        let disk = pair.world.disk(pair.nodes[A]);
        prepared(&disk, "/d/one", 4096);
        prepared(&disk, "/d/zero", 4096);
        disk.run(FileJob::Rename { from: "/d/zero".into(), to: "/d/two".into() }).unwrap();
        pair.submit(A, Op::File(FileJob::Rename { from: "/d/one".into(), to: "/d/three".into() }), 1);
        let limit = Mono(pair.world.now().0 + pair.world.random_below(2 * MS));
        while pair.tick(limit) {}
        let done = pair.seen[A].iter().any(|completion| completion.tag == Tag(1));
        pair.world.crash(pair.nodes[A]);
        let names = disk.list(Path::new("/d")).unwrap();
        assert!(!done || names == ["three", "two"], "a completed rename is durable");
        states.insert((done, names));
    }
    assert!(states.len() >= 3, "{states:?}");
}

#[test]
fn after_a_failed_sync_the_next_succeeds_and_the_disk_holds_old_bytes() {
    let mut pair = Pair::new(11);
    let disk = pair.world.disk(pair.nodes[A]);
    let file = prepared(&disk, "/d/log", 4096);
    fill(&file, 5);
    pair.world.fail_next_sync(pair.nodes[A]);
    pair.submit(A, Op::Sync { file: file.clone(), range: None }, 1);
    assert_eq!(pair.expect(A, 1).result.unwrap_err().raw_os_error(), Some(libc::EIO));
    pair.submit(A, Op::Sync { file: file.clone(), range: None }, 2);
    assert!(pair.expect(A, 2).result.is_ok());
    assert_ne!(disk.read_durable(&file, 0, 512).unwrap(), vec![5; 512]);
    // A sector that changes again is written again.
    file.live().lock().unwrap()[0] = 6;
    disk.sync(&file).unwrap();
    assert_eq!(disk.read_durable(&file, 0, 2).unwrap(), [6, 5]);
    assert_ne!(disk.read_durable(&file, 512, 512).unwrap(), vec![5; 512]);
}

#[test]
fn a_full_disk_is_an_error_and_leaves_nothing_behind() {
    let mut pair = Pair::new(12);
    let disk = pair.world.disk(pair.nodes[A]);
    let file = prepared(&disk, "/d/log", 4096);
    pair.world.set_disk_full(pair.nodes[A], true);
    let job = FileJob::Prepare { path: "/d/next".into(), len: 4096, head: Bytes::new() };
    pair.submit(A, Op::File(job), 1);
    assert_eq!(pair.expect(A, 1).result.unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(disk.list(Path::new("/d")).unwrap(), ["log"]);
    let grow = Op::Write { file: file.clone(), offset: 4000, bytes: Bytes::from(vec![1; 200]), dsync: true };
    pair.submit(A, grow, 2);
    assert_eq!(pair.expect(A, 2).result.unwrap_err().kind(), ErrorKind::StorageFull);
    let inside = Op::Write { file: file.clone(), offset: 0, bytes: Bytes::from(vec![1; 200]), dsync: true };
    pair.submit(A, inside, 3);
    assert!(pair.expect(A, 3).result.is_ok());
    assert_eq!(disk.read_durable(&file, 0, 200).unwrap(), vec![1; 200]);
    pair.world.set_disk_full(pair.nodes[A], false);
    prepared(&disk, "/d/next", 4096);
}

#[test]
fn rot_shows_in_both_reads() {
    let pair = Pair::new(14);
    let disk = pair.world.disk(pair.nodes[A]);
    let file = prepared(&disk, "/d/log", 4096);
    pair.world.rot(pair.nodes[A], Path::new("/d/log"), 0, 1).unwrap();
    assert_eq!(disk.read_durable(&file, 0, 4).unwrap(), b"iead");
    assert_eq!(&file.live().lock().unwrap()[..4], b"iead");
    assert!(pair.world.rot(pair.nodes[A], Path::new("/d/log"), 4096, 1).is_err());
}

#[test]
fn a_failed_write_leaves_nothing_or_some_of_its_sectors() {
    let (mut nothing, mut some) = (0, 0);
    for seed in 0..40 {
        let mut pair = Pair::new(seed);
        let disk = pair.world.disk(pair.nodes[A]);
        let file = prepared(&disk, "/d/log", 4096);
        pair.world.fail_next_write(pair.nodes[A]);
        // Whoever only looks does not meet the error.
        prepared(&disk, "/d/other", 4096);
        let write = || Op::Write { file: file.clone(), offset: 512, bytes: Bytes::from(vec![9; 2048]), dsync: true };
        pair.submit(A, write(), 1);
        assert_eq!(pair.expect(A, 1).result.unwrap_err().raw_os_error(), Some(libc::EIO));
        let device = disk.read_durable(&file, 0, 4096).unwrap();
        assert_eq!(*file.live().lock().unwrap(), device, "reads show what the device holds");
        assert!(device[512..2560].chunks(512).all(|sector| sector == [9; 512] || sector == [0; 512]));
        assert!(device.starts_with(b"head") && device[2560..].iter().all(|byte| *byte == 0));
        if device[512..2560].contains(&9) {
            some += 1;
        } else {
            nothing += 1;
        }
        pair.submit(A, write(), 2);
        assert!(pair.expect(A, 2).result.is_ok(), "once");
        assert_eq!(disk.read_durable(&file, 512, 2048).unwrap(), vec![9; 2048]);
    }
    assert!(nothing > 5 && some > 5, "{nothing} {some}");
}

#[test]
fn the_writes_of_file_jobs_fail_as_well() {
    let mut pair = Pair::new(30);
    let disk = pair.world.disk(pair.nodes[A]);
    let file = prepared(&disk, "/d/log", 4096);
    let jobs = [
        FileJob::Prepare { path: "/d/next".into(), len: 4096, head: Bytes::from_static(b"new") },
        FileJob::WriteSync { file, offset: 0, bytes: Bytes::from_static(b"new") },
        FileJob::Recycle { path: "/d/log".into(), len: 4096, head: Bytes::from_static(b"new") },
    ];
    for (tag, job) in (1..).zip(jobs) {
        pair.world.fail_next_write(pair.nodes[A]);
        pair.submit(A, Op::File(job), tag);
        assert_eq!(pair.expect(A, tag).result.unwrap_err().raw_os_error(), Some(libc::EIO));
    }
    assert_eq!(disk.list(Path::new("/d")).unwrap(), ["log"], "a partly prepared file is removed");
}

#[test]
fn the_nodes_next_read_fails_and_the_checkers_does_not() {
    let mut pair = Pair::new(31);
    let node = pair.nodes[A];
    let disk = pair.world.disk(node);
    let file = prepared(&disk, "/d/log", 4096);
    let startup = pair.world.startup_disk(node);
    let is_eio = |error: io::Error| error.raw_os_error() == Some(libc::EIO);
    pair.world.fail_next_read(node);
    assert_eq!(disk.read_durable(&file, 0, 4).unwrap(), b"head");
    assert!(is_eio(startup.read_durable(&file, 0, 4).unwrap_err()));
    assert_eq!(startup.read_durable(&file, 0, 4).unwrap(), b"head");
    pair.world.fail_next_read(node);
    pair.submit(A, Op::Read { file: file.clone(), offset: 0, len: 4 }, 1);
    assert!(is_eio(pair.expect(A, 1).result.unwrap_err()));
    pair.world.fail_next_read(node);
    pair.submit(A, Op::File(FileJob::ReadBulk { file: file.clone(), offset: 0, len: 4 }), 2);
    assert!(is_eio(pair.expect(A, 2).result.unwrap_err()));
    pair.submit(A, Op::Read { file, offset: 0, len: 4 }, 3);
    assert_eq!(&*pair.expect(A, 3).buf.unwrap(), b"head");
}

#[test]
fn a_misplaced_sector_shows_in_both_reads() {
    let pair = Pair::new(32);
    let node = pair.nodes[A];
    let disk = pair.world.disk(node);
    prepared(&disk, "/d/one", 4096);
    let two = prepared(&disk, "/d/two", 4096);
    fill(&two, 2);
    disk.sync(&two).unwrap();
    pair.world.misplace(node, Path::new("/d/one"), 0, Path::new("/d/two"), 3).unwrap();
    for bytes in [disk.read_durable(&two, 0, 4096).unwrap(), two.live().lock().unwrap().clone()] {
        assert_eq!(&bytes[3 * 512..][..5], b"head\0");
        assert!(bytes[..3 * 512].iter().chain(&bytes[4 * 512..]).all(|byte| *byte == 2));
    }
    for (from, to) in [(8, 0), (0, 8)] {
        assert!(pair.world.misplace(node, Path::new("/d/one"), from, Path::new("/d/two"), to).is_err());
    }
}

#[test]
fn an_older_content_that_was_written_back_can_survive() {
    let mut survivors = BTreeSet::new();
    for seed in 0..40 {
        let pair = Pair::new(seed);
        let disk = pair.world.disk(pair.nodes[A]);
        let file = prepared(&disk, "/d/tmp", 4096);
        disk.run(FileJob::Rename { from: "/d/tmp".into(), to: "/d/log".into() }).unwrap();
        fill(&file, 1);
        pair.world.write_back(pair.nodes[A]);
        assert!(*file.live().lock().unwrap() == [1; 4096], "nobody notices");
        fill(&file, 2);
        pair.world.crash(pair.nodes[A]);
        let file = disk.open(Path::new("/d/log")).unwrap();
        survivors.extend(disk.read_durable(&file, 0, 4096).unwrap().chunks(512).map(|sector| sector[100]));
    }
    assert_eq!(survivors, BTreeSet::from([0, 1, 2]));
}

#[test]
fn a_running_sync_does_not_bring_back_what_was_written_over_it() {
    for seed in 0..40 {
        let mut pair = Pair::new(seed);
        let disk = pair.world.disk(pair.nodes[A]);
        let file = prepared(&disk, "/d/log", 4096);
        fill(&file, 1);
        pair.submit(A, Op::Sync { file: file.clone(), range: None }, 1);
        fill(&file, 2);
        pair.world.write_back(pair.nodes[A]);
        let before = disk.read_durable(&file, 0, 4096).unwrap();
        assert!(pair.expect(A, 1).result.is_ok());
        let after = disk.read_durable(&file, 0, 4096).unwrap();
        for (before, after) in before.chunks(512).zip(after.chunks(512)) {
            assert!(after == [1; 512] || after == [2; 512], "synced, or newer");
            assert!(before != [2; 512] || after == [2; 512], "never older again");
        }
    }
}

#[test]
fn a_range_is_synced_and_nothing_beside_it() {
    let mut pair = Pair::new(33);
    let disk = pair.world.disk(pair.nodes[A]);
    let file = prepared(&disk, "/d/log", 64 * 1024);
    fill(&file, 3);
    pair.submit(A, Op::Sync { file: file.clone(), range: Some(5_000..9_000) }, 1);
    assert!(pair.expect(A, 1).result.is_ok());
    let device = disk.read_durable(&file, 0, 64 * 1024).unwrap();
    let synced = 4608..9216;
    assert!(device.iter().enumerate().skip(4).all(|(at, byte)| *byte == 3 * u8::from(synced.contains(&at))));
}

#[test]
fn a_copied_disk_comes_back_as_it_was() {
    for what in [DiskCopy::Live, DiskCopy::Crashed] {
        let mut images = Vec::new();
        for seed in 0..20 {
            let pair = Pair::new(seed);
            let node = pair.nodes[A];
            let disk = pair.world.disk(node);
            disk.create_dir_all(Path::new("/d")).unwrap();
            let file = prepared(&disk, "/d/tmp", 4096);
            disk.run(FileJob::Rename { from: "/d/tmp".into(), to: "/d/log".into() }).unwrap();
            prepared(&disk, "/d/loose", 4096);
            fill(&file, 5);
            let image = pair.world.copy_disk(node, what);
            assert!(*file.live().lock().unwrap() == [5; 4096], "the original goes on");
            fill(&file, 6);
            disk.sync(&file).unwrap();
            pair.world.kill(node);
            pair.world.restore_disk(node, &image);
            assert_eq!(pair.world.copy_disk(node, DiskCopy::Live), image);
            assert_eq!(pair.world.copy_disk(node, DiskCopy::Crashed), image, "all of it is durable");
            let file = disk.open(Path::new("/d/log")).unwrap();
            let bytes = disk.read_durable(&file, 0, 4096).unwrap();
            assert!(bytes.chunks(512).all(|sector| sector[4..] == [5; 508] || sector[4..] == [0; 508]));
            images.push((bytes, disk.list(Path::new("/d")).unwrap()));
        }
        images.sort();
        images.dedup();
        assert!(if what == DiskCopy::Live { images.len() == 1 } else { images.len() > 10 }, "{}", images.len());
    }
}

#[test]
fn syncs_take_as_long_as_they_are_told() {
    let mut pair = Pair::new(34);
    let disk = pair.world.disk(pair.nodes[A]);
    let file = prepared(&disk, "/d/log", 4096);
    let mut took = |delay: SyncDelay| {
        pair.world.set_sync_delay(pair.nodes[A], delay);
        let before = pair.world.now();
        pair.submit(A, Op::Sync { file: file.clone(), range: None }, 1);
        assert!(pair.expect(A, 1).result.is_ok());
        pair.world.now().since(before) / MS
    };
    let slow = SyncDelay { min_ns: 50 * MS, max_ns: 60 * MS, stall_ppm: 0, stall_ns: 0 };
    assert!((50..=61).contains(&took(slow)));
    assert!((3_000..=3_001).contains(&took(SyncDelay { stall_ppm: 1_000_000, stall_ns: 3_000 * MS, ..slow })));
}
