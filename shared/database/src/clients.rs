//! Live sync as an operator sees it: who is connected, what there is to pull, and whose changes met another document.

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error};
use uuid::Uuid;

use crate::delivery::CONFLICT;
use crate::sync::{Bucket, Name};

/// How much there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Streams that go to clients, by name.
    pub streams: Vec<String>,
    /// Buckets.
    pub buckets: i64,
    /// Documents in them: one that is in two counts twice.
    pub items: i64,
    /// Whether there are so many buckets that both are the statistics' guess.
    pub is_estimate: bool,
    /// Accounts, as far as they are counted.
    pub accounts: i64,
    /// Conflicts, ever.
    pub conflicts: i64,
    /// Those of the last day, as far as they are counted.
    pub conflicts_of_day: i64,
}

/// Which conflicts are listed, the newest first.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    /// Only those before this number.
    pub before: Option<i64>,
    /// Only those of this stream.
    pub stream: Option<&'a str>,
    /// So many, at most.
    pub limit: i64,
    /// A side that has more bytes is left out; `None`: all sides are.
    pub side_bytes: Option<i32>,
    /// The list ends with the one whose sides make this full.
    pub list_bytes: i64,
}

/// A change of a client that had another document than there was.
#[derive(Clone, Debug)]
pub struct Conflict {
    /// They rise in the order of commits.
    pub number: i64,
    /// In UTC, by RFC 3339.
    pub at: String,
    /// The document's stream.
    pub stream: String,
    /// Its key, in 1,000 characters at most.
    pub key: String,
    /// Whose change it was: the `sub` of the token, in 1,000 characters at most.
    pub subject: String,
    /// insert, update or delete
    pub op: String,
    /// Whether it was written.
    pub is_applied: bool,
    /// What the client sent, as JSON.
    pub fields: Option<String>,
    /// How long that is; `None`: nothing was sent, as for a delete.
    pub fields_bytes: Option<i32>,
    /// What there was, as JSON.
    pub document: Option<String>,
    /// How long that is; `None`: there was nothing.
    pub document_bytes: Option<i32>,
}

/// Says that so many clients are connected to a process.
pub async fn note_process(client: &Client, id: Uuid, clients: i32) -> Result<(), Error> {
    let statement = "INSERT INTO sluice.sync_process AS p (id, clients, seen_at) VALUES ($1, $2, clock_timestamp())
         ON CONFLICT ON CONSTRAINT sync_process_pkey DO UPDATE SET clients = excluded.clients, seen_at = excluded.seen_at";
    client.execute_typed(statement, &[(&id, Type::UUID), (&clients, Type::INT4)]).await.map(drop)
}

/// Says that no client is connected to a process any more.
pub async fn forget_process(client: &Client, id: Uuid) -> Result<(), Error> {
    client.execute_typed("DELETE FROM sluice.sync_process WHERE id = $1", &[(&id, Type::UUID)]).await.map(drop)
}

/// How many clients are connected: to all processes that have said so within two minutes, and by API Gateway.
pub async fn count_connected(client: &Client) -> Result<i64, Error> {
    let query = "SELECT (SELECT coalesce(sum(p.clients), 0)::bigint FROM sluice.sync_process AS p WHERE p.seen_at > now() - interval '2 minutes')
             + (SELECT count(*) FROM sluice.connection AS c WHERE c.ends_at > now())";
    Ok(client.query_one(query, &[]).await?.get(0))
}

/// Counts what there is, `most` of each kind. If there are as many buckets, what the statistics say of them is told.
pub async fn read_totals(client: &Client, most: i64) -> Result<Totals, Error> {
    let query = "SELECT ARRAY(SELECT t.stream FROM sluice.target AS t WHERE t.subscription = 'sync' ORDER BY t.stream),
             CASE WHEN b.is_cut THEN greatest(b.count, bucket_class.reltuples::bigint) ELSE b.count END,
             CASE WHEN b.is_cut THEN greatest(b.items, item_class.reltuples::bigint) ELSE b.items END,
             b.is_cut, sluice.count_accounts($1),
             (SELECT coalesce(sum(s.value), 0)::bigint FROM sluice.delivery_stats AS s WHERE s.subscription = 'sync' AND s.measure = $2),
             (SELECT count(*) FROM (SELECT FROM sluice.conflict AS c WHERE c.at > now() - interval '1 day' LIMIT $1) AS c)
         FROM (
             SELECT count(*), coalesce(sum(x.count), 0)::bigint AS items, count(*) >= $1 AS is_cut
             FROM (SELECT y.count FROM sluice.bucket AS y LIMIT $1) AS x) AS b,
             pg_class AS bucket_class, pg_class AS item_class
         WHERE bucket_class.oid = 'sluice.bucket'::regclass AND item_class.oid = 'sluice.bucket_item'::regclass";
    let row = client.query_one(query, &[&most, &CONFLICT]).await?;
    Ok(Totals {
        streams: row.get(0),
        buckets: row.get(1),
        items: row.get(2),
        is_estimate: row.get(3),
        accounts: row.get(4),
        conflicts: row.get(5),
        conflicts_of_day: row.get(6),
    })
}

/// Lists the buckets behind one, or all, by stream and name: of all streams or of one, `limit` at most.
pub async fn list_buckets(
    client: &Client,
    after: Option<&Name>,
    stream: Option<&str>,
    limit: i64,
) -> Result<Vec<Bucket>, Error> {
    let query = "SELECT b.stream, b.name, b.seq, b.count, b.checksum, b.floor
         FROM sluice.bucket AS b
         WHERE (b.stream, b.name) > ($1, $2) AND ($3 IS NULL OR b.stream = $3)
         ORDER BY b.stream, b.name
         LIMIT $4";
    let (after_stream, after_name) = after.map_or(("", ""), |name| (name.stream.as_str(), name.bucket.as_str()));
    let parameters: [(&(dyn ToSql + Sync), Type); 4] =
        [(&after_stream, Type::TEXT), (&after_name, Type::TEXT), (&stream, Type::TEXT), (&limit, Type::INT8)];
    let rows = client.query_typed(query, &parameters).await?;
    Ok(rows.iter().map(Bucket::of).collect())
}

/// Lists conflicts, the newest first.
pub async fn list_conflicts(client: &Client, search: &Search<'_>) -> Result<Vec<Conflict>, Error> {
    // Sides of those alone that are in the list are read.
    let query = "SELECT c.number, sluice.rfc3339(c.at), c.stream, left(c.key, 1000), left(c.subject, 1000), c.op, c.is_applied,
             CASE WHEN p.fields_bytes <= $4 THEN c.fields END, p.fields_bytes, CASE WHEN p.document_bytes <= $4 THEN c.document END, p.document_bytes
         FROM (
             SELECT x.*, sum(x.listed_bytes) OVER (ORDER BY x.number DESC) - x.listed_bytes AS before
             FROM (
                 SELECT y.number, y.fields_bytes, y.document_bytes,
                     CASE WHEN y.fields_bytes <= $4 THEN y.fields_bytes ELSE 0 END + CASE WHEN y.document_bytes <= $4 THEN y.document_bytes ELSE 0 END AS listed_bytes
                 FROM (
                     SELECT z.number, octet_length(z.fields) AS fields_bytes, octet_length(z.document) AS document_bytes
                     FROM sluice.conflict AS z
                     WHERE ($1 IS NULL OR z.number < $1) AND ($2 IS NULL OR z.stream = $2)
                     ORDER BY z.number DESC
                     LIMIT $3) AS y) AS x) AS p
         JOIN sluice.conflict AS c ON c.number = p.number
         WHERE p.before < $5
         ORDER BY c.number DESC";
    let Search { before, stream, limit, side_bytes, list_bytes } = search;
    let parameters: [(&(dyn ToSql + Sync), Type); 5] = [
        (before, Type::INT8),
        (stream, Type::TEXT),
        (limit, Type::INT8),
        (side_bytes, Type::INT4),
        (list_bytes, Type::INT8),
    ];
    let rows = client.query_typed(query, &parameters).await?;
    let conflict = |row: &tokio_postgres::Row| Conflict {
        number: row.get(0),
        at: row.get(1),
        stream: row.get(2),
        key: row.get(3),
        subject: row.get(4),
        op: row.get(5),
        is_applied: row.get(6),
        fields: row.get(7),
        fields_bytes: row.get(8),
        document: row.get(9),
        document_bytes: row.get(10),
    };
    Ok(rows.iter().map(conflict).collect())
}
