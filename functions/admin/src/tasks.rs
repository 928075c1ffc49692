//! Redrives of many letters. A task's progress is in the database, so it outlives the invocation that began it: the next
//! minute's goes on, or whoever asks for it.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use lambda_http::request::RequestContext;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_postgres::{Client, Row};
use tracing::{error, info, warn};
use utoipa::ToSchema;

use crate::access::{Caller, Role};
use crate::audit;
use crate::dead_letters::PASS_HIDES_FOR;
use crate::extract::Body;
use crate::lease::{Lease, PATIENCE};
use crate::letters::{Letter, Letters, Pass};
use crate::problem::Problem;
use crate::redrive::{Fate, Redrive};
use crate::services::Admin;

/// How long a request works on a task before it answers.
const REQUEST_TIME: Duration = Duration::from_secs(20);
/// And the minute's own invocation, which has 60 s.
const TICK_TIME: Duration = Duration::from_secs(45);
/// A pass over a long queue: what it holds stays hidden until its end.
const HIDDEN_FOR: Duration = Duration::from_secs(60);

/// Which letters; all, if nothing is said.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// Of this stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stream: Option<String>,
    /// With this word for the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error_type: Option<String>,
    /// Of this document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// These.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message_ids: Option<Vec<String>>,
    /// Only tells how many would be redriven.
    #[serde(default, skip_serializing)]
    dry_run: bool,
}

impl Selection {
    fn has(&self, letter: &Letter) -> bool {
        letter.matches(self.stream.as_deref(), self.error_type.as_deref())
            && (self.key.is_none() || letter.key() == self.key.as_deref())
            && self.message_ids.as_ref().is_none_or(|ids| ids.contains(&letter.message_id))
    }
}

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
    /// running or done
    state: String,
    /// Letters in the queue when it began.
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
    /// What stopped it for now; it is tried again.
    error: Option<String>,
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

/// A task as it is stored.
struct Stored {
    id: i64,
    selection: Selection,
    started_ms: i64,
    caller: Caller,
}

const COLUMNS: &str = "id::text, state, total, redriven, already_redriven, sluice.rfc3339(started_at),
    sluice.rfc3339(updated_at), actor, error";

fn task(row: &Row) -> Task {
    Task {
        task: row.get(0),
        state: row.get(1),
        total: row.get(2),
        redriven: row.get(3),
        already_redriven: row.get(4),
        started_at: row.get(5),
        updated_at: row.get(6),
        by: row.get(7),
        error: row.get(8),
    }
}

/// Redrives all letters that are in the queue now, or a selection.
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
    let letters = &admin.services().await.letters;
    if selection.dry_run {
        let dry_run = dry_run(&database, letters, &selection, until).await?;
        return Ok((StatusCode::OK, Json(Answer::DryRun(dry_run))));
    }
    let total = letters.depth().await?.all();
    let chosen = json!(selection);
    let statement =
        "INSERT INTO sluice.redrive_task (selection, actor, source_ip, total) VALUES ($1, $2, $3, $4) RETURNING id";
    let row = database.query_one(statement, &[&chosen, &caller.actor, &caller.source_ip, &total]).await?;
    let id: i64 = row.get(0);
    audit::note(&database, &caller, "redrive_all", &id.to_string(), "begun", &json!({"selection": chosen})).await?;
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
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<Answer>), Problem> {
    let until = Instant::now() + REQUEST_TIME;
    let number = id.parse().map_err(|_| unknown(&id))?;
    let database = admin.database().await?;
    find(&database, number).await?;
    go_on_until(&admin, &database, number, until).await
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
    let until = Instant::now() + TICK_TIME;
    let database = admin.database().await?;
    let tasks = running(&database, None).await?;
    for stored in &tasks {
        go_on(&admin, &database, stored, until).await?;
    }
    Ok(Json(json!({"tasks": tasks.len()})))
}

async fn running(database: &Client, id: Option<i64>) -> Result<Vec<Stored>, Problem> {
    let query = "SELECT id, selection, (extract(epoch FROM started_at) * 1000)::bigint, actor, source_ip
         FROM sluice.redrive_task WHERE state = 'running' AND id = coalesce($1, id) ORDER BY id";
    let rows = database.query(query, &[&id]).await?;
    let stored = |row: &Row| {
        let id: i64 = row.get(0);
        // One that a later version has written may say what this one does not know; it must never mean all.
        let selection = serde_json::from_value(row.get(1))
            .inspect_err(|error| error!(task = id, %error, "the selection of a redrive cannot be read"))
            .ok()?;
        let caller = Caller { actor: row.get(3), role: Role::Operator, source_ip: row.get(4) };
        Some(Stored { id, selection, started_ms: row.get(2), caller })
    };
    Ok(rows.iter().filter_map(stored).collect())
}

async fn find(database: &Client, id: i64) -> Result<Task, Problem> {
    let query = format!("SELECT {COLUMNS} FROM sluice.redrive_task WHERE id = $1");
    let row = database.query_opt(&query, &[&id]).await?;
    Ok(task(&row.ok_or_else(|| unknown(&id.to_string()))?))
}

fn unknown(id: &str) -> Problem {
    Problem::not_found(format!("there is no redrive {id}"))
}

async fn answer(database: &Client, id: i64) -> Result<(StatusCode, Json<Answer>), Problem> {
    let task = find(database, id).await?;
    let status = if task.state == "running" { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, Json(Answer::Task(task))))
}

async fn dry_run(
    database: &Client,
    letters: &Letters,
    selection: &Selection,
    until: Instant,
) -> Result<DryRun, Problem> {
    let lease = Lease::wait(database).await?;
    let mut pass = letters.pass(PASS_HIDES_FOR, until);
    let matched = count(&mut pass, selection).await;
    let is_complete = pass.has_seen_all().await;
    pass.end().await?;
    lease.release(database).await?;
    Ok(DryRun { dry_run: true, matched: matched?, is_sample: !is_complete? })
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

/// Works on a task until it is done or it is time to stop. What goes wrong is noted in the task: it is tried again.
async fn go_on(admin: &Admin, database: &Client, stored: &Stored, until: Instant) -> Result<(), Problem> {
    let Some(mut lease) = Lease::take(database, PATIENCE.min(until.saturating_duration_since(Instant::now()))).await?
    else {
        return Ok(());
    };
    let mut pass = admin.services().await.letters.pass(HIDDEN_FOR, until);
    let outcome = work(admin, database, stored, &mut lease, &mut pass).await;
    pass.end().await?;
    lease.release(database).await?;
    let (state, error) = match &outcome {
        Ok(true) => ("done", None),
        Ok(false) => ("running", None),
        Err(problem) => {
            warn!(task = stored.id, error = problem.detail(), "a redrive was stopped, and is tried again");
            ("running", Some(problem.detail()))
        }
    };
    let statement =
        "UPDATE sluice.redrive_task SET state = $2, error = $3, updated_at = clock_timestamp() WHERE id = $1";
    database.execute(statement, &[&stored.id, &state, &error]).await?;
    info!(task = stored.id, state, "redrive");
    Ok(())
}

/// Whether all is done.
async fn work(
    admin: &Admin,
    database: &Client,
    stored: &Stored,
    lease: &mut Lease,
    pass: &mut Pass<'_>,
) -> Result<bool, Problem> {
    let redrive = Redrive::new(admin.services().await, database, &stored.caller, Some(stored.id)).await?;
    let mut redriven = 0;
    while let Some(letters) = pass.next().await? {
        // One that came later has failed again.
        let (chosen, others): (Vec<Letter>, Vec<Letter>) =
            letters.into_iter().partition(|letter| letter.sent_ms <= stored.started_ms && stored.selection.has(letter));
        others.iter().for_each(|letter| pass.hold(letter));
        if !lease.renew(database).await? {
            chosen.iter().for_each(|letter| pass.hold(letter));
            return Ok(false);
        }
        match redrive.letters(&chosen).await {
            Ok(fates) => redriven += fates.iter().filter(|fate| **fate != Fate::AlreadyRedriven).count(),
            Err(problem) => {
                chosen.iter().for_each(|letter| pass.hold(letter));
                return Err(problem);
            }
        }
        if stored.selection.message_ids.as_ref().is_some_and(|ids| ids.len() <= redriven) {
            return Ok(true);
        }
    }
    Ok(pass.has_seen_all().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_word_in_a_selection_is_refused_and_never_means_all() {
        assert!(serde_json::from_str::<Selection>(r#"{"strem": "users"}"#).is_err());
        assert!(serde_json::from_str::<Selection>("{}").is_ok());
    }
}
