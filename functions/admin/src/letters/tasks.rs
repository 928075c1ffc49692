//! Redrives of many letters. A task's progress is in the database, so it outlives the invocation that began it: the next
//! minute's goes on, or whoever asks for it.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use database::letters;
use lambda_http::request::RequestContext;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_postgres::Client;
use tracing::warn;
use utoipa::ToSchema;

use crate::access::Caller;
use crate::extract::Body;
use crate::letters::dead_letters::PASS_HIDES_FOR;
use crate::letters::direct;
use crate::letters::lease::Lease;
use crate::letters::pass::Pass;
use crate::letters::work::{Selection, go_on, running};
use crate::problem::Problem;
use crate::services::{Admin, Queues};

/// How long a request works on a task before it answers.
const REQUEST_TIME: Duration = Duration::from_secs(20);
/// And the minute's own invocation, which has 60 s, and at its end has to finish what it has begun, and to release.
const TICK_TIME: Duration = Duration::from_secs(40);

/// What would be redriven.
#[derive(Debug, Serialize, ToSchema)]
pub struct DryRun {
    /// true
    dry_run: bool,
    /// Letters that are meant.
    matched: usize,
    /// There are letters that were not looked at.
    is_sample: bool,
}

/// A redrive of many.
#[derive(Debug, Serialize, ToSchema)]
pub struct Task {
    /// By which it is asked for.
    task: String,
    state: TaskState,
    /// Letters that there were when it began, of the target that is meant or of all.
    total: i64,
    /// Redriven by it.
    redriven: i64,
    /// Found to be redriven before.
    already_redriven: i64,
    /// In UTC.
    started_at: String,
    /// In UTC.
    updated_at: String,
    /// Who began it.
    by: String,
    /// What stopped it for now, and is tried again; or, when it is done, why some letters may be left.
    error: Option<String>,
}

/// Whether there is more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    Running,
    Done,
    Cancelled,
}

/// Either of the two answers.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Answer {
    /// To a dry run.
    DryRun(DryRun),
    /// To anything else.
    Task(Task),
}

impl From<letters::Task> for Task {
    fn from(task: letters::Task) -> Self {
        Self {
            task: task.id,
            state: match task.state.as_str() {
                "running" => TaskState::Running,
                "cancelled" => TaskState::Cancelled,
                _ => TaskState::Done, // the table's CHECK knows no fourth
            },
            total: task.total,
            redriven: task.redriven,
            already_redriven: task.already_redriven,
            started_at: task.started_at,
            updated_at: task.updated_at,
            by: task.actor,
            error: task.error,
        }
    }
}

/// Redrives all letters that there are now, or a selection, each for its target alone.
///
/// Works for up to 20 s; what is left is gone on with by the minute, or at once by a POST to the task. Letters that fail
/// again are not redriven again.
#[utoipa::path(post, path = "/api/dlq/redrive", request_body = Selection, tag = "dead letters",
    responses((status = OK, body = Answer, description = "all is done, or it was a dry run"),
        (status = ACCEPTED, body = Answer, description = "some is left"), (status = UNPROCESSABLE_ENTITY, body = Problem)))]
pub async fn begin(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Body(selection): Body<Selection>,
) -> Result<(StatusCode, Json<Answer>), Problem> {
    let until = Instant::now() + REQUEST_TIME;
    let database = admin.database().await?;
    if selection.dry_run {
        let dry_run = dry_run(&admin, &database, &selection, until).await?;
        return Ok((StatusCode::OK, Json(Answer::DryRun(dry_run))));
    }
    let mut total = 0;
    if let Some(search) = selection.direct(None) {
        total += direct::depth(&database, search.target).await?;
    }
    if let Some(queues) = queues_of(&admin, &selection).await {
        total += queues.letters.depth().await?.all();
    }
    let id = letters::begin_task(&database, caller.as_actor(), &json!(selection), total).await?;
    go_on_until(&admin, &database, id, until).await
}

/// How far a task is.
#[utoipa::path(get, path = "/api/dlq/redrive/{task}", params(("task" = String, Path)), tag = "dead letters",
    responses((status = OK, body = Task), (status = NOT_FOUND, body = Problem)))]
pub async fn progress(State(admin): State<Admin>, Path(id): Path<String>) -> Result<Json<Task>, Problem> {
    let id = id.parse().map_err(|_| unknown(&id))?;
    Ok(Json(find(&*admin.database().await?, id).await?))
}

/// Goes on with a task for up to 20 s.
#[utoipa::path(post, path = "/api/dlq/redrive/{task}", params(("task" = String, Path)), tag = "dead letters",
    responses((status = OK, body = Answer, description = "it is done"), (status = ACCEPTED, body = Answer), (status = NOT_FOUND, body = Problem)))]
pub async fn go_on_now(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<Answer>), Problem> {
    let until = Instant::now() + REQUEST_TIME;
    let number = id.parse().map_err(|_| unknown(&id))?;
    let database = admin.database().await?;
    find(&database, number).await?;
    letters::note_task_gone_on(&database, caller.as_actor(), number).await?;
    go_on_until(&admin, &database, number, until).await
}

/// Ends a task that is running: what is left stays where it is. What is in its hands, ten letters of the queue or a thousand
/// of direct targets, is still redriven.
#[utoipa::path(delete, path = "/api/dlq/redrive/{task}", params(("task" = String, Path)), tag = "dead letters",
    responses((status = OK, body = Task, description = "it is cancelled"), (status = NOT_FOUND, body = Problem),
        (status = CONFLICT, body = Problem, description = "it is done")))]
pub async fn cancel(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Task>, Problem> {
    let number: i64 = id.parse().map_err(|_| unknown(&id))?;
    let database = admin.database().await?;
    letters::cancel_task(&database, caller.as_actor(), number).await?;
    let task = find(&database, number).await?;
    if task.state == TaskState::Done {
        return Err(Problem::conflict(format!("the redrive {id} is done")));
    }
    Ok(Json(task))
}

async fn go_on_until(
    admin: &Admin,
    database: &Client,
    id: i64,
    until: Instant,
) -> Result<(StatusCode, Json<Answer>), Problem> {
    for stored in running(database, Some(id)).await? {
        go_on(admin, database, &stored, until).await?;
    }
    answer(database, id).await
}

/// The minute's own invocation: goes on with whatever is left.
pub async fn tick(
    State(admin): State<Admin>,
    context: Extension<RequestContext>,
    event: String,
) -> Result<Json<Value>, Problem> {
    // A request through the URL has a context of its own, and never gets here.
    let is_schedule = matches!(*context, RequestContext::PassThrough)
        && serde_json::from_str::<Value>(&event).is_ok_and(|event| event["source"] == "aws.events");
    if !is_schedule {
        return Err(Problem::not_found("there is nothing of this name"));
    }
    Ok(Json(json!({"tasks": go_on_with_all(&admin).await?})))
}

/// Goes on with each redrive that runs, for a part of a minute: how many there are.
pub async fn go_on_with_all(admin: &Admin) -> Result<usize, Problem> {
    let until = Instant::now() + TICK_TIME;
    let database = admin.database().await?;
    let tasks = running(&database, None).await?;
    for stored in &tasks {
        if let Err(problem) = go_on(admin, &database, stored, until).await {
            warn!(task = stored.id, error = problem.detail(), "a redrive could not be gone on with");
        }
    }
    Ok(tasks.len())
}

/// Of a selection that may mean letters of the queue, if there is one.
async fn queues_of<'a>(admin: &'a Admin, selection: &Selection) -> Option<&'a Queues> {
    admin.services().await.queues.as_ref().filter(|_| selection.is_of_queue())
}

async fn find(database: &Client, id: i64) -> Result<Task, Problem> {
    let task = letters::find_task(database, id).await?;
    Ok(task.ok_or_else(|| unknown(&id.to_string()))?.into())
}

fn unknown(id: &str) -> Problem {
    Problem::not_found(format!("there is no redrive {id}"))
}

async fn answer(database: &Client, id: i64) -> Result<(StatusCode, Json<Answer>), Problem> {
    let task = find(database, id).await?;
    let status = if task.state == TaskState::Running { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, Json(Answer::Task(task))))
}

async fn dry_run(admin: &Admin, database: &Client, selection: &Selection, until: Instant) -> Result<DryRun, Problem> {
    let (mut matched, mut is_complete) = match selection.direct(None) {
        Some(search) => direct::count(database, &search, until).await?,
        None => (0, true),
    };
    if let Some(queues) = queues_of(admin, selection).await {
        let lease = Lease::wait(database).await?;
        let mut pass = Pass::new(&queues.letters, PASS_HIDES_FOR, until);
        let counted = count(&mut pass, selection).await;
        let has_seen_all = pass.has_seen_all().await;
        pass.end().await;
        lease.release(database).await;
        matched += counted?;
        is_complete &= has_seen_all?;
    }
    Ok(DryRun { dry_run: true, matched, is_sample: !is_complete })
}

async fn count(pass: &mut Pass<'_>, selection: &Selection) -> Result<usize, queue::Error> {
    let mut matched = 0;
    while let Some(letters) = pass.next().await? {
        for letter in &letters {
            pass.hold(letter);
            matched += usize::from(selection.has(letter));
        }
    }
    Ok(matched)
}
