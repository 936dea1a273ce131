//! A disk that returns errors: of syncs and writes (final), of reads, and writes that take less than they were given.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use tests::disk::{FailingDisk, Survival, or_skip};
use tests::process::{Choices, Client, Daemon, PATIENCE, Value, backends, wait_for};

use crate::{daemon_in, large_key, large_value, ok, present, reads_go_on, segments, value_of};

/// What one client wrote: every key once.
#[derive(Debug, Default)]
struct Written {
    acknowledged: Vec<String>,
    unknown: Vec<String>,
}

impl Written {
    /// Writes until a reply is not OK or does not come, or the test is over.
    fn until_the_end(addr: SocketAddr, name: usize, acknowledged: &AtomicU64, over: &AtomicBool) -> Written {
        let mut written = Written::default();
        let Ok(mut client) = Client::connect(addr, PATIENCE) else { return written };
        while !over.load(Ordering::Relaxed) {
            let key = format!("{name}:{}", written.acknowledged.len());
            match client.call(&["SET", &key, &value_of(&key)]) {
                Ok(reply) if reply == ok() => {
                    written.acknowledged.push(key);
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                _ => {
                    written.unknown.push(key);
                    break;
                }
            }
        }
        written
    }
}

/// Says that the test is over, also when it fails: nobody waits for clients of a daemon that goes on.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The kernel may owe somebody the news of a failed write-back: then the first start hears it, and the next one works.
fn start_after_io_error(daemon: &mut Daemon) {
    daemon.spawn();
    let ended = wait_for("the daemon to start", || match daemon.ended() {
        Some(status) => Some(Some(status)),
        None => daemon.is_ready().then_some(None),
    });
    if let Some(status) = ended {
        daemon.wait_for_end();
        let last = daemon.log().lines().last().unwrap().to_owned();
        for words in ["cannot be synced", "start again", "Input/output error"] {
            assert!(last.contains(words), "{last}");
        }
        assert_eq!(status.code(), Some(1), "what a restart may cure");
        daemon.start();
    }
}

/// A disk fails one sync, or its writes, and then works again as if nothing had been: the page cache shows bytes that it
/// does not hold, and the next sync would succeed.
fn io_error(backend: &str, cores: u16, fail: fn(&FailingDisk)) {
    let Some(mut disk) = or_skip(FailingDisk::mount()) else { return };
    let mut daemon = daemon_in(&disk.data_dir());
    daemon.set("IO_BACKEND", backend).set("CORES", cores).start();
    let addr = daemon.at(daemon.ports().storage);
    let (acknowledged, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let written: Vec<Written> = thread::scope(|scope| {
        let (acknowledged, over) = (&acknowledged, &over);
        let until = Over(over);
        let write = |name| scope.spawn(move || Written::until_the_end(addr, name, acknowledged, over));
        let clients: Vec<_> = (0..8).map(write).collect();
        wait_for("some writes", || (acknowledged.load(Ordering::Relaxed) > 400).then_some(()));
        fail(&disk);
        let status = daemon.wait_for_end();
        assert_eq!(status.code(), Some(4), "{status}");
        drop(until);
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    disk.work_again();
    assert!(disk.seen().io_errors > 0);
    let last = daemon.log().lines().last().unwrap().to_owned();
    assert!(last.contains("fdatasync of the log failed: Input/output error"), "{last}");
    assert!(last.contains("nothing was acknowledged after it. Check the disk, then restart"), "{last}");
    let lies = segments(&disk.data_dir()).iter().any(|path| fs::read(path).unwrap() != disk.bytes(path));
    assert!(lies, "the page cache shows no more than the disk holds: this test tests nothing");

    let acknowledged: BTreeSet<String> = written.iter().flat_map(|written| written.acknowledged.clone()).collect();
    let sent: Vec<String> =
        written.into_iter().flat_map(|written| [written.acknowledged, written.unknown].concat()).collect();
    let read_directly = disk.seen().direct_reads;
    start_after_io_error(&mut daemon);
    let read_directly = disk.seen().direct_reads - read_directly;
    let served = present(&mut daemon.client(), sent.iter());
    let missing: Vec<&String> = acknowledged.difference(&served).collect();
    assert!(missing.is_empty(), "acknowledged and lost: {missing:?}");

    // What is served must be on the disk already.
    disk.power_cut(&mut daemon, Survival::NOTHING, &mut Choices::new(0));
    daemon.start();
    assert_eq!(present(&mut daemon.client(), sent.iter()), served, "served, and not on the disk");
    assert!(read_directly > 0, "recovery reads around the page cache");
}

#[test]
fn eio_then_sync_ok_must_not_ack() {
    for backend in backends() {
        io_error(backend, 1, |disk| disk.fail_syncs(1));
    }
    io_error("auto", 2, |disk| disk.fail_syncs(1));
}

#[test]
fn a_failed_write_back_ends_the_daemon_and_its_bytes_are_never_served() {
    for backend in backends() {
        io_error(backend, 1, FailingDisk::fail_writes);
    }
}

#[test]
fn short_writes_are_completed() {
    let Some(mut disk) = or_skip(FailingDisk::mount()) else { return };
    disk.short_writes(true);
    let mut daemon = daemon_in(&disk.data_dir());
    daemon.start();
    let mut client = daemon.client();
    let count = 40;
    for number in 0..count {
        assert_eq!(client.call(&["SET", &large_key(number), &large_value(number)]).unwrap(), ok());
    }
    disk.power_cut(&mut daemon, Survival::NOTHING, &mut Choices::new(0));
    daemon.start();
    reads_go_on(&mut daemon.client(), count);
    assert!(disk.seen().short_writes > 1000, "{:?}", disk.seen());
    assert!(daemon.logged("ERROR").is_empty(), "{:?}", daemon.logged("ERROR"));
}

#[test]
fn a_segment_that_cannot_be_read_is_named_at_the_start() {
    let Some(disk) = or_skip(FailingDisk::mount()) else { return };
    let mut daemon = daemon_in(&disk.data_dir());
    daemon.start();
    let mut client = daemon.client();
    let count = 30;
    for number in 0..count {
        assert_eq!(client.call(&["SET", &large_key(number), &large_value(number)]).unwrap(), ok());
    }
    // A clean stop would leave a checkpoint, with which the start reads only the ends of the logs.
    daemon.kill9();
    let sealed = segments(&disk.data_dir()).swap_remove(1);
    disk.damage(&sealed, 300 * 1024..300 * 1024 + 512);
    for _ in 0..2 {
        let exit = daemon.run_to_its_end(&[]);
        assert_eq!(exit.status.code(), Some(1), "{exit:?}");
        let expected = format!("{}: cannot be read: Input/output error", sealed.display());
        assert!(exit.one_line().contains(&expected), "{}", exit.one_line());
    }
    disk.heal();
    daemon.start();
    reads_go_on(&mut daemon.client(), count);
}

/// Reads of mapped segments are loads: the kernel can only answer one that it cannot serve with SIGBUS.
#[test]
fn a_sector_that_goes_bad_under_a_running_daemon_does_not_end_it_without_a_word() {
    let Some(disk) = or_skip(FailingDisk::mount()) else { return };
    let mut daemon = daemon_in(&disk.data_dir());
    daemon.start();
    let mut client = daemon.client();
    let (damaged, intact) = ("damaged", "intact");
    for key in [damaged, intact] {
        // Each over more than a page, so that no page holds parts of both.
        for number in 0..10 {
            let key = format!("{key}:{number}");
            assert_eq!(client.call(&["SET", &key, &value_of(&key)]).unwrap(), ok());
        }
    }
    // The third page of the segment: frames begin on the second.
    disk.damage(&segments(&disk.data_dir())[0], 8192..8704);
    for number in 0..10 {
        // Whatever the reply is, there is one, or the daemon says why it ends.
        if client.call(&["GET", &format!("{damaged}:{number}")]).is_err() {
            let status = daemon.wait_for_end();
            assert!(status.code().is_some(), "GET {damaged}:{number} ended the daemon: {status}");
            assert!(!daemon.logged("Input/output error").is_empty());
            return;
        }
    }
    for number in 0..10 {
        let key = format!("{intact}:{number}");
        assert_eq!(client.call(&["GET", &key]).unwrap(), Value::Bulk(value_of(&key).into_bytes()));
    }
}
