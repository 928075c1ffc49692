//! How far a source was read, and how its rounds ended: `sluice.ingest_position`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio_postgres::types::{Json, ToSql, Type};
use tokio_postgres::{Client, Error};

use super::{ROUNDS_FAILED, count};
use crate::audit::Actor;

/// Where a round begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// What changed after this is asked for; `None`: everything.
    pub since: Option<OffsetDateTime>,
    /// Of the answer to `since`.
    pub etag: Option<String>,
    /// The page to go on with, where a chain was not read to its end: as the source's kind has it.
    pub next: Option<String>,
    /// Whether an item as old as the stored one is stored, too: everything is read anew.
    pub is_anew: bool,
    /// Whether the chain is a full listing.
    pub is_listing: bool,
    /// Whether a full listing is due.
    pub is_listing_due: bool,
    /// Full listings that were read to their end.
    pub listings: i32,
    /// The newest item of the chain.
    pub chain_newest: Option<OffsetDateTime>,
    /// Pages of the chain that were read.
    pub chain_pages: i32,
    /// By when this round has ended, as the position says it; `None`: it tells of another round that is under way.
    pub ends_by: Option<OffsetDateTime>,
    /// What is known of a round before that never came to its end.
    pub died: Option<String>,
}

/// What became of the items of one round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Given by the source.
    pub fetched: i64,
    /// Stored.
    pub synced: i64,
    /// Older than the stored ones.
    pub outdated: i64,
    /// Stored already.
    pub duplicate: i64,
    /// Not stored, though they are news.
    pub rejected: i64,
}

/// A round that is over.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// In milliseconds.
    pub took_ms: i64,
    /// What it did.
    pub counts: Counts,
    /// As the position said.
    pub ends_by: Option<OffsetDateTime>,
}

/// Why a round failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// In a sentence.
    pub message: String,
    /// The source asked to be left alone for so long.
    pub retry_after: Option<Duration>,
    /// Its chain leads nowhere.
    pub ends_chain: bool,
}

/// A source, and how far it was read. Times are in UTC, by RFC 3339.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its name.
    pub source: String,
    /// The host and the path of its URL; `None`: no round has begun yet.
    pub origin: Option<String>,
    /// What changed after this is asked for; `None`: everything.
    pub since: Option<String>,
    /// Pages that were read of a chain whose end is still to come; 0: there is none.
    pub chain_pages: i32,
    /// When the last round began.
    pub last_run_at: Option<String>,
    /// When the last round ended that came to its end.
    pub last_success_at: Option<String>,
    /// How long the last round took.
    pub last_duration_ms: Option<i64>,
    /// What the last round did.
    pub last_counts: Option<Counts>,
    /// Why the last round failed that did.
    pub last_error: Option<String>,
    /// When that was.
    pub last_error_at: Option<String>,
    /// Rounds that failed in a row, up to now.
    pub failures: i32,
    /// The source asked to be left alone until then.
    pub not_before: Option<String>,
    /// An operator asked for a round, which has not begun yet.
    pub requested_at: Option<String>,
    /// A round is under way, and has ended by then.
    pub ends_by: Option<String>,
}

/// A round that an operator asked for.
#[derive(Clone, Debug)]
pub struct Requested {
    /// Of which source.
    pub source: String,
    /// When, in UTC, by RFC 3339.
    pub requested_at: String,
}

/// Begins a round, if one is due: an operator asks for it, or so long ago the last one began, whoever's it was.
///
/// `listing`: seconds between two full listings. At another `origin`, which is the host and the path of its URL, the source is read from its beginning.
/// The position says that a round is under way that has ended in `time_left`. If it still says so later, then that round was
/// killed, and counts as failed.
pub async fn claim(
    client: &Client,
    source: &str,
    origin: Option<&str>,
    interval: Duration,
    listing: Option<f64>,
    time_left: Duration,
) -> Result<Option<Position>, Error> {
    const CLAIM: &str = "
        INSERT INTO sluice.ingest_position AS p (source, origin, last_run_at, ends_by)
        SELECT i.name, $4, now, now + make_interval(secs => $3)
        FROM sluice.ingest AS i, clock_timestamp() AS now
        WHERE i.name = $1
        ON CONFLICT (source) DO UPDATE
        SET last_run_at = excluded.last_run_at, requested_at = NULL, origin = coalesce(excluded.origin, p.origin),
            since = CASE WHEN p.origin <> excluded.origin THEN NULL ELSE p.since END,
            etag = CASE WHEN p.origin <> excluded.origin THEN NULL ELSE p.etag END,
            next = CASE WHEN p.origin <> excluded.origin THEN NULL ELSE p.next END,
            ends_by = CASE WHEN p.ends_by >= excluded.last_run_at THEN p.ends_by ELSE excluded.ends_by END,
            failures = CASE WHEN p.ends_by < excluded.last_run_at THEN p.failures + 1 ELSE p.failures END,
            last_error_at = CASE WHEN p.ends_by < excluded.last_run_at THEN excluded.last_run_at ELSE p.last_error_at END,
            last_error = CASE
                WHEN p.ends_by < excluded.last_run_at
                THEN format('a round that was to end by %s has not said how: it was killed, by its time or for its memory, or lost the database; its log says which', sluice.rfc3339(p.ends_by))
                ELSE p.last_error
            END
        WHERE p.requested_at IS NOT NULL
           OR coalesce(p.last_run_at + make_interval(secs => $2) <= excluded.last_run_at, true)
          AND coalesce(p.not_before <= excluded.last_run_at, true)
        RETURNING since, etag, next, is_anew, is_listing, $5 IS NOT NULL AND coalesce(listed_at + make_interval(secs => $5) <= last_run_at, true), listings,
            chain_newest, chain_pages,
            CASE WHEN ends_by = last_run_at + make_interval(secs => $3) THEN ends_by END,
            CASE WHEN last_error_at = last_run_at THEN last_error END";
    let parameters: [(&(dyn ToSql + Sync), Type); 5] = [
        (&source, Type::TEXT),
        (&interval.as_secs_f64(), Type::FLOAT8),
        (&time_left.as_secs_f64(), Type::FLOAT8),
        (&origin, Type::TEXT),
        (&listing, Type::FLOAT8),
    ];
    let Some(row) = client.query_typed_opt(CLAIM, &parameters).await? else { return Ok(None) };
    let position = Position {
        since: row.get(0),
        etag: row.get(1),
        next: row.get(2),
        is_anew: row.get(3),
        is_listing: row.get(4),
        is_listing_due: row.get(5),
        listings: row.get(6),
        chain_newest: row.get(7),
        chain_pages: row.get(8),
        ends_by: row.get(9),
        died: row.get(10),
    };
    if position.died.is_some() {
        count(client, source, &[(ROUNDS_FAILED, 1)]).await?;
    }
    Ok(Some(position))
}

/// Stores that the chain goes on with another page.
pub async fn go_on(client: &Client, source: &str, position: &Position) -> Result<(), Error> {
    const GO_ON: &str = "
        UPDATE sluice.ingest_position
        SET next = $2, chain_newest = $3, chain_pages = $4, is_listing = $5
        WHERE source = $1";
    client
        .execute_typed(
            GO_ON,
            &[
                (&source, Type::TEXT),
                (&position.next, Type::TEXT),
                (&position.chain_newest, Type::TIMESTAMPTZ),
                (&position.chain_pages, Type::INT4),
                (&position.is_listing, Type::BOOL),
            ],
        )
        .await?;
    Ok(())
}

/// From one place in a source to the next.
#[derive(Clone, Copy, Debug)]
pub struct Move<'a> {
    /// Where it was; `None`: nothing was read yet.
    pub from: Option<&'a str>,
    /// Where it goes on.
    pub to: &'a str,
    /// What changed until then is stored; `None`: no news.
    pub since: Option<OffsetDateTime>,
    /// Pages of what is read whole.
    pub pages: i32,
}

/// Moves the position, in the transaction of what was read. False: it is not where it was, and stays.
pub async fn move_on(client: &Client, source: &str, step: Move<'_>) -> Result<bool, Error> {
    const MOVE_ON: &str = "
        UPDATE sluice.ingest_position
        SET next = $3, since = coalesce($4, since), chain_pages = $5, is_anew = false
        WHERE source = $1 AND next IS NOT DISTINCT FROM $2";
    let Move { from, to, since, pages } = step;
    let parameters: [(&(dyn ToSql + Sync), Type); 5] = [
        (&source, Type::TEXT),
        (&from, Type::TEXT),
        (&to, Type::TEXT),
        (&since, Type::TIMESTAMPTZ),
        (&pages, Type::INT4),
    ];
    Ok(client.execute_typed(MOVE_ON, &parameters).await? == 1)
}

/// Ends a chain that was read to its end: the position is `overlap` before the newest item of it, never later than now,
/// and never goes back. A full listing is counted, unless it had nothing. The ETag is that of the answer to the position, if that stays where it was.
pub async fn finish_chain(
    client: &Client,
    source: &str,
    newest: Option<OffsetDateTime>,
    overlap: Duration,
    etag: Option<&str>,
    is_listing: bool,
) -> Result<(), Error> {
    const FINISH: &str = "
        UPDATE sluice.ingest_position AS p
        SET since = moved.since, etag = CASE WHEN moved.since IS NOT DISTINCT FROM p.since THEN $4 END,
            next = NULL, chain_newest = NULL, chain_pages = 0, is_anew = false, is_listing = false,
            listed_at = CASE WHEN $5 THEN clock_timestamp() ELSE p.listed_at END,
            listings = p.listings + CASE WHEN $5 AND $2 IS NOT NULL THEN 1 ELSE 0 END
        FROM (
            SELECT source, greatest(since, least($2, clock_timestamp()) - make_interval(secs => $3)) AS since
            FROM sluice.ingest_position
            WHERE source = $1 AND $2 IS NOT NULL
            UNION ALL
            SELECT source, since FROM sluice.ingest_position WHERE source = $1 AND $2 IS NULL) AS moved
        WHERE p.source = moved.source";
    client
        .execute_typed(
            FINISH,
            &[
                (&source, Type::TEXT),
                (&newest, Type::TIMESTAMPTZ),
                (&overlap.as_secs_f64(), Type::FLOAT8),
                (&etag, Type::TEXT),
                (&is_listing, Type::BOOL),
            ],
        )
        .await?;
    Ok(())
}

/// Stores that a round has come to its end, or to that of its time.
pub async fn succeed(client: &Client, source: &str, ended: &Ended) -> Result<(), Error> {
    const SUCCEED: &str = "
        UPDATE sluice.ingest_position
        SET last_success_at = clock_timestamp(), last_duration_ms = $2, last_counts = $3, ends_by = nullif(ends_by, $4),
            failures = 0, not_before = NULL
        WHERE source = $1";
    client
        .execute_typed(
            SUCCEED,
            &[
                (&source, Type::TEXT),
                (&ended.took_ms, Type::INT8),
                (&Json(ended.counts), Type::JSONB),
                (&ended.ends_by, Type::TIMESTAMPTZ),
            ],
        )
        .await?;
    Ok(())
}

/// Stores that a round has failed, and counts it. What it stored stays; a chain that leads nowhere is given up, and begun
/// anew.
pub async fn fail(client: &Client, source: &str, ended: &Ended, failure: &Failure) -> Result<(), Error> {
    const FAIL: &str = "
        UPDATE sluice.ingest_position
        SET last_error = $4, last_error_at = clock_timestamp(), last_duration_ms = $2, last_counts = $3, failures = failures + 1,
            ends_by = nullif(ends_by, $7),
            not_before = clock_timestamp() + make_interval(secs => $5),
            next = CASE WHEN NOT $6 THEN next END,
            chain_newest = CASE WHEN NOT $6 THEN chain_newest END,
            chain_pages = CASE WHEN $6 THEN 0 ELSE chain_pages END
        WHERE source = $1";
    let retry_after = failure.retry_after.map(|after| after.as_secs_f64());
    client
        .execute_typed(
            FAIL,
            &[
                (&source, Type::TEXT),
                (&ended.took_ms, Type::INT8),
                (&Json(ended.counts), Type::JSONB),
                (&failure.message, Type::TEXT),
                (&retry_after, Type::FLOAT8),
                (&failure.ends_chain, Type::BOOL),
                (&ended.ends_by, Type::TIMESTAMPTZ),
            ],
        )
        .await?;
    count(client, source, &[(ROUNDS_FAILED, 1)]).await
}

/// Lists the sources; the one that was read last comes first.
pub async fn list(client: &Client) -> Result<Vec<Status>, Error> {
    const LIST: &str = "
        SELECT i.name, origin, sluice.rfc3339(since), coalesce(chain_pages, 0), sluice.rfc3339(last_run_at), sluice.rfc3339(last_success_at),
            last_duration_ms, last_counts, last_error, sluice.rfc3339(last_error_at), coalesce(failures, 0), sluice.rfc3339(not_before),
            sluice.rfc3339(requested_at), sluice.rfc3339(ends_by)
        FROM sluice.ingest AS i
        LEFT JOIN sluice.ingest_position AS p ON p.source = i.name
        ORDER BY last_run_at DESC NULLS LAST, i.name";
    let rows = client.query(LIST, &[]).await?;
    let status = |row: &tokio_postgres::Row| Status {
        source: row.get(0),
        origin: row.get(1),
        since: row.get(2),
        chain_pages: row.get(3),
        last_run_at: row.get(4),
        last_success_at: row.get(5),
        last_duration_ms: row.get(6),
        last_counts: row.get::<_, Option<serde_json::Value>>(7).and_then(|it| serde_json::from_value(it).ok()),
        last_error: row.get(8),
        last_error_at: row.get(9),
        failures: row.get(10),
        not_before: row.get(11),
        requested_at: row.get(12),
        ends_by: row.get(13),
    };
    Ok(rows.iter().map(status).collect())
}

/// Counts the sources whose last round failed.
pub async fn count_failing(client: &Client) -> Result<i64, Error> {
    const COUNT: &str = "
        SELECT count(*)
        FROM sluice.ingest AS i
        JOIN sluice.ingest_position AS p ON p.source = i.name
        WHERE p.failures > 0";
    Ok(client.query_typed(COUNT, &[]).await?.first().map_or(0, |row| row.get(0)))
}

/// Asks for a round of a source, or of the one that was read last; `None`: there is none.
pub async fn request_round(
    client: &Client,
    actor: Actor<'_>,
    source: Option<&str>,
) -> Result<Option<Requested>, Error> {
    const REQUEST: &str = "
        WITH requested AS (
            UPDATE sluice.ingest_position SET requested_at = clock_timestamp()
            WHERE source = (
                SELECT p.source
                FROM sluice.ingest_position AS p
                JOIN sluice.ingest AS i ON i.name = p.source
                WHERE p.source = coalesce($3, p.source)
                ORDER BY p.last_run_at DESC NULLS LAST, p.source
                LIMIT 1)
            RETURNING source, requested_at)
        SELECT source, sluice.rfc3339(requested_at), sluice.audit($1, $2, 'ingest', source, 'requested', '{}')
        FROM requested";
    let row = client.query_opt(REQUEST, &[&actor.name, &actor.source_ip, &source]).await?;
    Ok(row.map(|row| Requested { source: row.get(0), requested_at: row.get(1) }))
}
