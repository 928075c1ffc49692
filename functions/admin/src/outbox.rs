//! The log, as far as it reaches back.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use tokio_postgres::types::ToSql;
use utoipa::{IntoParams, ToSchema};

use crate::extract::Params;
use crate::newest;
use crate::problem::Problem;
use crate::services::Admin;

/// Rows that one answer looks through for those that are meant: the log has no index by key, which its writers would
/// have to pay for.
const LOOKED_THROUGH: i64 = 50_000;

/// Which rows.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Which {
    /// At most so many; 100 unless told, 500 at most.
    limit: Option<i64>,
    /// Only those before this id.
    before: Option<i64>,
    /// Only of this stream.
    stream: Option<String>,
    /// Only of this document.
    key: Option<String>,
}

/// A row of the log.
#[derive(Debug, Serialize, ToSchema)]
pub struct Row {
    id: i64,
    stream: String,
    /// The document's key as text, 1,000 characters at most; null for a fan_out, whose keys are still to be found.
    key: Option<String>,
    /// upsert, delete or fan_out
    op: String,
    /// In UTC.
    created_at: String,
    /// For each subscription that reads it: whether it is past it.
    published: BTreeMap<String, bool>,
}

/// Rows of the log, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct Outbox {
    rows: Vec<Row>,
    /// Ask with this `before` for older ones, of which there may be some even where this answer has none; null: it ends.
    next_before: Option<i64>,
}

/// The log, newest first.
#[utoipa::path(get, path = "/api/outbox", operation_id = "list_outbox", params(Which), tag = "log",
    responses((status = OK, body = Outbox), (status = BAD_REQUEST, body = Problem)))]
pub async fn list(State(admin): State<Admin>, Params(which): Params<Which>) -> Result<Json<Outbox>, Problem> {
    let limit = newest::limit(which.limit);
    let query = "WITH looked AS MATERIALIZED (
             SELECT id, xid, stream, key, op, created_at FROM sluice.outbox
             WHERE id < coalesce($1, 9223372036854775807) ORDER BY id DESC LIMIT $2),
         found AS (
             SELECT * FROM looked
             WHERE stream = coalesce($3, stream) AND ($4::text IS NULL OR key = $4) ORDER BY id DESC LIMIT $5)
         SELECT f.id, left(f.stream, 1000), left(f.key, 1000), f.op, sluice.rfc3339(f.created_at), (
                 SELECT jsonb_object_agg(s.name, pg_visible_in_snapshot(f.xid, s.seen)
                     OR coalesce(pg_visible_in_snapshot(f.xid, s.target) AND f.id <= s.after_id, false))
                 FROM sluice.subscription AS s WHERE (s.name = 'fan_out') = (f.op = 'fan_out')),
             looked_through.lowest, looked_through.count
         FROM (SELECT min(id) AS lowest, count(*) FROM looked) AS looked_through
         LEFT JOIN found AS f ON true ORDER BY f.id DESC";
    let is_filtered = which.stream.is_some() || which.key.is_some();
    let looked_through = if is_filtered { LOOKED_THROUGH } else { limit };
    let parameters: &[&(dyn ToSql + Sync)] = &[&which.before, &looked_through, &which.stream, &which.key, &limit];
    let found = admin.database().await?.query(query, parameters).await?;
    let rows: Vec<Row> = found
        .iter()
        .filter_map(|row| {
            Some(Row {
                id: row.get::<_, Option<i64>>(0)?,
                stream: row.get(1),
                key: row.get(2),
                op: row.get(3),
                created_at: row.get(4),
                published: serde_json::from_value(row.get(5)).unwrap_or_default(),
            })
        })
        .collect();
    let (rows, next_before) = newest::page(rows, limit, |row| row.id);
    let next_before = match next_before {
        Some(last) => Some(last),
        None => found.first().filter(|row| row.get::<_, i64>(7) == looked_through).and_then(|row| row.get(6)),
    };
    Ok(Json(Outbox { rows, next_before }))
}
