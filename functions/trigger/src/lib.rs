//! The trigger: drains the log into SQS.
//!
//! One invocation stays for its time and polls; the next one takes over through the lock on the subscription's row. Two
//! loops run side by side, each on a connection of its own: [`Drain`] reads pages, reads what their documents are
//! now, and sends them; [`FanOut`] finds out which documents show a changed row. A query of the one that is slow
//! or fails holds up nothing of the other.

mod config;
mod drain;
mod error;
mod fan_out;
mod page;
mod rests;
mod sender;
mod session;

use std::time::{Duration, SystemTime};

use ::config::{Secrets, Trace};
use database::{Connect, Postgres};
use queue::{Queue, Sqs};
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::info;

pub use config::Config;
pub use drain::{Drain, Drained};
pub use error::Error;
pub use fan_out::{Expanded, FanOut};
pub use sender::SendError;

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

/// The function's value: its clients, kept from one invocation to the next.
pub struct Trigger {
    config: Config,
    state: Mutex<(Drain<Postgres, Sqs>, FanOut<Postgres>)>,
}

impl Trigger {
    /// Connects to nothing yet.
    pub fn new(config: Config, secrets: &Secrets, sqs: aws_sdk_sqs::Client) -> Self {
        let database = Postgres::new(config.database.clone(), secrets.clone());
        let queue = Sqs::new(sqs, config.queue_url.as_str());
        let drain = Drain::new(&config, database.clone(), queue);
        let fan_out = FanOut::new(&config, database);
        Self { config, state: Mutex::new((drain, fan_out)) }
    }

    /// Drains until its time is over or, by DRAIN=once, until nothing is left. What it sends is in this trace.
    ///
    /// # Errors
    /// What kept it from draining, when it was still doing so at the end. What was sent was sent: the next invocation
    /// repeats at most what was not committed.
    pub async fn handle(&self, trace: &Trace, deadline: SystemTime) -> Result<Summary, Error> {
        let left = deadline.duration_since(SystemTime::now()).unwrap_or_default().saturating_sub(MARGIN);
        let stop_at = Instant::now() + left.min(self.config.stay);
        let mut state = self.state.lock().await;
        let (drain, fan_out) = &mut *state;
        let mut summary = Summary::default();
        let outcome = if self.config.is_once {
            let drained = self.drain_once(drain, fan_out, trace, stop_at, &mut summary).await;
            // Only now: what came since the minute before has waited for its turn, and for nothing else.
            drained.and(fan_out.sample(&mut summary.expanded).await)
        } else {
            let (drained, ()) = tokio::join!(
                drain.stay(trace, stop_at, &mut summary.drained),
                fan_out.stay(stop_at, &mut summary.expanded)
            );
            drained
        };
        drain.release().await;
        let Summary { drained, expanded } = &summary;
        info!(
            pages = drained.pages,
            changes = drained.changes,
            documents = drained.documents,
            deletes = drained.deletes,
            to_read_again = drained.to_read_again,
            waiting = drained.waiting,
            unknown = drained.unknown,
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

    fn measure(&self, Summary { drained, expanded }: &Summary) {
        let Some(metrics) = &self.config.metrics else { return };
        let mut line = metrics.line();
        line.count("Drained", drained.changes)
            .count("Published", drained.documents + drained.deletes + drained.to_read_again)
            .count("PublishedBytes", drained.bytes)
            .count("SourceErrors", drained.source_errors + expanded.parked);
        if let Some(pending_rows) = expanded.pending_rows {
            line.gauge("Backlog", "Count", pending_rows.unsigned_abs());
            line.gauge("OldestPendingAge", "Milliseconds", expanded.oldest_pending_ms.unsigned_abs());
        }
        if let Some(log_bytes) = expanded.log_bytes {
            line.gauge("LogBytes", "Bytes", log_bytes.unsigned_abs());
        }
        line.fact("streams", drained.counts.by_stream());
        line.print(SystemTime::now());
    }

    async fn drain_once(
        &self,
        drain: &mut Drain<impl Connect, impl Queue>,
        fan_out: &mut FanOut<impl Connect>,
        trace: &Trace,
        stop_at: Instant,
        summary: &mut Summary,
    ) -> Result<(), Error> {
        // What is expanded has to be drained, and what is drained later may be read by an expansion: until both are done.
        while Instant::now() < stop_at {
            let expanded = fan_out.step(&mut summary.expanded).await?;
            let drained = drain.step(trace, stop_at, &mut summary.drained).await?;
            if !expanded && !drained {
                break;
            }
        }
        Ok(())
    }
}
