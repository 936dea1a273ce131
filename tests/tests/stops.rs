//! Clean stops of simulated nodes, told step by step.

use tests::sim::mesh::Mesh;
use tests::sim::plan::Death;

/// More effects than a stop of such a small node has.
const EFFECTS_MAX: u64 = 80;

fn said(mesh: &Mesh, what: &str) -> bool {
    mesh.start_report(0).iter().any(|line| line.contains(what))
}

#[test]
fn a_node_that_was_stopped_begins_at_its_checkpoint_and_catches_up() {
    let mut mesh = Mesh::new(1);
    mesh.links_are_whole();
    for number in 0..50 {
        mesh.region("sfo").set(&format!("before:{number}"), 300);
    }
    mesh.region("sfo").stop();
    mesh.region("nyc").set("meanwhile", 100);
    mesh.run_ms(500);
    mesh.region("sfo").start();
    assert!(said(&mesh, "started from the checkpoint"), "{:?}", mesh.start_report(0));
    mesh.converged();
    mesh.region("sfo").kill();
    mesh.region("sfo").start();
    assert!(!said(&mesh, "checkpoint"), "it is gone: {:?}", mesh.start_report(0));
    mesh.converged();
    mesh.sound();
}

/// Power goes at one step of a stop after the other: each leaves a directory that starts, from a whole checkpoint or without any.
#[test]
fn a_stop_that_dies_at_any_step_leaves_a_directory_that_starts() {
    let (mut used, mut died) = (0, 0);
    for effects in 1..EFFECTS_MAX {
        let mut mesh = Mesh::new(effects);
        for number in 0..20 {
            mesh.region("sfo").set(&format!("key:{number}"), 300);
        }
        mesh.run_ms(300);
        mesh.dies_at(0, effects, if effects % 2 == 0 { Death::Power } else { Death::Kill });
        mesh.region("sfo").stop();
        died += u64::from(!mesh.story.iter().any(|line| line.contains("has stopped")));
        mesh.region("sfo").start();
        mesh.sound();
        used += u64::from(said(&mesh, "started from the checkpoint"));
        mesh.run_ms(300);
        mesh.sound();
    }
    assert!(used > 10 && died > 10, "{used} starts from a checkpoint, {died} deaths");
}

/// A start from a checkpoint dies at one step after the other, and the next one finds everything.
#[test]
fn a_start_from_a_checkpoint_that_dies_at_any_step_is_made_up_for() {
    let (mut again, mut read) = (0, 0);
    for effects in 1..EFFECTS_MAX {
        let mut mesh = Mesh::new(effects);
        for number in 0..20 {
            mesh.region("sfo").set(&format!("key:{number}"), 300);
        }
        mesh.run_ms(300);
        mesh.region("sfo").stop();
        mesh.dies_at(0, effects, if effects % 2 == 0 { Death::Power } else { Death::Kill });
        mesh.region("sfo").start();
        if !mesh.start_report(0).is_empty() {
            // It outlived its start.
            mesh.region("sfo").lose_power();
        }
        mesh.region("sfo").start();
        again += u64::from(said(&mesh, "started from the checkpoint"));
        read += u64::from(!said(&mesh, "started from the checkpoint"));
        mesh.run_ms(300);
        mesh.sound();
    }
    assert!(again > 3 && read > 3, "{again} starts from a checkpoint that had served before, {read} without");
}
