//! Revocation in a world whose clock, network and mishaps are the test's: the filter's worker and the registry as they are, with
//! writers, several replicas, crashes, restored stores, delays, losses, reordering and jumping clocks between them.
//!
//! What must hold, whatever happens (`truth.rs` checks it at every request that is let go):
//!
//! * after `revoke` has answered, no worker lets a request of that membrane go for longer than the staleness bound;
//! * after `revoke?wait=fleet` has answered that nobody is unconfirmed, no worker lets one go at all;
//! * what was revoked stays dead after a store was restored from an older copy;
//! * what a watcher is told is contiguous, and the same for all;
//! * a live capability is never answered 401, and is let in whenever registry and network are well.
//!
//! The world is only as good as the faults that it finds: four wrong designs are put between the parts (`mutants.rs`), and each
//! must break what must hold. `events.rs` asks the same of the feed alone, at a million events.
//!
//! A failure prints its seed. `MEMBRANE_MODEL_SEED` runs that one alone, `MEMBRANE_FUZZ_CASES` more of them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code"
)]

mod events;
mod gateway;
mod mutants;
mod network;
mod random;
mod replica;
mod truth;
mod world;
mod writer;

use mutants::Mutant;
use truth::Tally;
use world::{Plan, run};

/// Seeds of the small size.
const SEEDS: u64 = 12;
/// Of `MEMBRANE_FUZZ_CASES`, one seed for so many: each is some thousands of requests.
const CASES_A_SEED: u64 = 250;
/// A mutant that is still alive after so many seeds is not found by this test.
const SEEDS_FOR_A_MUTANT: u64 = 400;

fn seeds() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    match (number("MEMBRANE_MODEL_SEED"), number("MEMBRANE_FUZZ_CASES")) {
        (Some(seed), _) => seed..seed + 1,
        (None, cases) => 0..cases.map_or(SEEDS, |cases| cases.div_ceil(CASES_A_SEED)),
    }
}

#[test]
fn what_is_revoked_is_dead_everywhere_in_time() {
    let seeds = seeds();
    let single = seeds.end - seeds.start == 1;
    let mut all = Tally::default();
    for seed in seeds {
        match run(&Plan::new(seed)) {
            Ok(tally) => all += tally,
            Err(violation) => panic!("seed {seed} (MEMBRANE_MODEL_SEED={seed}): {violation}"),
        }
    }
    println!("{all:?}");
    // It all happened, or nothing was proven.
    assert!(single || all.everything_happened(), "{all:?}");
}

/// The wrapper of the store in which the plain sequence is tried is itself no fault.
#[test]
fn the_store_around_the_store_changes_nothing() {
    for seed in 0..2 {
        let plan = Plan { sequencer: true, ..Plan::new(seed) };
        run(&plan).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
    }
}

fn dies(mutant: Mutant) {
    let is_caught = |seed| run(&Plan { mutant: Some(mutant), ..Plan::new(seed) }).is_err();
    assert!((0..SEEDS_FOR_A_MUTANT).any(is_caught), "{mutant:?} is alive after {SEEDS_FOR_A_MUTANT} seeds");
}

#[test]
fn an_answer_believed_whatever_its_position_is_caught() {
    dies(Mutant::NoAsOf);
}

#[test]
fn a_lease_counted_from_the_answers_arrival_is_caught() {
    dies(Mutant::LeaseFromReceipt);
}

#[test]
fn an_epoch_that_nobody_looks_at_is_caught() {
    dies(Mutant::IgnoredEpoch);
}

#[test]
fn a_sequence_whose_numbers_are_committed_out_of_order_is_caught() {
    dies(Mutant::PlainSequence);
}
