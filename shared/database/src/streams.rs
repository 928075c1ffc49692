//! What streams there are, what their indexes have, and whether they keep up.
//!
//! What a stream's documents are now is read by [`Stream::read`](crate::Stream::read).

use serde_json::Value;
use tokio_postgres::{Client, Error, GenericClient, Transaction};

/// A stream, as its index is made of it.
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
}

/// The index that a stream has, and the mapping that the drain reads for.
#[derive(Clone, Debug)]
pub struct Live {
    /// Its name.
    pub index: String,
    /// Not the one that is wanted, until the index has taken it.
    pub mapping: Value,
}

/// A stream, and how it is. Errors are cut to 2,000 characters.
#[derive(Clone, Debug)]
pub struct Status {
    /// Names the alias, too.
    pub name: String,
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
    /// Why, in 2,000 characters at most. It may quote data.
    pub reason: String,
}

/// What waits of a stream.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Its name.
    pub stream: String,
    /// Rows of the log.
    pub rows: i64,
    /// For how long the oldest of them has, in milliseconds.
    pub oldest_ms: i64,
}

/// Lists all streams with what their indexes are made of, by name.
pub async fn list_definitions(client: &Client) -> Result<Vec<Definition>, Error> {
    let query = "SELECT name, source IS NOT NULL, mapping, settings, live_index, live_mapping
         FROM sluice.stream
         ORDER BY name";
    let rows = client.query(query, &[]).await?;
    let definition = |row: &tokio_postgres::Row| {
        let live: (Option<String>, Option<Value>) = (row.get(4), row.get(5));
        Definition {
            name: row.get(0),
            has_source: row.get(1),
            mapping: row.get(2),
            settings: row.get(3),
            live: live.0.zip(live.1).map(|(index, mapping)| Live { index, mapping }),
        }
    };
    Ok(rows.iter().map(definition).collect())
}

/// Has the drain read for this index with this mapping, from the commit on.
pub async fn set_live(transaction: &Transaction<'_>, stream: &str, index: &str, mapping: &Value) -> Result<(), Error> {
    transaction.execute("SELECT sluice.set_live($1, $2, $3)", &[&stream, &index, mapping]).await.map(drop)
}

/// Has the drain read every row of a stream's source again.
pub async fn resync(client: &impl GenericClient, stream: &str) -> Result<(), Error> {
    client.execute("SELECT sluice.resync($1)", &[&stream]).await.map(drop)
}

/// Has the drain read these keys of a stream again; one that the source has not is deleted in the index.
pub async fn resync_keys(client: &Client, stream: &str, keys: &[&str]) -> Result<(), Error> {
    client.execute("SELECT sluice.resync($1, $2)", &[&stream, &keys]).await.map(drop)
}

/// Lists all streams, and how each is, by name.
pub async fn list_status(client: &Client) -> Result<Vec<Status>, Error> {
    let query = "SELECT s.name, s.source, array_to_string(s.key, ', '), t.index, t.is_current,
             ARRAY(SELECT k.relation::text FROM sluice.tracked AS k WHERE k.stream = s.name ORDER BY 1),
             t.untracked_tables::text[], t.waiting, t.expansions, left(t.last_error, 2000), left(t.problem, 2000)
         FROM sluice.stream AS s
         JOIN sluice.stream_status() AS t ON t.stream = s.name
         ORDER BY s.name";
    let rows = client.query(query, &[]).await?;
    let status = |row: &tokio_postgres::Row| Status {
        name: row.get(0),
        source: row.get(1),
        key: row.get::<_, Option<String>>(2).filter(|key| !key.is_empty()),
        index: row.get(3),
        is_current: row.get(4),
        tables: row.get(5),
        untracked_tables: row.get(6),
        waiting: row.get(7),
        expansions: row.get(8),
        last_error: row.get(9),
        problem: row.get(10),
    };
    Ok(rows.iter().map(status).collect())
}

/// Lists the streams that do not keep up, by name.
pub async fn list_problems(client: &Client) -> Result<Vec<Problem>, Error> {
    let query = "SELECT stream, left(problem, 2000)
         FROM sluice.stream_status()
         WHERE problem IS NOT NULL
         ORDER BY stream";
    let rows = client.query(query, &[]).await?;
    Ok(rows.iter().map(|row| Problem { stream: row.get(0), reason: row.get(1) }).collect())
}

/// Lists what waits for a subscription of each stream, by name.
pub async fn list_pending(client: &Client, subscription: &str) -> Result<Vec<Pending>, Error> {
    let query = "SELECT s.name, coalesce(p.pending_rows, 0),
             coalesce((extract(epoch FROM p.oldest_pending_age) * 1000)::bigint, 0)
         FROM sluice.stream AS s
         LEFT JOIN sluice.pending_by_stream($1) AS p ON p.stream = s.name
         ORDER BY s.name";
    let rows = client.query(query, &[&subscription]).await?;
    Ok(rows.iter().map(|row| Pending { stream: row.get(0), rows: row.get(1), oldest_ms: row.get(2) }).collect())
}
