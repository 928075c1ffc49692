//! The log, as far as it reaches back.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use database::outbox::{self, Search};
use serde::{Deserialize, Serialize};
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
    /// insert, update, delete, upsert or fan_out
    op: String,
    /// In UTC.
    created_at: String,
    /// For each subscription that reads it: whether it is past it.
    published: BTreeMap<String, bool>,
}

impl From<outbox::Row> for Row {
    fn from(row: outbox::Row) -> Self {
        let outbox::Row { id, stream, key, op, created_at, published } = row;
        Self { id, stream, key, op, created_at, published }
    }
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
    let is_filtered = which.stream.is_some() || which.key.is_some();
    let search = Search {
        before: which.before,
        stream: which.stream.as_deref(),
        key: which.key.as_deref(),
        looked_through: if is_filtered { LOOKED_THROUGH } else { limit },
        limit,
    };
    let found = outbox::find(&*admin.database().await?, &search).await?;
    let rows = found.rows.into_iter().map(Row::from).collect();
    let (rows, next_before) = newest::page(rows, limit, |row| row.id);
    let next_before = next_before.or(found.ended_at);
    Ok(Json(Outbox { rows, next_before }))
}
