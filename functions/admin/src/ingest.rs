//! The ingest: how far it has read its source, and a round at once.

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use database::ingest::{
    FETCHED, REJECTED_CONFLICT, REJECTED_INVALID, REJECTS_DROPPED, ROUNDS_FAILED, SKIPPED_DUPLICATE, SKIPPED_OUTDATED,
    SYNCED,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::Client;
use utoipa::ToSchema;

use crate::access::Caller;
use crate::problem::Problem;
use crate::services::Admin;
use crate::stats::Totals;

/// Beyond this a count would take too long for a page.
const COUNTED: i64 = 100_000;

/// What became of the profiles of one round.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct Round {
    fetched: i64,
    synced: i64,
    /// Older than the stored ones.
    outdated: i64,
    /// Stored already.
    duplicate: i64,
    rejected: i64,
}

/// A source, and how far it was read.
#[derive(Debug, Serialize, ToSchema)]
pub struct Position {
    /// The host and the path of its URL.
    source: String,
    /// What changed after this is asked for; null: everything.
    since: Option<String>,
    /// Pages that were read of a chain whose end is still to come; 0: there is none.
    chain_pages: i32,
    /// When the last round began.
    last_run_at: Option<String>,
    /// A round is under way, and has ended by then. If that is past, it was killed, and the next round counts it as failed.
    ends_by: Option<String>,
    last_success_at: Option<String>,
    last_duration_ms: Option<i64>,
    last_counts: Option<Round>,
    /// Why the last round failed that did.
    last_error: Option<String>,
    last_error_at: Option<String>,
    /// Rounds that failed in a row, up to now.
    failures: i32,
    /// The source asked to be left alone until then.
    not_before: Option<String>,
    /// An operator asked for a round, which has not begun yet.
    requested_at: Option<String>,
}

/// What became of all profiles ever.
#[derive(Debug, Serialize, ToSchema)]
pub struct Ever {
    fetched: i64,
    synced: i64,
    skipped_outdated: i64,
    skipped_duplicate: i64,
    rejected_invalid: i64,
    /// Their email or mobile belonged to another.
    rejected_conflict: i64,
    /// Rejects that had to make room for newer ones.
    rejects_dropped: i64,
    rounds_failed: i64,
}

/// The ingest.
#[derive(Debug, Serialize, ToSchema)]
pub struct Ingest {
    /// The source that was read last comes first. None: no round has begun yet.
    positions: Vec<Position>,
    totals: Ever,
    /// Rejects whose profile was not stored since; 100,000 means as many or more.
    open_rejects: i64,
}

/// A round that is to begin.
#[derive(Debug, Serialize, ToSchema)]
pub struct Requested {
    source: String,
    requested_at: String,
}

/// What was counted, ever.
pub async fn totals(database: &Client) -> Result<Totals, tokio_postgres::Error> {
    let mut totals = Totals::default();
    for row in database.query("SELECT measure, value FROM sluice.ingest_stats", &[]).await? {
        totals.insert(row.get(0), row.get(1));
    }
    Ok(totals)
}

/// Position, last round, counts and errors of the ingest.
#[utoipa::path(get, path = "/api/ingest", tag = "ingest", responses((status = OK, body = Ingest)))]
pub async fn status(State(admin): State<Admin>) -> Result<Json<Ingest>, Problem> {
    let database = admin.database().await?;
    let query = "SELECT source, sluice.rfc3339(since), chain_pages, sluice.rfc3339(last_run_at), sluice.rfc3339(last_success_at),
             last_duration_ms, last_counts, last_error, sluice.rfc3339(last_error_at), failures, sluice.rfc3339(not_before),
             sluice.rfc3339(requested_at), sluice.rfc3339(ends_by)
         FROM sluice.ingest_position ORDER BY last_run_at DESC NULLS LAST, source";
    let positions = database.query(query, &[]).await?.iter().map(position).collect();
    let totals = totals(&database).await?;
    let query =
        "SELECT count(*) FROM (SELECT FROM sluice.ingest_rejects WHERE resolved_at IS NULL LIMIT $1) AS counted";
    let open_rejects = database.query_one(query, &[&COUNTED]).await?.get(0);
    let totals = Ever {
        fetched: totals.get(FETCHED),
        synced: totals.get(SYNCED),
        skipped_outdated: totals.get(SKIPPED_OUTDATED),
        skipped_duplicate: totals.get(SKIPPED_DUPLICATE),
        rejected_invalid: totals.get(REJECTED_INVALID),
        rejected_conflict: totals.get(REJECTED_CONFLICT),
        rejects_dropped: totals.get(REJECTS_DROPPED),
        rounds_failed: totals.get(ROUNDS_FAILED),
    };
    Ok(Json(Ingest { positions, totals, open_rejects }))
}

fn position(row: &tokio_postgres::Row) -> Position {
    Position {
        source: row.get(0),
        since: row.get(1),
        chain_pages: row.get(2),
        last_run_at: row.get(3),
        last_success_at: row.get(4),
        last_duration_ms: row.get(5),
        last_counts: row.get::<_, Option<Value>>(6).and_then(|counts| serde_json::from_value(counts).ok()),
        last_error: row.get(7),
        last_error_at: row.get(8),
        failures: row.get(9),
        not_before: row.get(10),
        requested_at: row.get(11),
        ends_by: row.get(12),
    }
}

/// Asks for a round at once, of the source that was read last. An ingest that waits for its next round sees it within a
/// second; else the next invocation begins with it.
#[utoipa::path(post, path = "/api/ingest/run", tag = "ingest",
    responses((status = ACCEPTED, body = Requested), (status = CONFLICT, body = Problem)))]
pub async fn run(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
) -> Result<(StatusCode, Json<Requested>), Problem> {
    let database = admin.database().await?;
    let statement = "WITH requested AS (
             UPDATE sluice.ingest_position SET requested_at = clock_timestamp()
             WHERE source = (SELECT source FROM sluice.ingest_position ORDER BY last_run_at DESC NULLS LAST, source LIMIT 1)
             RETURNING source, requested_at)
         SELECT source, sluice.rfc3339(requested_at), sluice.audit($1, $2, 'ingest', source, 'requested', '{}') FROM requested";
    let Some(row) = database.query_opt(statement, &[&caller.actor, &caller.source_ip]).await? else {
        return Err(Problem::conflict(
            "no round has begun yet, so nobody would take the request; without SourceUrl or Demo there is no ingest",
        ));
    };
    let requested = Requested { source: row.get(0), requested_at: row.get(1) };
    Ok((StatusCode::ACCEPTED, Json(requested)))
}
