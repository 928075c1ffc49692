//! Is it alive, can it work, and how is everything that it needs?

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use database::subscriptions;
use queue::Queue as _;
use serde::Serialize;
use tokio::time::{Instant, timeout};
use tracing::warn;
use utoipa::ToSchema;

use crate::access::{Caller, Role};
use crate::config::VERSION;
use crate::letters::direct;
use crate::pipeline::streams::{self, Held};
use crate::services::{Admin, Queues};

/// A part that takes longer is not well.
const PART_TIMEOUT: Duration = Duration::from_secs(5);

/// Instead of a reason that is for operators.
const ELSEWHERE: &str = "an operator is told why";

/// live
#[derive(Debug, Serialize, ToSchema)]
pub struct Live {
    status: &'static str,
}

/// Whether all that is needed answers, and every stream keeps up.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ok,
    Degraded,
}

/// How everything is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    pub(crate) status: Status,
    version: &'static str,
    /// unknown: the deploy did not say.
    commit: String,
    pub(crate) parts: Vec<Part>,
    /// Streams that do not keep up, though the servers answer.
    streams: Vec<Held>,
    /// null: PostgreSQL or SQS did not say.
    pub(crate) pipeline: Option<Pipeline>,
}

impl Health {
    fn new(admin: &Admin, status: Status, parts: Vec<Part>, pipeline: Option<Pipeline>) -> Self {
        Self { status, version: VERSION, commit: admin.config.commit.clone(), parts, streams: vec![], pipeline }
    }
}

/// One of the servers.
#[derive(Debug, Serialize, ToSchema)]
pub struct Part {
    /// postgresql, elasticsearch or, where there is a queue, sqs
    pub(crate) name: &'static str,
    pub(crate) ok: bool,
    latency_ms: u64,
    /// What is wrong with it. It names hosts and logins: to others than operators it says where to look.
    reason: Option<String>,
}

impl Part {
    fn told_to(mut self, role: Role) -> Self {
        if let Some(reason) = self.reason.as_mut().filter(|_| !role.sees_contents()) {
            ELSEWHERE.clone_into(reason);
        }
        self
    }
}

/// How far behind the targets are.
#[derive(Debug, Serialize, ToSchema)]
pub struct Pipeline {
    /// Rows of the log that wait, of all subscriptions.
    pending_rows: i64,
    /// For how long the oldest change that has not arrived at one of its targets has been in the log, sent or not.
    pub(crate) lag_ms: i64,
    /// Messages in the queue. Null: Elasticsearch is a direct target.
    queue_depth: Option<i64>,
    /// Letters in the dead-letter queue, and those of direct targets.
    dead_letters: i64,
}

/// The function answers.
#[utoipa::path(get, path = "/live", tag = "health", responses((status = OK, body = Live)), security(()))]
pub async fn live() -> Json<Live> {
    Json(Live { status: "live" })
}

/// The function can do its work: PostgreSQL and SQS answer.
#[utoipa::path(get, path = "/ready", tag = "health",
    responses((status = OK, body = Live), (status = SERVICE_UNAVAILABLE, body = Health)))]
pub async fn ready(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Live>, (StatusCode, Json<Health>)> {
    let (postgresql, sqs) = tokio::join!(postgresql(&admin), sqs(&admin));
    let parts: Vec<Part> =
        [Some(postgresql), sqs].into_iter().flatten().map(|part| part.told_to(caller.role)).collect();
    if parts.iter().all(|part| part.ok) {
        return Ok(Json(Live { status: "ready" }));
    }
    Err((StatusCode::SERVICE_UNAVAILABLE, Json(Health::new(&admin, Status::Degraded, parts, None))))
}

/// Every part with its latency, the pipeline's lag, and the streams that do not keep up.
///
/// Degraded with 503, where a server does not answer; with 200, where only streams have a problem of their own.
#[utoipa::path(get, path = "/health", tag = "health",
    responses((status = OK, body = Health), (status = SERVICE_UNAVAILABLE, body = Health)))]
pub async fn health(State(admin): State<Admin>, Extension(caller): Extension<Caller>) -> (StatusCode, Json<Health>) {
    let (postgresql, sqs, elasticsearch) = tokio::join!(postgresql(&admin), sqs(&admin), elasticsearch(&admin));
    let do_tell = postgresql.ok && sqs.as_ref().is_none_or(|sqs| sqs.ok);
    let pipeline = async { if do_tell { timeout(PART_TIMEOUT, pipeline(&admin)).await.ok()?.ok() } else { None } };
    let (pipeline, streams) = tokio::join!(pipeline, held(&admin, caller.role));
    let parts = [Some(postgresql), sqs, Some(elasticsearch)].into_iter().flatten();
    let parts: Vec<Part> = parts.map(|part| part.told_to(caller.role)).collect();
    let do_answer = pipeline.is_some() && streams.is_some() && parts.iter().all(|part| part.ok);
    let streams = streams.unwrap_or_default();
    let status = if do_answer && streams.is_empty() { Status::Ok } else { Status::Degraded };
    let code = if do_answer { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(Health { streams, ..Health::new(&admin, status, parts, pipeline) }))
}

/// Streams that do not keep up. `None`: PostgreSQL does not say.
async fn held(admin: &Admin, role: Role) -> Option<Vec<Held>> {
    let held = timeout(PART_TIMEOUT, async { streams::held(&*admin.database().await.ok()?).await.ok() });
    let mut held = held.await.ok()??;
    if !role.sees_contents() {
        held.iter_mut().for_each(|it| ELSEWHERE.clone_into(&mut it.reason));
    }
    Some(held)
}

async fn postgresql(admin: &Admin) -> Part {
    part("postgresql", async {
        let database = admin.database().await.map_err(|failure| failure.to_string())?;
        database.batch_execute("SELECT").await.map_err(|failure| database::describe(&failure))
    })
    .await
}

/// Where there is one.
async fn sqs(admin: &Admin) -> Option<Part> {
    let Queues { queue, letters } = admin.services().await.queues.as_ref()?;
    let part = part("sqs", async {
        queue.depth().await.map_err(|failure| failure.to_string())?;
        letters.depth().await.map(drop).map_err(|failure| failure.to_string())
    });
    Some(part.await)
}

async fn elasticsearch(admin: &Admin) -> Part {
    part("elasticsearch", async { admin.services().await.search.probe().await.map_err(|failure| failure.to_string()) })
        .await
}

async fn part(name: &'static str, check: impl Future<Output = Result<(), String>>) -> Part {
    let started = Instant::now();
    let reason = match timeout(PART_TIMEOUT, check).await {
        Ok(outcome) => outcome.err(),
        Err(_) => Some(format!("no answer within {} s", PART_TIMEOUT.as_secs())),
    };
    if let Some(reason) = &reason {
        warn!(part = name, reason, "not healthy");
    }
    let latency_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Part { name, ok: reason.is_none(), latency_ms, reason }
}

async fn pipeline(admin: &Admin) -> Result<Pipeline, crate::problem::Problem> {
    let database = admin.database().await?;
    let subscriptions = subscriptions::list(&database).await?;
    let queues = admin.services().await.queues.as_ref();
    let (mut queue_depth, mut dead_letters) = (None, direct::depth(&database, None).await?);
    if let Some(Queues { queue, letters }) = queues {
        queue_depth = Some(queue.depth().await?);
        dead_letters += letters.depth().await?.all();
    }
    Ok(Pipeline {
        pending_rows: subscriptions.iter().map(|subscription| subscription.pending_rows).sum(),
        lag_ms: subscriptions.iter().map(|subscription| subscription.lag_ms).max().unwrap_or(0),
        queue_depth,
        dead_letters,
    })
}
