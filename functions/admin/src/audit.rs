//! What operators did.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::Client;
use utoipa::{IntoParams, ToSchema};

use crate::access::Caller;
use crate::extract::Params;
use crate::newest;
use crate::problem::Problem;
use crate::services::Admin;

/// Notes what was done to SQS, or in the transaction that is open. All else is noted in the statement that does it.
pub async fn note(
    database: &Client,
    caller: &Caller,
    action: &str,
    subject: &str,
    result: &str,
    detail: &Value,
) -> Result<(), tokio_postgres::Error> {
    let statement = "SELECT sluice.audit($1, $2, $3, $4, $5, $6)";
    let parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
        &[&caller.actor, &caller.source_ip, &action, &subject, &result, detail];
    database.execute(statement, parameters).await.map(drop)
}

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
    /// redrive, return, redrive_all, discard, pause, resume, ingest, add_user, update_user
    action: String,
    /// What it was done to: a message id, a task, a subscription, a source, a key.
    subject: String,
    /// What came of it.
    result: String,
    /// More about it. Null: there is none, or it is too long to be listed.
    #[schema(value_type = Option<Object>)]
    detail: Option<Value>,
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
    let query = "SELECT id, sluice.rfc3339(at), left(actor, 1000), left(source_ip, 100), left(action, 100), left(subject, 1000),
             left(result, 1000), CASE WHEN octet_length(detail::text) <= 131072 THEN detail END
         FROM sluice.audit
         WHERE id < coalesce($1, 9223372036854775807) ORDER BY id DESC LIMIT $2";
    let rows = admin.database().await?.query(query, &[&which.before, &limit]).await?;
    let entries: Vec<Entry> = rows
        .iter()
        .map(|row| Entry {
            id: row.get(0),
            at: row.get(1),
            actor: row.get(2),
            source_ip: row.get(3),
            action: row.get(4),
            subject: row.get(5),
            result: row.get(6),
            detail: row.get(7),
        })
        .collect();
    let (entries, next_before) = newest::page(entries, limit, |entry| entry.id);
    Ok(Json(Audit { entries, next_before }))
}
