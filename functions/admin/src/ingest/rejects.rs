//! Items that the ingest could not store.

use axum::extract::State;
use axum::{Extension, Json};
use database::ingest::rejects::{self, Kept, Search};
use serde::{Deserialize, Serialize};
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
    /// Only those of this source.
    source: Option<String>,
    /// Only those with this reason.
    reason: Option<String>,
    /// true: only those whose item was not stored since; false: only the others.
    open: Option<bool>,
}

/// An item that is not in the table.
#[derive(Debug, Serialize, ToSchema)]
pub struct Reject {
    id: i64,
    source: String,
    /// Null: it has none that is valid.
    key: Option<String>,
    /// The item's own time. Null: it has none that is valid.
    newer: Option<String>,
    /// What is wrong, in one word: a column, one with `_taken`, `future`, `not_an_object`, `too_large`, `refused`.
    reason: String,
    /// The same in a sentence.
    message: String,
    /// The item as it came. Null: too long to be listed, which its length tells; or the caller is no operator.
    payload: Option<String>,
    payload_bytes: i32,
    /// How often the source gave it.
    times: i32,
    first_at: String,
    last_at: String,
    /// When an item of this key was stored that is not older.
    resolved_at: Option<String>,
}

impl From<Kept> for Reject {
    fn from(kept: Kept) -> Self {
        Self {
            id: kept.id,
            source: kept.source,
            key: kept.key,
            newer: kept.newer,
            reason: kept.reason,
            message: kept.message,
            payload: kept.payload,
            payload_bytes: kept.payload_bytes,
            times: kept.times,
            first_at: kept.first_at,
            last_at: kept.last_at,
            resolved_at: kept.resolved_at,
        }
    }
}

/// Rejects, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct Rejects {
    rejects: Vec<Reject>,
    /// Ask with this `before` for older ones; null: there are none.
    next_before: Option<i64>,
}

/// Items that the ingest rejected, newest first. They are kept for 30 days.
#[utoipa::path(get, path = "/api/ingest/rejects", operation_id = "list_rejects", params(Which), tag = "ingest",
    responses((status = OK, body = Rejects), (status = BAD_REQUEST, body = Problem)))]
pub async fn list(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Params(which): Params<Which>,
) -> Result<Json<Rejects>, Problem> {
    let limit = newest::limit(which.limit);
    let search = Search {
        source: which.source.as_deref(),
        before: which.before,
        reason: which.reason.as_deref(),
        is_open: which.open,
        limit,
        payload_bytes: caller.role.sees_contents().then_some(PAYLOAD_BYTES),
    };
    let rejects = rejects::list(&*admin.database().await?, &search).await?;
    let rejects = rejects.into_iter().map(Reject::from).collect();
    let (rejects, next_before) = newest::page(rejects, limit, |reject| reject.id);
    Ok(Json(Rejects { rejects, next_before }))
}
