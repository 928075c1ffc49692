//! The whole pipeline under a scheduler of chance.
//!
//! The functions' own code runs: the drain, the fan-out, the indexer; and, beside SQS, the drain into two models of direct
//! targets, one that compares versions and one that keeps an order. In half of the runs with those there is no SQS, and the
//! drain goes straight into Elasticsearch, too. What it talks to is a model: writers that commit in any order, crashes at
//! every step, an SQS that delivers twice and late, an Elasticsearch that loses answers and forgets tombstones, operators who
//! redrive. The validator, which is SQL for the most part, is a model, too. One task runs at a time, chance decides which, and
//! a seed decides over chance: a run that fails is repeated by SEED=….

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper of a test fails the test by its panic")]
#![allow(clippy::print_stderr, reason = "which seeds were run is what a reader of the test's output wants to know")]

mod defects;
mod direct;
mod elastic;
mod keeper;
mod log;
mod process;
mod real;
mod run;
mod scheduler;
mod session;
mod sqs;
mod table;
mod tables;
mod targets;
mod topic;
mod validator;
mod world;

use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use localstack::{parameter, variable};

use crate::defects::Defect;
use crate::run::{Changed, run, run_all_day, run_on_postgres};
use crate::targets::Told;

/// Seeds of one run, unless SEEDS says otherwise.
const SEEDS: u64 = 5000;
/// Of these, the first are run on a real PostgreSQL, too.
const SEEDS_ON_POSTGRES: u64 = 30;
/// Seeds with direct targets.
const SEEDS_WITH_TARGETS: u64 = 1500;
/// A defect is caught by one of so many seeds.
const SEEDS_FOR_A_DEFECT: u64 = 20_000;
const SEEDS_TWICE: u64 = 20;
const SEEDS_OF_A_DAY: u64 = 3;

#[test]
fn the_index_equals_the_source_whatever_happens() -> Result<()> {
    if let Some(seed) = parameter("SEED") {
        let outcome = run(seed, None, false).with_context(|| format!("SEED={seed}"))?;
        eprintln!("{outcome:?}");
        return Ok(());
    }
    let seeds = parameter("SEEDS").unwrap_or(SEEDS);
    let (begun, mut faults, mut invocations) = (Instant::now(), 0, 0);
    let (mut looked_again, mut confirmed, mut repaired) = (0, 0, 0);
    let mut generations = Changed::default();
    for seed in 0..seeds {
        let outcome = run(seed, None, false).with_context(|| format!("repeat with SEED={seed}"))?;
        faults += outcome.faults;
        invocations += outcome.invocations;
        looked_again += outcome.looked_again;
        confirmed += outcome.confirmed;
        repaired += outcome.repaired;
        generations.add(outcome.generations);
    }
    eprintln!(
        "{seeds} seeds, {faults} faults, {invocations} batches, {looked_again} differences looked at again, {confirmed} \
         confirmed, {repaired} repaired, {generations:?} in {:?}",
        begun.elapsed()
    );
    let Changed { begun, taken_over, rolled_back, given_up, gone } = generations;
    // A run that tried nothing proves nothing.
    ensure!(faults > 0 && invocations > 0 && looked_again > confirmed && repaired > 0, "nothing happened");
    ensure!(![begun, taken_over, rolled_back, given_up, gone].contains(&0), "nothing happened to generations");
    Ok(())
}

#[test]
fn each_direct_target_equals_the_source_but_for_letters_whatever_happens() -> Result<()> {
    let seeds = match parameter("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..parameter("SEEDS").unwrap_or(SEEDS_WITH_TARGETS),
    };
    let (begun, count, mut told) = (Instant::now(), seeds.end - seeds.start, Told::default());
    for seed in seeds {
        told.add(run(seed, None, true).with_context(|| format!("repeat with SEED={seed}"))?.targets);
    }
    eprintln!("{count} seeds with direct targets in {:?}: {told:?}", begun.elapsed());
    let Told { steps, letters, redrives, rests, set_aside, fenced, cut_off, looks } = told;
    let all = [steps, letters, redrives, rests, set_aside, fenced, cut_off, looks];
    ensure!(count == 1 || !all.contains(&0), "nothing happened");
    Ok(())
}

#[test]
fn a_seed_tells_the_same_story_each_time() -> Result<()> {
    for seed in 0..SEEDS_TWICE {
        let has_targets = seed % 2 == 0;
        assert_eq!(run(seed, None, has_targets)?, run(seed, None, has_targets)?, "SEED={seed}");
    }
    Ok(())
}

#[test]
fn the_log_in_postgresql_gives_the_same_results_as_the_model() -> Result<()> {
    variable("DATABASE_URL");
    let seeds: Vec<u64> = match parameter("SEED") {
        Some(seed) => vec![seed],
        None => (0..parameter("SEEDS_ON_POSTGRES").unwrap_or(SEEDS_ON_POSTGRES)).collect(),
    };
    // Most of the time is the server's: two runs side by side, each on a database of its own.
    let (even, odd): (Vec<u64>, Vec<u64>) = seeds.iter().partition(|seed| *seed % 2 == 0);
    thread::scope(|scope| {
        let runs = [even, odd].map(|seeds| scope.spawn(move || seeds.into_iter().try_for_each(compare_with_postgres)));
        runs.into_iter().try_for_each(|run| run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn compare_with_postgres(seed: u64) -> Result<()> {
    eprintln!("SEED={seed} on PostgreSQL");
    let has_targets = seed.is_multiple_of(3);
    let real = run_on_postgres(seed, has_targets).with_context(|| format!("repeat with SEED={seed}"))?;
    assert_eq!(real, run(seed, None, has_targets)?, "SEED={seed}");
    Ok(())
}

#[test]
fn a_day_of_deletes_is_no_loop_that_lambda_stops() -> Result<()> {
    for seed in 0..SEEDS_OF_A_DAY {
        run_all_day(seed, None).with_context(|| format!("a day by the seed {seed}"))?;
        let told = format!("{:#}", run_all_day(seed, Some(Defect::LoopsAreStopped)).expect_err("nothing was stopped"));
        eprintln!("by the seed {seed}: {told}");
        ensure!(told.contains("Lambda takes the indexer for a loop"), "it failed otherwise: {told}");
    }
    Ok(())
}

#[test]
fn each_deliberate_defect_is_caught() {
    for defect in Defect::ALL {
        let begun = Instant::now();
        let has_targets = defect.is_of_a_target();
        let first = defect.first_seed();
        let mut seeds = (first..SEEDS_FOR_A_DEFECT).chain(0..first);
        let caught = seeds.find_map(|seed| Some((seed, run(seed, Some(defect), has_targets).err()?)));
        let (seed, failure) = caught.unwrap_or_else(|| panic!("{defect:?} was not caught"));
        eprintln!("{defect:?}: caught by seed {seed} after {:.1?}: {failure:#}", begun.elapsed());
        run(seed, None, has_targets)
            .unwrap_or_else(|error| panic!("SEED={seed} fails without {defect:?}, too: {error:#}"));
    }
}
