//! The ingest: how far it has read its sources, and a round at once.

pub mod rejects;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use database::ingest::{
    self, FETCHED, REJECTED_CONFLICT, REJECTED_INVALID, REJECTS_DROPPED, ROUNDS_FAILED, SKIPPED_DUPLICATE,
    SKIPPED_OUTDATED, SYNCED, position,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::access::Caller;
use crate::extract::Params;
use crate::metrics::stats::Totals;
use crate::problem::Problem;
use crate::services::Admin;

/// Beyond this a count would take too long for a page.
const COUNTED: i64 = 100_000;

/// What became of the items of one round.
#[derive(Debug, Serialize, ToSchema)]
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
    /// As it was defined.
    source: String,
    /// The host and the path of its URL. Null: no round has begun yet.
    origin: Option<String>,
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

impl From<position::Status> for Position {
    fn from(status: position::Status) -> Self {
        let round = |counts: position::Counts| {
            let position::Counts { fetched, synced, outdated, duplicate, rejected } = counts;
            Round { fetched, synced, outdated, duplicate, rejected }
        };
        Self {
            source: status.source,
            origin: status.origin,
            since: status.since,
            chain_pages: status.chain_pages,
            last_run_at: status.last_run_at,
            ends_by: status.ends_by,
            last_success_at: status.last_success_at,
            last_duration_ms: status.last_duration_ms,
            last_counts: status.last_counts.map(round),
            last_error: status.last_error,
            last_error_at: status.last_error_at,
            failures: status.failures,
            not_before: status.not_before,
            requested_at: status.requested_at,
        }
    }
}

/// What became of all items ever.
#[derive(Debug, Serialize, ToSchema)]
pub struct Ever {
    fetched: i64,
    synced: i64,
    skipped_outdated: i64,
    skipped_duplicate: i64,
    rejected_invalid: i64,
    /// What they wanted belonged to another.
    rejected_conflict: i64,
    /// Rejects that had to make room for newer ones.
    rejects_dropped: i64,
    rounds_failed: i64,
}

/// The ingest.
#[derive(Debug, Serialize, ToSchema)]
pub struct Ingest {
    /// The source that was read last comes first. None: none is defined.
    positions: Vec<Position>,
    totals: Ever,
    /// Rejects whose item was not stored since; 100,000 means as many or more.
    open_rejects: i64,
}

/// A round that is to begin.
#[derive(Debug, Serialize, ToSchema)]
pub struct Requested {
    source: String,
    requested_at: String,
}

/// Position, last round, counts and errors of the ingest.
#[utoipa::path(get, path = "/api/ingest", tag = "ingest", responses((status = OK, body = Ingest)))]
pub async fn status(State(admin): State<Admin>) -> Result<Json<Ingest>, Problem> {
    let database = admin.database().await?;
    let positions = position::list(&database).await?.into_iter().map(Position::from).collect();
    let sources = ingest::read_totals(&database).await?.into_values().map(Totals::new);
    let totals = sources.fold(Totals::default(), |all, one| all.and(&one));
    let open_rejects = ingest::rejects::count_open(&database, COUNTED).await?;
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

/// Which source.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Of {
    /// Its name; the one that was read last unless told.
    source: Option<String>,
}

/// Asks for a round at once. An ingest that waits for its next round sees it within a
/// second; else the next invocation begins with it.
#[utoipa::path(post, path = "/api/ingest/run", params(Of), tag = "ingest",
    responses((status = ACCEPTED, body = Requested), (status = CONFLICT, body = Problem)))]
pub async fn run(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Params(of): Params<Of>,
) -> Result<(StatusCode, Json<Requested>), Problem> {
    let database = admin.database().await?;
    let Some(requested) = position::request_round(&database, caller.as_actor(), of.source.as_deref()).await? else {
        return Err(Problem::conflict("there is no such source: sluice.define_ingest makes one"));
    };
    let position::Requested { source, requested_at } = requested;
    let requested = Requested { source, requested_at };
    Ok((StatusCode::ACCEPTED, Json(requested)))
}
