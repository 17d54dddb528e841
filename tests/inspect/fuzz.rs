//! Runs every fuzz target over its corpus and over damaged copies of it.

#[path = "../fuzz/targets.rs"]
mod targets;

use std::fs;
use std::path::PathBuf;

use targets::TARGETS;

fn fuzz() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

/// Copies of `seed` that are cut, and that have single bytes changed. The same
/// ones in every run.
fn damaged(seed: &[u8]) -> Vec<Vec<u8>> {
    let mut copies = vec![Vec::new(), seed.to_vec(), seed.repeat(2)];
    // At most some 100 places, spread over the seed.
    let step = seed.len().div_ceil(100).max(1);
    for at in (0..seed.len()).step_by(step) {
        copies.push(seed[..at].to_vec());
        for byte in [0, b'\n', b':', b'9', 0x7f, 0xff] {
            let mut copy = seed.to_vec();
            copy[at] = byte;
            copies.push(copy);
        }
    }
    copies
}

#[test]
fn no_target_panics_over_its_corpus_or_damaged_copies_of_it() {
    for (name, target) in TARGETS {
        let directory = fuzz().join("corpus").join(name);
        let mut seeds = 0;
        for entry in fs::read_dir(&directory).unwrap_or_else(|error| panic!("{name}: {error}")) {
            let path = entry.expect("the corpus can be read").path();
            let seed = fs::read(&path).expect("the corpus can be read");
            damaged(&seed).iter().for_each(|bytes| target(bytes));
            seeds += 1;
        }
        assert!(seeds > 0, "{name} has no corpus");
    }
}

#[test]
fn every_target_has_a_program_and_an_entry_in_the_manifest() {
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("it is there");
    for (name, _) in TARGETS {
        let path = format!("fuzz_targets/{name}.rs");
        let program = fs::read_to_string(fuzz().join(&path)).expect("the program is there");
        assert!(program.contains(&format!("targets::{name}(")), "{path}");
        assert!(manifest.contains(&format!("path = \"{path}\"")), "{path}");
    }
    let programs = fs::read_dir(fuzz().join("fuzz_targets"))
        .expect("it is there")
        .count();
    assert_eq!(programs, TARGETS.len());
}
