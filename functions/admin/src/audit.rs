//! What operators did.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::extract::Params;
use crate::newest;
use crate::problem::Problem;
use crate::services::Admin;

/// Which entries.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Which {
    /// At most so many; 100 unless told, 500 at most.
    limit: Option<i64>,
    /// Only those before this one.
    before: Option<i64>,
}

/// One mutation.
#[derive(Debug, Serialize, ToSchema)]
pub struct Entry {
    id: i64,
    /// When, in UTC.
    at: String,
    /// The token's role, or the ARN that signed.
    actor: String,
    /// From where.
    source_ip: Option<String>,
    /// redrive, return, redrive_all, discard, pause, resume, validate, repair, ingest, add_user, update_user
    action: String,
    /// What it was done to: a message id, a task, a subscription, a stream, a source, a key.
    subject: String,
    /// What came of it.
    result: String,
    /// More about it. Null: there is none, or it is too long to be listed.
    #[schema(value_type = Option<Object>)]
    detail: Option<Value>,
}

impl From<database::audit::Entry> for Entry {
    fn from(entry: database::audit::Entry) -> Self {
        let database::audit::Entry { id, at, actor, source_ip, action, subject, result, detail } = entry;
        Self { id, at, actor, source_ip, action, subject, result, detail }
    }
}

/// The audit, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct Audit {
    entries: Vec<Entry>,
    /// Ask with this `before` for older ones; null: there are none.
    next_before: Option<i64>,
}

/// What operators did, newest first.
#[utoipa::path(get, path = "/api/audit", operation_id = "list_audit", params(Which), tag = "audit",
    responses((status = OK, body = Audit), (status = BAD_REQUEST, body = Problem)))]
pub async fn list(State(admin): State<Admin>, Params(which): Params<Which>) -> Result<Json<Audit>, Problem> {
    let limit = newest::limit(which.limit);
    let entries = database::audit::list(&*admin.database().await?, which.before, limit).await?;
    let entries = entries.into_iter().map(Entry::from).collect();
    let (entries, next_before) = newest::page(entries, limit, |entry| entry.id);
    Ok(Json(Audit { entries, next_before }))
}
