//! Finding out which documents show a changed row; and what the log needs now and then: its partitions, its samples.

use std::time::Duration;

use database::log::Sample;
use database::{Connect, Session as _};
use serde::Serialize;
use tokio::time::{Instant, sleep};
use tokio_postgres::error::SqlState;
use tracing::{debug, error, info, warn};

use crate::session::Session;
use crate::{Config, Error};

/// Keys that one transaction logs: some tens of milliseconds.
const SLICE: i32 = 5000;
/// Between two looks at the partitions: one is made when the newest is half full, so there is time.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(60);
/// And where a lock was in the way, which each attempt holds up writers for a tenth of a second to wait for.
const MAINTENANCE_RETRY: Duration = Duration::from_secs(5);

/// How often it is asked whether a heartbeat is due, so that no minute goes without.
const BEAT_INTERVAL: Duration = Duration::from_secs(5);
/// Between two samples of the pipeline's state, from which the charts of the last hour are drawn.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(15);

/// What the fan-out did.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Expanded {
    /// Expansions begun.
    pub expansions: i64,
    /// Rows logged by them.
    pub rows: i64,
    /// Slices that failed, and are tried again later.
    pub parked: u64,
    /// Rows of the log that waited when it was last looked at.
    pub pending_rows: Option<i64>,
    /// For how long the oldest had waited at the worst, in milliseconds.
    pub oldest_pending_ms: i64,
    /// What the log took on disk, in bytes.
    pub log_bytes: Option<i64>,
}

impl Expanded {
    fn note(&mut self, sample: Sample) {
        self.pending_rows = Some(sample.pending_rows);
        self.oldest_pending_ms = self.oldest_pending_ms.max(sample.oldest_pending_ms);
        self.log_bytes = Some(sample.log_bytes);
    }
}

/// Expands what the triggers noted as images into keys.
pub struct FanOut<D: Connect> {
    session: Session<D>,
    poll_interval: Duration,
    retention: Duration,
    subscription: String,
    maintain_at: Instant,
    beat_at: Instant,
    sample_at: Instant,
}

impl<D: Connect> FanOut<D> {
    /// Connects to nothing yet.
    pub fn new(config: &Config, database: D) -> Self {
        Self {
            session: Session::new(database, "sluice trigger (fan-out)"),
            poll_interval: config.poll_interval,
            retention: config.retention,
            subscription: config.subscription.clone(),
            maintain_at: Instant::now(),
            beat_at: Instant::now(),
            sample_at: Instant::now(),
        }
    }

    /// Notes how far behind the drain is, now and then.
    ///
    /// # Errors
    /// It could not be found out.
    pub async fn sample(&mut self, expanded: &mut Expanded) -> Result<(), Error> {
        if Instant::now() < self.sample_at {
            return Ok(());
        }
        self.sample_at = Instant::now() + SAMPLE_INTERVAL;
        let (session, _) = self.session.get().await?;
        match session.sample(&self.subscription).await {
            Ok(Some(sample)) => expanded.note(sample),
            Ok(None) => {}
            Err(failure) => {
                self.session.close();
                return Err(failure.into());
            }
        }
        Ok(())
    }

    /// Works until it is time to stop. What fails is logged and tried again: it stops nobody.
    pub async fn stay(&mut self, stop_at: Instant, expanded: &mut Expanded) {
        let mut pause = Duration::ZERO;
        while Instant::now() < stop_at {
            let sampled = self.sample(expanded).await;
            match sampled.and(self.step(expanded).await) {
                Ok(has_more) => {
                    pause = Duration::ZERO;
                    if !has_more {
                        sleep(self.poll_interval).await;
                    }
                }
                Err(failure) => {
                    error!(error = %failure, "the fan-out failed, and is tried again");
                    pause = (pause * 2).clamp(Duration::from_secs(1), Duration::from_secs(10));
                    sleep(pause.min(stop_at.saturating_duration_since(Instant::now()))).await;
                }
            }
        }
    }

    /// Collects what is new and works off one slice: whether there was anything to do.
    ///
    /// # Errors
    /// Nothing is lost: what was not committed is done again.
    pub async fn step(&mut self, expanded: &mut Expanded) -> Result<bool, Error> {
        let outcome = self.try_step(expanded).await;
        if outcome.is_err() {
            self.session.close();
        }
        outcome
    }

    async fn try_step(&mut self, expanded: &mut Expanded) -> Result<bool, Error> {
        let (session, _) = self.session.get().await?;
        if Instant::now() >= self.maintain_at {
            self.maintain_at = Instant::now() + maintain(session, self.retention).await?;
        }
        if Instant::now() >= self.beat_at {
            self.beat_at = Instant::now() + BEAT_INTERVAL;
            session.beat().await?;
        }
        let begun = session.collect().await?;
        expanded.expansions += begun;
        let Some(expansion) = session.due_expansion().await? else { return Ok(begun > 0) };
        match session.expand(expansion, SLICE).await {
            Ok(rows) => expanded.rows += rows,
            Err(failure) if failure.as_db_error().is_some() && !session.is_closed() => {
                let reason = database::describe(&failure);
                warn!(expansion, error = reason, "an expansion failed, and is put aside for a while");
                session.park(expansion, &reason).await?;
                expanded.parked += 1;
            }
            Err(failure) => return Err(failure.into()),
        }
        Ok(true)
    }
}

/// Does what the partitions need, and tells how long it can be left at that.
async fn maintain(session: &impl database::Session, retention: Duration) -> Result<Duration, Error> {
    loop {
        match session.maintain(retention).await {
            Ok(Some(done)) => info!(done, "kept the log's partitions"),
            Ok(None) => return Ok(MAINTENANCE_INTERVAL),
            Err(failure) if failure.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                debug!("the log's partitions are in use: later");
                return Ok(MAINTENANCE_RETRY);
            }
            Err(failure) => return Err(failure.into()),
        }
    }
}
