//! A disk that loses power with everything that nobody synced.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tests::disk::{FailingDisk, Survival, or_skip};
use tests::process::model::{Tally, Worker, verify_all};
use tests::process::{Choices, Value, wait_for};

use crate::{daemon_in, ok, present, value_of};

/// Clients that keep account of every reply, and a power cut in the middle of their work, again and again.
fn power_cuts(settings: &[(&'static str, &str)], cuts: u32) {
    let Some(mut disk) = or_skip(FailingDisk::mount()) else { return };
    let seed = Choices::seed();
    eprintln!("GODWIT_SEED={seed}");
    let mut choices = Choices::new(seed);
    let mut workers: Vec<Worker> = (0..3).map(|name| Worker::new(name, seed, 100 * 1024)).collect();
    let tally = Tally::default();
    let mut daemon = daemon_in(&disk.data_dir());
    for (key, value) in settings {
        daemon.set(key, value);
    }
    for _ in 0..cuts {
        daemon.start();
        verify_all(&mut daemon.client(), &mut workers);
        let addr = daemon.at(daemon.ports().storage);
        let cut = AtomicBool::new(false);
        thread::scope(|scope| {
            for worker in &mut workers {
                let (cut, tally) = (&cut, &tally);
                scope.spawn(move || {
                    let error = worker.work(addr, tally);
                    assert!(cut.load(Ordering::SeqCst), "a connection broke before the power cut: {error}");
                });
            }
            let wanted = tally.acknowledged.load(Ordering::Relaxed) + 50 + choices.below(1500);
            let deadline = Instant::now() + Duration::from_millis(400);
            wait_for("enough replies", || {
                (tally.acknowledged.load(Ordering::Relaxed) >= wanted || Instant::now() > deadline).then_some(())
            });
            cut.store(true, Ordering::SeqCst);
            let survival = Survival::drawn(&mut choices);
            disk.power_cut(&mut daemon, survival, &mut choices);
        });
    }
    daemon.start();
    verify_all(&mut daemon.client(), &mut workers);
    assert!(daemon.logged("ERROR").is_empty(), "nothing went wrong: {:?}", daemon.logged("ERROR"));
    let (acknowledged, unknown) = (tally.acknowledged.into_inner(), tally.unknown.into_inner());
    eprintln!("{settings:?}: {cuts} power cuts, {acknowledged} replies, {unknown} writes unknown");
    assert!(unknown > 0, "no cut ever hit a write in flight: this test tests nothing");
}

#[test]
fn acknowledged_writes_survive_a_power_cut_with_one_core() {
    power_cuts(&[("CORES", "1")], 8);
}

#[test]
fn acknowledged_writes_survive_a_power_cut_with_two_cores() {
    power_cuts(&[("CORES", "2")], 8);
}

#[test]
fn acknowledged_writes_survive_a_power_cut_over_epoll() {
    power_cuts(&[("CORES", "2"), ("IO_BACKEND", "epoll")], 4);
}

#[test]
fn with_durability_os_a_power_cut_leaves_an_exact_prefix() {
    let Some(mut disk) = or_skip(FailingDisk::mount()) else { return };
    let seed = Choices::seed();
    eprintln!("GODWIT_SEED={seed}");
    let mut choices = Choices::new(seed);
    let mut daemon = daemon_in(&disk.data_dir());
    daemon.set("DURABILITY", "os").start();
    let mut lost = 0;
    let mut kept: Vec<String> = Vec::new();
    for _ in 0..6 {
        // One connection on one core: the log has its writes in their order.
        let mut client = daemon.client();
        let before = kept.len();
        let wanted = 300 + choices.below(3000);
        let sent: Vec<String> = (0..wanted).map(|number| format!("key:{}", before as u64 + number)).collect();
        for keys in sent.chunks(50) {
            keys.iter().for_each(|key| client.queue(&["SET", key, &value_of(key)]));
            client.flush().unwrap();
            keys.iter().for_each(|_| assert_eq!(client.receive().unwrap(), ok()));
        }
        let survival = Survival::drawn(&mut choices);
        disk.power_cut(&mut daemon, survival, &mut choices);
        daemon.start();
        let mut client = daemon.client();
        assert_eq!(present(&mut client, kept.iter()).len(), kept.len(), "what was on the disk stays");
        let found = present(&mut client, sent.iter());
        let prefix: BTreeSet<String> = sent.iter().take(found.len()).cloned().collect();
        assert_eq!(found, prefix, "a hole in what was recovered");
        lost += sent.len() - found.len();
        kept.extend(sent.into_iter().take(found.len()));
        assert_eq!(client.call(&["DBSIZE"]).unwrap(), Value::Integer(i64::try_from(kept.len()).unwrap()));
    }
    assert!(daemon.logged("ERROR").is_empty(), "{:?}", daemon.logged("ERROR"));
    eprintln!("{} kept, {lost} lost", kept.len());
    assert!(lost > 0, "no cut ever took a write: this test tests nothing");
}

#[test]
fn what_a_restart_shows_after_kill_9_survives_a_power_cut() {
    let Some(mut disk) = or_skip(FailingDisk::mount()) else { return };
    let mut daemon = daemon_in(&disk.data_dir());
    daemon.set("DURABILITY", "os").start();
    let keys: Vec<String> = (0..300).map(|number| format!("key:{number}")).collect();
    let mut client = daemon.client();
    keys.iter().for_each(|key| client.queue(&["SET", key, &value_of(key)]));
    client.flush().unwrap();
    keys.iter().for_each(|_| assert_eq!(client.receive().unwrap(), ok()));
    // The last writes are in the page cache only; who reads them from there must make them durable first.
    daemon.kill9();
    daemon.start();
    assert_eq!(present(&mut daemon.client(), keys.iter()).len(), keys.len());
    disk.power_cut(&mut daemon, Survival::NOTHING, &mut Choices::new(0));
    daemon.start();
    assert_eq!(present(&mut daemon.client(), keys.iter()).len(), keys.len(), "shown, and not on the disk");
}
