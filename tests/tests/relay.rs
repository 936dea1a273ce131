//! What a region that cannot be reached has written comes from those who have it: over other links while its own is cut, and for
//! good when it is gone. In the simulator, under the eyes of all checkers.

use tests::sim::mesh::Mesh;
use tests::sim::workload::Outcome;

fn cut(mesh: &mut Mesh, one: &str, other: &str) {
    mesh.cut_one_way(one, other);
    mesh.cut_one_way(other, one);
}

fn keys(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|index| format!("{name}:{index}")).collect()
}

fn store(mesh: &mut Mesh, region: &str, keys: &[String], bytes: usize) {
    let outcomes = mesh.region(region).set_many(keys.iter().cloned(), bytes);
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Stored), "{outcomes:?}");
}

/// Whether `region` has all of the keys within so many virtual milliseconds.
fn arrives(mesh: &mut Mesh, region: &str, keys: &[String], ms: u64) -> bool {
    let has = |mesh: &mut Mesh, key: &String| matches!(mesh.region(region).get(key), Outcome::Read(Some(_)));
    for _ in 0..ms / 100 {
        if keys.iter().all(|key| has(mesh, key)) {
            return true;
        }
        mesh.run_ms(100);
        mesh.sound();
    }
    false
}

#[test]
fn a_third_region_relays_while_a_link_is_cut_and_the_own_link_takes_over_again() {
    (1..=12).for_each(a_link_is_cut_and_healed);
}

fn a_link_is_cut_and_healed(seed: u64) {
    let mut mesh = Mesh::new(seed);
    mesh.run_ms(2_000);
    store(&mut mesh, "sfo", &keys("before", 20), 200);
    assert!(arrives(&mut mesh, "ams", &keys("before", 20), 3_000));
    cut(&mut mesh, "sfo", "ams");
    // Until both have noticed, they go on sending.
    mesh.run_ms(6_000);
    let (direct, relayed) = (mesh.bytes_between("sfo", "ams"), mesh.bytes_between("nyc", "ams"));
    store(&mut mesh, "sfo", &keys("during", 50), 2_000);
    store(&mut mesh, "ams", &keys("there", 50), 2_000);
    assert!(arrives(&mut mesh, "ams", &keys("during", 50), 15_000), "nyc relays what sfo wrote");
    assert!(arrives(&mut mesh, "sfo", &keys("there", 50), 15_000), "nyc relays what ams wrote");
    assert_eq!(mesh.bytes_between("sfo", "ams"), direct, "nothing comes through the cut link");
    let through = mesh.bytes_between("nyc", "ams") - relayed;
    assert!((100_000..140_000).contains(&through), "{through} bytes: what sfo wrote, once");
    // The longer it lasts, the same: pass after pass.
    store(&mut mesh, "sfo", &keys("later", 50), 2_000);
    assert!(arrives(&mut mesh, "ams", &keys("later", 50), 3_000));
    mesh.heal();
    mesh.run_ms(15_000);
    let (direct, relayed) = (mesh.bytes_between("sfo", "ams"), mesh.bytes_between("nyc", "ams"));
    store(&mut mesh, "sfo", &keys("healed", 50), 2_000);
    assert!(arrives(&mut mesh, "ams", &keys("healed", 50), 3_000));
    assert!(mesh.bytes_between("sfo", "ams") >= direct + 100_000, "its own link serves it again");
    assert!(mesh.bytes_between("nyc", "ams") < relayed + 20_000, "and nobody else does");
    mesh.converged();
}

#[test]
fn what_a_region_wrote_before_it_went_reaches_everyone_who_missed_it() {
    let mut mesh = Mesh::new(4);
    mesh.run_ms(2_000);
    cut(&mut mesh, "sfo", "ams");
    mesh.run_ms(4_000);
    store(&mut mesh, "sfo", &keys("last", 30), 500);
    assert!(arrives(&mut mesh, "nyc", &keys("last", 30), 2_000));
    mesh.region("sfo").kill();
    // nyc has it all on its disk, and knows of sfo's log, also after it lost power and ams was restarted.
    mesh.region("nyc").lose_power();
    mesh.region("ams").kill();
    mesh.run_ms(500);
    mesh.region("nyc").start();
    mesh.region("ams").start();
    assert!(arrives(&mut mesh, "ams", &keys("last", 30), 15_000));
    mesh.heal();
    mesh.region("sfo").start();
    mesh.converged();
}

#[test]
fn a_new_disk_is_filled_by_others_while_one_region_is_away() {
    let mut mesh = Mesh::new(5);
    mesh.run_ms(2_000);
    store(&mut mesh, "sfo", &keys("a", 40), 3_000);
    store(&mut mesh, "nyc", &keys("b", 40), 3_000);
    assert!(arrives(&mut mesh, "nyc", &keys("a", 40), 3_000));
    // nyc overwrites half of what sfo wrote: what counts is nyc's, and sfo's claim covers what it replaced.
    store(&mut mesh, "nyc", &keys("a", 20), 1_000);
    mesh.run_ms(1_000);
    mesh.region("sfo").kill();
    mesh.region("ams").kill();
    mesh.region("ams").replace_disk();
    mesh.run_ms(500);
    mesh.region("ams").start();
    assert!(arrives(&mut mesh, "ams", &keys("a", 40), 20_000), "nyc has what sfo wrote");
    assert!(arrives(&mut mesh, "ams", &keys("b", 40), 5_000));
    mesh.region("sfo").start();
    mesh.converged();
}
