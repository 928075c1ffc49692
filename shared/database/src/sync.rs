//! The store of the direct target `sync`: which documents are in which buckets, who may read those, and what clients pull.

use std::time::Duration;

use telemetry::call;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error};
use uuid::Uuid;

use crate::source::PEER;

/// What [`store`] fails with where another drainer has taken over.
pub const OVERTAKEN: &str = "SL003";
/// What [`list_readable`] fails with where the function that says who may read what fails, or gives too much.
pub const READERS_FAIL: &str = "SL004";

/// Documents of one stream, as a step of the drain has read them. Of each key one.
#[derive(Debug, Default)]
pub struct Documents {
    /// The keys.
    pub keys: Vec<String>,
    /// Under which version each was read.
    pub versions: Vec<i64>,
    /// `{"buckets": […], "document": …}`; `None`: there is no such row.
    pub documents: Vec<Option<String>>,
}

/// A bucket's name, of one stream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The stream.
    pub stream: String,
    /// The bucket.
    pub bucket: String,
}

/// What a bucket has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Which one.
    pub name: Name,
    /// Of its last change; 0: it never had any.
    pub seq: i64,
    /// Documents that are in it.
    pub count: i64,
    /// The sum of theirs, modulo 2³².
    pub checksum: i64,
    /// Deletes up to this seq may be forgotten.
    pub floor: i64,
}

impl Bucket {
    /// A row of stream, name, seq, count, checksum and floor.
    pub(crate) fn of(row: &tokio_postgres::Row) -> Self {
        Self {
            name: Name { stream: row.get(0), bucket: row.get(1) },
            seq: row.get(2),
            count: row.get(3),
            checksum: row.get(4),
            floor: row.get(5),
        }
    }
}

/// A document in a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// In which one.
    pub name: Name,
    /// The document's key as text.
    pub key: String,
    /// Of its last change.
    pub seq: i64,
    /// JSON; `None`: it was deleted, or is not in the bucket any more.
    pub document: Option<String>,
    /// Below 2³²; a delete has none.
    pub checksum: Option<i64>,
}

/// How much of something is read at once, at most; but one item, at least.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Items.
    pub items: i64,
    /// Bytes of their documents.
    pub bytes: i64,
}

/// Makes the caller the only one that writes to the store, and says how long deletes are kept: the epoch of its writes.
pub async fn take_over(client: &Client, keep: Duration) -> Result<i64, Error> {
    let query = "SELECT sluice.take_store_over(make_interval(secs => $1))";
    Ok(call(PEER, "take_store_over", client.query_one(query, &[&keep.as_secs_f64()])).await?.get(0))
}

/// Brings keys of a stream to what was read. It holds the store until the transaction ends.
///
/// # Errors
/// [`OVERTAKEN`]: another drainer writes, and this one must not.
pub async fn store(client: &Client, epoch: i64, stream: &str, documents: &Documents) -> Result<(), Error> {
    let Documents { keys, versions, documents } = documents;
    let statement = "SELECT sluice.store_documents($1, $2, $3, $4, $5)";
    let parameters: [&(dyn ToSql + Sync); 5] = [&epoch, &stream, keys, versions, documents];
    call(PEER, "store_documents", client.execute(statement, &parameters)).await.map(drop)
}

/// Begins a transaction of one moment, in which each statement may take so long and nothing is written.
pub async fn begin_reading(client: &Client, patience: Duration) -> Result<(), Error> {
    let begin = format!(
        "START TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = {}",
        patience.as_millis()
    );
    call(PEER, "begin", client.batch_execute(&begin)).await
}

/// Lists the buckets that the bearer of these claims may read: of all streams, of one, or the one bucket.
///
/// # Errors
/// [`READERS_FAIL`], with a message that says whose; it quotes nothing of the claims.
pub async fn list_readable(
    client: &Client,
    claims: &str,
    stream: Option<&str>,
    bucket: Option<&str>,
) -> Result<Vec<Name>, Error> {
    let query = "SELECT of_stream, name FROM sluice.readable_buckets($1, $2, $3)";
    let parameters: [(&(dyn ToSql + Sync), Type); 3] =
        [(&claims, Type::TEXT), (&stream, Type::TEXT), (&bucket, Type::TEXT)];
    let rows = call(PEER, "readable_buckets", client.query_typed(query, &parameters)).await?;
    Ok(rows.iter().map(|row| Name { stream: row.get(0), bucket: row.get(1) }).collect())
}

/// The last seq that was drawn.
pub async fn read_head(client: &Client) -> Result<i64, Error> {
    let row = call(PEER, "read_head", client.query_typed("SELECT seq FROM sluice.sync_head", &[])).await?;
    Ok(row.first().map_or(0, |row| row.get(0)))
}

/// What these buckets have, in the same order. One that never had anything is empty.
pub async fn list_buckets(client: &Client, names: &[Name]) -> Result<Vec<Bucket>, Error> {
    let query = "SELECT n.stream, n.name, coalesce(b.seq, 0), coalesce(b.count, 0), coalesce(b.checksum, 0), coalesce(b.floor, 0)
         FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS n(stream, name, position)
         LEFT JOIN sluice.bucket AS b ON b.stream = n.stream AND b.name = n.name
         ORDER BY n.position";
    let (streams, buckets) = unzipped(names);
    let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&streams, Type::TEXT_ARRAY), (&buckets, Type::TEXT_ARRAY)];
    let rows = call(PEER, "list_buckets", client.query_typed(query, &parameters)).await?;
    Ok(rows.iter().map(Bucket::of).collect())
}

/// What changed in these buckets after a seq, in order of seq.
pub async fn list_changes(client: &Client, names: &[Name], after: i64, limit: Limit) -> Result<Vec<Item>, Error> {
    // Of each bucket by its index, and documents of those alone that are in the page.
    let query = "SELECT i.stream, i.bucket, i.key, i.seq, i.document, i.checksum
         FROM (
             SELECT c.stream, c.bucket, c.seq, sum(c.bytes) OVER (ORDER BY c.seq) - c.bytes AS before
             FROM (
                 SELECT x.stream, x.bucket, x.seq, x.bytes
                 FROM unnest($1::text[], $2::text[]) AS n(stream, name)
                 CROSS JOIN LATERAL (
                     SELECT y.stream, y.bucket, y.seq, coalesce(octet_length(y.document), 0) AS bytes
                     FROM sluice.bucket_item AS y
                     WHERE y.stream = n.stream AND y.bucket = n.name AND y.seq > $3
                     ORDER BY y.seq LIMIT $4) AS x
                 ORDER BY x.seq LIMIT $4) AS c) AS p
         JOIN sluice.bucket_item AS i ON i.stream = p.stream AND i.bucket = p.bucket AND i.seq = p.seq
         WHERE p.before < $5
         ORDER BY i.seq";
    let (streams, buckets) = unzipped(names);
    let parameters: [(&(dyn ToSql + Sync), Type); 5] = [
        (&streams, Type::TEXT_ARRAY),
        (&buckets, Type::TEXT_ARRAY),
        (&after, Type::INT8),
        (&limit.items, Type::INT8),
        (&limit.bytes, Type::INT8),
    ];
    items(&call(PEER, "list_changes", client.query_typed(query, &parameters)).await?)
}

/// Buckets that changed after a seq, each with that of its last change: the first `most` of them, and the seq to ask from next.
pub async fn list_changed(client: &Client, after: i64, most: i64) -> Result<(i64, Vec<(Name, i64)>), Error> {
    let query = "SELECT h.seq, b.stream, b.name, b.seq
         FROM sluice.sync_head AS h
         LEFT JOIN LATERAL (SELECT * FROM sluice.bucket AS x WHERE x.seq > $1 ORDER BY x.seq LIMIT $2) AS b ON true
         ORDER BY b.seq";
    let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&after, Type::INT8), (&most, Type::INT8)];
    let rows = call(PEER, "list_changed", client.query_typed(query, &parameters)).await?;
    let changed = |row: &tokio_postgres::Row| {
        let stream: Option<String> = row.get(1);
        stream.map(|stream| (Name { stream, bucket: row.get(2) }, row.get(3)))
    };
    let head = rows.first().map_or(after, |row| row.get(0));
    let changed: Vec<(Name, i64)> = rows.iter().filter_map(changed).collect();
    let is_all = i64::try_from(changed.len()).is_ok_and(|found| found < most);
    let upto = changed.last().map_or(head, |(_, seq)| if is_all { head } else { *seq });
    Ok((upto, changed))
}

/// What is in a bucket behind a key, in order of the keys' bytes.
pub async fn list_items(client: &Client, name: &Name, after: Option<&str>, limit: Limit) -> Result<Vec<Item>, Error> {
    let query = "SELECT i.stream, i.bucket, i.key, i.seq, i.document, i.checksum
         FROM (
             SELECT y.*, sum(octet_length(y.document)) OVER (ORDER BY y.key) - octet_length(y.document) AS before
             FROM (
                 SELECT * FROM sluice.bucket_item AS x
                 WHERE x.stream = $1 AND x.bucket = $2 AND ($3 IS NULL OR x.key > $3) AND x.deleted_at IS NULL
                 ORDER BY x.key LIMIT $4) AS y) AS i
         WHERE i.before < $5
         ORDER BY i.key";
    let parameters: [(&(dyn ToSql + Sync), Type); 5] = [
        (&name.stream, Type::TEXT),
        (&name.bucket, Type::TEXT),
        (&after, Type::TEXT),
        (&limit.items, Type::INT8),
        (&limit.bytes, Type::INT8),
    ];
    items(&call(PEER, "list_items", client.query_typed(query, &parameters)).await?)
}

/// Whether clients can pull all that a snapshot sees, of one stream or of all; `None`: there is no such stream of theirs.
///
/// # Errors
/// `invalid_text_representation`: it is no snapshot.
pub async fn is_readable(client: &Client, snapshot: &str, stream: Option<&str>) -> Result<Option<bool>, Error> {
    let query = "SELECT CASE WHEN EXISTS (SELECT FROM sluice.target AS t WHERE t.subscription = 'sync' AND t.stream = coalesce($2, t.stream))
             THEN sluice.settled('sync', $1::pg_snapshot, $2) END";
    let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&snapshot, Type::TEXT), (&stream, Type::TEXT)];
    let rows = call(PEER, "is_readable", client.query_typed(query, &parameters)).await?;
    Ok(rows.first().and_then(|row| row.get(0)))
}

/// What a client wants to be done to a document.
#[derive(Clone, Debug)]
pub struct Write {
    /// The client's, of this change for ever: a UUID.
    pub id: Uuid,
    /// The document's stream.
    pub stream: String,
    /// Its key as text.
    pub key: String,
    /// `insert`, `update` or `delete`.
    pub op: &'static str,
    /// The fields that change, as JSON.
    pub fields: Option<String>,
    /// The seq of the item that the client had.
    pub base: Option<i64>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// `applied`, `conflict`, `rejected` or `repeated`.
    pub result: String,
    /// Whether it is written.
    pub is_applied: bool,
    /// Why not, for the client.
    pub reason: Option<String>,
}

/// Both sides of a change whose client had another document than there was.
#[derive(Clone, Debug)]
pub struct Conflict {
    /// They rise in the order of commits.
    pub number: i64,
    /// The change's.
    pub id: Uuid,
    /// The document's stream.
    pub stream: String,
    /// Its key.
    pub key: String,
    /// In UTC, by RFC 3339.
    pub at: String,
    /// Whether the change was written.
    pub is_applied: bool,
    /// What the client sent, as JSON.
    pub fields: Option<String>,
    /// What there was, as JSON.
    pub document: Option<String>,
}

/// Begins a transaction for one change, in which each statement may take so long. It is of one moment: a row that somebody else has changed
/// since, whoever it was, is not overwritten, and the change fails.
pub async fn begin_writing(client: &Client, patience: Duration) -> Result<(), Error> {
    let begin =
        format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SET LOCAL statement_timeout = {}", patience.as_millis());
    call(PEER, "begin", client.batch_execute(&begin)).await
}

/// Applies a change under these claims, within the transaction of its own that was begun for it. `readable` are the buckets of its stream
/// that the claims give.
///
/// # Errors
/// It is none of the change's fault: it may be sent again. `serialization_failure`: what it was compared with has changed meanwhile.
pub async fn accept(client: &Client, claims: &str, readable: &[&str], write: &Write) -> Result<Outcome, Error> {
    let query = "SELECT outcome, applied, reason FROM sluice.accept_change($1, $2, $3, $4, $5, $6, $7, $8)";
    let Write { id, stream, key, op, fields, base } = write;
    let parameters: [(&(dyn ToSql + Sync), Type); 8] = [
        (&claims, Type::TEXT),
        (&readable, Type::TEXT_ARRAY),
        (id, Type::UUID),
        (stream, Type::TEXT),
        (key, Type::TEXT),
        (op, Type::TEXT),
        (fields, Type::TEXT),
        (base, Type::INT8),
    ];
    let rows = call(PEER, "accept_change", client.query_typed(query, &parameters)).await?;
    let outcome =
        |row: &tokio_postgres::Row| Outcome { result: row.get(0), is_applied: row.get(1), reason: row.get(2) };
    // It gives one row.
    Ok(rows.first().map_or_else(|| Outcome { result: String::new(), is_applied: false, reason: None }, outcome))
}

/// What sees all that was committed so far: see [`is_readable`].
pub async fn read_snapshot(client: &Client) -> Result<String, Error> {
    let query = "SELECT pg_current_snapshot()::text";
    Ok(call(PEER, "read_snapshot", client.query_one(query, &[])).await?.get(0))
}

/// Conflicts after a number whose documents were in one of these buckets, `most` at most, and the number to ask from next; `None` there:
/// these are all.
pub async fn list_conflicts(
    client: &Client,
    names: &[Name],
    after: i64,
    most: i64,
) -> Result<(Vec<Conflict>, Option<i64>), Error> {
    /// Others' are looked at, too: so many at once.
    const LOOKED_AT: i64 = 5000;
    let query = "SELECT c.number, c.id, c.stream, c.key, sluice.rfc3339(c.at), c.is_applied, c.fields, c.document, c.is_readable
         FROM (
             SELECT x.*, EXISTS (
                 SELECT FROM unnest($1::text[], $2::text[]) AS n(stream, name) WHERE n.stream = x.stream AND n.name = ANY (x.buckets)) AS is_readable
             FROM (SELECT * FROM sluice.conflict AS y WHERE y.number > $3 ORDER BY y.number LIMIT $4) AS x) AS c
         ORDER BY c.number";
    let (streams, buckets) = unzipped(names);
    let parameters: [(&(dyn ToSql + Sync), Type); 4] =
        [(&streams, Type::TEXT_ARRAY), (&buckets, Type::TEXT_ARRAY), (&after, Type::INT8), (&LOOKED_AT, Type::INT8)];
    let rows = call(PEER, "list_conflicts", client.query_typed(query, &parameters)).await?;
    let mut conflicts = vec![];
    let mut next = (rows.len() as i64 == LOOKED_AT).then(|| rows.last().map(|row| row.get(0))).flatten();
    for row in rows.iter().filter(|row| row.get(8)) {
        if conflicts.len() as i64 == most {
            next = conflicts.last().map(|conflict: &Conflict| conflict.number);
            break;
        }
        conflicts.push(Conflict {
            number: row.get(0),
            id: row.get(1),
            stream: row.get(2),
            key: row.get(3),
            at: row.get(4),
            is_applied: row.get(5),
            fields: row.get(6),
            document: row.get(7),
        });
    }
    Ok((conflicts, next))
}

pub(crate) fn unzipped(names: &[Name]) -> (Vec<&str>, Vec<&str>) {
    names.iter().map(|name| (name.stream.as_str(), name.bucket.as_str())).unzip()
}

fn items(rows: &[tokio_postgres::Row]) -> Result<Vec<Item>, Error> {
    let item = |row: &tokio_postgres::Row| {
        Ok(Item {
            name: Name { stream: row.try_get(0)?, bucket: row.try_get(1)? },
            key: row.try_get(2)?,
            seq: row.try_get(3)?,
            document: row.try_get(4)?,
            checksum: row.try_get(5)?,
        })
    };
    rows.iter().map(item).collect()
}
