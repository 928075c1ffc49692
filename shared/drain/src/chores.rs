//! What may take its time, on a session of its own: `affects` that did not end in time, and what the log needs now and then.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use database::Connect;
use database::delivery::LostFlight;
use tokio::time::{Instant, sleep};
use tokio_postgres::error::SqlState;
use tracing::{debug, error, info};

use crate::error::Error;
use crate::fan_out::{Expanded, bear, expand, get};
use crate::guard::guard;
use crate::session::Session;
use crate::settings::Settings;

/// What one statement may take. A third of an invocation, so that two of them end in it.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at the partitions: one is made when the newest is half full, so there is time.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(60);
/// And where a lock was in the way, which each attempt holds up writers for a tenth of a second to wait for.
const MAINTENANCE_RETRY: Duration = Duration::from_secs(5);
/// Between two looks at the flights, of which each is looked at once a minute.
const WATCH_INTERVAL: Duration = Duration::from_secs(10);

/// Does them.
pub struct Chores<D: Connect> {
    session: Session<D>,
    retention: Duration,
    maintain_at: Instant,
    watch_at: Instant,
    is_unanswered: bool,
}

impl<D: Connect> Chores<D> {
    /// Connects to nothing yet.
    pub fn new(settings: &Settings, database: D) -> Self {
        Self {
            session: Session::new(database, "sluice chores"),
            retention: settings.retention,
            maintain_at: Instant::now(),
            watch_at: Instant::now(),
            is_unanswered: false,
        }
    }

    /// Works until it is time to stop. What fails is logged and tried again: it stops nobody.
    pub async fn stay(&mut self, stop_at: Instant, slow_waits: &AtomicBool, expanded: &mut Expanded) {
        let mut pause = Duration::ZERO;
        while Instant::now() < stop_at {
            match self.step(stop_at, slow_waits.load(Ordering::Relaxed), expanded).await {
                Ok(true) => pause = Duration::ZERO,
                Ok(false) => {
                    slow_waits.store(false, Ordering::Relaxed);
                    pause = Duration::from_millis(250);
                }
                Err(failure) => {
                    error!(error = %failure, "the chores failed, and are tried again");
                    pause = (pause * 2).clamp(Duration::from_secs(1), Duration::from_secs(10));
                }
            }
            sleep(pause.min(stop_at.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// Gives the session up, with whatever it is in the middle of.
    pub(crate) fn close(&mut self) {
        self.session.close();
    }

    /// Does the chores that are due, and one slice of a slow expansion where one waits: whether there was one.
    ///
    /// # Errors
    /// Nothing is lost: what was not committed is done again.
    pub async fn step(&mut self, stop_at: Instant, slow_waits: bool, expanded: &mut Expanded) -> Result<bool, Error> {
        let outcome = guard(stop_at, self.try_step(slow_waits, expanded)).await;
        if outcome.is_err() {
            self.session.close();
        }
        outcome
    }

    async fn try_step(&mut self, slow_waits: bool, expanded: &mut Expanded) -> Result<bool, Error> {
        if Instant::now() >= self.maintain_at {
            let session = get(&mut self.session, PATIENCE).await?;
            self.maintain_at = Instant::now() + MAINTENANCE_INTERVAL;
            let pause = maintain(session, self.retention).await?;
            self.maintain_at = Instant::now() + pause;
            forget_old(session, self.retention).await?;
            keep_checkpoints(session).await?;
        }
        if Instant::now() >= self.watch_at {
            let session = get(&mut self.session, PATIENCE).await?;
            self.watch_at = Instant::now() + WATCH_INTERVAL;
            if watch_flights(session, expanded).await? {
                self.watch_at = Instant::now();
            }
        }
        if !slow_waits {
            return Ok(false);
        }
        let session = get(&mut self.session, PATIENCE).await?;
        Ok(expand(session, PATIENCE, true, &mut self.is_unanswered, expanded).await?.0)
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
            Err(failure) => {
                bear(session, "keeping the log's partitions", failure)?;
                return Ok(MAINTENANCE_INTERVAL);
            }
        }
    }
}

/// Tells of flights that were lost, and has them logged again: whether there may be more.
async fn watch_flights(session: &impl database::Session, expanded: &mut Expanded) -> Result<bool, Error> {
    let lost = match session.watch_flights().await {
        Ok(lost) => lost,
        Err(failure) => return bear(session, "watching what was sent", failure).map(|()| false),
    };
    let has_more = !lost.is_empty();
    for LostFlight { subscription, stream, first_id, last_id, is_logged_again } in lost {
        expanded.lost_flights += 1;
        if is_logged_again {
            error!(subscription, stream, first_id, last_id, "messages were lost: their changes are logged again");
        } else {
            error!(
                subscription,
                stream, first_id, last_id, "messages were lost, and with them payloads: emit them again"
            );
        }
    }
    Ok(has_more)
}

/// Has points from which all that comes after can be delivered again.
async fn keep_checkpoints(session: &impl database::Session) -> Result<(), Error> {
    match session.keep_checkpoints().await {
        Ok(()) => Ok(()),
        Err(failure) => bear(session, "keeping the checkpoints", failure),
    }
}

/// Removes what has grown old, in steps.
async fn forget_old(session: &impl database::Session, retention: Duration) -> Result<(), Error> {
    loop {
        match session.forget_old(retention).await {
            Ok(0) => return Ok(()),
            Ok(rows) => info!(rows, "removed what had grown old"),
            Err(failure) => return bear(session, "removing what has grown old", failure),
        }
    }
}
