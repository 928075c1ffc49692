//! Finding out which documents show a changed row; and the pulse of it all: heartbeats and samples.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use database::log::Sample;
use database::{Connect, Session as _};
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, warn};

use crate::error::Error;
use crate::guard::guard;
use crate::page::AFTER_TIME_OUT;
use crate::session::Session;
use crate::settings::{Settings, longer};

/// Keys that one transaction logs: some tens of milliseconds.
pub(crate) const SLICE: i32 = 5000;
/// What one statement may take: a slice of `affects` that takes longer is put aside for the [`crate::Chores`], and nobody
/// has waited longer for it.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often it is asked whether a heartbeat is due, so that no minute goes without.
const BEAT_INTERVAL: Duration = Duration::from_secs(5);
/// Between two samples of the pipeline's state, from which the charts of the last hour are drawn.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(15);
/// Until what could not be collected is tried again, at the most.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What the fan-out did.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Expanded {
    /// Expansions begun.
    pub expansions: i64,
    /// Rows logged by them.
    pub rows: i64,
    /// Slices that failed, and are tried again later.
    pub parked: u64,
    /// Samples that could not be taken.
    pub sample_failures: u64,
    /// Flights of which nothing was heard any more.
    pub lost_flights: u64,
    /// What the last sample saw; of its ages the worst.
    #[serde(skip)]
    pub sample: Option<Sample>,
}

impl Expanded {
    fn note(&mut self, mut sample: Sample) {
        if let Some(before) = self.sample {
            sample.fan_out_oldest_ms = sample.fan_out_oldest_ms.max(before.fan_out_oldest_ms);
            sample.lag_ms = sample.lag_ms.max(before.lag_ms);
        }
        self.sample = Some(sample);
    }
}

/// Expands what the triggers noted as images into keys.
pub struct FanOut<D: Connect> {
    session: Session<D>,
    poll_interval: Duration,
    subscription: String,
    beat_at: Instant,
    sample_at: Instant,
    collect_at: Instant,
    collect_pause: Duration,
    is_unanswered: bool,
}

impl<D: Connect> FanOut<D> {
    /// Connects to nothing yet.
    pub fn new(settings: &Settings, database: D) -> Self {
        let now = Instant::now();
        Self {
            session: Session::new(database, "sluice fan-out"),
            poll_interval: settings.poll_interval,
            subscription: settings.subscription.clone(),
            beat_at: now,
            sample_at: now,
            collect_at: now,
            collect_pause: Duration::ZERO,
            is_unanswered: false,
        }
    }

    /// Works until it is time to stop. What fails is logged and tried again: it stops nobody. `slow_waits` tells the
    /// [`crate::Chores`] of expansions that are theirs.
    pub async fn stay(&mut self, stop_at: Instant, slow_waits: &AtomicBool, expanded: &mut Expanded) {
        let mut pause = Duration::ZERO;
        let mut idle = self.poll_interval;
        while Instant::now() < stop_at {
            self.sample(stop_at, expanded).await;
            match guard(stop_at, self.step_beside(slow_waits, expanded)).await {
                Ok(has_more) => {
                    pause = Duration::ZERO;
                    if has_more {
                        idle = self.poll_interval;
                    } else {
                        sleep(idle).await;
                        idle = longer(idle, self.poll_interval);
                    }
                }
                Err(failure) => {
                    error!(error = %failure, "the fan-out failed, and is tried again");
                    self.session.close();
                    pause = (pause * 2).clamp(Duration::from_secs(1), LONGEST_PAUSE);
                    sleep(pause.min(stop_at.saturating_duration_since(Instant::now()))).await;
                }
            }
        }
    }

    /// Notes how far behind the drain and the fan-out are, now and then. One that fails is counted, and stops nobody.
    pub async fn sample(&mut self, stop_at: Instant, expanded: &mut Expanded) {
        if Instant::now() < self.sample_at {
            return;
        }
        self.sample_at = Instant::now() + SAMPLE_INTERVAL;
        match guard(stop_at, self.try_sample()).await {
            Ok(Some(sample)) => expanded.note(sample),
            Ok(None) => {}
            Err(failure) => {
                warn!(error = %failure, "the state of the pipeline could not be sampled");
                expanded.sample_failures += 1;
                self.session.close();
            }
        }
    }

    async fn try_sample(&mut self) -> Result<Option<Sample>, Error> {
        let session = get(&mut self.session, PATIENCE).await?;
        Ok(session.sample(&self.subscription).await?)
    }

    /// Collects a page of what is new and works off one slice: whether there was anything to do.
    ///
    /// # Errors
    /// Nothing is lost: what was not committed is done again.
    pub async fn step(&mut self, expanded: &mut Expanded) -> Result<bool, Error> {
        self.step_beside(&AtomicBool::default(), expanded).await
    }

    pub(crate) async fn step_beside(
        &mut self,
        slow_waits: &AtomicBool,
        expanded: &mut Expanded,
    ) -> Result<bool, Error> {
        let outcome = self.try_step(slow_waits, expanded).await;
        if outcome.is_err() {
            self.session.close();
        }
        outcome
    }

    /// Nobody knows what its session still waits for.
    pub(crate) fn close(&mut self) {
        self.session.close();
    }

    async fn try_step(&mut self, slow_waits: &AtomicBool, expanded: &mut Expanded) -> Result<bool, Error> {
        let session = get(&mut self.session, PATIENCE).await?;
        if Instant::now() >= self.beat_at {
            self.beat_at = Instant::now() + BEAT_INTERVAL;
            if let Err(failure) = session.beat().await {
                bear(session, "a heartbeat", failure)?;
            }
        }
        let mut has_more = false;
        if Instant::now() >= self.collect_at {
            match session.collect().await {
                Ok(collected) => {
                    expanded.expansions += collected.begun;
                    has_more = collected.has_more;
                    self.collect_pause = Duration::ZERO;
                }
                Err(failure) => {
                    bear(session, "collecting what is to be fanned out", failure)?;
                    self.collect_pause = (self.collect_pause * 2).clamp(Duration::from_secs(1), LONGEST_PAUSE);
                    self.collect_at = Instant::now() + self.collect_pause;
                }
            }
        }
        let (worked, waits) = expand(session, PATIENCE, false, &mut self.is_unanswered, expanded).await?;
        slow_waits.store(waits, Ordering::Relaxed);
        Ok(has_more || worked)
    }
}

/// An open session, whose statements end in time.
pub(crate) async fn get<D: Connect>(session: &mut Session<D>, patience: Duration) -> Result<&D::Session, Error> {
    let (session, is_new) = session.get().await?;
    if is_new {
        session.set_statement_timeout(patience).await?;
    }
    Ok(session)
}

/// A failure of one statement, while the session goes on. Its words are logged here and nowhere else.
pub(crate) fn bear(
    session: &impl database::Session,
    doing: &'static str,
    failure: tokio_postgres::Error,
) -> Result<(), Error> {
    if failure.as_db_error().is_none() || session.is_closed() {
        return Err(failure.into());
    }
    error!(doing, error = database::describe(&failure), "one thing failed, and is tried again; the others go on");
    Ok(())
}

/// Works off one slice of what is due: whether there was one, and whether a slow one waits. One that did not answer, in
/// another session, is put aside unread.
pub(crate) async fn expand(
    session: &impl database::Session,
    patience: Duration,
    is_slow: bool,
    is_unanswered: &mut bool,
    expanded: &mut Expanded,
) -> Result<(bool, bool), Error> {
    let Ok(slice) = timeout(patience + AFTER_TIME_OUT, session.expand(SLICE, is_slow, *is_unanswered)).await else {
        *is_unanswered = true;
        return Err(Error::UnansweredExpansion);
    };
    let slice = slice?;
    *is_unanswered = false;
    expanded.rows += slice.rows;
    if let (Some(expansion), Some(reason)) = (slice.expansion, &slice.failure) {
        warn!(expansion, error = reason, "an expansion failed, and is put aside for a while");
        expanded.parked += 1;
    }
    Ok((slice.expansion.is_some(), slice.slow_waits))
}
