//! The ingest: pulls profiles from a source, and keeps a table in step with it.
//!
//! One invocation stays for its time, and makes a round whenever one is due. A round asks the [`Source`] for what changed
//! since the position, page by page; each profile of a page is judged alone, and stored if it is newer than what is there.
//! The position moves when everything before it is stored. So whatever is repeated, by a crash or by two invocations at
//! once, changes nothing.

mod batch;
mod config;
mod decision;
mod error;
mod link;
mod position;
mod profile;
mod round;
mod source;
mod store;

use std::time::{Duration, SystemTime};

use ::config::Secrets;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use tracing::{error, info};

use crate::round::Round;
use crate::store::Writer;

pub use config::Config;
pub use error::Error;
pub use round::Tally;
pub use source::{Patience, Source};

/// Left for the answer, and for a batch that was begun in the last moment.
const MARGIN: Duration = Duration::from_secs(4);
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
    source: Source,
    writers: Mutex<Vec<Writer>>,
}

impl Ingest {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// There is no TLS.
    pub fn new(config: Config, secrets: &Secrets, patience: Patience) -> Result<Self, reqwest::Error> {
        let source = Source::new(&config, secrets.clone(), patience)?;
        let writer = || Writer::new(config.database.clone(), secrets.clone());
        let writers = (0..config.db_writers).map(|_| writer()).collect();
        Ok(Self { name: config.source_name(), source, writers: Mutex::new(writers), config })
    }

    /// Makes rounds until its time is over. A round that fails is told of and counted, and the next one goes on.
    ///
    /// # Errors
    /// The database was out of reach, and still is.
    pub async fn handle(&self, deadline: SystemTime) -> Result<Summary, Error> {
        let left = deadline.duration_since(SystemTime::now()).unwrap_or_default().saturating_sub(MARGIN);
        let stop_at = Instant::now() + left.min(self.config.stay);
        let mut summary = Summary::default();
        loop {
            let outcome = self.round(stop_at, &mut summary).await;
            if let Err(failure) = &outcome {
                error!(error = %failure, source = self.name, "no round can begin, and it is tried again");
            }
            if Instant::now() + LOOK_INTERVAL >= stop_at {
                info!(
                    source = self.name,
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

    /// A round, if one is due.
    ///
    /// # Errors
    /// The database is out of reach. A round that fails otherwise is told of and counted.
    pub async fn round(&self, stop_at: Instant, summary: &mut Summary) -> Result<(), Error> {
        let mut writers = self.writers.lock().await;
        let Some(writer) = writers.first_mut() else { return Ok(()) };
        let client = writer.client().await?;
        let Some(position) = position::claim(client, &self.name, self.config.sync_interval).await? else {
            return Ok(());
        };
        let began = Instant::now();
        let mut tally = Tally::default();
        let round = Round {
            source: &self.source,
            name: &self.name,
            writers: &mut writers,
            position,
            stop_at,
            tally: &mut tally,
        };
        let outcome = round.run().await;
        summary.tally.add(tally);
        self.measure(&tally, outcome.is_err());
        let took = began.elapsed();
        let Some(writer) = writers.first_mut() else { return Ok(()) };
        match outcome {
            Ok(()) => {
                summary.rounds += 1;
                position::succeed(writer.client().await?, &self.name, took, &tally).await?;
            }
            Err(failure) => {
                summary.failures += 1;
                error!(error = %failure, source = self.name, "a round failed; the position is not past what is stored");
                position::fail(writer.client().await?, &self.name, took, &tally, &failure).await?;
            }
        }
        Ok(())
    }

    /// Zeros are told, too: nothing from the source is something else than no round.
    fn measure(&self, tally: &Tally, is_failed: bool) {
        let Some(metrics) = &self.config.metrics else { return };
        let mut line = metrics.line();
        line.gauge("ProfilesFetched", "Count", tally.fetched)
            .gauge("ProfilesSynced", "Count", tally.synced)
            .gauge("ProfilesSkipped", "Count", tally.outdated + tally.duplicate)
            .gauge("ProfilesRejected", "Count", tally.rejected())
            .gauge("IngestFailures", "Count", u64::from(is_failed));
        line.print(SystemTime::now());
    }
}
