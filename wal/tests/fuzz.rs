//! The fuzz targets without a fuzzer: the committed corpus, and a fixed number of mutations of it. `fuzz/` runs the same bodies
//! under libFuzzer, which sees coverage and finds more.

mod fuzz_bodies;
mod support;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use fuzz_bodies::TARGETS;
use fuzz_bodies::seeds::seeds;
use support::Seeded;

/// What libFuzzer left behind for `target`, in a fixed order.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&directory).expect("the corpus is part of the repository");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| fs::read(path).expect("an input")).collect()
}

/// Changes an input as fuzzers do.
fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut Seeded) {
    for _ in 0..=random.below(4) {
        let at = random.below(input.len() + 1);
        match random.below(6) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = u8::try_from(random.below(256)).expect("a byte"),
            2 => input.insert(at, u8::try_from(random.below(256)).expect("a byte")),
            3 => drop(input.drain(at..(at + random.below(9)).min(input.len()))),
            4 => {
                // Lengths and counts at their edges.
                let len = 8.min(input.len() - at);
                input[at..at + len].fill([0, 0xff, 0x7f][random.below(3)]);
            }
            _ => {
                let from = random.below(other.len() + 1);
                input.truncate(at);
                input.extend(&other[from..]);
            }
        }
    }
}

/// Runs the target's body on its corpus and on `mutations` of it; both kinds of outcome have to be among them.
fn drive(target: &str, mutations: usize) {
    let (_, body) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target");
    let inputs = [corpus(target), seeds(target)].concat();
    let mut accepted = 0;
    let mut run = |input: &[u8]| match catch_unwind(AssertUnwindSafe(|| body(input))) {
        Ok(outcome) => accepted += usize::from(outcome),
        Err(_) => panic!("a property of {target} does not hold (see above); the input is {input:?}"),
    };
    for input in &inputs {
        run(input);
    }
    let mut random = Seeded(0x6f0d_317a);
    for _ in 0..mutations {
        let mut input = inputs[random.below(inputs.len())].clone();
        let other = &inputs[random.below(inputs.len())];
        mutate(&mut input, other, &mut random);
        run(&input);
    }
    let runs = inputs.len() + mutations;
    assert!(accepted * 20 > runs && accepted < runs, "{accepted} of {runs} were accepted: the inputs are one-sided");
}

#[test]
fn records_as_a_fuzzer_makes_them() {
    drive("record", 100_000);
}

#[test]
fn frames_as_a_fuzzer_makes_them() {
    drive("frame", 50_000);
}

#[test]
fn segments_as_a_fuzzer_makes_them() {
    drive("segment", 10_000);
}

#[test]
fn directories_as_a_fuzzer_makes_them() {
    drive("directory", 8_000);
}
