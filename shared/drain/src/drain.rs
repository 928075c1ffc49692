//! The loop over the log: one transaction after the other, each with a few pages.

use std::time::Duration;

use database::delivery::Departure;
use database::log::Versions;
use database::{Connect, Session as _};
use futures_util::future::try_join;
use telemetry::Trace;
use tokio::time::{Instant, sleep};
use tokio_postgres::error::SqlState;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::error::Error;
use crate::guard::guard;
use crate::page::{Done, Drained, Outgoing};
use crate::rests::Rests;
use crate::session::Session;
use crate::settings::{Settings, longer};
use crate::sink::Sink;

/// How long one transaction goes on taking pages. It holds back vacuum, and what it has sent is repeated after a crash;
/// at its end nothing is read until everything is sent.
const TRANSACTION: Duration = Duration::from_secs(1);
/// Versions of one take-over, of which each page needs one. They are microseconds of the clock that the range starts
/// above, so it is soon in the past.
const VERSIONS: i32 = 100_000;
/// An interval that found nothing is stored this often, so that a transaction which stays open is listed as running and
/// costs the polls nothing.
const STORE_INTERVAL: Duration = Duration::from_secs(10);
/// What operators are told of a stream whose source may have caught its time-out. After a lost connection, too, until it is
/// read again.
const UNANSWERED: &str = "its source did not answer in time: let nothing that it calls catch query_canceled";

/// Drains one subscription. Only one session at a time does: the others find its row locked, or its holder alive.
pub struct Drain<D: Connect, S: Sink> {
    session: Session<D>,
    sink: S,
    subscription: String,
    poll_interval: Duration,
    page_size: i32,
    versions: Option<Versions>,
    /// When the last interval was stored.
    stored_at: Option<Instant>,
    rests: Rests,
    /// A stream whose source did not answer, until a session is there in which that can be noted.
    unanswered: Option<String>,
}

impl<D: Connect, S: Sink> Drain<D, S> {
    /// Connects to nothing yet.
    pub fn new(settings: &Settings, database: D, sink: S) -> Self {
        Self {
            session: Session::new(database, "sluice drain"),
            sink,
            subscription: settings.subscription.clone(),
            poll_interval: settings.poll_interval,
            page_size: settings.page_size,
            versions: None,
            stored_at: None,
            rests: Rests::default(),
            unanswered: None,
        }
    }

    /// Drains until it is time to stop, or `stop` says so: then what was begun is finished. After a failure it goes on.
    ///
    /// # Errors
    /// The last failure, if nothing has worked since.
    pub async fn stay(
        &mut self,
        trace: &Trace,
        stop_at: Instant,
        stop: &CancellationToken,
        drained: &mut Drained,
    ) -> Result<(), Error> {
        let mut outcome = Ok(());
        let mut pause = Duration::ZERO;
        let mut idle = self.poll_interval;
        while Instant::now() < stop_at && !stop.is_cancelled() {
            match guard(stop_at, self.step(trace, stop_at, drained)).await {
                Ok(has_more) => {
                    outcome = Ok(());
                    pause = Duration::ZERO;
                    if has_more {
                        idle = self.poll_interval;
                    } else {
                        stop.run_until_cancelled(sleep(idle)).await;
                        idle = longer(idle, self.poll_interval);
                    }
                }
                Err(failure) => {
                    error!(error = %failure, "the drain failed, and is tried again");
                    self.close();
                    outcome = Err(failure);
                    pause = (pause * 2).clamp(Duration::from_millis(500), Duration::from_secs(10));
                    let pause = pause.min(stop_at.saturating_duration_since(Instant::now()));
                    stop.run_until_cancelled(sleep(pause)).await;
                }
            }
        }
        outcome
    }

    /// Drains what is there, for a second at most: whether there may be more.
    ///
    /// # Errors
    /// Nothing is lost: what was not committed is read again.
    pub async fn step(&mut self, trace: &Trace, stop_at: Instant, drained: &mut Drained) -> Result<bool, Error> {
        let outcome = self.try_step(trace, stop_at, drained).await;
        if let Err(failure) = &outcome {
            if let Error::Unanswered { stream } = failure {
                self.unanswered = Some(stream.clone());
            }
            self.close();
        }
        outcome
    }

    /// The range of versions belongs to the session, which may be in the middle of anything.
    pub(crate) fn close(&mut self) {
        self.session.close();
        self.versions = None;
    }

    /// Lets the next drainer begin at once.
    pub async fn release(&mut self) {
        if self.versions.take().is_some()
            && let Some(session) = self.session.open()
            && let Err(failure) = session.release(&self.subscription).await
        {
            warn!(error = database::describe(&failure), "the next drainer will wait until this session is gone");
        }
    }

    async fn try_step(&mut self, trace: &Trace, stop_at: Instant, drained: &mut Drained) -> Result<bool, Error> {
        let (session, is_new) = self.session.get().await?;
        if is_new {
            self.versions = None;
        }
        if let Some(stream) = &self.unanswered {
            session.note_fault(&self.subscription, stream, Some(UNANSWERED)).await?;
            self.unanswered = None;
        }
        let is_stored = self.stored_at.is_some_and(|at| at.elapsed() < STORE_INTERVAL);
        if !session.is_pending(&self.subscription).await? && is_stored {
            return Ok(false);
        }
        let versions = match &mut self.versions {
            Some(versions) => versions,
            none => {
                let Some(versions) = session.take_over(&self.subscription, VERSIONS).await? else {
                    // Another one drains, and stores its intervals itself.
                    self.stored_at = Some(Instant::now());
                    return Ok(false);
                };
                self.sink.take_over().await.map_err(Error::of_sink)?;
                info!(subscription = self.subscription, "took over");
                if versions.timeline_changed {
                    error!(
                        subscription = self.subscription,
                        "the database was promoted or restored: committed changes may be gone from it which the index \
                         still has; compare them, or run migrate with the command rebase"
                    );
                }
                none.insert(versions)
            }
        };
        if !self.sink.has_room().await.map_err(Error::of_sink)? {
            return Ok(false);
        }

        session.begin().await?;
        let Some(mut after) = session.hold(&self.subscription, versions).await? else {
            self.versions = None;
            session.rollback().await?;
            return Ok(false);
        };
        let until = stop_at.min(Instant::now() + TRANSACTION);
        // Drawn before its page is read, so that a higher version has seen at least as much.
        let Some(mut version) = versions.draw() else {
            self.versions = None;
            session.rollback().await?;
            return Ok(true);
        };
        let base = version;
        let (waited, waited_at_ms) = session.waited(&self.subscription, self.page_size).await?;
        let looks_again_after = self.sink.looks_again_after();
        let step = (self.sink.begin(trace, base), looks_again_after.is_some());
        let mut outgoing =
            Outgoing::<_, S>::new((session, &self.subscription), stop_at, &mut self.rests, step, drained).await?;
        if !waited.is_empty() {
            // By themselves, and all of them before the next page: what is in the log is newer.
            outgoing.push_waited(waited, version, waited_at_ms).await?;
            let done = outgoing.finish().await?;
            if !done.aside.is_empty() {
                // They go on waiting, as they did; what was sent of others is sent again.
                session.rollback().await?;
                rest(session, &self.subscription, &done).await?;
                return Ok(true);
            }
            store(session, &self.subscription, base, true, looks_again_after, &done).await?;
            commit(session, done, drained).await?;
            return Ok(true);
        }
        let (mut rows, mut read_at_ms) = session.page(&self.subscription, after, self.page_size).await?;
        let has_any = !rows.is_empty();
        while let Some(last) = rows.last() {
            after = last.id;
            let goes_on = Instant::now() < until && !outgoing.is_full();
            let next_version = if goes_on { versions.draw() } else { None };
            let Some(next_version) = next_version else {
                outgoing.push(rows, version, read_at_ms).await?;
                // Sent, then advanced: a crash in between repeats what was sent.
                let done = outgoing.finish().await?;
                store(session, &self.subscription, base, false, looks_again_after, &done).await?;
                session.advance(&self.subscription, after).await?;
                commit(session, done, drained).await?;
                return Ok(true);
            };
            // PostgreSQL reads the next page behind this one's documents, while they are packed.
            let next_page = async { Ok(session.page(&self.subscription, after, self.page_size).await) };
            let ((), page) = try_join(outgoing.push(rows, version, read_at_ms), next_page).await?;
            (rows, read_at_ms) = match page {
                // Behind documents that could not be read; the transaction goes on from their savepoint.
                Err(error) if error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => {
                    session.page(&self.subscription, after, self.page_size).await?
                }
                page => page?,
            };
            version = next_version;
        }
        let done = outgoing.finish().await?;
        store(session, &self.subscription, base, false, looks_again_after, &done).await?;
        session.finish(&self.subscription).await?;
        commit(session, done, drained).await?;
        self.stored_at = Some(Instant::now());
        Ok(has_any)
    }
}

/// Notes what was sent, and what was not, while the position is still before it.
async fn store(
    session: &impl database::Session,
    subscription: &str,
    base: i64,
    has_waited: bool,
    looks_again_after: Option<Duration>,
    done: &Done,
) -> Result<(), Error> {
    if !done.counts.is_empty() || !done.flights.is_empty() {
        let departure = Departure { base, has_waited, flights: done.flights.clone() };
        session.depart(subscription, &done.counts.rows(), &departure).await?;
    }
    for (stream, keys) in &done.arrived {
        session.forget_refusals(subscription, stream, keys).await?;
    }
    if !done.refusals.is_empty() {
        session.note_refusals(subscription, &done.refusals).await?;
    }
    if let Some(pause) = looks_again_after.filter(|_| !done.looks.is_empty()) {
        let looks: Vec<_> = done.looks.iter().cloned().collect();
        session.look_later(subscription, has_waited, &looks, pause).await?;
    }
    for (stream, aside) in &done.aside {
        session.wait(subscription, stream, &aside.ids).await?;
    }
    rest(session, subscription, done).await
}

/// Lets streams rest whose changes are set aside, and tells why.
async fn rest(session: &impl database::Session, subscription: &str, done: &Done) -> Result<(), Error> {
    for (stream, aside) in &done.aside {
        session.rest(subscription, stream, aside.pause).await?;
        if let Some(reason) = &aside.reason {
            session.note_fault(subscription, stream, Some(reason)).await?;
        }
    }
    Ok(())
}

/// What is counted is counted once: with the position, or not at all.
async fn commit(session: &impl database::Session, done: Done, drained: &mut Drained) -> Result<(), Error> {
    session.commit().await?;
    drained.counts.merge(done.counts);
    Ok(())
}
