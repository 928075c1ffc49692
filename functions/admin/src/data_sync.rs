//! Health and consistency in the shapes of an older API, for those who move from it. What it says is what `/health`, `/metrics` and
//! `/api/validation` say.

use std::collections::BTreeMap;
use std::time::SystemTime;

use aws_sdk_sqs::primitives::{DateTime, DateTimeFormat};
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use database::delivery::{self, DEAD_LETTERED, GONE, RETRIED, STALE, WRITTEN};
use database::validation::{self, Status};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::access::Caller;
use crate::extract::Params;
use crate::health;
use crate::metrics::stats::Totals;
use crate::problem::Problem;
use crate::services::Admin;
use crate::validation::classes;

/// Of the time before the request, so much is looked at.
const MINUTES: i32 = 5;
/// What is no fault: a dead letter says why, or there is no index yet.
const EXPLAINED: [&str; 2] = ["dead_lettered", "waiting"];

/// How it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    Healthy,
    /// A stream does not keep up, though the servers answer.
    Degraded,
    /// A server does not answer.
    Unhealthy,
}

/// How everything is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DataSyncHealth)]
pub struct Health {
    status: Condition,
    /// In UTC.
    timestamp: String,
    /// Each server, and whether it answers.
    services: BTreeMap<String, bool>,
    metrics: Rates,
}

/// How fast it is, and how well. Each is null where PostgreSQL does not say.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = DataSyncRates)]
#[serde(rename_all = "camelCase")]
pub struct Rates {
    /// For how many seconds the oldest change that has not arrived at one of its targets has been in the log.
    sync_lag: Option<f64>,
    /// Of the tries of the last five minutes, the share that failed: 0 to 1.
    error_rate: Option<f64>,
    /// Changes that came to their end in the last five minutes, for each second.
    throughput: Option<f64>,
}

/// Whether it can do its work.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DataSyncReady)]
pub struct Ready {
    ready: bool,
    message: &'static str,
}

/// Whether it runs.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DataSyncLive)]
pub struct Live {
    alive: bool,
    message: &'static str,
}

/// Of which tables.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Which {
    /// This stream alone.
    table: Option<String>,
}

/// What the last rounds of the validator found.
#[derive(Debug, Serialize, ToSchema)]
pub struct Consistency {
    /// In UTC.
    timestamp: String,
    /// Each stream was compared, and nothing differs but what is explained.
    consistent: bool,
    issues: Vec<Issue>,
}

/// Documents of a stream that differ in one way in one target.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Issue {
    table: String,
    target: String,
    /// A class, as `/api/validation` has it, or `not_compared`.
    kind: String,
    /// How many documents; 0 of a stream that was not compared.
    count: i64,
    /// A dead letter says why, or there is no index yet: by itself this makes nothing inconsistent.
    explained: bool,
    /// When the last round ended, in UTC. Null: none did.
    compared_at: Option<String>,
}

/// The servers, the lag, and the last five minutes.
#[utoipa::path(get, path = "/api/v1/data-sync/health", operation_id = "data_sync_health", tag = "data-sync",
    responses((status = OK, body = Health), (status = SERVICE_UNAVAILABLE, body = Health)))]
pub async fn health(State(admin): State<Admin>, caller: Extension<Caller>) -> (StatusCode, Json<Health>) {
    let (code, Json(health)) = health::health(State(admin.clone()), caller).await;
    let status = match health.status {
        _ if code != StatusCode::OK => Condition::Unhealthy,
        health::Status::Ok => Condition::Healthy,
        health::Status::Degraded => Condition::Degraded,
    };
    let services = health.parts.iter().map(|part| (part.name.to_owned(), part.ok)).collect();
    let lag_ms = health.pipeline.map(|pipeline| pipeline.lag_ms);
    let metrics = rates(&admin, lag_ms).await.unwrap_or_default();
    (code, Json(Health { status, timestamp: now(), services, metrics }))
}

/// PostgreSQL and the queue answer.
#[utoipa::path(get, path = "/api/v1/data-sync/ready", operation_id = "data_sync_ready", tag = "data-sync",
    responses((status = OK, body = Ready), (status = SERVICE_UNAVAILABLE, body = Ready)))]
pub async fn ready(admin: State<Admin>, caller: Extension<Caller>) -> (StatusCode, Json<Ready>) {
    match health::ready(admin, caller).await {
        Ok(_) => (StatusCode::OK, Json(Ready { ready: true, message: "ready" })),
        Err((code, _)) => (code, Json(Ready { ready: false, message: "a server does not answer; /ready says which" })),
    }
}

/// The process answers.
#[utoipa::path(get, path = "/api/v1/data-sync/live", operation_id = "data_sync_live", tag = "data-sync",
    responses((status = OK, body = Live)), security(()))]
pub async fn live() -> Json<Live> {
    Json(Live { alive: true, message: "alive" })
}

/// What the validator found when it last compared each stream with each of its targets. Nothing is compared for the answer.
#[utoipa::path(get, path = "/api/v1/data-sync/consistency", operation_id = "data_sync_consistency", params(Which), tag = "data-sync",
    responses((status = OK, body = Consistency), (status = NOT_FOUND, body = Problem)))]
pub async fn consistency(
    State(admin): State<Admin>,
    Params(which): Params<Which>,
) -> Result<Json<Consistency>, Problem> {
    let mut statuses = validation::list(&*admin.database().await?).await?;
    if let Some(table) = which.table {
        statuses.retain(|status| status.stream == table);
        if statuses.is_empty() {
            return Err(Problem::not_found(format!("there is no stream {table} that is compared with a target")));
        }
    }
    let issues: Vec<Issue> = statuses.iter().flat_map(issues).collect();
    Ok(Json(Consistency { timestamp: now(), consistent: issues.iter().all(|issue| issue.explained), issues }))
}

/// The same text as `/metrics`.
#[utoipa::path(get, path = "/api/v1/data-sync/metrics", operation_id = "data_sync_metrics", tag = "data-sync",
    responses((status = OK, body = String, content_type = "text/plain; version=0.0.4")))]
pub async fn metrics(admin: State<Admin>) -> Result<impl axum::response::IntoResponse, Problem> {
    crate::metrics::metrics(admin).await
}

async fn rates(admin: &Admin, lag_ms: Option<i64>) -> Result<Rates, Problem> {
    let spans = delivery::read_spans(&*admin.database().await?, MINUTES).await?;
    let (mut ended, mut failed, mut throughput) = (0, 0, 0.0);
    for span in spans {
        let added = Totals::of(span.last).since(&Totals::of(span.first));
        let sum = |measures: &[&str]| -> i64 { measures.iter().map(|measure| added.get(measure)).sum() };
        let ended_here = sum(&[WRITTEN, STALE, GONE]);
        ended += ended_here;
        failed += sum(&[RETRIED, DEAD_LETTERED]);
        throughput += as_f64(ended_here) / span.seconds.max(1.0);
    }
    Ok(Rates {
        sync_lag: lag_ms.map(|ms| as_f64(ms) / 1000.0),
        error_rate: Some(as_f64(failed) / as_f64((ended + failed).max(1))),
        throughput: Some(throughput),
    })
}

/// What is to be told of a stream in one target.
fn issues(status: &Status) -> Vec<Issue> {
    let issue = |kind: &str, count, explained| Issue {
        table: status.stream.clone(),
        target: status.subscription.clone(),
        kind: kind.to_owned(),
        count,
        explained,
        compared_at: status.verdict_at.clone(),
    };
    let mut found: BTreeMap<String, i64> = BTreeMap::new();
    for class in classes(status) {
        // A candidate may be under way, and what is repaired is over.
        if EXPLAINED.contains(&class.class.as_str())
            || ["confirmed", "repairing", "stuck"].contains(&class.state.as_str())
        {
            *found.entry(class.class).or_default() += class.count;
        }
    }
    let mut issues: Vec<Issue> =
        found.iter().map(|(kind, count)| issue(kind, *count, EXPLAINED.contains(&kind.as_str()))).collect();
    if !matches!(status.verdict.as_deref(), Some("equal" | "different")) {
        issues.push(issue("not_compared", 0, status.problem.as_deref().is_some_and(is_nothing_to_compare)));
    }
    issues
}

/// As the validator says it of a stream that is as it should be.
fn is_nothing_to_compare(problem: &str) -> bool {
    ["sluice.emit", "no index yet", "no table yet"].iter().any(|words| problem.contains(words))
}

fn now() -> String {
    DateTime::from(SystemTime::now()).fmt(DateTimeFormat::DateTime).unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "a rate is an estimate")]
fn as_f64(count: i64) -> f64 {
    count as f64
}
