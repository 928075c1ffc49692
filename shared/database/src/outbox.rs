//! The log, as an operator looks at it; who drains it asks [`log`](crate::log).

use std::collections::BTreeMap;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error};

/// Which rows of the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Search<'a> {
    /// Only those before this id.
    pub before: Option<i64>,
    /// Only of this stream.
    pub stream: Option<&'a str>,
    /// Only of this document.
    pub key: Option<&'a str>,
    /// Rows that are looked at, at most: the log has no index by key, which its writers would have to pay for.
    pub looked_through: i64,
    /// Rows that are found, at most.
    pub limit: i64,
}

/// Rows of the log, newest first.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Those that were meant.
    pub rows: Vec<Row>,
    /// Where the look ended because it had to: there may be others before this id.
    pub ended_at: Option<i64>,
}

/// A row of the log, with stream and key of 1,000 characters at most.
#[derive(Clone, Debug)]
pub struct Row {
    /// Rises in order of commit for one key of the tracked table itself.
    pub id: i64,
    /// The stream that it belongs to.
    pub stream: String,
    /// The document's key as text; `None`: a fan_out, whose keys are still to be found.
    pub key: Option<String>,
    /// insert, update, delete, upsert or fan_out
    pub op: String,
    /// In UTC, by RFC 3339.
    pub created_at: String,
    /// For each subscription that reads it: whether it is past it.
    pub published: BTreeMap<String, bool>,
}

/// A row that was just logged.
#[derive(Clone, Debug)]
pub struct Logged {
    /// The row's.
    pub id: i64,
    /// The stream that it belongs to.
    pub stream: String,
    /// The document's key as text; `None`: a fan_out.
    pub key: Option<String>,
    /// insert, update, delete, upsert or fan_out
    pub op: String,
}

/// What the log takes on disk, with its indexes.
pub async fn bytes(client: &Client) -> Result<i64, Error> {
    Ok(client.query_one("SELECT sluice.log_bytes()", &[]).await?.get(0))
}

/// Finds rows of the log.
pub async fn find(client: &Client, search: &Search<'_>) -> Result<Found, Error> {
    let query = "WITH looked AS MATERIALIZED (
             SELECT id, xid, stream, key, op, only_for, created_at FROM sluice.outbox
             WHERE id < coalesce($1, 9223372036854775807) ORDER BY id DESC LIMIT $2),
         found AS (
             SELECT * FROM looked
             WHERE stream = coalesce($3, stream) AND ($4::text IS NULL OR key = $4) ORDER BY id DESC LIMIT $5)
         SELECT f.id, left(f.stream, 1000), left(f.key, 1000), f.op, sluice.rfc3339(f.created_at),
             sluice.passed_by(f.xid, f.id, f.op, f.only_for),
             looked_through.lowest, looked_through.count
         FROM (SELECT min(id) AS lowest, count(*) FROM looked) AS looked_through
         LEFT JOIN found AS f ON true
         ORDER BY f.id DESC";
    let Search { before, stream, key, looked_through, limit } = search;
    let parameters: &[&(dyn ToSql + Sync)] = &[before, looked_through, stream, key, limit];
    let found = client.query(query, parameters).await?;
    let row = |row: &tokio_postgres::Row| {
        Some(Row {
            id: row.get::<_, Option<i64>>(0)?,
            stream: row.get(1),
            key: row.get(2),
            op: row.get(3),
            created_at: row.get(4),
            published: serde_json::from_value(row.get(5)).unwrap_or_default(),
        })
    };
    let had_to_end = found.first().filter(|row| row.get::<_, i64>(7) == *looked_through);
    Ok(Found { rows: found.iter().filter_map(row).collect(), ended_at: had_to_end.and_then(|row| row.get(6)) })
}

/// Lists what the open transaction has logged.
pub async fn list_of_transaction(client: &Client) -> Result<Vec<Logged>, Error> {
    let query = "SELECT id, stream, key, op FROM sluice.outbox WHERE xid = pg_current_xact_id() ORDER BY id";
    let rows = client.query(query, &[]).await?;
    let logged =
        |row: &tokio_postgres::Row| Logged { id: row.get(0), stream: row.get(1), key: row.get(2), op: row.get(3) };
    Ok(rows.iter().map(logged).collect())
}
