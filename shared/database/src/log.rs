//! What a [`Session`](crate::Session) tells of the log.

use std::time::{SystemTime, UNIX_EPOCH};

use message::Operation;
use tokio_postgres::Error;
use tracing::error;

use crate::source::one_line;

/// A range of versions that is this session's alone, reserved by a committed transaction.
#[derive(Clone, Copy, Debug)]
pub struct Versions {
    next: i64,
    last: i64,
    /// The cluster was promoted or restored to a point in time since the last take-over: committed changes may be gone
    /// from the source while the index still has them.
    pub timeline_changed: bool,
}

impl Versions {
    /// From `first` to `last`, both included.
    pub fn new(first: i64, last: i64, timeline_changed: bool) -> Self {
        Self { next: first, last, timeline_changed }
    }

    /// The end of the range, by which the subscription knows who reserved it.
    pub fn last(&self) -> i64 {
        self.last
    }

    /// Draws a version; `None`: the range is used up, take over anew.
    pub fn draw(&mut self) -> Option<i64> {
        let version = self.next;
        (version <= self.last).then(|| {
            self.next += 1;
            version
        })
    }
}

/// A row of the log.
#[derive(Clone, Debug)]
pub struct Row {
    /// Rises in order of commit for one key of the tracked table itself.
    pub id: i64,
    /// The stream that it belongs to.
    pub stream: String,
    /// The document's key as text.
    pub key: String,
    /// What was done; the document that is read decides what follows, and where none is, this does.
    pub operation: Operation,
    /// The document, for a stream that is fed by `sluice.emit`.
    pub payload: Option<String>,
    /// When it was logged, by the database's clock, in milliseconds since 1970.
    pub logged_ms: i64,
    /// The trace that its writer was in, as the writer gave it.
    pub traceparent: Option<String>,
}

/// What is to be added to a counter of `sluice.delivery_stats`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// The stream as the message names it.
    pub stream: String,
    /// Of which there are few: each is a metric, or one label of it.
    pub measure: &'static str,
    /// What is added.
    pub value: i64,
}

/// How far behind a subscription is, and what else waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Rows that wait for it.
    pub pending_rows: i64,
    /// For how long the oldest of them has, in milliseconds.
    pub oldest_pending_ms: i64,
    /// What the log takes on disk.
    pub log_bytes: i64,
    /// Rows of the log, and expansions, that wait to be fanned out.
    pub fan_out_rows: i64,
    /// For how long the oldest of them has that is no resync, in milliseconds.
    pub fan_out_oldest_ms: i64,
    /// Expansions that failed when they were last tried.
    pub expansions_failing: i64,
    /// Changes of streams that have no index yet.
    pub waiting_rows: i64,
    /// Streams that do not keep up.
    pub stream_problems: i64,
    /// For how long the oldest change that has not landed has been in the log, in milliseconds.
    pub lag_ms: i64,
}

/// What was collected of the rows that are to be fanned out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Expansions begun.
    pub begun: i64,
    /// There may be more.
    pub has_more: bool,
}

/// One slice of an expansion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// Of which one; none was due.
    pub expansion: Option<i64>,
    /// Rows logged.
    pub rows: i64,
    /// Why it was put aside.
    pub failure: Option<String>,
    /// One waits for the session that has more patience.
    pub slow_waits: bool,
}

impl Row {
    /// Nobody changed it: a delete is looked at once more.
    pub fn is_look(&self) -> bool {
        self.id < 0
    }

    /// One that nobody can read is a change of no key, which ends as a dead letter with its id: it holds up nothing.
    pub(crate) fn of(row: &tokio_postgres::Row) -> Result<Self, Error> {
        let id = row.try_get(0)?;
        let read = || {
            Ok::<Self, Error>(Self {
                id,
                stream: row.try_get(1)?,
                key: row.try_get::<_, Option<String>>(2)?.unwrap_or_default(),
                operation: Operation::of_log(row.try_get(3)?),
                payload: row.try_get::<_, Option<String>>(4)?.map(one_line),
                logged_ms: row.try_get(6).map_or(0, milliseconds),
                traceparent: row.try_get(7)?,
            })
        };
        Ok(read().unwrap_or_else(|error| {
            error!(id, error = crate::describe(&error), "a row of the log cannot be read");
            let stream = row.try_get(1).unwrap_or_default();
            let operation = Operation::Upsert;
            Self { id, stream, key: String::new(), operation, payload: None, logged_ms: 0, traceparent: None }
        }))
    }
}

/// Since 1970.
pub(crate) fn milliseconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
