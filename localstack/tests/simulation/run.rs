//! One run, and what must be true at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use database::flight_name;
use message::Message;
use serde_json::Value;
use tokio::runtime::Builder;
use tokio::task::LocalSet;

use crate::defects::Defect;
use crate::elastic::{Indexed, is_refused};
use crate::log::{DRAIN, Defined, STREAMS, Snapshot, base_of};
use crate::real::Real;
use crate::scheduler::Scheduler;
use crate::sqs::Refused;
use crate::targets::Told;
use crate::validator::{Validated, class};
use crate::world::{State, World};

/// Enough for a few dozen changes to go all the way.
const STEPS: usize = 1200;

/// What came of it.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    /// By the generation of a stream, and key.
    pub indexed: BTreeMap<(String, String), Value>,
    /// Stream, key and error of each dead letter.
    pub letters: BTreeSet<(String, String, String)>,
    /// Of the log.
    pub changes: usize,
    pub faults: usize,
    /// Batches that the indexer answered.
    pub invocations: usize,
    /// Documents that the validator looked at again, that it confirmed to differ, and that it had written anew.
    pub looked_again: usize,
    pub confirmed: usize,
    pub repaired: usize,
    pub generations: Changed,
    pub targets: Told,
}

/// What came of generations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    pub begun: usize,
    /// That one took over for the first time.
    pub taken_over: usize,
    pub rolled_back: usize,
    pub given_up: usize,
    /// Deleted with their indexes.
    pub gone: usize,
}

impl Changed {
    pub fn add(&mut self, other: Self) {
        self.begun += other.begun;
        self.taken_over += other.taken_over;
        self.rolled_back += other.rolled_back;
        self.given_up += other.given_up;
        self.gone += other.gone;
    }
}

/// On the model of the log. `has_targets`: the streams go straight to targets, too.
pub fn run(seed: u64, defect: Option<Defect>, has_targets: bool) -> Result<Outcome> {
    Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?
        .block_on(LocalSet::new().run_until(simulate(seed, defect, None, has_targets)))
}

/// On the log in PostgreSQL, with the model beside it.
pub fn run_on_postgres(seed: u64, has_targets: bool) -> Result<Outcome> {
    Builder::new_current_thread().enable_all().start_paused(true).build()?.block_on(LocalSet::new().run_until(async {
        let real = Arc::new(Real::create(has_targets).await?);
        simulate(seed, None, Some(real), has_targets).await
    }))
}

/// A day on the model, in which rows come and go and nothing fails.
pub fn run_all_day(seed: u64, defect: Option<Defect>) -> Result<Outcome> {
    Builder::new_current_thread().enable_time().start_paused(true).build()?.block_on(LocalSet::new().run_until(async {
        fastrand::seed(seed);
        let world = World::new(seed, defect, false);
        let mut scheduler = Scheduler::new(world.clone(), None, false)?;
        scheduler.go_on_all_day().await?;
        scheduler.come_to_rest().await?;
        check(&world.state())
    }))
}

async fn simulate(seed: u64, defect: Option<Defect>, real: Option<Arc<Real>>, has_targets: bool) -> Result<Outcome> {
    fastrand::seed(seed);
    let world = World::new(seed, defect, has_targets);
    let mut scheduler = Scheduler::new(world.clone(), real, has_targets)?;
    scheduler.happen(STEPS).await?;
    scheduler.come_to_rest().await?;
    scheduler.validate_at_rest().await?;
    scheduler.redrive_at_rest().await?;
    check(&world.state())?;
    scheduler.go_back_and_forth().await?;
    let mut outcome = check(&world.state())?;
    outcome.invocations = scheduler.invocations;
    Ok(outcome)
}

/// What was committed up to a point of the history has arrived: the index has each document as it was then, or later, or a
/// dead letter of it. `looked`: and what was deleted has not come back, nor is left to be looked at again.
pub fn require_arrived(state: &State, snapshot: &Snapshot, since: usize, looked: bool) -> Result<()> {
    if let Some((stream, key)) = state.log.left_to_look_at(snapshot).filter(|_| looked) {
        bail!("{stream} {key} has settled with its looks, and one is left");
    }
    let history = &state.log.history[since..];
    for (stream, key) in state.log.keys() {
        let versions: Vec<Option<Value>> = history
            .iter()
            .map(|tables| tables.document(stream, &key).map(|text| serde_json::from_str(&text).unwrap()))
            .collect();
        let live = state.log.stream(stream).map(Defined::alias).unwrap_or_default();
        let Indexed { document: found, is_damaged, .. } = state.elastic.indexed(&live, &key);
        let is_excused = is_damaged
            || versions.iter().flatten().any(is_refused)
            || !looked && found.is_some() && versions.contains(&None);
        ensure!(
            is_excused || versions.contains(&found),
            "{stream} {key} has settled (looked: {looked}), and the index has {found:?} where the source had {versions:?}"
        );
    }
    Ok(())
}

/// What differs was confirmed by the last rounds, as what it is, and nothing else was.
pub fn require_told(state: &State) -> Result<()> {
    for defined in state.log.streams().filter(|it| it.is_comparable()) {
        let stream = defined.name;
        let told = state.log.differences(stream).into_iter().map(|known| (known.key, known.class));
        let told: BTreeMap<String, String> = told.collect();
        let indexed = state.elastic.documents(&defined.alias());
        let logged = state.log.keys().into_iter().filter(|(other, _)| *other == base_of(stream)).map(|(_, key)| key);
        for key in logged.chain(indexed.keys().cloned()).collect::<BTreeSet<String>>() {
            let source = state.log.document(stream, &key).map(|text| serde_json::from_str::<Value>(&text).unwrap());
            let class = class(source.as_ref(), indexed.get(&key));
            let told = told.get(&key).map(String::as_str);
            ensure!(
                told == class || told == Some("dead_lettered") && class.is_some(),
                "{stream} {key}: it is {class:?}, and told as {told:?}: the source has {source:?}, the index {:?}",
                indexed.get(&key)
            );
        }
    }
    Ok(())
}

/// Each index that is not to be deleted equals the source, and what cannot be in it is a dead letter with its reason.
fn check(state: &State) -> Result<Outcome> {
    let Refused { batches, messages, fresh } = state.refused;
    ensure!(
        batches == 0,
        "Lambda takes the indexer for a loop and refused {batches} batches of {messages} messages, {fresh} of them as they \
         came from the trigger: each waits until it is received again, and in the end is a dead letter without a reason"
    );
    let mut indexed = BTreeMap::new();
    for stream in state.log.streams() {
        let documents = check_index(state, stream)?;
        indexed.extend(documents.into_iter().map(|(key, document)| ((stream.flight_name(), key), document)));
    }
    for stream in STREAMS {
        let live = state.log.stream(stream).map(Defined::alias);
        let public = state.elastic.public(stream);
        ensure!(live.as_deref() == Some(public), "{stream} is searched in {public}, and {live:?} is the live one");
    }
    let letter = |name: &str, letter: &crate::sqs::Stored| letter.attribute(name).to_owned();
    let letters: BTreeSet<_> = state
        .dead_letters
        .all()
        .map(|(_, l)| (letter("stream", l), letter("key", l), letter("error_type", l)))
        .collect();
    // What was sent to a generation that was given up is none.
    let unknown = letters.iter().find(|(.., error_type)| error_type == "unknown_stream" || error_type == "no_index");
    ensure!(unknown.is_none(), "{unknown:?} is a letter for its index, which is gone");
    let Validated { looked_again, confirmed, repaired, .. } = state.validated;
    let (changes, faults) = (state.log.keys().len(), state.faults);
    let (generations, targets) = (state.told_generations, state.targets.told);
    Ok(Outcome {
        indexed,
        letters,
        changes,
        faults,
        invocations: 0,
        looked_again,
        confirmed,
        repaired,
        generations,
        targets,
    })
}

/// The documents of an index.
fn check_index(state: &State, stream: &Defined) -> Result<BTreeMap<String, Value>> {
    let indexed = state.elastic.documents(&stream.alias());
    if !stream.is_delivered() {
        return Ok(indexed);
    }
    let (base, name) = (base_of(stream.name), stream.flight_name());
    let keys: BTreeSet<String> =
        state.log.keys().into_iter().filter(|(other, _)| *other == base).map(|(_, key)| key).collect();
    for key in &keys {
        let source = state.log.document(base, key).map(|text| serde_json::from_str::<Value>(&text).unwrap());
        let found = indexed.get(key);
        if let Some(refused) = source.as_ref().filter(|source| is_refused(source)) {
            // Without a queue it is a letter of a direct target, and was looked for.
            if state.log.direct.contains(&DRAIN) {
                continue;
            }
            let newest = state.newest.get(&(name.clone(), key.clone())).context("it was never sent")?;
            let is_told = state.dead_letters.all().any(|(_, letter)| {
                let of = Message::parse(&letter.body).map(|body| flight_name(&body.stream, body.generation));
                let is_of_it = of.is_ok_and(|of| of == name) && letter.attribute("key") == key;
                is_of_it && letter.attribute("version") == newest.to_string() && !letter.attribute("reason").is_empty()
            });
            ensure!(is_told, "{name} {key}: {refused} is refused, and no dead letter says so");
            continue;
        }
        ensure!(source.as_ref() == found, "{name} {key}: the source has {source:?}, the index {found:?}");
    }
    for key in indexed.keys() {
        ensure!(keys.contains(key), "{name} {key}: nobody ever wrote it");
    }
    Ok(indexed)
}
