//! The ingest: pulls items from sources, and keeps tables in step with them.
//!
//! `sluice.define_ingest` says which. One invocation stays for its time, and makes a round of a source whenever one is due,
//! beside those of others. A round asks for what changed since the position, page by page; each item of a page is judged
//! alone, and stored if it is newer than what is there. The position moves when everything before it is stored. So whatever is
//! repeated, by a crash or by two invocations at once, changes nothing.

mod batch;
mod config;
mod decision;
mod elements;
mod error;
mod follow;
mod http;
mod item;
mod link;
mod mongo;
mod patience;
mod pointer;
mod round;
mod sessions;
mod shape;
mod source;
mod store;
mod sweep;
mod table;
mod tally;

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use database::ingest::definition::{self, Definition};
use database::ingest::position::{self, Ended, Failure, Position};
use database::ingest::rejects;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use secrets::Secrets;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{error, info};

use crate::follow::Following;
use crate::round::Round;
use crate::sessions::Sessions;
use crate::source::{Kind, Source};
use crate::tally::ms;

pub use config::Config;
pub use error::Error;
pub use patience::Patience;
pub use tally::Tally;

/// Left for a batch that was begun in the last moment, and for the answer.
const MARGIN: Duration = Duration::from_secs(4);
/// Of that, left for telling of a round that did not end in time.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Between two looks at whether a round is due, or an operator wants one.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What one invocation did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Rounds that came to their end.
    pub rounds: u64,
    /// Rounds that did not.
    pub failures: u64,
    /// What became of items.
    #[serde(flatten)]
    pub tally: Tally,
}

impl Summary {
    fn add(&mut self, other: Self) {
        self.rounds += other.rounds;
        self.failures += other.failures;
        self.tally.add(other.tally);
    }
}

/// The function's value: its clients, kept from one invocation to the next.
pub struct Ingest {
    config: Config,
    secrets: Secrets,
    patience: Patience,
    sessions: Sessions,
    /// By name, for as long as their definitions stay as they are.
    sources: Mutex<HashMap<String, Arc<Source>>>,
}

impl Ingest {
    /// Connects to nothing yet.
    pub fn new(config: Config, secrets: &Secrets, patience: Patience) -> Self {
        let sessions = Sessions::new(&config, secrets);
        Self { config, secrets: secrets.clone(), patience, sessions, sources: Mutex::default() }
    }

    /// Makes rounds until its time is over. A round that fails is told of and counted, and the next one goes on.
    ///
    /// # Errors
    /// The database was out of reach, and still is.
    pub async fn handle(&self, deadline: SystemTime) -> Result<Summary, Error> {
        let left = deadline.duration_since(SystemTime::now()).unwrap_or_default();
        let now = Instant::now();
        let stop_at = now + left.saturating_sub(MARGIN).min(self.config.stay);
        let end_at = now + left.saturating_sub(LAST_WORDS);
        let mut summary = Summary::default();
        let mut under_way = HashSet::new();
        let mut rounds = FuturesUnordered::new();
        loop {
            // None waits for another: a source that is slow holds up nobody else.
            let mut outcome = match finished(end_at, self.definitions()).await {
                Ok(definitions) => {
                    let idle = definitions.into_iter().filter(|definition| under_way.insert(definition.name.clone()));
                    rounds.extend(idle.map(async |definition| {
                        let mut done = Summary::default();
                        let outcome = self.round_of(&definition, stop_at, end_at, &mut done).await;
                        (definition.name, done, outcome)
                    }));
                    Ok(())
                }
                Err(failure) => Err(failure),
            };
            let is_last = Instant::now() + LOOK_INTERVAL >= stop_at;
            let next_look = sleep_until(if is_last { end_at + LAST_WORDS } else { Instant::now() + LOOK_INTERVAL });
            tokio::pin!(next_look);
            while let Some((name, done, ended)) = tokio::select! {
                ended = rounds.next(), if !rounds.is_empty() => ended,
                () = &mut next_look, if !(is_last && rounds.is_empty()) => None,
                else => None,
            } {
                under_way.remove(&name);
                summary.add(done);
                outcome = outcome.and(ended);
            }
            if let Err(failure) = &outcome {
                error!(error = %failure, "no round can begin, and it is tried again");
            }
            if is_last {
                if outcome.is_err() {
                    self.measure(&Tally::default(), true);
                }
                info!(
                    rounds = summary.rounds,
                    failures = summary.failures,
                    fetched = summary.tally.fetched,
                    synced = summary.tally.synced,
                    outdated = summary.tally.outdated,
                    duplicate = summary.tally.duplicate,
                    rejected = summary.tally.rejected(),
                    "ingested"
                );
                return outcome.map(|()| summary);
            }
        }
    }

    /// A round of this source, if it is defined and one is due. It goes on to no other page after `stop_at`, and is broken off
    /// at `end_at`.
    ///
    /// # Errors
    /// The database is out of reach. A round that fails otherwise is told of and counted.
    pub async fn round(
        &self,
        source: &str,
        stop_at: Instant,
        end_at: Instant,
        summary: &mut Summary,
    ) -> Result<(), Error> {
        let definitions = finished(end_at, self.definitions()).await?;
        match definitions.into_iter().find(|definition| definition.name == source) {
            Some(definition) => self.round_of(&definition, stop_at, end_at, summary).await,
            None => Ok(()),
        }
    }

    async fn round_of(
        &self,
        definition: &Definition,
        stop_at: Instant,
        end_at: Instant,
        summary: &mut Summary,
    ) -> Result<(), Error> {
        let source = definition.name.as_str();
        let Some(position) = finished(end_at, self.claim(definition, end_at)).await? else { return Ok(()) };
        if let Some(died) = &position.died {
            error!(error = died, source, "a round before this one died");
            // At once: this one may die, too.
            self.measure(&Tally::default(), true);
        }
        let (began, ends_by) = (Instant::now(), position.ends_by);
        let mut tally = Tally::default();
        let read = async {
            let source = self.source(definition).await?;
            let (sessions, tally) = (&self.sessions, &mut tally);
            // First: whatever the source does, what is old goes.
            sessions.run(async |client| Ok(rejects::forget(client).await?)).await?;
            match &source.kind {
                Kind::Http(http) => Round { source: &source, http, sessions, position, stop_at, tally }.run().await,
                Kind::Mongo(mongo) => {
                    Following { source: &source, mongo, sessions, position, stop_at, tally }.run().await
                }
            }
        };
        let outcome = finished(end_at, read).await;
        summary.tally.add(tally);
        match &outcome {
            Ok(()) => summary.rounds += 1,
            Err(failure) => {
                summary.failures += 1;
                error!(error = %failure, source, "a round failed; the position is not past what is stored");
            }
        }
        let ended = Ended { took_ms: ms(began.elapsed()), counts: tally.counts(), ends_by };
        let is_failed = outcome.is_err();
        let failing = finished(end_at + LAST_WORDS / 2, self.record(source, &ended, outcome)).await;
        // While one source fails, no round of another says that all is well.
        self.measure(&tally, is_failed || failing.as_ref().is_ok_and(|failing| *failing > 0));
        failing.map(drop)
    }

    /// What there is to pull.
    async fn definitions(&self) -> Result<Vec<Definition>, Error> {
        let known = self.sessions.run(async |client| Ok(definition::list(client).await?)).await?;
        let known = known.into_iter().filter_map(|definition| {
            definition
                .inspect_err(|source| {
                    error!(source, "this version does not understand the definition: migrate to its own");
                })
                .ok()
        });
        Ok(known.collect())
    }

    /// Made anew where its definition has changed.
    async fn source(&self, definition: &Definition) -> Result<Arc<Source>, Error> {
        let mut sources = self.sources.lock().await;
        if let Some(source) = sources.get(&definition.name).filter(|source| source.definition == *definition) {
            return Ok(Arc::clone(source));
        }
        let source = Arc::new(Source::new(definition.clone(), &self.config, &self.secrets, self.patience)?);
        sources.insert(definition.name.clone(), Arc::clone(&source));
        Ok(source)
    }

    async fn claim(&self, definition: &Definition, end_at: Instant) -> Result<Option<Position>, Error> {
        let time_left = (end_at + LAST_WORDS).saturating_duration_since(Instant::now());
        let every = definition.every().unwrap_or(self.config.sync_interval);
        let origin = source::origin(definition, &self.config);
        let claim = async |client: &_| {
            Ok(position::claim(client, &definition.name, origin.as_deref(), every, definition.listing_s, time_left)
                .await?)
        };
        self.sessions.run(claim).await
    }

    /// How many sources' last rounds failed.
    async fn record(&self, source: &str, ended: &Ended, outcome: Result<(), Error>) -> Result<i64, Error> {
        let record = async |client: &_| {
            match &outcome {
                Ok(()) => position::succeed(client, source, ended).await?,
                Err(failure) => position::fail(client, source, ended, &to_store(failure)).await?,
            }
            Ok(position::count_failing(client).await?)
        };
        self.sessions.run(record).await
    }

    /// Zeros are told, too: nothing from the origin is something else than no round.
    fn measure(&self, tally: &Tally, is_failed: bool) {
        let Some(metrics) = &self.config.metrics else { return };
        let mut line = metrics.line();
        line.gauge("ProfilesFetched", "Count", tally.fetched)
            .gauge("ProfilesSynced", "Count", tally.synced)
            .gauge("ProfilesSkipped", "Count", tally.outdated + tally.duplicate)
            .gauge("ProfilesRejected", "Count", tally.rejected())
            .gauge("IngestFailures", "Count", u64::from(is_failed))
            .count("RejectsDropped", tally.dropped);
        line.print(SystemTime::now());
    }
}

fn to_store(failure: &Error) -> Failure {
    let retry_after = if let Error::Busy { retry_after, .. } = failure { Some(*retry_after) } else { None };
    Failure { message: failure.to_string(), retry_after, ends_chain: failure.ends_chain() }
}

/// What it comes to; an error where it takes longer, or panics.
async fn finished<T>(end_at: Instant, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    // Boxed: the compiler gives up on the layout of so deep a future.
    match timeout_at(end_at, AssertUnwindSafe(Box::pin(work)).catch_unwind()).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_panic)) => Err(Error::Panicked),
        Err(_) => Err(Error::Overran),
    }
}
