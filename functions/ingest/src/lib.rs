//! The ingest: pulls profiles from an origin, and keeps a table in step with it.
//!
//! One invocation stays for its time, and makes a round whenever one is due. A round asks the [`Origin`] for what changed
//! since the position, page by page; each profile of a page is judged alone, and stored if it is newer than what is there.
//! The position moves when everything before it is stored. So whatever is repeated, by a crash or by two invocations at
//! once, changes nothing.

mod batch;
mod config;
mod decision;
mod elements;
mod error;
mod link;
mod origin;
mod profile;
mod round;
mod store;
mod tally;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, SystemTime};

use database::ingest::position::{self, Ended, Failure, Position};
use futures_util::FutureExt as _;
use secrets::Secrets;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{error, info};

use crate::round::Round;
use crate::store::Writer;
use crate::tally::ms;

pub use config::Config;
pub use error::Error;
pub use origin::{Origin, Patience};
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
    /// What became of profiles.
    #[serde(flatten)]
    pub tally: Tally,
}

/// The function's value: its clients, kept from one invocation to the next.
pub struct Ingest {
    config: Config,
    name: String,
    origin: Origin,
    writers: Mutex<Vec<Writer>>,
}

impl Ingest {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// There is no TLS.
    pub fn new(config: Config, secrets: &Secrets, patience: Patience) -> Result<Self, reqwest::Error> {
        let origin = Origin::new(&config, secrets.clone(), patience)?;
        let writer = || Writer::new(config.database.clone(), secrets.clone());
        let writers = (0..config.db_writers).map(|_| writer()).collect();
        Ok(Self { name: config.origin_name(), origin, writers: Mutex::new(writers), config })
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
        loop {
            let outcome = self.round(stop_at, end_at, &mut summary).await;
            if let Err(failure) = &outcome {
                error!(error = %failure, origin = self.name, "no round can begin, and it is tried again");
            }
            if Instant::now() + LOOK_INTERVAL >= stop_at {
                if outcome.is_err() {
                    self.measure(&Tally::default(), true);
                }
                info!(
                    origin = self.name,
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
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// A round, if one is due. It goes on to no other page after `stop_at`, and is broken off at `end_at`.
    ///
    /// # Errors
    /// The database is out of reach. A round that fails otherwise is told of and counted.
    pub async fn round(&self, stop_at: Instant, end_at: Instant, summary: &mut Summary) -> Result<(), Error> {
        let mut writers = self.writers.lock().await;
        let outcome = self.round_by(&mut writers, stop_at, end_at, summary).await;
        close_broken(&mut writers, &outcome);
        outcome
    }

    async fn round_by(
        &self,
        writers: &mut [Writer],
        stop_at: Instant,
        end_at: Instant,
        summary: &mut Summary,
    ) -> Result<(), Error> {
        let Some(position) = finished(end_at, self.claim(writers, end_at)).await? else { return Ok(()) };
        if let Some(died) = &position.died {
            error!(error = died, origin = self.name, "a round before this one died");
            // At once: this one may die, too.
            self.measure(&Tally::default(), true);
        }
        let (began, ends_by) = (Instant::now(), position.ends_by);
        let mut tally = Tally::default();
        let round = Round {
            origin: &self.origin,
            name: &self.name,
            writers: &mut *writers,
            position,
            stop_at,
            tally: &mut tally,
        };
        let outcome = finished(end_at, round.run()).await;
        summary.tally.add(tally);
        self.measure(&tally, outcome.is_err());
        match &outcome {
            Ok(()) => summary.rounds += 1,
            Err(failure) => {
                summary.failures += 1;
                error!(error = %failure, origin = self.name, "a round failed; the position is not past what is stored");
            }
        }
        close_broken(writers, &outcome);
        let ended = Ended { took_ms: ms(began.elapsed()), counts: tally.counts(), ends_by };
        finished(end_at + LAST_WORDS / 2, self.record(writers, &ended, outcome)).await
    }

    async fn claim(&self, writers: &mut [Writer], end_at: Instant) -> Result<Option<Position>, Error> {
        let Some(writer) = writers.first_mut() else { return Ok(None) };
        let client = writer.client().await?;
        let time_left = (end_at + LAST_WORDS).saturating_duration_since(Instant::now());
        Ok(position::claim(client, &self.name, self.config.sync_interval, time_left).await?)
    }

    async fn record(&self, writers: &mut [Writer], ended: &Ended, outcome: Result<(), Error>) -> Result<(), Error> {
        let Some(writer) = writers.first_mut() else { return Ok(()) };
        let client = writer.client().await?;
        match outcome {
            Ok(()) => position::succeed(client, &self.name, ended).await?,
            Err(failure) => position::fail(client, &self.name, ended, &to_store(&failure)).await?,
        }
        Ok(())
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

fn close_broken(writers: &mut [Writer], outcome: &Result<(), Error>) {
    if outcome.as_ref().is_err_and(Error::broke_off) {
        writers.iter_mut().for_each(Writer::close);
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
