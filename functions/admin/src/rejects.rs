//! Profiles that the ingest could not store.

use axum::extract::State;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use tokio_postgres::types::ToSql;
use utoipa::{IntoParams, ToSchema};

use crate::access::Caller;
use crate::extract::Params;
use crate::newest;
use crate::problem::Problem;
use crate::services::Admin;

/// The most that is listed of one payload.
const PAYLOAD_BYTES: i32 = 8 << 10;

/// Which rejects.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Which {
    /// At most so many; 100 unless told, 500 at most.
    limit: Option<i64>,
    /// Only those before this id.
    before: Option<i64>,
    /// Only those with this reason.
    reason: Option<String>,
    /// true: only those whose profile was not stored since; false: only the others.
    open: Option<bool>,
}

/// A profile that is not in the table.
#[derive(Debug, Serialize, ToSchema)]
pub struct Reject {
    id: i64,
    /// Null: it has none that is valid.
    profile_id: Option<String>,
    /// The profile's own. Null: it has none that is valid.
    last_updated_at: Option<String>,
    /// What is wrong, in one word: a field, `future`, `not_an_object`, `too_large`, `email_taken`, `mobile_taken`.
    reason: String,
    /// The same in a sentence.
    message: String,
    /// The profile as it came. Null: too long to be listed, which its length tells; or the caller is no operator.
    payload: Option<String>,
    payload_bytes: i32,
    /// How often the source gave it.
    times: i32,
    first_at: String,
    last_at: String,
    /// When a profile of this id was stored that is not older.
    resolved_at: Option<String>,
}

/// Rejects, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct Rejects {
    rejects: Vec<Reject>,
    /// Ask with this `before` for older ones; null: there are none.
    next_before: Option<i64>,
}

/// Profiles that the ingest rejected, newest first. They are kept for 30 days.
#[utoipa::path(get, path = "/api/ingest/rejects", operation_id = "list_rejects", params(Which), tag = "ingest",
    responses((status = OK, body = Rejects), (status = BAD_REQUEST, body = Problem)))]
pub async fn list(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Params(which): Params<Which>,
) -> Result<Json<Rejects>, Problem> {
    let limit = newest::limit(which.limit);
    let query = "SELECT id, profile_id::text, sluice.rfc3339(last_updated_at), left(reason, 100), left(message, 2000),
             CASE WHEN $6 AND octet_length(payload::text) <= $1 THEN payload::text END, octet_length(payload::text), times,
             sluice.rfc3339(first_at), sluice.rfc3339(last_at), sluice.rfc3339(resolved_at)
         FROM sluice.ingest_rejects
         WHERE id < coalesce($2, 9223372036854775807) AND reason = coalesce($3, reason)
           AND (resolved_at IS NULL) = coalesce($4, resolved_at IS NULL)
         ORDER BY id DESC LIMIT $5";
    let sees = caller.role.sees_contents();
    let parameters: &[&(dyn ToSql + Sync)] =
        &[&PAYLOAD_BYTES, &which.before, &which.reason, &which.open, &limit, &sees];
    let rows = admin.database().await?.query(query, parameters).await?;
    let rejects: Vec<Reject> = rows
        .iter()
        .map(|row| Reject {
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
        })
        .collect();
    let (rejects, next_before) = newest::page(rejects, limit, |reject| reject.id);
    Ok(Json(Rejects { rejects, next_before }))
}
