//! What streams there are, what their indexes have, and whether they keep up.
//!
//! What a stream's documents are now is read by [`Stream::read`](crate::Stream::read).

use serde_json::Value;
use tokio_postgres::{Client, Error, GenericClient, Transaction};

/// A stream, as its index in Elasticsearch is made of it.
#[derive(Clone, Debug)]
pub struct Definition {
    /// Names the alias, too.
    pub name: String,
    /// Its rows can be read again; else it is fed by `sluice.emit`.
    pub has_source: bool,
    /// The mapping that is wanted.
    pub mapping: Value,
    /// The index's settings, where the stream has any.
    pub settings: Option<Value>,
    /// `None`: it has no index yet.
    pub live: Option<Live>,
    /// Which generation of its index is the live one.
    pub generation: i32,
    /// The highest number that was given to one.
    pub generations: i32,
    /// Another one is wanted than the live one: it is read from another source, or somebody said so.
    pub wants_next: bool,
}

/// The index that a stream has, and the mapping that the drain reads for.
#[derive(Clone, Debug)]
pub struct Live {
    /// Its name.
    pub index: String,
    /// Not the one that is wanted, until the index has taken it.
    pub mapping: Value,
}

/// A stream, and how one subscription delivers it. Errors are cut to 2,000 characters.
#[derive(Clone, Debug)]
pub struct Status {
    /// Names the alias, too.
    pub name: String,
    /// Where it goes.
    pub subscription: String,
    /// The table or view that its documents are read from, qualified and quoted; `None`: it is fed by `sluice.emit`.
    pub source: Option<String>,
    /// The source's columns that are the key, with commas between them.
    pub key: Option<String>,
    /// The index that it has.
    pub index: Option<String>,
    /// Whether that has the mapping that is wanted.
    pub is_current: bool,
    /// The tables whose changes are noted for it.
    pub tables: Vec<String>,
    /// Tables that its view reads, and nobody tracks.
    pub untracked_tables: Vec<String>,
    /// Changes that wait until it has an index.
    pub waiting: i64,
    /// Expansions under way.
    pub expansions: i64,
    /// Why the last of them was put aside.
    pub last_error: Option<String>,
    /// Why it does not keep up; `None`: nothing is in its way.
    pub problem: Option<String>,
}

/// A stream that does not keep up.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Its name.
    pub stream: String,
    /// Where it does not arrive.
    pub subscription: String,
    /// Why, in 2,000 characters at most. It may quote data.
    pub reason: String,
}

/// What waits of a stream for one subscription.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Its name.
    pub stream: String,
    /// Which has still to deliver it.
    pub subscription: String,
    /// Rows of the log.
    pub rows: i64,
    /// For how long the oldest of them has, in milliseconds.
    pub oldest_ms: i64,
    /// For how long the oldest change that is not there yet has been under way, be it in the log, set aside or sent.
    pub lag_ms: i64,
}

/// Lists all streams that go there with what their indexes, tables or topics are made of, by name; of generations the live ones.
pub async fn list_definitions(client: &Client, subscription: &str) -> Result<Vec<Definition>, Error> {
    let query = "SELECT s.name, s.source IS NOT NULL, t.mapping, t.settings, t.live_index, t.live_mapping, s.generation, s.generations,
             t.reindex OR t.source IS DISTINCT FROM NULL AND t.source IS DISTINCT FROM s.source
         FROM sluice.stream AS s
         JOIN sluice.target AS t ON t.stream = s.name
         WHERE t.subscription = $1 AND s.follows IS NULL
         ORDER BY s.name";
    let rows = client.query(query, &[&subscription]).await?;
    let definition = |row: &tokio_postgres::Row| {
        let live: (Option<String>, Option<Value>) = (row.get(4), row.get(5));
        Definition {
            name: row.get(0),
            has_source: row.get(1),
            mapping: row.get(2),
            settings: row.get(3),
            live: live.0.zip(live.1).map(|(index, mapping)| Live { index, mapping }),
            generation: row.get(6),
            generations: row.get(7),
            wants_next: row.get(8),
        }
    };
    Ok(rows.iter().map(definition).collect())
}

/// Has the drain read for this index (or table, or topic) with this mapping, from the commit on.
pub async fn set_live(
    transaction: &Transaction<'_>,
    subscription: &str,
    stream: &str,
    index: &str,
    mapping: &Value,
) -> Result<(), Error> {
    let statement = "SELECT sluice.set_live($1, $2, $3, $4)";
    transaction.execute(statement, &[&subscription, &stream, &index, mapping]).await.map(drop)
}

/// Has the drain of this target read every row of a stream's source again.
pub async fn resync(client: &impl GenericClient, stream: &str, subscription: &str) -> Result<(), Error> {
    client.execute("SELECT sluice.resync($1, target => $2)", &[&stream, &subscription]).await.map(drop)
}

/// Has the drain read these keys of a stream again; one that the source has not is deleted in the index.
pub async fn resync_keys(client: &Client, stream: &str, keys: &[&str]) -> Result<(), Error> {
    client.execute("SELECT sluice.resync($1, $2)", &[&stream, &keys]).await.map(drop)
}

/// Lists all streams, and how each subscription delivers them, by name.
pub async fn list_status(client: &Client) -> Result<Vec<Status>, Error> {
    let query = "SELECT s.name, t.subscription, s.source, array_to_string(s.key, ', '), t.index, t.is_current,
             ARRAY(SELECT k.relation::text FROM sluice.tracked AS k WHERE k.stream = s.name ORDER BY 1),
             t.untracked_tables::text[], t.waiting, t.expansions, left(t.last_error, 2000), left(t.problem, 2000)
         FROM sluice.stream AS s
         JOIN sluice.stream_status() AS t ON t.stream = s.name
         ORDER BY s.name, t.subscription";
    let rows = client.query(query, &[]).await?;
    let status = |row: &tokio_postgres::Row| Status {
        name: row.get(0),
        subscription: row.get(1),
        source: row.get(2),
        key: row.get::<_, Option<String>>(3).filter(|key| !key.is_empty()),
        index: row.get(4),
        is_current: row.get(5),
        tables: row.get(6),
        untracked_tables: row.get(7),
        waiting: row.get(8),
        expansions: row.get(9),
        last_error: row.get(10),
        problem: row.get(11),
    };
    Ok(rows.iter().map(status).collect())
}

/// Lists the streams that do not keep up, by name.
pub async fn list_problems(client: &Client) -> Result<Vec<Problem>, Error> {
    let query = "SELECT stream, subscription, left(problem, 2000)
         FROM sluice.stream_status()
         WHERE problem IS NOT NULL
         ORDER BY stream, subscription";
    let rows = client.query(query, &[]).await?;
    let problem =
        |row: &tokio_postgres::Row| Problem { stream: row.get(0), subscription: row.get(1), reason: row.get(2) };
    Ok(rows.iter().map(problem).collect())
}

/// Lists what waits of each stream for each subscription that delivers it, by name.
pub async fn list_pending(client: &Client) -> Result<Vec<Pending>, Error> {
    let query = "SELECT t.stream, t.subscription, coalesce(p.pending_rows, 0),
             coalesce((extract(epoch FROM p.oldest_pending_age) * 1000)::bigint, 0),
             (extract(epoch FROM greatest(p.oldest_pending_age, f.oldest_age, w.oldest_age, interval '0')) * 1000)::bigint
         FROM sluice.target AS t
         LEFT JOIN (
             SELECT s.name AS subscription, b.*
             FROM sluice.subscription AS s CROSS JOIN LATERAL sluice.pending_by_stream(s.name) AS b) AS p
             ON p.subscription = t.subscription AND p.stream = t.stream
         LEFT JOIN (
             SELECT s.name AS subscription, o.stream, clock_timestamp() - min(o.since) AS oldest_age
             FROM sluice.subscription AS s CROSS JOIN LATERAL sluice.open_flights(s.name, sluice.counted_rows()) AS o
             GROUP BY 1, 2) AS f
             ON f.subscription = t.subscription AND f.stream = sluice.flight_of(t.stream)
         CROSS JOIN LATERAL (
             SELECT clock_timestamp() - min(a.created_at) AS oldest_age
             FROM (
                 SELECT created_at FROM sluice.waiting AS w
                 WHERE w.stream = t.stream AND w.subscription = t.subscription
                 ORDER BY w.id LIMIT sluice.counted_rows()) AS a) AS w
         ORDER BY 1, 2";
    let rows = client.query(query, &[]).await?;
    let pending = |row: &tokio_postgres::Row| Pending {
        stream: row.get(0),
        subscription: row.get(1),
        rows: row.get(2),
        oldest_ms: row.get(3),
        lag_ms: row.get(4),
    };
    Ok(rows.iter().map(pending).collect())
}
