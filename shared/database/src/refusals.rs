//! The letters of direct targets: what one refuses is a row of `sluice.dead_letter` until it is redriven, is discarded, or
//! arrives after all.

use std::collections::BTreeMap;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error};

use crate::audit::Actor;

/// Letters that a list looks through, the newest of its target or of all; and of a target's, those that are counted.
pub const LOOKED_THROUGH: i64 = 50_000;
/// Letters that [`find`] looks at, and so the most that are redriven at once.
const PAGE: i64 = 1000;

/// Which letters; all, where nothing is said.
#[derive(Clone, Debug, Default)]
pub struct Search<'a> {
    /// Of this target.
    pub target: Option<&'a str>,
    /// Of this stream.
    pub stream: Option<&'a str>,
    /// With this word for the reason.
    pub error_type: Option<&'a str>,
    /// Of this document.
    pub key: Option<&'a str>,
    /// These: of each its target and its id.
    pub ids: Option<Vec<(&'a str, i64)>>,
    /// Those that were there when this task began.
    pub task: Option<i64>,
}

/// A letter.
#[derive(Clone, Debug)]
pub struct Letter {
    /// By which it is known, beside its target.
    pub id: i64,
    /// The target that refused it: its subscription.
    pub target: String,
    /// Its stream.
    pub stream: String,
    /// The document's key as text.
    pub key: String,
    /// Of the write that was refused.
    pub version: i64,
    /// The row of the log.
    pub change_id: Option<i64>,
    /// A word to group by.
    pub error_type: String,
    /// Why; it may quote the document.
    pub reason: Option<String>,
    /// When it was refused, in UTC, by RFC 3339.
    pub at: String,
    /// Of a stream without a source, the length of the document in bytes.
    pub payload_bytes: Option<i32>,
    /// The document itself, unless it is longer than was asked for.
    pub payload: Option<String>,
}

/// Some of the letters that are meant.
#[derive(Clone, Debug)]
pub struct Page {
    /// Theirs.
    pub ids: Vec<i64>,
    /// Ask with this `after` for others, of which there may be some even where this page has none. `None`: it ends.
    pub next: Option<i64>,
}

/// Of [`Search`], all but its ids and its target.
const MEANT: &str = "l.error_type IS NOT NULL AND ($4::text IS NULL OR l.stream = $4)
     AND ($5::text IS NULL OR l.error_type = $5) AND ($6::text IS NULL OR l.key = $6)
     AND ($7::bigint IS NULL OR l.at <= (SELECT t.started_at FROM sluice.redrive_task AS t WHERE t.id = $7))";
const OF_TARGET: &str = "($3::text IS NULL OR l.subscription = $3)";
/// By the primary key, where they are named.
const NAMED: &str =
    "($1::bigint[] IS NULL OR l.id = ANY ($1)) AND ($2::text[] IS NULL OR l.subscription || '-' || l.id = ANY ($2))";

/// Lists the newest of them, `limit` at most. A payload of more than `payload_bytes` is left out.
pub async fn list(client: &Client, search: &Search<'_>, limit: i64, payload_bytes: i32) -> Result<Vec<Letter>, Error> {
    let query = format!(
        "SELECT l.id, l.subscription, l.stream, l.key, l.version, l.change_id, l.error_type, l.reason, sluice.rfc3339(l.at),
             octet_length(l.payload::text), CASE WHEN octet_length(l.payload::text) <= $10 THEN l.payload::text END
         FROM (
             SELECT * FROM sluice.dead_letter AS l WHERE l.error_type IS NOT NULL AND {OF_TARGET} AND {NAMED}
             ORDER BY l.at DESC, l.id DESC LIMIT $8) AS l
         WHERE {MEANT}
         ORDER BY l.at DESC, l.id DESC
         LIMIT $9"
    );
    let rows = query_with(client, &query, search, &[&LOOKED_THROUGH, &limit, &payload_bytes]).await?;
    let letter = |row: &tokio_postgres::Row| Letter {
        id: row.get(0),
        target: row.get(1),
        stream: row.get(2),
        key: row.get(3),
        version: row.get(4),
        change_id: row.get(5),
        error_type: row.get(6),
        reason: row.get(7),
        at: row.get(8),
        payload_bytes: row.get(9),
        payload: row.get(10),
    };
    Ok(rows.iter().map(letter).collect())
}

/// Looks at some letters after an id, and tells which of them are meant.
pub async fn find(client: &Client, search: &Search<'_>, after: i64) -> Result<Page, Error> {
    let query = format!(
        "WITH looked AS MATERIALIZED (
             SELECT l.id, {MEANT} AND {OF_TARGET} AS is_meant FROM sluice.dead_letter AS l WHERE l.id > $8 AND {NAMED} ORDER BY l.id LIMIT $9)
         SELECT coalesce(array_agg(id ORDER BY id) FILTER (WHERE is_meant), '{{}}'), CASE WHEN count(*) = $9 THEN max(id) END FROM looked"
    );
    let rows = query_with(client, &query, search, &[&after, &PAGE]).await?;
    Ok(rows.first().map_or(Page { ids: vec![], next: None }, |row| Page { ids: row.get(0), next: row.get(1) }))
}

async fn query_with(
    client: &Client,
    query: &str,
    search: &Search<'_>,
    others: &[&(dyn ToSql + Sync)],
) -> Result<Vec<tokio_postgres::Row>, Error> {
    let ids = search.ids.as_ref().map(|named| named.iter().map(|(_, id)| *id).collect::<Vec<_>>());
    let names =
        search.ids.as_ref().map(|named| named.iter().map(|(target, id)| format!("{target}-{id}")).collect::<Vec<_>>());
    let Search { target, stream, error_type, key, task, .. } = search;
    let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&ids, &names, target, stream, error_type, key, task];
    parameters.extend(others);
    client.query(query, &parameters).await
}

/// Counts the letters of each direct target, [`LOOKED_THROUGH`] at most.
pub async fn count(client: &Client) -> Result<BTreeMap<String, i64>, Error> {
    let query = "SELECT s.name, (
             SELECT count(*) FROM (
                 SELECT FROM sluice.dead_letter AS l WHERE l.subscription = s.name AND l.error_type IS NOT NULL LIMIT $1) AS counted)
         FROM sluice.subscription AS s
         WHERE s.name = ANY (sluice.direct_targets())";
    let rows = client.query(query, &[&LOOKED_THROUGH]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Has these delivered again, each to its target alone: how many were still there. The events, the audit's rows and the task's
/// count are there together, or none of them.
pub async fn redrive(client: &Client, actor: Actor<'_>, task: Option<i64>, ids: &[i64]) -> Result<i64, Error> {
    let statement = "WITH done AS MATERIALIZED (SELECT sluice.redrive_refusals($1, $2, $3) AS letters),
         counted AS (
             UPDATE sluice.redrive_task
             SET redriven = redriven + (SELECT letters FROM done), updated_at = clock_timestamp()
             WHERE id = $4)
         SELECT letters FROM done";
    Ok(client.query_one(statement, &[&ids, &actor.name, &actor.source_ip, &task]).await?.get(0))
}

/// Discards one, with a reason that the audit keeps: whether it was still there.
pub async fn discard(client: &Client, actor: Actor<'_>, id: i64, reason: &str) -> Result<bool, Error> {
    let statement = "SELECT sluice.discard_refusals($1, $2, $3, $4) > 0";
    Ok(client.query_one(statement, &[&[id].as_slice(), &actor.name, &actor.source_ip, &reason]).await?.get(0))
}
