//! A disk without space: refusals with a clear error, reads as ever, and writes again as soon as there is room.

use std::fs;
use std::time::{Duration, Instant};

use net::client::{ClientError, ErrorCode};
use tests::disk::{FailingDisk, SmallDisk, Survival, or_skip};
use tests::process::{Choices, Client, Value, backends, wait_for};

use crate::{MIB, daemon_in, large_key, large_value, ok, reads_go_on, segments};

/// Writes large values until one is refused; how many were taken. What the refusal says is checked.
fn write_until_refused(client: &mut Client, names: std::ops::RangeFrom<usize>) -> usize {
    let first = names.start;
    for number in names {
        match client.call(&["SET", &large_key(number), &large_value(number)]).unwrap() {
            Value::Error(text) => {
                assert!(
                    text.contains("the disk is full: writes are refused until space is freed, reads go on"),
                    "{text}"
                );
                return number - first;
            }
            reply => assert_eq!(reply, ok()),
        }
    }
    unreachable!("the numbers do not end")
}

/// Writes until the disk is full, reads, gives space back, writes again; all with one process.
fn fills_and_recovers(disk: &SmallDisk) {
    let mut daemon = daemon_in(&disk.data_dir());
    daemon.start();
    disk.fill(6 * MIB).unwrap();
    let mut client = daemon.client();
    let taken = write_until_refused(&mut client, 0..);
    assert!(taken > 10, "{taken} writes before the disk was full");
    assert_eq!(daemon.metric("godwit_disk_full{core=\"0\"}"), 1);
    reads_go_on(&mut client, taken);
    // Longer than the pause between two attempts to get space: they change nothing.
    let refused_until = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < refused_until {
        assert_eq!(write_until_refused(&mut client, taken..), 0);
        reads_go_on(&mut client, taken);
    }
    let mut native = net::client::Client::connect(daemon.at(daemon.ports().storage)).unwrap();
    let refused = native.put("native", large_value(0)).unwrap_err();
    assert!(
        matches!(&refused, ClientError::Failed(failed) if failed.reason() == Some(ErrorCode::CannotWrite)),
        "{refused}"
    );
    assert_eq!(native.get(large_key(0)).unwrap().unwrap().value, large_value(0));
    disk.free().unwrap();
    wait_for("writes to be taken again", || {
        let reply = client.call(&["SET", &large_key(taken), &large_value(taken)]).unwrap();
        (reply == ok()).then_some(())
    });
    assert_eq!(daemon.metric("godwit_disk_full{core=\"0\"}"), 0);
    assert!(daemon.ended().is_none());
    native.put("native", large_value(0)).unwrap();
    reads_go_on(&mut client, taken + 1);
    daemon.kill9();
    daemon.start();
    reads_go_on(&mut daemon.client(), taken + 1);
    assert_eq!(daemon.terminate().code(), Some(0));
}

#[test]
fn full_disk_is_an_error_not_sigbus() {
    if let Some(disk) = or_skip(SmallDisk::ext4(64 * MIB)) {
        fills_and_recovers(&disk);
    }
}

#[test]
fn a_full_memory_file_system_is_an_error_not_sigbus() {
    if let Some(disk) = or_skip(SmallDisk::tmpfs(32 * MIB)) {
        fills_and_recovers(&disk);
    }
}

/// Where overwriting takes new space, zeros written beforehand reserve nothing: a store into the mapping finds no room, and
/// all that the kernel has for a store is SIGBUS. Segments are excluded from copying.
#[test]
fn a_full_copy_on_write_file_system_is_an_error_not_sigbus() {
    if let Some(disk) = or_skip(SmallDisk::btrfs(128 * MIB)) {
        fills_and_recovers(&disk);
    }
}

#[test]
fn a_start_on_a_full_disk_says_so_and_works_once_there_is_space() {
    let Some(disk) = or_skip(SmallDisk::ext4(64 * MIB)) else { return };
    let mut daemon = daemon_in(&disk.data_dir());
    daemon.start();
    disk.fill(6 * MIB).unwrap();
    let mut client = daemon.client();
    let taken = write_until_refused(&mut client, 0..);
    daemon.kill9();
    // The last spare, which a full disk leaves to compaction, is room enough for one more run.
    daemon.start();
    reads_go_on(&mut daemon.client(), taken);
    daemon.kill9();
    let files = segments(&disk.data_dir()).len();
    let exit = daemon.run_to_its_end(&[]);
    assert_eq!(exit.status.code(), Some(1), "{exit:?}");
    let line = exit.stderr.lines().last().unwrap_or_default();
    assert!(line.contains("the first segment cannot be prepared: No space left on device"), "{line}");
    assert!(line.contains(disk.data_dir().to_str().unwrap()), "it names the place: {line}");
    assert!(segments(&disk.data_dir()).len() <= files, "a refused start takes no space");
    disk.free().unwrap();
    daemon.start();
    reads_go_on(&mut daemon.client(), taken);
}

#[test]
fn a_disk_that_fills_up_under_the_preparation_of_segments_is_survived() {
    let Some(mut disk) = or_skip(FailingDisk::mount()) else { return };
    for backend in backends() {
        let mut daemon = daemon_in(&disk.data_dir());
        daemon.set("IO_BACKEND", backend).start();
        let mut client = daemon.client();
        disk.full(true);
        let taken = write_until_refused(&mut client, 0..);
        assert!(taken > 0 && disk.seen().refused_for_space > 0);
        let left: Vec<_> = fs::read_dir(disk.data_dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_str().unwrap().ends_with(".tmp")), "half a segment is left: {left:?}");
        reads_go_on(&mut client, taken);
        disk.full(false);
        let more = 40;
        wait_for("writes to be taken again", || {
            let reply = client.call(&["SET", &large_key(taken), &large_value(taken)]).unwrap();
            (reply == ok()).then_some(())
        });
        for number in taken..taken + more {
            assert_eq!(client.call(&["SET", &large_key(number), &large_value(number)]).unwrap(), ok());
        }
        disk.power_cut(&mut daemon, Survival::NOTHING, &mut Choices::new(0));
        daemon.start();
        reads_go_on(&mut daemon.client(), taken + more);
    }
}

/// The last steps of a preparation fail once: the segment comes by a second attempt.
fn names_in_the_second_attempt(fail: fn(&FailingDisk)) {
    let Some(mut disk) = or_skip(FailingDisk::mount()) else { return };
    let mut daemon = daemon_in(&disk.data_dir());
    daemon.start();
    let mut client = daemon.client();
    fail(&disk);
    let count = 40;
    for number in 0..count {
        wait_for("the write to be taken", || {
            let reply = client.call(&["SET", &large_key(number), &large_value(number)]).unwrap();
            (reply == ok()).then_some(())
        });
    }
    assert_eq!(daemon.logged("no log segment can be prepared").len(), 1, "one attempt failed");
    disk.power_cut(&mut daemon, Survival::NOTHING, &mut Choices::new(0));
    daemon.start();
    reads_go_on(&mut daemon.client(), count);
}

#[test]
fn a_segment_whose_rename_fails_is_prepared_again() {
    names_in_the_second_attempt(|disk| disk.fail_renames(1));
}

#[test]
fn a_segment_whose_directory_sync_fails_is_prepared_again() {
    names_in_the_second_attempt(|disk| disk.fail_directory_syncs(1));
}
