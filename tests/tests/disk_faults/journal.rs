//! Syncs of the log beside the journal of the file system below it.

use std::fs;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use tests::disk::{SmallDisk, or_skip};
use tests::process::wait_for;

use crate::{MIB, daemon_in, ok};

/// How often the journal of a disk commits while `work` runs.
fn commits_of(disk: &SmallDisk, work: impl FnOnce()) -> u64 {
    let before = disk.journal_commits().unwrap();
    work();
    disk.journal_commits().unwrap() - before
}

#[test]
fn a_sync_of_a_prepared_segment_waits_for_no_journal_commit() {
    let Some(disk) = or_skip(SmallDisk::ext4(256 * MIB)) else { return };
    // The yardstick: a file that grows needs a commit for every sync.
    let growing = disk.data_dir().with_extension("growing");
    let mut file = fs::File::create(&growing).unwrap();
    let of_growing = commits_of(&disk, || {
        for _ in 0..20 {
            file.write_all(&[1; 4096]).unwrap();
            file.sync_data().unwrap();
        }
    });
    assert!(of_growing >= 20, "{of_growing} commits for 20 syncs of a growing file: this test measures nothing");

    let mut daemon = daemon_in(&disk.data_dir());
    daemon.set("SEGMENT_BYTES", "64MiB").start();
    let mut client = daemon.client();
    // Segments are prepared in the background; that may commit.
    wait_for("the journal to be quiet", || {
        (commits_of(&disk, || thread::sleep(Duration::from_millis(700))) == 0).then_some(())
    });
    let syncs = daemon.metric("godwit_syncs_total{core=\"0\"}");
    let commits = commits_of(&disk, || {
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            assert_eq!(client.call(&["SET", "key", "value"]).unwrap(), ok());
        }
    });
    let syncs = daemon.metric("godwit_syncs_total{core=\"0\"}") - syncs;
    eprintln!("{syncs} syncs and {commits} journal commits in 2 s");
    assert!(syncs > 100, "{syncs} syncs");
    assert!(commits * 20 <= syncs, "{commits} journal commits for {syncs} syncs");
}
