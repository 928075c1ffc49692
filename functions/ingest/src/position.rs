//! How far the source was read: the statements on `sluice.ingest_position`.

use std::time::Duration;

use serde_json::json;
use time::OffsetDateTime;
use tokio_postgres::types::{Json, Type};
use tokio_postgres::{Client, Error};

use crate::round::Tally;

/// A source may commit a profile some time after the `last_updated_at` that it gave it, and so behind profiles that were
/// read already. What is read twice changes nothing.
const OVERLAP: Duration = Duration::from_secs(60);
/// Whatever a source asks for, it is looked at again after this time.
const LONGEST_BREAK: Duration = Duration::from_secs(3600);

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
}

/// Begins a round, if one is due: an operator asks for it, or so long ago the last one began, whoever's it was.
pub async fn claim(client: &Client, source: &str, interval: Duration) -> Result<Option<Position>, Error> {
    const CLAIM: &str = "
        INSERT INTO sluice.ingest_position AS p (source, last_run_at)
        VALUES ($1, clock_timestamp())
        ON CONFLICT (source) DO UPDATE
        SET last_run_at = excluded.last_run_at, requested_at = NULL
        WHERE p.requested_at IS NOT NULL
           OR coalesce(p.last_run_at + make_interval(secs => $2) <= excluded.last_run_at, true)
          AND coalesce(p.not_before <= excluded.last_run_at, true)
        RETURNING since, etag, next_url, chain_newest, chain_pages";
    let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
        [(&source, Type::TEXT), (&interval.as_secs_f64(), Type::FLOAT8)];
    let row = client.query_typed_opt(CLAIM, &parameters).await?;
    Ok(row.map(|row| Position {
        since: row.get(0),
        etag: row.get(1),
        next_url: row.get(2),
        chain_newest: row.get(3),
        chain_pages: row.get(4),
    }))
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
pub async fn succeed(client: &Client, source: &str, took: Duration, tally: &Tally) -> Result<(), Error> {
    const SUCCEED: &str = "
        UPDATE sluice.ingest_position
        SET last_success_at = clock_timestamp(), last_duration_ms = $2, last_counts = $3, failures = 0, not_before = NULL
        WHERE source = $1";
    let counts = Json(tally.counts());
    client.execute_typed(SUCCEED, &[(&source, Type::TEXT), (&ms(took), Type::INT8), (&counts, Type::JSONB)]).await?;
    Ok(())
}

/// The round has failed. What it stored stays; a chain that leads nowhere is given up, and begun anew.
pub async fn fail(
    client: &Client,
    source: &str,
    took: Duration,
    tally: &Tally,
    failure: &crate::Error,
) -> Result<(), Error> {
    const FAIL: &str = "
        UPDATE sluice.ingest_position
        SET last_error = $4, last_error_at = clock_timestamp(), last_duration_ms = $2, last_counts = $3, failures = failures + 1,
            not_before = clock_timestamp() + make_interval(secs => $5),
            next_url = CASE WHEN NOT $6 THEN next_url END,
            chain_newest = CASE WHEN NOT $6 THEN chain_newest END,
            chain_pages = CASE WHEN $6 THEN 0 ELSE chain_pages END
        WHERE source = $1";
    let counts = Json(tally.counts());
    let retry_after = if let crate::Error::Busy { retry_after, .. } = failure {
        Some((*retry_after).min(LONGEST_BREAK).as_secs_f64())
    } else {
        None
    };
    client
        .execute_typed(
            FAIL,
            &[
                (&source, Type::TEXT),
                (&ms(took), Type::INT8),
                (&counts, Type::JSONB),
                (&failure.to_string(), Type::TEXT),
                (&retry_after, Type::FLOAT8),
                (&failure.ends_chain(), Type::BOOL),
            ],
        )
        .await?;
    let failed = (vec![database::ingest::ROUNDS_FAILED], vec![1i64]);
    client
        .execute_typed(
            "SELECT sluice.count_ingest($1, $2)",
            &[(&failed.0, Type::TEXT_ARRAY), (&failed.1, Type::INT8_ARRAY)],
        )
        .await?;
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
