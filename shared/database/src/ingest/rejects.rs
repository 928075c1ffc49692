//! What is kept of profiles that are not stored: `sluice.ingest_rejects`, beside the table that those are in which are.

use time::OffsetDateTime;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error};
use uuid::Uuid;

use super::REJECTS_DROPPED;

/// A profile that is not stored.
#[derive(Clone, Copy, Debug)]
pub struct Reject<'a> {
    /// `None`: it has none that is valid.
    pub profile_id: Option<Uuid>,
    /// `None`: it has none that is valid.
    pub last_updated_at: Option<OffsetDateTime>,
    /// In one word; `email_taken` and `mobile_taken` are conflicts.
    pub reason: &'a str,
    /// A sentence without personal data.
    pub message: &'a str,
    /// The profile as it came: JSON.
    pub payload: &'a str,
}

/// A conflict that is tried again.
#[derive(Clone, Debug)]
pub struct Conflict {
    /// The reject's.
    pub id: i64,
    /// The profile as it came: JSON.
    pub payload: String,
}

/// Which rejects.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    /// Only those before this id.
    pub before: Option<i64>,
    /// Only those with this reason.
    pub reason: Option<&'a str>,
    /// `true`: only those whose profile was not stored since; `false`: only the others.
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
    /// `None`: it has none that is valid.
    pub profile_id: Option<String>,
    /// `None`: it has none that is valid.
    pub last_updated_at: Option<String>,
    /// In one word, of 100 characters at most.
    pub reason: String,
    /// A sentence, of 2,000 characters at most.
    pub message: String,
    /// The profile as it came; `None`: it was not to be read.
    pub payload: Option<String>,
    /// Its length.
    pub payload_bytes: i32,
    /// How often the origin gave it.
    pub times: i32,
    /// For the first time.
    pub first_at: String,
    /// And the last.
    pub last_at: String,
    /// When a profile of this id was stored that is not older.
    pub resolved_at: Option<String>,
}

/// Lists the conflicts that were tried the longest ago, `limit` of `limit_bytes` at most, and says whether they are all that
/// there are.
pub async fn list_conflicts(client: &Client, limit: i64, limit_bytes: i64) -> Result<(Vec<Conflict>, bool), Error> {
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
    let limits: [(&(dyn ToSql + Sync), Type); 2] = [(&limit, Type::INT8), (&limit_bytes, Type::INT8)];
    let rows = client.query_typed(LONGEST_AGO, &limits).await?;
    let found: i64 = rows.first().map_or(0, |row| row.get(2));
    let conflicts: Vec<Conflict> = rows.iter().map(|row| Conflict { id: row.get(0), payload: row.get(1) }).collect();
    let is_all = found < limit && i64::try_from(conflicts.len()).is_ok_and(|tried| tried == found);
    Ok((conflicts, is_all))
}

/// Resolves rejects of these profiles: as soon as a profile is stored that is not older. One whose time nobody knows is, by
/// whatever is stored after it: by those that are `synced` now.
pub async fn resolve(client: &Client, ids: &[Uuid], synced: &[Uuid]) -> Result<u64, Error> {
    const RESOLVE: &str = "
        UPDATE sluice.ingest_rejects AS r
        SET resolved_at = now()
        FROM profiles.users AS u
        WHERE r.resolved_at IS NULL AND r.profile_id = ANY ($1) AND u.id = r.profile_id
          AND (r.last_updated_at <= u.last_updated_at OR r.last_updated_at IS NULL AND r.profile_id = ANY ($2))";
    client.execute_typed(RESOLVE, &[(&ids, Type::UUID_ARRAY), (&synced, Type::UUID_ARRAY)]).await
}

/// Keeps rejects, of each profile and reason the newest; those that came before are counted. One that is not newer than
/// what is stored is kept as resolved. Answers for each that is news whether it is a conflict.
pub async fn keep(client: &Client, rejects: &[Reject<'_>]) -> Result<Vec<bool>, Error> {
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
    let reasons: Vec<&str> = rejects.iter().map(|reject| reject.reason).collect();
    let messages: Vec<&str> = rejects.iter().map(|reject| reject.message).collect();
    let payloads: Vec<&str> = rejects.iter().map(|reject| reject.payload).collect();
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

/// Marks the stored rows of these profiles of which something newer is known that could not be stored.
pub async fn mark(client: &Client, ids: &[Uuid]) -> Result<u64, Error> {
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

/// Notes that these conflicts had their turn.
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

/// Deletes `at_once` at most of the rejects that were sent the longest ago, where there are more than `limit`, or than
/// `limit_bytes`: how many.
pub async fn make_room(client: &Client, limit: i64, limit_bytes: i64, at_once: i64) -> Result<i64, Error> {
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
    let parameters: [(&(dyn ToSql + Sync), Type); 4] =
        [(&limit, Type::INT8), (&limit_bytes, Type::INT8), (&at_once, Type::INT8), (&REJECTS_DROPPED, Type::TEXT)];
    Ok(client.query_typed_opt(DROP, &parameters).await?.map_or(0, |row| row.get(0)))
}

/// Lists rejects, newest first.
pub async fn list(client: &Client, search: &Search<'_>) -> Result<Vec<Kept>, Error> {
    const LIST: &str = "
        SELECT id, profile_id::text, sluice.rfc3339(last_updated_at), left(reason, 100), left(message, 2000),
            CASE WHEN octet_length(payload::text) <= $1 THEN payload::text END, octet_length(payload::text), times,
            sluice.rfc3339(first_at), sluice.rfc3339(last_at), sluice.rfc3339(resolved_at)
        FROM sluice.ingest_rejects
        WHERE id < coalesce($2, 9223372036854775807) AND reason = coalesce($3, reason)
          AND (resolved_at IS NULL) = coalesce($4, resolved_at IS NULL)
        ORDER BY id DESC
        LIMIT $5";
    let Search { before, reason, is_open, limit, payload_bytes } = search;
    let rows = client.query(LIST, &[payload_bytes, before, reason, is_open, limit]).await?;
    let kept = |row: &tokio_postgres::Row| Kept {
        id: row.get(0),
        profile_id: row.get(1),
        last_updated_at: row.get(2),
        reason: row.get(3),
        message: row.get(4),
        payload: row.get(5),
        payload_bytes: row.get(6),
        times: row.get(7),
        first_at: row.get(8),
        last_at: row.get(9),
        resolved_at: row.get(10),
    };
    Ok(rows.iter().map(kept).collect())
}

/// Counts the rejects whose profile was not stored since, up to `limit`.
pub async fn count_open(client: &Client, limit: i64) -> Result<i64, Error> {
    const COUNT: &str =
        "SELECT count(*) FROM (SELECT FROM sluice.ingest_rejects WHERE resolved_at IS NULL LIMIT $1) AS counted";
    Ok(client.query_one(COUNT, &[&limit]).await?.get(0))
}
