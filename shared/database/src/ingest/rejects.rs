//! What is kept of items that are not stored: `sluice.ingest_rejects`, beside the table that those are in which are.

use super::REJECTS_DROPPED;
use super::definition::Table;
use time::OffsetDateTime;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error};

/// An item that is not stored.
#[derive(Clone, Copy, Debug)]
pub struct Reject<'a> {
    /// `None`: it has none that is valid.
    pub key: Option<&'a str>,
    /// `None`: it has none that is valid.
    pub newer: Option<OffsetDateTime>,
    /// In one word.
    pub reason: &'a str,
    /// A sentence without personal data.
    pub message: &'a str,
    /// Whether it is tried again, since it may be stored when something else has changed.
    pub is_retried: bool,
    /// The item as it came: JSON.
    pub payload: &'a str,
}

/// A reject that is tried again.
#[derive(Clone, Debug)]
pub struct Retried {
    /// The reject's.
    pub id: i64,
    /// The item as it came: JSON.
    pub payload: String,
}

/// Which rejects.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    /// Only those of this source.
    pub source: Option<&'a str>,
    /// Only those before this id.
    pub before: Option<i64>,
    /// Only those with this reason.
    pub reason: Option<&'a str>,
    /// `true`: only those whose item was not stored since; `false`: only the others.
    pub is_open: Option<bool>,
    /// Those that are found, at most.
    pub limit: i64,
    /// Payloads up to this length are read; `None`: none is.
    pub payload_bytes: Option<i32>,
}

/// A reject, as an operator sees it. Times are in UTC, by RFC 3339.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The reject's.
    pub id: i64,
    /// Its source.
    pub source: String,
    /// `None`: it has none that is valid.
    pub key: Option<String>,
    /// `None`: it has none that is valid.
    pub newer: Option<String>,
    /// In one word, of 100 characters at most.
    pub reason: String,
    /// A sentence, of 2,000 characters at most.
    pub message: String,
    /// The item as it came; `None`: it was not to be read.
    pub payload: Option<String>,
    /// Its length.
    pub payload_bytes: i32,
    /// How often the source gave it.
    pub times: i32,
    /// For the first time.
    pub first_at: String,
    /// And the last.
    pub last_at: String,
    /// When an item of this key was stored that is not older.
    pub resolved_at: Option<String>,
}

/// Lists the rejects of a source that were tried again the longest ago, `limit` of `limit_bytes` at most, and says whether they
/// are all that there are.
pub async fn list_retried(
    client: &Client,
    source: &str,
    limit: i64,
    limit_bytes: i64,
) -> Result<(Vec<Retried>, bool), Error> {
    const LONGEST_AGO: &str = "
        SELECT id, payload::text, found
        FROM (
            SELECT id, payload, count(*) OVER () AS found,
                sum(payload_bytes) OVER (ORDER BY retried_at NULLS FIRST, id ROWS UNBOUNDED PRECEDING) - payload_bytes AS bytes_before
            FROM (
                SELECT id, payload, payload_bytes, retried_at
                FROM sluice.ingest_rejects
                WHERE source = $1 AND resolved_at IS NULL AND is_retried
                ORDER BY retried_at NULLS FIRST, id
                LIMIT $2) AS open) AS counted
        WHERE bytes_before < $3";
    let parameters: [(&(dyn ToSql + Sync), Type); 3] =
        [(&source, Type::TEXT), (&limit, Type::INT8), (&limit_bytes, Type::INT8)];
    let rows = client.query_typed(LONGEST_AGO, &parameters).await?;
    let found: i64 = rows.first().map_or(0, |row| row.get(2));
    let retried: Vec<Retried> = rows.iter().map(|row| Retried { id: row.get(0), payload: row.get(1) }).collect();
    let is_all = found < limit && i64::try_from(retried.len()).is_ok_and(|tried| tried == found);
    Ok((retried, is_all))
}

/// The statements on the rejects of a source whose items go to this table: they look at its rows.
#[derive(Clone, Debug)]
pub struct Statements {
    resolve: String,
    keep: String,
    mark: Option<String>,
}

impl Statements {
    /// Whoever runs them reads the table, and writes its marks.
    pub fn new(table: &Table) -> Self {
        let Table { relation, .. } = table;
        let (key, newer, key_type) = (table.quoted_key(), table.quoted_newer(), table.key_type());
        // The table is asked by its own type, so that its index answers.
        let resolve = format!(
            "UPDATE sluice.ingest_rejects AS r
            SET resolved_at = now()
            FROM {relation} AS u
            WHERE r.source = $1 AND r.resolved_at IS NULL AND r.key = ANY ($2) AND u.{key} = r.key::{key_type}
              AND (r.newer <= u.{newer} OR r.newer IS NULL AND r.key = ANY ($3))"
        );
        let keep = format!(
            "WITH came AS (
                SELECT DISTINCT ON (n.identity, n.reason) n.*, count(*) OVER (PARTITION BY n.identity, n.reason) AS times
                FROM (
                    SELECT *, coalesce('k' || key, encode(digest, 'hex')) AS identity
                    FROM unnest($2, $3, $4, $5, $6, $7) AS n (key, newer, reason, message, payload, is_retried),
                        sha256(convert_to(payload, 'UTF8')) AS digest) AS n
                ORDER BY n.identity, n.reason, n.newer DESC NULLS FIRST, n.digest),
            known AS (
                SELECT r.id, r.newer, r.resolved_at
                FROM came AS n
                JOIN sluice.ingest_rejects AS r
                  ON r.source = $1 AND coalesce('k' || r.key, encode(r.digest, 'hex')) = n.identity AND r.reason = n.reason),
            kept AS (
                INSERT INTO sluice.ingest_rejects AS r
                    (source, key, newer, reason, message, is_retried, payload, payload_bytes, digest, times, resolved_at)
                SELECT $1, n.key, n.newer, n.reason, n.message, n.is_retried, n.payload::json, octet_length(n.payload), n.digest, n.times,
                    CASE WHEN n.newer <= greatest(u.{newer}, d.newer) THEN now() END
                FROM came AS n
                LEFT JOIN {relation} AS u ON u.{key} = n.key::{key_type}
                LEFT JOIN sluice.ingest_deleted AS d ON d.source = $1 AND d.key = n.key
                ORDER BY n.identity, n.reason       -- all take their locks in one order
                ON CONFLICT (source, coalesce('k' || key, encode(digest, 'hex')), reason) DO UPDATE
                SET times = r.times + excluded.times, last_at = excluded.last_at,
                    newer = CASE WHEN excluded.newer < r.newer THEN r.newer ELSE excluded.newer END,
                    message = CASE WHEN excluded.newer < r.newer THEN r.message ELSE excluded.message END,
                    payload = CASE WHEN excluded.newer < r.newer THEN r.payload ELSE excluded.payload END,
                    payload_bytes = CASE WHEN excluded.newer < r.newer THEN r.payload_bytes ELSE excluded.payload_bytes END,
                    digest = CASE WHEN excluded.newer < r.newer THEN r.digest ELSE excluded.digest END,
                    is_retried = CASE WHEN excluded.newer < r.newer THEN r.is_retried ELSE excluded.is_retried END,
                    -- Sent once more, one whose time nobody knows is no newer than it was.
                    resolved_at = CASE
                        WHEN excluded.newer < r.newer OR excluded.newer IS NULL AND excluded.digest = r.digest
                        THEN r.resolved_at
                        ELSE excluded.resolved_at
                    END
                RETURNING r.id, r.newer, r.is_retried, r.resolved_at)
            SELECT kept.is_retried
            FROM kept
            LEFT JOIN known ON known.id = kept.id
            WHERE known.id IS NULL OR kept.newer > known.newer
               OR known.resolved_at IS NOT NULL AND kept.resolved_at IS NULL"
        );
        let marks = [(&table.status, "'rejected'"), (&table.message, "r.message")];
        let marks: Vec<(&str, &str)> =
            marks.iter().filter_map(|(column, value)| Some((column.as_deref()?, *value))).collect();
        let list = |one: fn(&(&str, &str)) -> String| marks.iter().map(one).collect::<Vec<_>>().join(", ");
        let mark = (!marks.is_empty()).then(|| {
            format!(
                "UPDATE {relation} AS u
                SET {}
                FROM (
                    SELECT DISTINCT ON (key) key, message
                    FROM sluice.ingest_rejects
                    WHERE source = $1 AND resolved_at IS NULL AND key = ANY ($2)
                    ORDER BY key, newer DESC NULLS FIRST, digest, reason) AS r
                WHERE u.{key} = r.key::{key_type} AND ROW({}) IS DISTINCT FROM ROW({})",
                list(|(column, value)| format!("{column} = {value}")),
                list(|(column, _)| format!("u.{column}")),
                list(|(_, value)| format!("{value}::text")),
            )
        });
        Self { resolve, keep, mark }
    }

    /// Resolves rejects of these keys: as soon as an item is stored that is not older. One whose time nobody knows is, by
    /// whatever is stored after it: by those that are `synced` now.
    pub async fn resolve(&self, client: &Client, source: &str, keys: &[&str], synced: &[&str]) -> Result<u64, Error> {
        let parameters: [(&(dyn ToSql + Sync), Type); 3] =
            [(&source, Type::TEXT), (&keys, Type::TEXT_ARRAY), (&synced, Type::TEXT_ARRAY)];
        client.execute_typed(&self.resolve, &parameters).await
    }

    /// Keeps rejects, of each key and reason the newest; those that came before are counted. One that is not newer than
    /// what is stored is kept as resolved. Answers for each that is news whether it is tried again.
    pub async fn keep(&self, client: &Client, source: &str, rejects: &[Reject<'_>]) -> Result<Vec<bool>, Error> {
        if rejects.is_empty() {
            return Ok(vec![]);
        }
        let keys: Vec<Option<&str>> = rejects.iter().map(|reject| reject.key).collect();
        let times: Vec<Option<OffsetDateTime>> = rejects.iter().map(|reject| reject.newer).collect();
        let reasons: Vec<&str> = rejects.iter().map(|reject| reject.reason).collect();
        let messages: Vec<&str> = rejects.iter().map(|reject| reject.message).collect();
        let payloads: Vec<&str> = rejects.iter().map(|reject| reject.payload).collect();
        let retried: Vec<bool> = rejects.iter().map(|reject| reject.is_retried).collect();
        let parameters: [(&(dyn ToSql + Sync), Type); 7] = [
            (&source, Type::TEXT),
            (&keys, Type::TEXT_ARRAY),
            (&times, Type::TIMESTAMPTZ_ARRAY),
            (&reasons, Type::TEXT_ARRAY),
            (&messages, Type::TEXT_ARRAY),
            (&payloads, Type::TEXT_ARRAY),
            (&retried, Type::BOOL_ARRAY),
        ];
        let rows = client.query_typed(&self.keep, &parameters).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Marks the stored rows of these keys of which something newer is known that could not be stored.
    pub async fn mark(&self, client: &Client, source: &str, keys: &[&str]) -> Result<u64, Error> {
        let Some(mark) = &self.mark else { return Ok(0) };
        let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&source, Type::TEXT), (&keys, Type::TEXT_ARRAY)];
        client.execute_typed(mark, &parameters).await
    }
}

/// Notes that these rejects had their turn.
pub async fn note_retry(client: &Client, ids: &[i64]) -> Result<u64, Error> {
    const NOTE_RETRY: &str = "UPDATE sluice.ingest_rejects SET retried_at = now() WHERE id = ANY ($1)";
    if ids.is_empty() {
        return Ok(0);
    }
    client.execute_typed(NOTE_RETRY, &[(&ids, Type::INT8_ARRAY)]).await
}

/// Deletes those that nobody has sent for long, some at a time.
pub async fn forget(client: &Client) -> Result<(), Error> {
    client.execute_typed("SELECT sluice.forget_rejects()", &[]).await?;
    Ok(())
}

/// Deletes `at_once` at most of the rejects of a source that were sent the longest ago, where there are more than `limit`, or
/// than `limit_bytes`: how many.
pub async fn make_room(
    client: &Client,
    source: &str,
    limit: i64,
    limit_bytes: i64,
    at_once: i64,
) -> Result<i64, Error> {
    const DROP: &str = "
        WITH cut AS (
            SELECT last_at, id
            FROM (
                SELECT last_at, id, row_number() OVER newest AS number, sum(payload_bytes) OVER newest AS bytes
                FROM sluice.ingest_rejects
                WHERE source = $5
                WINDOW newest AS (ORDER BY last_at DESC, id DESC ROWS UNBOUNDED PRECEDING)
                ORDER BY last_at DESC, id DESC
                LIMIT $1 + 1) AS newest
            WHERE number > $1 OR bytes > $2
            ORDER BY number
            LIMIT 1),
        dropped AS (
            DELETE FROM sluice.ingest_rejects
            WHERE id = ANY (ARRAY(
                SELECT r.id
                FROM sluice.ingest_rejects AS r, cut
                WHERE r.source = $5 AND (r.last_at, r.id) <= (cut.last_at, cut.id)
                ORDER BY r.last_at, r.id
                LIMIT $3
                FOR UPDATE OF r SKIP LOCKED))
            RETURNING id)
        SELECT count(*), sluice.count_ingest($5, ARRAY[$4], ARRAY[count(*)])
        FROM dropped
        HAVING count(*) > 0";
    let parameters: [(&(dyn ToSql + Sync), Type); 5] = [
        (&limit, Type::INT8),
        (&limit_bytes, Type::INT8),
        (&at_once, Type::INT8),
        (&REJECTS_DROPPED, Type::TEXT),
        (&source, Type::TEXT),
    ];
    Ok(client.query_typed_opt(DROP, &parameters).await?.map_or(0, |row| row.get(0)))
}

/// Lists rejects, newest first.
pub async fn list(client: &Client, search: &Search<'_>) -> Result<Vec<Kept>, Error> {
    const LIST: &str = "
        SELECT id, source, key, sluice.rfc3339(newer), left(reason, 100), left(message, 2000),
            CASE WHEN octet_length(payload::text) <= $1 THEN payload::text END, octet_length(payload::text), times,
            sluice.rfc3339(first_at), sluice.rfc3339(last_at), sluice.rfc3339(resolved_at)
        FROM sluice.ingest_rejects
        WHERE id < coalesce($2, 9223372036854775807) AND reason = coalesce($3, reason) AND source = coalesce($6, source)
          AND (resolved_at IS NULL) = coalesce($4, resolved_at IS NULL)
        ORDER BY id DESC
        LIMIT $5";
    let Search { source, before, reason, is_open, limit, payload_bytes } = search;
    let rows = client.query(LIST, &[payload_bytes, before, reason, is_open, limit, source]).await?;
    let kept = |row: &tokio_postgres::Row| Kept {
        id: row.get(0),
        source: row.get(1),
        key: row.get(2),
        newer: row.get(3),
        reason: row.get(4),
        message: row.get(5),
        payload: row.get(6),
        payload_bytes: row.get(7),
        times: row.get(8),
        first_at: row.get(9),
        last_at: row.get(10),
        resolved_at: row.get(11),
    };
    Ok(rows.iter().map(kept).collect())
}

/// Counts the rejects whose item was not stored since, up to `limit`.
pub async fn count_open(client: &Client, limit: i64) -> Result<i64, Error> {
    const COUNT: &str =
        "SELECT count(*) FROM (SELECT FROM sluice.ingest_rejects WHERE resolved_at IS NULL LIMIT $1) AS counted";
    Ok(client.query_one(COUNT, &[&limit]).await?.get(0))
}
