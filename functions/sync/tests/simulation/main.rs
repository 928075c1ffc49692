//! Live sync under a scheduler of chance.
//!
//! All of it is the real code: the SQL on a real PostgreSQL, the drain with its store, the router that answers clients, called without a
//! socket. The clients are written from `docs/live-sync.md` alone. Chance decides who goes on next and what fails, and a seed decides over
//! chance: a run that fails is repeated by SEED=….

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper of a test fails the test by its panic")]
#![allow(clippy::print_stderr, reason = "which seeds were run is what a reader of the test's output wants to know")]

mod check;
mod defects;
mod drainers;
mod edits;
#[path = "../main/issuer.rs"]
#[allow(dead_code, reason = "the other program uses the rest")]
mod issuer;
mod place;
mod replica;
mod run;
#[path = "../main/world.rs"]
#[allow(dead_code, reason = "the other program uses the rest")]
mod world;

use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use localstack::parameter;
use tokio::runtime::Builder;
use tokio::task::LocalSet;

use crate::defects::Defect;
use crate::place::Place;
use crate::run::{Told, run};

/// Seeds of one run, unless SYNC_SEEDS says otherwise: each is slower than one of a simulation without a database.
const SEEDS: u64 = 50;
/// In so many of them everything happens that is to happen.
const SEEDS_WITH_ALL: u64 = 100;
/// Most of the time is the server's: so many run side by side, each on a database of its own.
const SIDE_BY_SIDE: u64 = 2;
/// A defect is caught by one of so many seeds.
const SEEDS_FOR_A_DEFECT: u64 = 2000;

fn on_a_thread<T>(work: impl AsyncFnOnce() -> Result<T>) -> Result<T> {
    Builder::new_current_thread().enable_all().build()?.block_on(LocalSet::new().run_until(work()))
}

#[test]
fn clients_have_what_they_may_read_and_no_write_is_lost_whatever_happens() -> Result<()> {
    let seeds = match parameter("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..parameter("SYNC_SEEDS").unwrap_or(SEEDS),
    };
    let (begun, count) = (Instant::now(), seeds.end - seeds.start);
    let told = thread::scope(|scope| {
        let share = |first| {
            let seeds = seeds.clone().filter(move |seed| seed % SIDE_BY_SIDE == first);
            scope.spawn(move || {
                on_a_thread(async || {
                    let (place, mut told) = (Place::create(None).await?, Told::default());
                    for seed in seeds {
                        told.add(&run(&place, seed).await.with_context(|| format!("repeat with SEED={seed}"))?);
                        if (seed + 1).is_multiple_of(250) {
                            eprintln!("seed {seed} after {:.0?}", begun.elapsed());
                        }
                    }
                    Ok(told)
                })
            })
        };
        let threads: Vec<_> = (0..SIDE_BY_SIDE).map(share).collect();
        let mut all = Told::default();
        for thread in threads {
            all.add(&thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok::<_, anyhow::Error>(all)
    })?;
    eprintln!("{count} seeds in {:.1?}: {told:?}", begun.elapsed());
    // A run that tried nothing proves nothing.
    let never = told.never();
    ensure!(count < SEEDS_WITH_ALL || never.is_empty(), "it never happened: {never:?}");
    Ok(())
}

#[test]
fn live_sync_catches_each_deliberate_defect() -> Result<()> {
    on_a_thread(async || {
        let sound = Place::create(None).await?;
        for defect in Defect::ALL {
            let (begun, first) = (Instant::now(), defect.first_seed());
            let place = Place::create(Some(defect)).await?;
            let mut caught = None;
            for seed in (first..SEEDS_FOR_A_DEFECT).chain(0..first) {
                if let Err(failure) = run(&place, seed).await {
                    caught = Some((seed, failure));
                    break;
                }
            }
            let (seed, failure) = caught.with_context(|| format!("{defect:?} was not caught"))?;
            eprintln!("{defect:?}: caught by seed {seed} after {:.1?}: {}", begun.elapsed(), failure.root_cause());
            run(&sound, seed).await.with_context(|| format!("SEED={seed} fails without {defect:?}, too"))?;
        }
        Ok(())
    })
}
