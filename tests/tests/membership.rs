//! Members join, are removed and come back, in the simulator: whatever is cut off or down meanwhile, all nodes end with the same table.

use net::ids::NodeId;
use net::wire::body::{Member, MemberState};
use tests::sim::mesh::{Mesh, REGIONS};
use tests::sim::workload::Outcome;

/// Region and state of every row, ordered.
fn rows(members: &[Member]) -> Vec<(String, MemberState)> {
    let mut rows: Vec<_> = members.iter().map(|member| (member.region.to_string(), member.state)).collect();
    rows.sort();
    rows
}

fn have(mesh: &mut Mesh, regions: &[&str], expected: &[(&str, MemberState)]) {
    let expected: Vec<(String, MemberState)> = expected.iter().map(|(name, state)| ((*name).into(), *state)).collect();
    let tables: Vec<Vec<Member>> = regions.iter().map(|region| mesh.region(region).members()).collect();
    assert_eq!(rows(&tables[0]), expected, "{}", regions[0]);
    for (table, region) in tables.iter().zip(regions) {
        assert_eq!(table, &tables[0], "{region} and {} differ", regions[0]);
    }
}

fn region_of_node(mesh: &mut Mesh, region: &str) -> NodeId {
    mesh.region(region).node_id()
}

const JOINED: MemberState = MemberState::Joined;
const REMOVED: MemberState = MemberState::Removed;
const ALL: [(&str, MemberState); 3] = [("ams", JOINED), ("nyc", JOINED), ("sfo", JOINED)];
const WITHOUT_AMS: [(&str, MemberState); 3] = [("ams", REMOVED), ("nyc", JOINED), ("sfo", JOINED)];

#[test]
fn whoever_was_cut_off_or_down_learns_of_a_removal_when_it_is_back() {
    for (seed, is_cut) in [(1, true), (2, false)] {
        let mut mesh = Mesh::new(seed);
        mesh.run_ms(3_000);
        have(&mut mesh, &REGIONS, &ALL);
        let gone = region_of_node(&mut mesh, "ams");
        if is_cut {
            mesh.region("nyc").cut_off();
        } else {
            mesh.region("nyc").lose_power();
        }
        mesh.region("sfo").remove_member(gone);
        mesh.run_ms(5_000);
        have(&mut mesh, &["sfo", "ams"], &WITHOUT_AMS);
        // The one that says so loses its power: it was durable, and nyc learns it all the same.
        mesh.region("sfo").lose_power();
        mesh.run_ms(1_000);
        mesh.region("sfo").start();
        if is_cut {
            mesh.heal();
        } else {
            mesh.region("nyc").start();
        }
        mesh.run_ms(20_000);
        mesh.sound();
        have(&mut mesh, &REGIONS, &WITHOUT_AMS);
        assert_eq!(mesh.region("sfo").set("k", 100), Outcome::Stored);
        assert!(!matches!(mesh.region("ams").set("k", 100), Outcome::Stored), "nobody would get it");
        mesh.run_ms(1_000);
        assert_eq!(mesh.region("ams").get("k"), Outcome::Read(None), "nor does it get anything");
    }
}

#[test]
fn regions_that_remove_each_other_while_they_are_apart_leave_one_table_to_those_that_stay() {
    let mut mesh = Mesh::new(3);
    mesh.run_ms(3_000);
    let (sfo, ams) = (region_of_node(&mut mesh, "sfo"), region_of_node(&mut mesh, "ams"));
    for region in REGIONS {
        mesh.region(region).cut_off();
    }
    mesh.region("sfo").remove_member(ams);
    mesh.region("ams").remove_member(sfo);
    mesh.run_ms(5_000);
    mesh.heal();
    mesh.run_ms(20_000);
    mesh.sound();
    // Whose word nyc hears first stays: what a removed node says does not count.
    let of_nyc = mesh.region("nyc").members();
    let removed = of_nyc.iter().filter(|member| member.state == REMOVED).map(|member| member.node);
    let removed: Vec<NodeId> = removed.collect();
    assert!(removed == [sfo] || removed == [ams], "{removed:?}");
    let stays = if removed == [sfo] { "ams" } else { "sfo" };
    assert_eq!(mesh.region(stays).members(), of_nyc);
    assert_eq!(mesh.region("nyc").set("k", 100), Outcome::Stored);
    mesh.run_ms(1_000);
    assert_eq!(mesh.region(stays).get("k"), mesh.region("nyc").get("k"));
}

#[test]
fn an_empty_disk_is_a_new_member_and_the_old_one_stays_until_it_is_removed() {
    let mut mesh = Mesh::new(4);
    mesh.run_ms(3_000);
    let before = region_of_node(&mut mesh, "ams");
    mesh.region("ams").lose_power();
    mesh.region("ams").replace_disk();
    mesh.region("ams").start();
    mesh.run_ms(10_000);
    assert_ne!(region_of_node(&mut mesh, "ams"), before);
    have(&mut mesh, &REGIONS, &[("ams", JOINED), ("ams", JOINED), ("nyc", JOINED), ("sfo", JOINED)]);
    mesh.region("nyc").remove_member(before);
    mesh.run_ms(1_000);
    have(&mut mesh, &REGIONS, &[("ams", JOINED), ("ams", REMOVED), ("nyc", JOINED), ("sfo", JOINED)]);
    assert_eq!(mesh.region("sfo").set("k", 100), Outcome::Stored);
    mesh.converged();
    mesh.sound();
}

#[test]
fn what_a_removed_node_left_is_asked_for_until_all_members_hold_the_same() {
    for seed in 1..=4 {
        let mut mesh = Mesh::new(seed);
        mesh.run_ms(3_000);
        let gone = region_of_node(&mut mesh, "ams");
        let keys: Vec<String> = (0..20).map(|key| format!("last:{key}")).collect();
        let has_all = |mesh: &mut Mesh, region: &str| {
            keys.iter().all(|key| matches!(mesh.region(region).get(key), Outcome::Read(Some(_))))
        };
        let asked = |mesh: &mut Mesh| ["sfo", "nyc"].map(|region| mesh.region(region).logs_asked_of_others());
        // What ams wrote last only sfo has.
        mesh.region("nyc").lose_power();
        let stored = mesh.region("ams").set_many(keys.iter().cloned(), 300);
        assert!(stored.iter().all(|outcome| *outcome == Outcome::Stored), "{stored:?}");
        mesh.run_ms(2_000);
        mesh.region("ams").lose_power();
        mesh.run_ms(1_000);
        mesh.region("sfo").remove_member(gone);
        mesh.run_ms(10_000);
        // Who was away gets what it lacks from those who have it; then there is nothing more to ask for.
        mesh.region("nyc").start();
        mesh.run_ms(12_000);
        mesh.sound();
        assert!(has_all(&mut mesh, "nyc"), "seed {seed}");
        assert_eq!(asked(&mut mesh), [0, 0], "seed {seed}: the end of its last log nobody will ever tell");
        // Nor when one of them has forgotten that they agreed, nor when the removed node returns.
        mesh.region("nyc").lose_power();
        mesh.run_ms(1_000);
        mesh.region("nyc").start();
        mesh.region("ams").start();
        mesh.run_ms(12_000);
        mesh.sound();
        assert_eq!(asked(&mut mesh), [0, 0], "seed {seed}");
        have(&mut mesh, &["sfo", "nyc"], &WITHOUT_AMS);
        assert!(has_all(&mut mesh, "nyc") && has_all(&mut mesh, "sfo"), "seed {seed}");
    }
}
