//! What is counted of deliveries: the measures of `sluice.delivery_stats`, and their history.

use std::collections::BTreeMap;

use message::Operation;
use serde_json::{Map, Value};
use tokio_postgres::{Client, Error};

use crate::log::Count;

/// Rows of the log that were drained.
pub const DRAINED: &str = "drained";
/// Changes sent; many rows of one document become one.
pub const PUBLISHED: &str = "published";
/// Bytes of the messages in which they were sent.
pub const PUBLISHED_BYTES: &str = "published_bytes";
/// Documents written that were read anew before, since their change was old.
pub const RE_READ: &str = "re_read";
/// Documents written or deleted in the index.
pub const WRITTEN: &str = "written";
/// Changes that found a newer version in the index.
pub const STALE: &str = "stale";
/// Deletes of what was not there.
pub const GONE: &str = "gone";
/// Changes that are to be tried again.
pub const RETRIED: &str = "retried";
/// Changes that wait until somebody mends the configuration; counted at each try.
pub const CONFIGURATION: &str = "configuration";
/// Letters in the dead-letter queue.
pub const DEAD_LETTERED: &str = "dead_lettered";
/// Flights of which nothing was heard any more; counted by the database itself.
pub const LOST: &str = "lost";
/// Documents that were compared with the source.
pub const VALIDATED: &str = "validated";
/// Documents that differed and were put right; counted by the database itself.
pub const REPAIRED: &str = "repaired";
/// Changes of clients that had another document than there was; counted by the database itself.
pub const CONFLICT: &str = "conflict";
/// Milliseconds from log to index, added up over all written changes.
pub const LATENCY_SUM_MS: &str = "latency_sum_ms";
/// A histogram of the time from log to index: the longest time of each bucket in milliseconds, and its measure.
pub const LATENCY_BUCKETS: [(i64, &str); 12] = [
    (50, "latency_50"),
    (100, "latency_100"),
    (250, "latency_250"),
    (500, "latency_500"),
    (1000, "latency_1000"),
    (2500, "latency_2500"),
    (5000, "latency_5000"),
    (10_000, "latency_10000"),
    (30_000, "latency_30000"),
    (60_000, "latency_60000"),
    (300_000, "latency_300000"),
    (i64::MAX, "latency_inf"),
];

/// The stream that is built in: what its index has tells whether the pipeline runs.
pub const HEARTBEAT: &str = "sluice_heartbeat";

/// What is to be added to the counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<(String, &'static str), i64>);

impl Counts {
    /// Adds to a measure of a stream.
    pub fn add(&mut self, stream: &str, measure: &'static str, value: i64) {
        *self.0.entry((stream.to_owned(), measure)).or_default() += value;
    }

    /// Adds all of others.
    pub fn merge(&mut self, others: Self) {
        for (counter, value) in others.0 {
            *self.0.entry(counter).or_default() += value;
        }
    }

    /// Whether there is nothing to add.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As the database takes them.
    pub fn rows(&self) -> Vec<Count> {
        let row = |((stream, measure), value): (&(String, &'static str), &i64)| Count {
            stream: stream.clone(),
            measure,
            value: *value,
        };
        self.0.iter().map(row).collect()
    }

    /// As a log line tells them: `{"books": {"written": 3}}`, without the times.
    pub fn by_stream(&self) -> Value {
        let mut streams = Map::new();
        for ((stream, measure), value) in self.0.iter().filter(|((_, measure), _)| !measure.starts_with("latency")) {
            streams.entry(stream.as_str()).or_insert_with(|| Value::Object(Map::new()))[*measure] = (*value).into();
        }
        Value::Object(streams)
    }
}

/// What one step of the drain sends of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flight {
    /// The stream.
    pub stream: String,
    /// Its messages.
    pub parts: i32,
    /// The first of the log's rows in it.
    pub first_id: i64,
    /// The last one.
    pub last_id: i64,
    /// When the oldest of them was logged, in milliseconds since 1970.
    pub since_ms: i64,
}

/// The flights of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departure {
    /// The step's first version.
    pub base: i64,
    /// Its rows had waited for an index, and were passed long ago.
    pub has_waited: bool,
    /// One for each stream.
    pub flights: Vec<Flight>,
}

/// What became of a message that is a part of a flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Landing {
    /// The flight's stream.
    pub stream: String,
    /// The flight's base.
    pub flight: i64,
    /// Which of its messages.
    pub part: i32,
    /// What became of it.
    pub became: Landed,
}

/// See [`Landing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landed {
    /// Each of its changes is done. Its deletes are still looked at once more.
    Landed,
    /// The same, and there are none, or this was the look.
    Final,
    /// It is received again.
    Retried,
}

impl Landed {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Landed => "landed",
            Self::Final => "final",
            Self::Retried => "retried",
        }
    }
}

/// A change that is in the dead-letter queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its stream.
    pub stream: String,
    /// The document's key as text.
    pub key: String,
    /// Of the write that failed.
    pub version: i64,
}

/// A change that a direct target refuses for its own data: its letter, in the transaction that passes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The row of the log.
    pub change_id: i64,
    /// Its stream.
    pub stream: String,
    /// The document's key as text.
    pub key: String,
    /// Of the write that was refused.
    pub version: i64,
    /// A word for the kind of it.
    pub error_type: String,
    /// What the target, or PostgreSQL, said; it may quote data.
    pub reason: String,
}

/// A flight that was found lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostFlight {
    /// Of this subscription.
    pub subscription: String,
    /// Of this stream.
    pub stream: String,
    /// The first of the log's rows in it.
    pub first_id: i64,
    /// The last one.
    pub last_id: i64,
    /// False: they are payloads of `emit`, which cannot be read again.
    pub is_logged_again: bool,
}

/// How far a subscription was, and what was counted of it until then.
#[derive(Clone, Debug)]
pub struct Moment {
    /// In UTC, by RFC 3339.
    pub at: String,
    /// Rows of the log that waited.
    pub pending_rows: i64,
    /// For how long the oldest of them had, in milliseconds.
    pub oldest_pending_ms: Option<i64>,
    /// A JSON object: each measure's sum over all streams.
    pub totals: Value,
}

/// What was counted of a subscription at the beginning and at the end of some minutes.
#[derive(Clone, Debug)]
pub struct Span {
    /// How long it was, by the samples that there are.
    pub seconds: f64,
    /// A JSON object: each measure's sum over all streams.
    pub first: Value,
    /// The same, at its end.
    pub last: Value,
}

/// Reads the measures of each subscription and stream; of one of which nothing was counted there are none.
pub async fn read_totals(client: &Client) -> Result<BTreeMap<(String, String), BTreeMap<String, i64>>, Error> {
    let query = "SELECT subscription, stream, NULL, NULL FROM sluice.target
         UNION ALL
         SELECT subscription, stream, measure, value FROM sluice.delivery_stats";
    let mut targets: BTreeMap<(String, String), BTreeMap<String, i64>> = BTreeMap::new();
    for row in client.query(query, &[]).await? {
        let measures = targets.entry((row.get(0), row.get(1))).or_default();
        if let (Some(measure), Some(value)) = (row.get(2), row.get(3)) {
            measures.insert(measure, value);
        }
    }
    Ok(targets)
}

/// Reads the last minutes of a subscription as they were sampled, oldest first.
pub async fn read_history(client: &Client, subscription: &str, minutes: i32) -> Result<Vec<Moment>, Error> {
    let query = "SELECT sluice.rfc3339(at), pending_rows, oldest_pending_ms, totals
         FROM sluice.delivery_history
         WHERE subscription = $1 AND at > clock_timestamp() - make_interval(mins => $2)
         ORDER BY at";
    let rows = client.query(query, &[&subscription, &minutes]).await?;
    let moment = |row: &tokio_postgres::Row| Moment {
        at: row.get(0),
        pending_rows: row.get(1),
        oldest_pending_ms: row.get(2),
        totals: row.get(3),
    };
    Ok(rows.iter().map(moment).collect())
}

/// Reads what was sampled of each subscription in the last minutes; of one without two samples nothing is known.
pub async fn read_spans(client: &Client, minutes: i32) -> Result<Vec<Span>, Error> {
    let query = "SELECT extract(epoch FROM max(at) - min(at))::float8,
             (array_agg(totals ORDER BY at))[1], (array_agg(totals ORDER BY at DESC))[1]
         FROM sluice.delivery_history
         WHERE at > clock_timestamp() - make_interval(mins => $1)
         GROUP BY subscription
         HAVING count(*) > 1";
    let rows = client.query(query, &[&minutes]).await?;
    Ok(rows.iter().map(|row| Span { seconds: row.get(0), first: row.get(1), last: row.get(2) }).collect())
}

/// The measure of changes that came to their end in the target, each once, by what was done to their rows.
pub fn succeeded(operation: Operation) -> &'static str {
    match operation {
        Operation::Insert => "succeeded_insert",
        Operation::Update => "succeeded_update",
        Operation::Delete => "succeeded_delete",
        Operation::Upsert => "succeeded_upsert",
    }
}

/// The measure of changes that became dead letters, likewise.
pub fn failed(operation: Operation) -> &'static str {
    match operation {
        Operation::Insert => "failed_insert",
        Operation::Update => "failed_update",
        Operation::Delete => "failed_delete",
        Operation::Upsert => "failed_upsert",
    }
}

/// The bucket that such a time falls into.
pub fn latency_bucket(ms: i64) -> &'static str {
    let (_, measure) = LATENCY_BUCKETS[LATENCY_BUCKETS.partition_point(|(longest, _)| *longest < ms)];
    measure
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn counts_add_up_by_stream_and_measure() {
        let mut counts = Counts::default();
        counts.add("books", WRITTEN, 2);
        counts.add("books", latency_bucket(7), 2);
        let mut others = Counts::default();
        others.add("books", WRITTEN, 1);
        others.add("authors", STALE, 1);
        counts.merge(others);
        assert_eq!(counts.by_stream(), json!({"authors": {"stale": 1}, "books": {"written": 3}}));
        let rows: Vec<_> = counts.rows().into_iter().map(|row| (row.stream, row.measure, row.value)).collect();
        let row = |stream: &str, measure, value| (stream.to_owned(), measure, value);
        assert_eq!(rows, [row("authors", STALE, 1), row("books", "latency_50", 2), row("books", WRITTEN, 3)]);
    }

    #[test]
    fn a_time_falls_into_the_first_bucket_that_is_not_shorter() {
        for (ms, measure) in [
            (-5, "latency_50"),
            (50, "latency_50"),
            (51, "latency_100"),
            (300_000, "latency_300000"),
            (i64::MAX, "latency_inf"),
        ] {
            assert_eq!(latency_bucket(ms), measure, "{ms}");
        }
    }
}
