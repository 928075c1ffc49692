//! How far the source was read: the statements on `sluice.ingest_position`.

use std::time::Duration;

use serde_json::json;
use time::OffsetDateTime;
use tokio_postgres::types::{Json, ToSql, Type};
use tokio_postgres::{Client, Error};

use crate::round::Tally;

/// A source may commit a profile some time after the `last_updated_at` that it gave it, and so behind profiles that were
/// read already. What is read twice changes nothing.
const OVERLAP: Duration = Duration::from_secs(60);

/// Where a round begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    pub since: Option<OffsetDateTime>,
    /// Of the answer to `since`.
    pub etag: Option<String>,
    /// A chain that was not read to its end, and what is known of it.
    pub next_url: Option<String>,
    pub chain_newest: Option<OffsetDateTime>,
    pub chain_pages: i32,
    /// By when this round has ended, as the position says it; `None`: it tells of another round that is under way.
    pub ends_by: Option<OffsetDateTime>,
    /// What is known of a round before that never came to its end.
    pub died: Option<String>,
}

/// A round that is over.
pub struct Ended<'t> {
    pub took: Duration,
    pub tally: &'t Tally,
    /// As the position said.
    pub ends_by: Option<OffsetDateTime>,
}

/// Begins a round, if one is due: an operator asks for it, or so long ago the last one began, whoever's it was.
///
/// The position says that a round is under way that has ended in `time_left`. If it still says so later, then that round was
/// killed, and counts as failed.
pub async fn claim(
    client: &Client,
    source: &str,
    interval: Duration,
    time_left: Duration,
) -> Result<Option<Position>, Error> {
    const CLAIM: &str = "
        INSERT INTO sluice.ingest_position AS p (source, last_run_at, ends_by)
        SELECT $1, now, now + make_interval(secs => $3)
        FROM clock_timestamp() AS now
        ON CONFLICT (source) DO UPDATE
        SET last_run_at = excluded.last_run_at, requested_at = NULL,
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
        RETURNING since, etag, next_url, chain_newest, chain_pages,
            CASE WHEN ends_by = last_run_at + make_interval(secs => $3) THEN ends_by END,
            CASE WHEN last_error_at = last_run_at THEN last_error END";
    let parameters: [(&(dyn ToSql + Sync), Type); 3] =
        [(&source, Type::TEXT), (&interval.as_secs_f64(), Type::FLOAT8), (&time_left.as_secs_f64(), Type::FLOAT8)];
    let Some(row) = client.query_typed_opt(CLAIM, &parameters).await? else { return Ok(None) };
    let position = Position {
        since: row.get(0),
        etag: row.get(1),
        next_url: row.get(2),
        chain_newest: row.get(3),
        chain_pages: row.get(4),
        ends_by: row.get(5),
        died: row.get(6),
    };
    if position.died.is_some() {
        count_failure(client).await?;
    }
    Ok(Some(position))
}

/// A page was stored; the chain goes on with another.
pub async fn go_on(client: &Client, source: &str, position: &Position) -> Result<(), Error> {
    const GO_ON: &str = "
        UPDATE sluice.ingest_position
        SET next_url = $2, chain_newest = $3, chain_pages = $4
        WHERE source = $1";
    client
        .execute_typed(
            GO_ON,
            &[
                (&source, Type::TEXT),
                (&position.next_url, Type::TEXT),
                (&position.chain_newest, Type::TIMESTAMPTZ),
                (&position.chain_pages, Type::INT4),
            ],
        )
        .await?;
    Ok(())
}

/// The chain was read to its end: the position is a little before the newest profile of it, never later than now, and never
/// goes back. The ETag is that of the answer to the position, if that stays where it was.
pub async fn finish_chain(
    client: &Client,
    source: &str,
    newest: Option<OffsetDateTime>,
    etag: Option<&str>,
) -> Result<(), Error> {
    const FINISH: &str = "
        UPDATE sluice.ingest_position AS p
        SET since = moved.since, etag = CASE WHEN moved.since IS NOT DISTINCT FROM p.since THEN $4 END,
            next_url = NULL, chain_newest = NULL, chain_pages = 0
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
                (&OVERLAP.as_secs_f64(), Type::FLOAT8),
                (&etag, Type::TEXT),
            ],
        )
        .await?;
    Ok(())
}

/// The round has come to its end, or to that of its time.
pub async fn succeed(client: &Client, source: &str, ended: &Ended<'_>) -> Result<(), Error> {
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
                (&ms(ended.took), Type::INT8),
                (&Json(ended.tally.counts()), Type::JSONB),
                (&ended.ends_by, Type::TIMESTAMPTZ),
            ],
        )
        .await?;
    Ok(())
}

/// The round has failed. What it stored stays; a chain that leads nowhere is given up, and begun anew.
pub async fn fail(client: &Client, source: &str, ended: &Ended<'_>, failure: &crate::Error) -> Result<(), Error> {
    const FAIL: &str = "
        UPDATE sluice.ingest_position
        SET last_error = $4, last_error_at = clock_timestamp(), last_duration_ms = $2, last_counts = $3, failures = failures + 1,
            ends_by = nullif(ends_by, $7),
            not_before = clock_timestamp() + make_interval(secs => $5),
            next_url = CASE WHEN NOT $6 THEN next_url END,
            chain_newest = CASE WHEN NOT $6 THEN chain_newest END,
            chain_pages = CASE WHEN $6 THEN 0 ELSE chain_pages END
        WHERE source = $1";
    let retry_after =
        if let crate::Error::Busy { retry_after, .. } = failure { Some(retry_after.as_secs_f64()) } else { None };
    client
        .execute_typed(
            FAIL,
            &[
                (&source, Type::TEXT),
                (&ms(ended.took), Type::INT8),
                (&Json(ended.tally.counts()), Type::JSONB),
                (&failure.to_string(), Type::TEXT),
                (&retry_after, Type::FLOAT8),
                (&failure.ends_chain(), Type::BOOL),
                (&ended.ends_by, Type::TIMESTAMPTZ),
            ],
        )
        .await?;
    count_failure(client).await
}

async fn count_failure(client: &Client) -> Result<(), Error> {
    const COUNT_FAILURE: &str = "SELECT sluice.count_ingest(ARRAY[$1], ARRAY[1::bigint])";
    client.execute_typed(COUNT_FAILURE, &[(&database::ingest::ROUNDS_FAILED, Type::TEXT)]).await?;
    Ok(())
}

pub(crate) fn ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

impl Tally {
    fn counts(&self) -> serde_json::Value {
        json!({
            "fetched": self.fetched, "synced": self.synced, "outdated": self.outdated, "duplicate": self.duplicate,
            "rejected": self.rejected(),
        })
    }
}
