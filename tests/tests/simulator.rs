//! Scenarios and seeds of the simulator: three regions, their disks, clocks and network in one thread.

use std::sync::atomic::{AtomicU64, Ordering};

use tests::sim::check::finals::CONVERGED;
use tests::sim::mesh::{Mesh, REGIONS};
use tests::sim::run::{Report, run_seed};
use tests::sim::workload::{Command, Outcome};

fn keys(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|index| format!("{name}:{index}")).collect()
}

fn all_stored(outcomes: &[Outcome]) -> bool {
    outcomes.iter().all(|outcome| *outcome == Outcome::Stored)
}

/// How many links' worth of handshakes and heartbeats a scenario of some ten virtual seconds may cost, in bytes.
const OVERHEAD_BYTES: u64 = 64 * 1024;

#[test]
fn one_seed_gives_one_trace() {
    let (first, again, other) = (run_seed(5), run_seed(5), run_seed(6));
    assert_eq!(first.trace_hash, again.trace_hash);
    assert_eq!(first.story, again.story);
    assert_ne!(first.trace_hash, other.trace_hash);
}

#[test]
fn three_region_mesh_has_no_echo() {
    let mut mesh = Mesh::new(1);
    mesh.run_ms(2_000);
    let (count, bytes) = (400, 1_000);
    assert!(all_stored(&mesh.region("sfo").set_many(keys("k", count), bytes)));
    mesh.converged();
    let written = (count * bytes) as u64;
    for target in ["nyc", "ams"] {
        let sent = mesh.region("sfo").sent_records_bytes(target);
        assert!(sent >= written && sent < written + written / 4, "sfo sent {sent} to {target} for {written}");
        assert!(mesh.bytes_between("sfo", target) < written + written / 4 + OVERHEAD_BYTES);
    }
    // Nobody hands on what another region originated.
    for (from, to) in [("nyc", "ams"), ("ams", "nyc"), ("nyc", "sfo"), ("ams", "sfo")] {
        let sent = mesh.region(from).sent_records_bytes(to);
        assert!(sent < 1_000, "{from} sent {sent} record bytes to {to}");
        assert!(mesh.bytes_between(from, to) < OVERHEAD_BYTES);
    }
}

#[test]
fn delete_while_peer_down_stays_deleted() {
    let mut mesh = Mesh::new(2);
    assert!(all_stored(&mesh.region("sfo").set_many(keys("k", 50), 300)));
    mesh.converged();

    mesh.region("ams").lose_power();
    for key in keys("k", 50) {
        assert_eq!(mesh.region("nyc").del(&key), Outcome::Deleted(true));
    }
    mesh.run_ms(3_000);
    mesh.region("sfo").kill();
    mesh.region("ams").start();
    mesh.region("sfo").start();
    mesh.converged();
    for region in REGIONS {
        for key in keys("k", 50) {
            assert_eq!(mesh.region(region).get(&key), Outcome::Read(None), "{key} in {region}");
        }
    }
    mesh.sound();
}

#[test]
fn scattered_batch_claims_with_the_slowest_core() {
    // Checker C8 looks at the device behind every claim: batches that scatter over both cores of the followers, while one
    // core's sync takes long, must not be claimed with the faster core.
    for seed in 1..=10 {
        let mut mesh = Mesh::with_cores(seed, [2, 2, 2]);
        for round in 0..10 {
            assert!(all_stored(&mesh.region("sfo").set_many(keys("scattered", 40), 50 + 30 * round)));
        }
        mesh.run_ms(50);
        mesh.region("nyc").lose_power();
        mesh.region("nyc").start();
        mesh.converged();
    }
}

#[test]
fn an_idle_core_does_not_hold_the_last_claim_back() {
    // A core that is asked to raise its clock while its own sync is in flight has to keep that promise with this sync:
    // no other may follow.
    let mut mesh = Mesh::new(12);
    mesh.run_ms(3_000);
    for round in 0..150 {
        assert!(all_stored(&mesh.region("sfo").set_many(keys(&format!("r{round}"), 4), 50)));
        mesh.run_ms(600);
        assert_eq!(mesh.lagging(), None, "after round {round}");
    }
    mesh.converged();
}

#[test]
fn equal_version_converges() {
    // Both nodes have tag 1: their clocks can give the very same version for the same key.
    let mut mesh = Mesh::with_node_ids(3, [0x0000_0001, 0x0000_0800, 0x0000_0bad]);
    mesh.run_ms(2_000);
    for key in keys("tied", 200) {
        for region in ["sfo", "nyc"] {
            mesh.region(region).post([Command::Set { key: key.clone().into(), filler: 20, px: None }]);
        }
        mesh.run_ms(7);
    }
    mesh.converged();
    let ties = mesh.checks().history.ties();
    assert!(ties > 20, "only {ties} versions were equal");
}

#[test]
fn black_holed_region_does_not_separate_the_others() {
    let mut mesh = Mesh::new(4);
    mesh.run_ms(2_000);
    mesh.region("ams").cut_off();
    for round in 0..20 {
        let key = format!("k:{round}");
        assert_eq!(mesh.region("sfo").set(&key, 2_000), Outcome::Stored);
        // A trip of 37 ms, two syncs and their tails.
        mesh.run_ms(250);
        assert!(matches!(mesh.region("nyc").get(&key), Outcome::Read(Some(_))), "{key} is not in nyc");
        assert_eq!(mesh.region("ams").get(&key), Outcome::Read(None), "ams is cut off");
        assert_eq!(mesh.region("ams").set(&format!("own:{round}"), 100), Outcome::Stored, "ams serves its clients");
    }
    mesh.heal();
    mesh.converged();
    assert!(matches!(mesh.region("ams").get("k:19"), Outcome::Read(Some(_))));
    assert!(matches!(mesh.region("sfo").get("own:19"), Outcome::Read(Some(_))));
}

#[test]
fn one_way_cut_heals() {
    let mut mesh = Mesh::new(5);
    mesh.run_ms(2_000);
    mesh.cut_one_way("sfo", "nyc");
    assert!(all_stored(&mesh.region("sfo").set_many(keys("a", 30), 500)));
    assert!(all_stored(&mesh.region("nyc").set_many(keys("a", 30), 500)));
    mesh.run_ms(8_000);
    mesh.heal();
    mesh.converged();
}

#[test]
fn killed_region_returns_without_loss() {
    let mut mesh = Mesh::new(6);
    mesh.run_ms(1_000);
    for round in 0..6u16 {
        assert!(all_stored(&mesh.region("ams").set_many(keys("k", 60), 400 + 100 * usize::from(round))));
        mesh.region("ams").kill();
        mesh.run_ms(200 * u64::from(round));
        // Keys move between cores when their number changes.
        mesh.region("ams").start_with_cores(1 + round % 2);
        for key in keys("k", 60) {
            assert!(matches!(mesh.region("ams").get(&key), Outcome::Read(Some(_))), "{key} after kill {round}");
        }
    }
    mesh.converged();
}

#[test]
fn power_loss_everywhere_at_once_loses_nothing_acknowledged() {
    let mut mesh = Mesh::new(7);
    for round in 0..5 {
        assert!(all_stored(&mesh.region(REGIONS[round % 3]).set_many(keys("k", 80), 700)));
        for region in REGIONS {
            mesh.region(region).lose_power();
        }
        for region in REGIONS {
            mesh.region(region).start();
        }
    }
    mesh.converged();
}

#[test]
fn eio_then_sync_ok_must_not_ack() {
    let mut mesh = Mesh::with_cores(8, [1, 1, 1]);
    mesh.run_ms(1_000);
    assert_eq!(mesh.region("sfo").set("before", 100), Outcome::Stored);
    mesh.run_ms(500);
    mesh.region("sfo").fail_next_sync();
    // The kernel forgets the pages of the failed sync and would let the next one succeed.
    for attempt in 0..3 {
        assert_eq!(mesh.region("sfo").set(&format!("lost:{attempt}"), 100), Outcome::Unknown);
        assert!(!mesh.region("sfo").is_up(), "a failed sync ends the process");
    }
    mesh.region("sfo").start();
    assert!(matches!(mesh.region("sfo").get("before"), Outcome::Read(Some(_))));
    assert_eq!(mesh.region("sfo").get("lost:0"), Outcome::Read(None));
    assert_eq!(mesh.region("sfo").set("after", 100), Outcome::Stored);
    mesh.converged();
}

#[test]
fn full_disk_refuses_writes_and_goes_on_reading() {
    let mut mesh = Mesh::with_cores(9, [1, 1, 1]);
    assert_eq!(mesh.region("nyc").set("k", 100), Outcome::Stored);
    mesh.region("nyc").set_disk_full(true);
    let outcomes = mesh.region("nyc").set_many(keys("fill", 60), 8_000);
    assert!(outcomes.iter().any(|outcome| matches!(outcome, Outcome::Refused(_))), "{outcomes:?}");
    assert!(matches!(mesh.region("nyc").get("k"), Outcome::Read(Some(_))));
    mesh.region("nyc").set_disk_full(false);
    mesh.run_ms(3_000);
    assert_eq!(mesh.region("nyc").set("k", 8_000), Outcome::Stored);
    mesh.converged();
}

#[test]
fn a_region_away_while_a_lot_is_written_catches_up_from_segments() {
    let mut mesh = Mesh::new(10);
    mesh.run_ms(1_000);
    mesh.region("ams").lose_power();
    // 19 MB, more than the 8 MB that a source keeps in hand: it has to read its segments back.
    for _ in 0..16 {
        assert!(all_stored(&mesh.region("sfo").set_many(keys("k", 100), 12_000)));
    }
    mesh.region("ams").start();
    for _ in 0..500 {
        mesh.run_ms(10);
        if mesh.region("sfo").sent_records_bytes("ams") > 2_000_000 {
            break;
        }
    }
    let sent = mesh.region("sfo").sent_records_bytes("ams");
    assert!((2_000_000..12_000_000).contains(&sent), "a part is under way: {sent} bytes");
    // The rest comes from a run that is over: nothing of it is in memory any more.
    mesh.region("sfo").kill();
    mesh.region("sfo").start();
    mesh.converged();
    assert!(mesh.region("sfo").sent_records_bytes("ams") > 1_000_000, "the retired log was streamed");
}

#[test]
fn a_region_catches_up_no_faster_than_allowed_while_the_others_get_what_is_new_at_once() {
    let mut mesh = Mesh::new(12);
    mesh.region("sfo").kill();
    mesh.region("sfo").set_flow(true, 1_000_000);
    mesh.region("sfo").start();
    mesh.run_ms(2_000);
    mesh.region("ams").lose_power();
    mesh.run_ms(5_000);
    // Twice 19 MB: each core keeps 8 MB of it in hand, the rest is read back.
    for part in 0..32 {
        assert!(all_stored(&mesh.region("sfo").set_many(keys(&format!("k{part}"), 100), 12_000)));
    }
    mesh.region("ams").start();
    let start = mesh.region("sfo").sent_records_bytes("ams");
    for _ in 0..1_000 {
        mesh.run_ms(10);
        if mesh.region("sfo").sent_records_bytes("ams") > start + 100_000 {
            break;
        }
    }
    let before = mesh.region("sfo").sent_records_bytes("ams");
    for second in 1..=5u64 {
        let key = format!("new:{second}");
        assert_eq!(mesh.region("sfo").set(&key, 100), Outcome::Stored);
        mesh.run_ms(300);
        assert!(matches!(mesh.region("nyc").get(&key), Outcome::Read(Some(_))), "nyc has {key} at once");
        mesh.run_ms(700);
        let sent = mesh.region("sfo").sent_records_bytes("ams") - before;
        let allowed = second * 1_000_000;
        assert!((allowed / 2..=allowed + allowed / 4 + 1_100_000).contains(&sent), "{sent} bytes in {second} s");
    }
    // What it sends is one byte over and over: packed it is next to nothing.
    assert!(mesh.bytes_between("sfo", "ams") < 1_000_000, "{}", mesh.bytes_between("sfo", "ams"));
    mesh.converged();
}

#[test]
fn expired_values_stay_expired_everywhere() {
    let mut mesh = Mesh::new(11);
    assert_eq!(mesh.region("sfo").set("k", 50), Outcome::Stored);
    mesh.run_ms(500);
    assert_eq!(mesh.region("nyc").set_px("k", 50, 400), Outcome::Stored);
    mesh.region("nyc").kill();
    mesh.region("nyc").start();
    mesh.run_ms(2_000);
    for region in REGIONS {
        // Not the earlier value either.
        assert_eq!(mesh.region(region).get("k"), Outcome::Read(None), "in {region}");
    }
    mesh.converged();
}

/// Runs seeds on the machine's processors; panics with the first violation's story.
fn seeds_hold(first: u64, count: u64) {
    let next = AtomicU64::new(first);
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    let reports: Vec<Report> = std::thread::scope(|scope| {
        let work = || {
            let mut reports = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + count {
                    return reports;
                }
                reports.push(run_seed(seed));
            }
        };
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker ends")).collect()
    });
    for report in &reports {
        if let Some(violation) = &report.violation {
            panic!("seed {}: {violation}\n{}", report.seed, report.story.join("\n"));
        }
    }
    // A harness that does nothing proves nothing.
    let sum = |fact: fn(&Report) -> u64| reports.iter().map(fact).sum::<u64>();
    assert!(sum(|report| report.acknowledged) > 500 * count);
    assert!(sum(|report| report.unknown) > count);
    assert!(sum(|report| report.faults) > 10 * count);
    assert!(reports.iter().all(|report| report.story.iter().any(|line| line.ends_with(CONVERGED))));
}

#[test]
fn fifty_seeds_hold() {
    seeds_hold(1, 50);
}

/// A region whose disk is full, while another goes on writing: nothing is acknowledged that is not stored, reads go on —
/// those that another core answers, too —, and everything arrives once there is room.
#[test]
fn full_disk_under_replication_goes_on_reading() {
    let mut mesh = Mesh::with_cores(11, [1, 2, 2]);
    let known = keys("known", 20);
    assert!(all_stored(&mesh.region("sfo").set_many(known.clone(), 500)));
    mesh.converged();

    mesh.region("ams").set_disk_full(true);
    for round in 0..40 {
        assert!(all_stored(&mesh.region("sfo").set_many(keys(&format!("r{round}"), 20), 2_000)));
    }
    mesh.run_ms(3_000);
    assert_eq!(mesh.region("ams").get("r39:19"), Outcome::Read(None), "the batches are more than its disk takes");
    for key in &known {
        assert!(matches!(mesh.region("ams").get(key), Outcome::Read(Some(_))), "{key} is read while the disk is full");
    }
    assert_ne!(mesh.region("ams").set("local", 20_000), Outcome::Stored);

    mesh.region("ams").set_disk_full(false);
    mesh.converged();
    assert!(matches!(mesh.region("ams").get("r39:19"), Outcome::Read(Some(_))));
    mesh.sound();
}

/// Overwrites four keys until many segments of `region` were given up.
fn churn(mesh: &mut Mesh, region: &str, at_least: u64) {
    let before = mesh.segments_given_up().0;
    for round in 0..40 {
        let keys = (0..60).map(|at| format!("hot:{}", at % 4));
        assert!(all_stored(&mesh.region(region).set_many(keys, 6_000 + round)));
        mesh.run_ms(100);
        if mesh.segments_given_up().0 >= before + at_least {
            return;
        }
    }
    panic!("only {} segments were given up", mesh.segments_given_up().0 - before);
}

#[test]
fn tailer_survives_compaction_and_recycling() {
    // A follower that is away while the segments it would have read are given up and their files used again is sent what is
    // left, claims nothing before it has that, and ends with everything.
    let mut mesh = Mesh::new(31);
    churn(&mut mesh, "sfo", 5);
    mesh.region("ams").cut_off();
    churn(&mut mesh, "sfo", 30);
    assert!(mesh.segments_given_up().1 > 10, "{:?}", mesh.segments_given_up());
    assert!(all_stored(&mesh.region("sfo").set_many(keys("kept", 20), 500)));
    mesh.heal();
    mesh.converged();
    mesh.sound();
}

#[test]
fn a_wiped_region_gets_everything_that_counts_from_a_log_that_begins_late() {
    let mut mesh = Mesh::new(32);
    churn(&mut mesh, "sfo", 10);
    mesh.converged();
    mesh.region("ams").lose_power();
    mesh.region("ams").replace_disk();
    // The log goes on to lose its beginning, also over a restart.
    churn(&mut mesh, "sfo", 10);
    mesh.region("sfo").kill();
    mesh.region("sfo").start();
    churn(&mut mesh, "sfo", 3);
    assert!(all_stored(&mesh.region("nyc").set_many(keys("kept", 20), 500)));
    mesh.region("ams").start();
    mesh.converged();
    mesh.sound();
}
