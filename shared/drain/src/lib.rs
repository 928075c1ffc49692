//! The drain: the loop over the log, wherever its changes go.
//!
//! One invocation stays for its time and polls; the next one takes over through the lock on the subscription's row. Three
//! loops run side by side, each on a connection of its own: [`Drain`] reads pages, reads what their documents are
//! now, and puts them into a [`Sink`]; [`FanOut`] finds out which documents show a changed row; [`Chores`] are what may take
//! its time. What is slow, fails or panics in one of them holds up nothing of the others. Fan-out and chores are the whole
//! database's: any drainer does them, and locks see to it that one does.

mod chores;
mod drain;
mod error;
mod fan_out;
mod guard;
mod page;
mod rests;
mod session;
mod settings;
mod sink;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use database::Connect;
use serde::Serialize;
use telemetry::{Metrics, Trace};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, error, info};

use crate::guard::guard;

pub use chores::Chores;
pub use drain::Drain;
pub use error::Error;
pub use fan_out::{Expanded, FanOut};
pub use page::Drained;
pub use settings::Settings;
pub use sink::{Outcome, Sent, Sink, Step, Unfit};

/// Left for the answer, and for a request that was begun in the last moment.
const MARGIN: Duration = Duration::from_secs(4);

/// What one invocation did.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// By the drain.
    #[serde(flatten)]
    pub drained: Drained,
    /// By the fan-out.
    #[serde(flatten)]
    pub expanded: Expanded,
}

type Loops<D, S> = (Drain<D, S>, FanOut<D>, Chores<D>);

/// All loops of one drainer, with their sessions, kept from one invocation to the next.
pub struct Drainer<D: Connect, S: Sink> {
    settings: Settings,
    metrics: Option<Metrics>,
    state: Mutex<Loops<D, S>>,
}

impl<D: Connect + Clone, S: Sink> Drainer<D, S> {
    /// Connects to nothing yet. Without `metrics` none are written.
    pub fn new(settings: Settings, metrics: Option<Metrics>, database: D, sink: S) -> Self {
        let drain = Drain::new(&settings, database.clone(), sink);
        let fan_out = FanOut::new(&settings, database.clone());
        let chores = Chores::new(&settings, database);
        Self { settings, metrics, state: Mutex::new((drain, fan_out, chores)) }
    }

    /// Drains until its time is over or, by DRAIN=once, until nothing is left. What it sends is in this trace.
    ///
    /// # Errors
    /// What kept it from draining, when it was still doing so at the end. What was sent was sent: the next invocation
    /// repeats at most what was not committed.
    pub async fn handle(&self, trace: &Trace, deadline: SystemTime) -> Result<Summary, Error> {
        let left = deadline.duration_since(SystemTime::now()).unwrap_or_default().saturating_sub(MARGIN);
        let stop_at = Instant::now() + left.min(self.settings.stay);
        let outcome = self.work(trace, stop_at, &CancellationToken::new()).await;
        self.release().await;
        outcome
    }

    /// Drains until `stop` says so, for a process of its own: then it finishes the step that was begun, and lets the next drainer
    /// begin. Every STAY it tells what it did, in a trace of its own. What fails is logged, and tried again.
    pub async fn run(&self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let trace = Trace::of_invocation(None);
            let span = telemetry::invocation(trace.id(), &trace);
            // What went wrong was told when it did.
            let _ = self.work(&trace, Instant::now() + self.settings.stay, stop).instrument(span).await;
        }
        self.release().await;
    }

    async fn release(&self) {
        self.state.lock().await.0.release().await;
    }

    async fn work(&self, trace: &Trace, stop_at: Instant, stop: &CancellationToken) -> Result<Summary, Error> {
        let mut state = self.state.lock().await;
        let (drain, fan_out, chores) = &mut *state;
        let mut summary = Summary::default();
        let slow_waits = AtomicBool::new(false);
        let mut done = Expanded::default();
        let outcome = if self.settings.is_once {
            let drained = Box::pin(drain_once(drain, fan_out, trace, stop_at, &slow_waits, &mut summary)).await;
            // Only now: what came since the minute before has waited for its turn, and for nothing else.
            Box::pin(fan_out.sample(stop_at, &mut summary.expanded)).await;
            let chores = chores.step(stop_at, slow_waits.load(Ordering::Relaxed), &mut done);
            if let Err(failure) = Box::pin(chores).await {
                error!(error = %failure, "the chores failed, and are tried again");
            }
            drained
        } else {
            // Boxed: the compiler gives up on the layout of so deep a future. Whoever stops does not wait for what may take its
            // time, and is done again by the next.
            let (drained, fanned_out, _) = tokio::join!(
                Box::pin(drain.stay(trace, stop_at, stop, &mut summary.drained)),
                stop.run_until_cancelled(Box::pin(fan_out.stay(stop_at, &slow_waits, &mut summary.expanded))),
                stop.run_until_cancelled(Box::pin(chores.stay(stop_at, &slow_waits, &mut done)))
            );
            if fanned_out.is_none() {
                fan_out.close();
                chores.close();
            }
            drained
        };
        summary.expanded.rows += done.rows;
        summary.expanded.parked += done.parked;
        summary.expanded.lost_flights += done.lost_flights;
        let Summary { drained, expanded } = &summary;
        info!(
            subscription = self.settings.subscription,
            pages = drained.pages,
            changes = drained.changes,
            documents = drained.documents,
            deletes = drained.deletes,
            to_read_again = drained.to_read_again,
            waiting = drained.waiting,
            unknown = drained.unknown,
            refused = drained.refused,
            source_errors = drained.source_errors,
            messages = drained.messages,
            bytes = drained.bytes,
            expansions = expanded.expansions,
            expanded_rows = expanded.rows,
            parked = expanded.parked,
            "drained"
        );
        self.measure(&summary);
        outcome.map(|()| summary)
    }

    /// Two lines: what is this subscription's own, and what is the whole database's, whichever drainer sees it. Of a direct target
    /// the first is told apart from the trigger's: each of them has a lag.
    fn measure(&self, Summary { drained, expanded }: &Summary) {
        let Some(metrics) = &self.metrics else { return };
        let own = if S::READS_AGAIN { metrics.clone() } else { metrics.clone().by_service() };
        let mut line = own.line();
        // Its zeros, too: a log that nothing leaves is what an alarm looks for.
        line.gauge("Drained", "Count", drained.changes)
            .count("Published", drained.documents + drained.deletes + drained.to_read_again)
            .count("PublishedBytes", drained.bytes)
            .count("Refused", drained.refused)
            .count("SourceErrors", drained.source_errors + expanded.parked)
            .count("SampleFailures", expanded.sample_failures);
        if let Some(sample) = expanded.sample {
            line.gauge("Backlog", "Count", sample.pending_rows.unsigned_abs())
                .gauge("Lag", "Milliseconds", sample.lag_ms.unsigned_abs())
                .gauge("WaitingRows", "Count", sample.waiting_rows.unsigned_abs())
                .gauge("StreamProblems", "Count", sample.stream_problems.unsigned_abs());
        }
        line.fact("streams", drained.counts.by_stream());
        line.print(SystemTime::now());

        let mut line = metrics.line();
        line.count("LostFlights", expanded.lost_flights);
        if let Some(sample) = expanded.sample {
            line.gauge("LogBytes", "Bytes", sample.log_bytes.unsigned_abs())
                .gauge("FanOutBacklog", "Count", sample.fan_out_rows.unsigned_abs())
                .gauge("FanOutOldestPendingAge", "Milliseconds", sample.fan_out_oldest_ms.unsigned_abs())
                .gauge("ExpansionsFailing", "Count", sample.expansions_failing.unsigned_abs());
        }
        line.print(SystemTime::now());
    }
}

/// Until nothing is left: what is expanded has to be drained, and what is drained later may be read by an expansion. One
/// that fails is tried again with the next invocation, and does not keep the other from its work.
async fn drain_once(
    drain: &mut Drain<impl Connect, impl Sink>,
    fan_out: &mut FanOut<impl Connect>,
    trace: &Trace,
    stop_at: Instant,
    slow_waits: &AtomicBool,
    summary: &mut Summary,
) -> Result<(), Error> {
    let mut fan_out_failed = false;
    while Instant::now() < stop_at {
        let mut has_more = false;
        if !fan_out_failed {
            match guard(stop_at, fan_out.step_beside(slow_waits, &mut summary.expanded)).await {
                Ok(expanded) => has_more = expanded,
                Err(failure) => {
                    error!(error = %failure, "the fan-out failed, and is tried again");
                    fan_out.close();
                    fan_out_failed = true;
                }
            }
        }
        let drained = guard(stop_at, drain.step(trace, stop_at, &mut summary.drained)).await;
        has_more |= drained.inspect_err(|_| drain.close())?;
        if !has_more {
            break;
        }
    }
    Ok(())
}
