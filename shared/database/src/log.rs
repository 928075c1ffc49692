//! The log, from the side that drains it. The functions' SQL is in `migrations/`; this is the only place that calls it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};
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
    /// Whether the writer deleted the row; the document that is read decides.
    pub is_delete: bool,
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

/// Whether anything waits for the subscription. Takes no lock and no transaction id.
pub async fn is_pending(client: &Client, subscription: &str) -> Result<bool, Error> {
    Ok(client.query_one("SELECT sluice.pending($1)", &[&subscription]).await?.get(0))
}

/// Makes this session the one that drains, with a range of `span` versions. `None`: another one drains, or it is paused.
pub async fn take_over(client: &Client, subscription: &str, span: i32) -> Result<Option<Versions>, Error> {
    let query = "SELECT first, last, timeline_changed FROM sluice.take_over($1, $2)";
    let row = client.query_opt(query, &[&subscription, &span]).await?;
    Ok(row.map(|row| Versions::new(row.get(0), row.get(1), row.get(2))))
}

/// Tells that this session drains no more.
pub async fn release(client: &Client, subscription: &str) -> Result<(), Error> {
    client.execute("SELECT sluice.release($1)", &[&subscription]).await.map(drop)
}

/// Locks the subscription until the transaction ends: the id up to which its interval was passed. `None`: another
/// session took over since.
pub async fn hold(client: &Client, subscription: &str, versions: &Versions) -> Result<Option<i64>, Error> {
    Ok(client.query_one("SELECT sluice.hold($1, $2)", &[&subscription, &versions.last]).await?.get(0))
}

/// The next rows after an id, `size` at most, in order of id, and the database's clock in milliseconds since the epoch.
/// Draw the version before: it must be older than what it is given to.
pub async fn page(client: &Client, subscription: &str, after: i64, size: i32) -> Result<(Vec<Row>, i64), Error> {
    let query = "SELECT id, stream, key, op = 'delete', payload::text, clock_timestamp(), created_at, traceparent \
                 FROM sluice.page($1, $2, $3)";
    let rows =
        client.query_typed(query, &[(&subscription, Type::TEXT), (&after, Type::INT8), (&size, Type::INT4)]).await?;
    let read_at_ms = rows.first().map_or(0, |row| milliseconds(row.get(5)));
    Ok((rows.iter().map(Row::of).collect::<Result<_, _>>()?, read_at_ms))
}

/// Takes back rows that were set aside and whose streams have an index now, `size` at most, and the database's clock as
/// [`page`] gives it. They are to be sent in this transaction, before any page.
pub async fn waited(client: &Client, size: i32) -> Result<(Vec<Row>, i64), Error> {
    let query = "SELECT id, stream, key, op = 'delete', payload::text, clock_timestamp(), clock_timestamp(), NULL::text \
                 FROM sluice.waited($1)";
    let rows = client.query_typed(query, &[(&size, Type::INT4)]).await?;
    let read_at_ms = rows.first().map_or(0, |row| milliseconds(row.get(5)));
    Ok((rows.iter().map(Row::of).collect::<Result<_, _>>()?, read_at_ms))
}

impl Row {
    /// One that nobody can read is a change of no key, which ends as a dead letter with its id: it holds up nothing.
    fn of(row: &tokio_postgres::Row) -> Result<Self, Error> {
        let id = row.try_get(0)?;
        let read = || {
            Ok::<Self, Error>(Self {
                id,
                stream: row.try_get(1)?,
                key: row.try_get::<_, Option<String>>(2)?.unwrap_or_default(),
                is_delete: row.try_get(3)?,
                payload: row.try_get::<_, Option<String>>(4)?.map(one_line),
                logged_ms: row.try_get(6).map_or(0, milliseconds),
                traceparent: row.try_get(7)?,
            })
        };
        Ok(read().unwrap_or_else(|error| {
            error!(id, error = crate::describe(&error), "a row of the log cannot be read");
            let stream = row.try_get(1).unwrap_or_default();
            Self { id, stream, key: String::new(), is_delete: false, payload: None, logged_ms: 0, traceparent: None }
        }))
    }
}

/// Since 1970.
fn milliseconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Marks the interval as passed up to and including an id.
pub async fn advance(client: &Client, subscription: &str, id: i64) -> Result<(), Error> {
    client.execute("SELECT sluice.advance($1, $2)", &[&subscription, &id]).await.map(drop)
}

/// Ends the interval, after an empty page and after nothing else.
pub async fn finish(client: &Client, subscription: &str) -> Result<(), Error> {
    client.execute("SELECT sluice.finish($1)", &[&subscription]).await.map(drop)
}

/// Sets rows of a stream that has no index aside until it has one.
pub async fn wait(client: &Client, ids: &[i64]) -> Result<(), Error> {
    client.execute("SELECT sluice.wait($1)", &[&ids]).await.map(drop)
}

/// Notes why a stream's documents could not be read; `None`: they could.
pub async fn note_fault(client: &Client, stream: &str, problem: Option<&str>) -> Result<(), Error> {
    client.execute("SELECT sluice.note_fault($1, $2)", &[&stream, &problem]).await.map(drop)
}

/// Collects a page of what is to be fanned out.
pub async fn collect(client: &Client) -> Result<Collected, Error> {
    let row = client.query_one("SELECT begun, has_more FROM sluice.collect()", &[]).await?;
    Ok(Collected { begun: row.get(0), has_more: row.get(1) })
}

/// Works off one slice of the expansion whose turn it is. What fails is put aside, and is no error of this. One that did
/// not answer, in another session, `is_unanswered`: it is put aside as one that took too long.
pub async fn expand(client: &Client, slice: i32, is_slow: bool, is_unanswered: bool) -> Result<Slice, Error> {
    let query = "SELECT expansion, logged, failure, slow_waits FROM sluice.expand($1, $2, $3)";
    let row = client.query_one(query, &[&slice, &is_slow, &is_unanswered]).await?;
    Ok(Slice { expansion: row.get(0), rows: row.get(1), failure: row.get(2), slow_waits: row.get(3) })
}

/// Lets a statement of this session take so long.
pub async fn set_statement_timeout(client: &Client, limit: Duration) -> Result<(), Error> {
    client.batch_execute(&format!("SET statement_timeout = {}", limit.as_millis())).await
}

/// Adds to the counters of what was delivered.
pub async fn count_deliveries(client: &Client, counts: &[Count]) -> Result<(), Error> {
    // Of a name that PostgreSQL cannot hold there is no stream, and one such would keep all others from being counted.
    let streams = counts.iter().map(|count| if count.stream.contains('\0') { "" } else { &count.stream });
    let streams: Vec<&str> = streams.collect();
    let measures: Vec<&str> = counts.iter().map(|count| count.measure).collect();
    let values: Vec<i64> = counts.iter().map(|count| count.value).collect();
    client.execute("SELECT sluice.count_deliveries($1, $2, $3)", &[&streams, &measures, &values]).await.map(drop)
}

/// Notes how far the subscription is and what was delivered until now, for the charts of the last hour. `None`: somebody
/// else has just done so.
pub async fn sample(client: &Client, subscription: &str) -> Result<Option<Sample>, Error> {
    let query = "SELECT pending_rows, oldest_pending_ms, log_bytes, fan_out_rows, fan_out_oldest_ms, expansions_failing, \
                 waiting_rows, stream_problems FROM sluice.sample($1)";
    let row = client.query_opt(query, &[&subscription]).await?;
    Ok(row.map(|row| Sample {
        pending_rows: row.get(0),
        oldest_pending_ms: row.get(1),
        log_bytes: row.get(2),
        fan_out_rows: row.get(3),
        fan_out_oldest_ms: row.get(4),
        expansions_failing: row.get(5),
        waiting_rows: row.get(6),
        stream_problems: row.get(7),
    }))
}

/// Changes the heartbeat's document, once a minute at most.
pub async fn beat(client: &Client) -> Result<(), Error> {
    client.execute("SELECT sluice.beat()", &[]).await.map(drop)
}

/// Does the next thing that the partitions need, and says what; `None`: nothing. Rows that were passed stay for `keep`.
/// `lock_not_available`: somebody writes, later will do.
pub async fn maintain(client: &Client, keep: Duration) -> Result<Option<String>, Error> {
    let query = "SELECT sluice.maintain(keep => make_interval(secs => $1))";
    Ok(client.query_one(query, &[&keep.as_secs_f64()]).await?.get(0))
}

/// Removes some of what has grown old: how many rows; none: all of it is removed.
pub async fn forget_old(client: &Client, keep: Duration) -> Result<i64, Error> {
    let query = "SELECT sluice.forget_old(make_interval(secs => $1))";
    Ok(client.query_one(query, &[&keep.as_secs_f64()]).await?.get(0))
}
