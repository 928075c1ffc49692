//! The readers of the log.

use axum::extract::{Path, State};
use axum::{Extension, Json};
use serde::Serialize;
use tokio_postgres::Client;
use utoipa::ToSchema;

use crate::access::Caller;
use crate::problem::Problem;
use crate::services::Admin;

/// A reader of the log, and how far it is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Subscription {
    name: String,
    paused: bool,
    /// Rows that wait for it.
    pub pending_rows: i64,
    /// For how long the oldest of them has.
    pub oldest_pending_ms: Option<i64>,
    /// What it has passed, as a snapshot of PostgreSQL.
    position: String,
    /// Of the interval after that, up to which row.
    after_id: i64,
}

/// All of them.
#[derive(Debug, Serialize, ToSchema)]
pub struct Subscriptions {
    subscriptions: Vec<Subscription>,
}

/// How far each of them is.
pub async fn all(database: &Client) -> Result<Vec<Subscription>, tokio_postgres::Error> {
    let query = "SELECT subscription, paused, pending_rows, (extract(epoch FROM oldest_pending_age) * 1000)::bigint,
             seen::text, after_id
         FROM sluice.status()";
    let rows = database.query(query, &[]).await?;
    let subscription = |row: &tokio_postgres::Row| Subscription {
        name: row.get(0),
        paused: row.get(1),
        pending_rows: row.get(2),
        oldest_pending_ms: row.get(3),
        position: row.get(4),
        after_id: row.get(5),
    };
    Ok(rows.iter().map(subscription).collect())
}

impl Subscription {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The readers of the log, with position, backlog and lag.
#[utoipa::path(get, path = "/api/subscriptions", operation_id = "list_subscriptions", tag = "subscriptions",
    responses((status = OK, body = Subscriptions)))]
pub async fn list(State(admin): State<Admin>) -> Result<Json<Subscriptions>, Problem> {
    Ok(Json(Subscriptions { subscriptions: all(&*admin.database().await?).await? }))
}

/// Stops draining; changes wait in the log.
#[utoipa::path(post, path = "/api/subscriptions/{name}/pause", params(("name" = String, Path)), tag = "subscriptions",
    responses((status = OK, body = Subscription), (status = NOT_FOUND, body = Problem)))]
pub async fn pause(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<Subscription>, Problem> {
    set(&admin, &caller, &name, "pause").await
}

/// Goes on.
#[utoipa::path(post, path = "/api/subscriptions/{name}/resume", params(("name" = String, Path)), tag = "subscriptions",
    responses((status = OK, body = Subscription), (status = NOT_FOUND, body = Problem)))]
pub async fn resume(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<Subscription>, Problem> {
    set(&admin, &caller, &name, "resume").await
}

async fn set(admin: &Admin, caller: &Caller, name: &str, action: &'static str) -> Result<Json<Subscription>, Problem> {
    let database = admin.database().await?;
    let statement = format!(
        "SELECT sluice.{action}(s.name), sluice.audit($2, $3, '{action}', s.name, 'done', '{{}}')
         FROM sluice.subscription AS s WHERE s.name = $1"
    );
    database.execute(&statement, &[&name, &caller.actor, &caller.source_ip]).await?;
    let now = all(&database).await?.into_iter().find(|subscription| subscription.name == name);
    now.map(Json).ok_or_else(|| Problem::not_found(format!("there is no subscription {name}")))
}
