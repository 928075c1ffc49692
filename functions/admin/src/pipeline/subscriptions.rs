//! The readers of the log.

use axum::extract::{Path, State};
use axum::{Extension, Json};
use database::subscriptions;
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
    pending_rows: i64,
    /// For how long the oldest of them has.
    oldest_pending_ms: Option<i64>,
    /// What it has passed, as a snapshot of PostgreSQL.
    position: String,
    /// Of the interval after that, up to which row.
    after_id: i64,
    /// What was sent and has not all landed: steps, of each stream one; 5,000 at most.
    flights: i64,
    /// The frontier: the first version of the oldest of them. null: all that was sent has landed.
    frontier: Option<i64>,
    /// For how long the oldest change in them has been in the log.
    oldest_flight_ms: Option<i64>,
    /// The first version of the newest step that was sent. null: none was.
    sent: Option<i64>,
    /// How long ago that was.
    sent_ms_ago: Option<i64>,
    /// For how long the oldest change that has not landed has been in the log, sent or not.
    lag_ms: i64,
}

/// All of them.
#[derive(Debug, Serialize, ToSchema)]
pub struct Subscriptions {
    subscriptions: Vec<Subscription>,
}

impl From<subscriptions::Subscription> for Subscription {
    fn from(found: subscriptions::Subscription) -> Self {
        let subscriptions::Subscription {
            name, is_paused, pending_rows, oldest_pending_ms, position, after_id, ..
        } = found;
        let subscriptions::Subscription { flights, frontier, oldest_flight_ms, sent, sent_ms_ago, lag_ms, .. } = found;
        Self {
            name,
            paused: is_paused,
            pending_rows,
            oldest_pending_ms,
            position,
            after_id,
            flights,
            frontier,
            oldest_flight_ms,
            sent,
            sent_ms_ago,
            lag_ms,
        }
    }
}

/// The readers of the log, with position, backlog, frontier and lag.
#[utoipa::path(get, path = "/api/subscriptions", operation_id = "list_subscriptions", tag = "subscriptions",
    responses((status = OK, body = Subscriptions)))]
pub async fn list(State(admin): State<Admin>) -> Result<Json<Subscriptions>, Problem> {
    let subscriptions = subscriptions::list(&*admin.database().await?).await?;
    Ok(Json(Subscriptions { subscriptions: subscriptions.into_iter().map(Subscription::from).collect() }))
}

/// Stops draining; changes wait in the log.
#[utoipa::path(post, path = "/api/subscriptions/{name}/pause", params(("name" = String, Path)), tag = "subscriptions",
    responses((status = OK, body = Subscription), (status = NOT_FOUND, body = Problem)))]
pub async fn pause(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<Subscription>, Problem> {
    let database = admin.database().await?;
    subscriptions::pause(&database, caller.as_actor(), &name).await?;
    find(&database, &name).await
}

/// Goes on.
#[utoipa::path(post, path = "/api/subscriptions/{name}/resume", params(("name" = String, Path)), tag = "subscriptions",
    responses((status = OK, body = Subscription), (status = NOT_FOUND, body = Problem)))]
pub async fn resume(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<Subscription>, Problem> {
    let database = admin.database().await?;
    subscriptions::resume(&database, caller.as_actor(), &name).await?;
    find(&database, &name).await
}

async fn find(database: &Client, name: &str) -> Result<Json<Subscription>, Problem> {
    let found = subscriptions::list(database).await?.into_iter().find(|subscription| subscription.name == name);
    let found = found.ok_or_else(|| Problem::not_found(format!("there is no subscription {name}")))?;
    Ok(Json(found.into()))
}
