//! What is gone from a source: `sluice.ingest_deleted` and `sluice.ingest_listed`.

use time::OffsetDateTime;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error};

use super::definition::Table;

/// Those of these keys whose items said that they are gone, and when.
pub async fn list(client: &Client, source: &str, keys: &[&str]) -> Result<Vec<(String, OffsetDateTime)>, Error> {
    const LIST: &str = "SELECT key, newer FROM sluice.ingest_deleted WHERE source = $1 AND key = ANY ($2)";
    let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&source, Type::TEXT), (&keys, Type::TEXT_ARRAY)];
    let rows = client.query_typed(LIST, &parameters).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Notes that these are gone since then, and that nothing older of them is to be stored: neither rejects of theirs.
pub async fn note(client: &Client, source: &str, keys: &[&str], times: &[OffsetDateTime]) -> Result<(), Error> {
    const NOTE: &str = "
        WITH gone AS (
            INSERT INTO sluice.ingest_deleted AS d (source, key, newer)
            SELECT $1, n.key, n.newer
            FROM unnest($2, $3) AS n (key, newer)
            ORDER BY n.key
            ON CONFLICT (source, key) DO UPDATE SET newer = greatest(d.newer, excluded.newer), deleted_at = excluded.deleted_at
            RETURNING key, newer)
        UPDATE sluice.ingest_rejects AS r
        SET resolved_at = now()
        FROM gone
        WHERE r.source = $1 AND r.key = gone.key AND r.resolved_at IS NULL AND coalesce(r.newer <= gone.newer, true)";
    if keys.is_empty() {
        return Ok(());
    }
    let parameters: [(&(dyn ToSql + Sync), Type); 3] =
        [(&source, Type::TEXT), (&keys, Type::TEXT_ARRAY), (&times, Type::TIMESTAMPTZ_ARRAY)];
    client.execute_typed(NOTE, &parameters).await.map(drop)
}

/// Forgets that these are gone: something newer of them is stored.
pub async fn take_back(client: &Client, source: &str, keys: &[&str]) -> Result<(), Error> {
    const TAKE_BACK: &str = "DELETE FROM sluice.ingest_deleted WHERE source = $1 AND key = ANY ($2)";
    let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&source, Type::TEXT), (&keys, Type::TEXT_ARRAY)];
    client.execute_typed(TAKE_BACK, &parameters).await.map(drop)
}

/// Notes that these were seen while this listing was read, which is counted from 1 on.
pub async fn note_listed(client: &Client, source: &str, keys: &[&str], listing: i32) -> Result<(), Error> {
    const NOTE: &str = "
        INSERT INTO sluice.ingest_listed AS l (source, key, listing)
        SELECT $1, key, $3
        FROM unnest($2) AS key
        ORDER BY key                            -- all take their locks in one order
        ON CONFLICT (source, key) DO UPDATE SET listing = excluded.listing
        WHERE l.listing < excluded.listing";
    if keys.is_empty() {
        return Ok(());
    }
    let parameters: [(&(dyn ToSql + Sync), Type); 3] =
        [(&source, Type::TEXT), (&keys, Type::TEXT_ARRAY), (&listing, Type::INT4)];
    client.execute_typed(NOTE, &parameters).await.map(drop)
}

/// Passes over the first of them, which the table does not let go.
pub async fn pass_over_missing(client: &Client, source: &str) -> Result<(), Error> {
    const PASS_OVER: &str = "
        DELETE FROM sluice.ingest_listed AS l
        WHERE l.source = $1 AND l.key = (
            SELECT o.key
            FROM sluice.ingest_listed AS o
            JOIN sluice.ingest_position AS p ON p.source = o.source
            WHERE o.source = $1 AND o.listing < p.listings - 1
            ORDER BY o.listing, o.key
            LIMIT 1)";
    client.execute_typed(PASS_OVER, &[(&source, Type::TEXT)]).await.map(drop)
}

/// Deletes rows of this table, `limit` at most, that neither of the last two listings had which were read to their end: how many
/// were looked at, and how many there were.
pub async fn delete_missing(client: &Client, source: &str, table: &Table, limit: i64) -> Result<(i64, i64), Error> {
    let Table { relation, .. } = table;
    let (key, key_type) = (table.quoted_key(), table.key_type());
    let delete = format!(
        "WITH missing AS (
            DELETE FROM sluice.ingest_listed AS l
            WHERE l.source = $1 AND l.key = ANY (ARRAY(
                SELECT o.key
                FROM sluice.ingest_listed AS o
                JOIN sluice.ingest_position AS p ON p.source = o.source
                WHERE o.source = $1 AND o.listing < p.listings - 1
                ORDER BY o.listing, o.key
                LIMIT $2))
            RETURNING l.key),
        deleted AS (
            DELETE FROM {relation} AS t
            USING missing
            WHERE t.{key} = missing.key::{key_type}
            RETURNING 1)
        SELECT (SELECT count(*) FROM missing), (SELECT count(*) FROM deleted)"
    );
    let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&source, Type::TEXT), (&limit, Type::INT8)];
    let rows = client.query_typed(&delete, &parameters).await?;
    Ok(rows.first().map_or((0, 0), |row| (row.get(0), row.get(1))))
}

/// What a sweep did.
#[derive(Clone, Debug, Default)]
pub struct Swept {
    /// The last key that was looked at; `None`: there is none behind it.
    pub last: Option<String>,
    /// Rows that are deleted.
    pub deleted: u64,
}

/// Deletes those of the next `limit` rows behind this key that are older than this, and whose items are no open rejects. Without a
/// time none is.
pub async fn sweep(
    client: &Client,
    source: &str,
    table: &Table,
    before: Option<OffsetDateTime>,
    after: Option<&str>,
    limit: i64,
) -> Result<Swept, Error> {
    let Table { relation, .. } = table;
    let (key, newer, key_type) = (table.quoted_key(), table.quoted_newer(), table.key_type());
    let behind =
        if after.is_some() { format!("WHERE t.{key} > $3::{key_type}") } else { "WHERE $3::text IS NULL".to_owned() };
    let sweep = format!(
        "WITH looked_at AS (
            SELECT t.{key} AS key
            FROM {relation} AS t
            {behind}
            ORDER BY t.{key}
            LIMIT $4),
        deleted AS (
            DELETE FROM {relation} AS t
            USING looked_at
            WHERE t.{key} = looked_at.key AND coalesce(t.{newer} < $2, true) AND $2 IS NOT NULL
              AND NOT EXISTS (
                  SELECT FROM sluice.ingest_rejects AS r WHERE r.source = $1 AND r.key = t.{key}::text AND r.resolved_at IS NULL)
            RETURNING 1)
        SELECT (SELECT key::text FROM looked_at ORDER BY looked_at.key DESC LIMIT 1), (SELECT count(*) FROM deleted)"
    );
    let parameters: [(&(dyn ToSql + Sync), Type); 4] =
        [(&source, Type::TEXT), (&before, Type::TIMESTAMPTZ), (&after, Type::TEXT), (&limit, Type::INT8)];
    let row = client.query_typed(&sweep, &parameters).await?;
    let row = row.first();
    Ok(row.map_or_else(Swept::default, |row| Swept { last: row.get(0), deleted: row.get::<_, i64>(1).unsigned_abs() }))
}
