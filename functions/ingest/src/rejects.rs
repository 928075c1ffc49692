//! What is kept of profiles that are not stored: the statements on `sluice.ingest_rejects`.

use database::ingest as measure;
use time::OffsetDateTime;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error as PgError};
use tracing::warn;
use uuid::Uuid;

use crate::profile::Reject;

/// What is kept of rejects, of whatever source, so that none can fill the database.
const REJECTS: i64 = 20_000;
const REJECTS_BYTES: i64 = 64 << 20;
/// Those that make room in one statement.
const DROPPED_AT_ONCE: i64 = 5000;
/// Conflicts that are tried again in one round. They are in memory at once.
const CONFLICTS: i64 = 1000;
const CONFLICTS_BYTES: i64 = 4 << 20;

/// A conflict that is tried again.
#[derive(Debug)]
pub struct Conflict {
    pub id: i64,
    /// The profile, as it came.
    pub payload: String,
}

/// The conflicts that were tried the longest ago, and whether they are all that there are.
pub async fn conflicts(client: &Client) -> Result<(Vec<Conflict>, bool), PgError> {
    const LONGEST_AGO: &str = "
        SELECT id, payload::text, found
        FROM (
            SELECT id, payload, count(*) OVER () AS found,
                sum(payload_bytes) OVER (ORDER BY retried_at NULLS FIRST, id ROWS UNBOUNDED PRECEDING) - payload_bytes AS bytes_before
            FROM (
                SELECT id, payload, payload_bytes, retried_at
                FROM sluice.ingest_rejects
                WHERE resolved_at IS NULL AND reason IN ('email_taken', 'mobile_taken')
                ORDER BY retried_at NULLS FIRST, id
                LIMIT $1) AS open) AS counted
        WHERE bytes_before < $2";
    let limits: [(&(dyn ToSql + Sync), Type); 2] = [(&CONFLICTS, Type::INT8), (&CONFLICTS_BYTES, Type::INT8)];
    let rows = client.query_typed(LONGEST_AGO, &limits).await?;
    let found: i64 = rows.first().map_or(0, |row| row.get(2));
    let conflicts: Vec<Conflict> = rows.iter().map(|row| Conflict { id: row.get(0), payload: row.get(1) }).collect();
    let is_all = found < CONFLICTS && i64::try_from(conflicts.len()).is_ok_and(|tried| tried == found);
    Ok((conflicts, is_all))
}

/// A reject is resolved as soon as a profile is stored that is not older. One whose time nobody knows is, by whatever is
/// stored after it.
pub async fn resolve(client: &Client, ids: &[Uuid], synced: &[Uuid]) -> Result<u64, PgError> {
    const RESOLVE: &str = "
        UPDATE sluice.ingest_rejects AS r
        SET resolved_at = now()
        FROM profiles.users AS u
        WHERE r.resolved_at IS NULL AND r.profile_id = ANY ($1) AND u.id = r.profile_id
          AND (r.last_updated_at <= u.last_updated_at OR r.last_updated_at IS NULL AND r.profile_id = ANY ($2))";
    client.execute_typed(RESOLVE, &[(&ids, Type::UUID_ARRAY), (&synced, Type::UUID_ARRAY)]).await
}

/// Keeps the rejects, of each profile and reason the newest; those that came before are counted. One that is not newer than
/// what is stored is kept as resolved. Answers for each that is news whether it is a conflict.
pub async fn keep(client: &Client, rejects: &[&Reject<'_>]) -> Result<Vec<bool>, PgError> {
    const REJECT: &str = "
        WITH came AS (
            SELECT DISTINCT ON (n.key, n.reason) n.*, count(*) OVER (PARTITION BY n.key, n.reason) AS times
            FROM (
                SELECT *, coalesce(uuid_send(profile_id), digest) AS key
                FROM unnest($1, $2, $3, $4, $5) AS n (profile_id, last_updated_at, reason, message, payload),
                    sha256(convert_to(payload, 'UTF8')) AS digest) AS n
            ORDER BY n.key, n.reason, n.last_updated_at DESC NULLS FIRST, n.digest),
        known AS (
            SELECT r.id, r.last_updated_at, r.resolved_at
            FROM came AS n
            JOIN sluice.ingest_rejects AS r ON coalesce(uuid_send(r.profile_id), r.digest) = n.key AND r.reason = n.reason),
        kept AS (
            INSERT INTO sluice.ingest_rejects AS r
                (profile_id, last_updated_at, reason, message, payload, payload_bytes, digest, times, resolved_at)
            SELECT n.profile_id, n.last_updated_at, n.reason, n.message, n.payload::json, octet_length(n.payload), n.digest, n.times,
                CASE WHEN n.last_updated_at <= u.last_updated_at THEN now() END
            FROM came AS n
            LEFT JOIN profiles.users AS u ON u.id = n.profile_id
            ORDER BY n.key, n.reason            -- all take their locks in one order
            ON CONFLICT (coalesce(uuid_send(profile_id), digest), reason) DO UPDATE
            SET times = r.times + excluded.times, last_at = excluded.last_at,
                last_updated_at = CASE WHEN excluded.last_updated_at < r.last_updated_at THEN r.last_updated_at ELSE excluded.last_updated_at END,
                message = CASE WHEN excluded.last_updated_at < r.last_updated_at THEN r.message ELSE excluded.message END,
                payload = CASE WHEN excluded.last_updated_at < r.last_updated_at THEN r.payload ELSE excluded.payload END,
                payload_bytes = CASE WHEN excluded.last_updated_at < r.last_updated_at THEN r.payload_bytes ELSE excluded.payload_bytes END,
                digest = CASE WHEN excluded.last_updated_at < r.last_updated_at THEN r.digest ELSE excluded.digest END,
                -- Sent once more, one whose time nobody knows is no newer than it was.
                resolved_at = CASE
                    WHEN excluded.last_updated_at < r.last_updated_at OR excluded.last_updated_at IS NULL AND excluded.digest = r.digest
                    THEN r.resolved_at
                    ELSE excluded.resolved_at
                END
            RETURNING r.id, r.last_updated_at, r.reason, r.resolved_at)
        SELECT kept.reason IN ('email_taken', 'mobile_taken')
        FROM kept
        LEFT JOIN known ON known.id = kept.id
        WHERE known.id IS NULL OR kept.last_updated_at > known.last_updated_at
           OR known.resolved_at IS NOT NULL AND kept.resolved_at IS NULL";
    if rejects.is_empty() {
        return Ok(vec![]);
    }
    let ids: Vec<Option<Uuid>> = rejects.iter().map(|reject| reject.profile_id).collect();
    let times: Vec<Option<OffsetDateTime>> = rejects.iter().map(|reject| reject.last_updated_at).collect();
    let reasons: Vec<&str> = rejects.iter().map(|reject| reject.reason.as_str()).collect();
    let messages: Vec<&str> = rejects.iter().map(|reject| &*reject.message).collect();
    let payloads: Vec<&str> = rejects.iter().map(|reject| &*reject.payload).collect();
    let rows = client
        .query_typed(
            REJECT,
            &[
                (&ids, Type::UUID_ARRAY),
                (&times, Type::TIMESTAMPTZ_ARRAY),
                (&reasons, Type::TEXT_ARRAY),
                (&messages, Type::TEXT_ARRAY),
                (&payloads, Type::TEXT_ARRAY),
            ],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// A row of which something newer is known that could not be stored says so.
pub async fn mark(client: &Client, ids: &[Uuid]) -> Result<u64, PgError> {
    const MARK: &str = "
        UPDATE profiles.users AS u
        SET sync_status = 'rejected', sync_message = r.message
        FROM (
            SELECT DISTINCT ON (profile_id) profile_id, message
            FROM sluice.ingest_rejects
            WHERE resolved_at IS NULL AND profile_id = ANY ($1)
            ORDER BY profile_id, last_updated_at DESC NULLS FIRST, digest, reason) AS r
        WHERE u.id = r.profile_id AND (u.sync_status, u.sync_message) IS DISTINCT FROM ('rejected', r.message)";
    client.execute_typed(MARK, &[(&ids, Type::UUID_ARRAY)]).await
}

/// These had their turn.
pub async fn note_retry(client: &Client, ids: &[i64]) -> Result<u64, PgError> {
    const NOTE_RETRY: &str = "UPDATE sluice.ingest_rejects SET retried_at = now() WHERE id = ANY ($1)";
    if ids.is_empty() {
        return Ok(0);
    }
    client.execute_typed(NOTE_RETRY, &[(&ids, Type::INT8_ARRAY)]).await
}

/// Deletes those that nobody has sent for long, some at a time.
pub async fn forget(client: &Client) -> Result<(), PgError> {
    client.execute_typed("SELECT sluice.forget_rejects()", &[]).await?;
    Ok(())
}

/// Deletes the rejects that were sent the longest ago, where there are too many, and says how many those were.
pub async fn make_room(client: &Client) -> Result<u64, PgError> {
    const DROP: &str = "
        WITH cut AS (
            SELECT last_at, id
            FROM (
                SELECT last_at, id, row_number() OVER newest AS number, sum(payload_bytes) OVER newest AS bytes
                FROM sluice.ingest_rejects
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
                WHERE (r.last_at, r.id) <= (cut.last_at, cut.id)
                ORDER BY r.last_at, r.id
                LIMIT $3
                FOR UPDATE OF r SKIP LOCKED))
            RETURNING id)
        SELECT count(*), sluice.count_ingest(ARRAY[$4], ARRAY[count(*)])
        FROM dropped
        HAVING count(*) > 0";
    let parameters: [(&(dyn ToSql + Sync), Type); 4] = [
        (&REJECTS, Type::INT8),
        (&REJECTS_BYTES, Type::INT8),
        (&DROPPED_AT_ONCE, Type::INT8),
        (&measure::REJECTS_DROPPED, Type::TEXT),
    ];
    let mut all = 0;
    loop {
        let row = client.query_typed_opt(DROP, &parameters).await?;
        let dropped = row.map_or(0, |row| row.get(0));
        all += dropped;
        if dropped < DROPPED_AT_ONCE {
            break;
        }
    }
    if all > 0 {
        warn!(dropped = all, "there are more rejects than are kept: those that were sent the longest ago are gone");
    }
    Ok(all.unsigned_abs())
}
