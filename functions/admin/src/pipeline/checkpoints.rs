//! Points from which whatever changed since can be delivered again, and doing so.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use database::checkpoints;
use serde::{Deserialize, Serialize};
use tokio_postgres::error::SqlState;
use utoipa::ToSchema;

use crate::access::Caller;
use crate::extract::Body;
use crate::problem::Problem;
use crate::services::Admin;

/// Of one answer: more than a day's of three targets.
const MOST: i32 = 5000;

/// A point at which all that was committed had arrived at a target.
#[derive(Debug, Serialize, ToSchema)]
pub struct Checkpoint {
    /// The target's.
    subscription: String,
    /// Of one that was asked for. null: it is one of those that are made each minute.
    name: Option<String>,
    asked_at: String,
    /// Since when all has arrived. null: not all has.
    at: Option<String>,
    /// Streams that it leaves out, since they rested; a replay reads them anew.
    left_out: Vec<String>,
    /// Why nothing can be replayed from it. null: it can.
    problem: Option<String>,
}

/// The newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct Checkpoints {
    checkpoints: Vec<Checkpoint>,
}

/// What is asked for.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Name {
    /// A letter, then letters, digits, ., _ and -; 100 at most.
    name: String,
}

/// What is to be delivered again.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Since {
    /// A checkpoint's name, or a time, which means the last checkpoint before it.
    from: String,
    /// This stream; all, if none is named.
    #[serde(default)]
    stream: Option<String>,
    /// Only told what that would be.
    #[serde(default)]
    dry_run: bool,
}

/// A replay that has begun, or would.
#[derive(Debug, Serialize, ToSchema)]
pub struct Replay {
    /// When its checkpoint was reached.
    checkpoint_at: String,
    /// Rows of the log that are looked at; an estimate where they are many.
    log_rows: i64,
    /// Streams that the checkpoint leaves out.
    read_anew: Vec<String>,
    /// Nothing was begun.
    dry_run: bool,
}

/// The points from which something can be delivered again, the newest first.
#[utoipa::path(get, path = "/api/checkpoints", operation_id = "list_checkpoints", tag = "checkpoints",
    responses((status = OK, body = Checkpoints)))]
pub async fn list(State(admin): State<Admin>) -> Result<Json<Checkpoints>, Problem> {
    let found = checkpoints::list(&*admin.database().await?, MOST).await?;
    let checkpoint = |found: checkpoints::Checkpoint| {
        let checkpoints::Checkpoint { subscription, name, asked_at, at, left_out, problem } = found;
        Checkpoint { subscription, name, asked_at, at, left_out, problem }
    };
    Ok(Json(Checkpoints { checkpoints: found.into_iter().map(checkpoint).collect() }))
}

/// Asks for a checkpoint of each target by a name: it is reached when all has arrived that is committed now.
#[utoipa::path(post, path = "/api/checkpoints", operation_id = "create_checkpoint", request_body = Name, tag = "checkpoints",
    responses((status = ACCEPTED, body = Name), (status = BAD_REQUEST, body = Problem), (status = CONFLICT, body = Problem)))]
pub async fn create(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Body(asked): Body<Name>,
) -> Result<(StatusCode, Json<Name>), Problem> {
    checkpoints::create(&*admin.database().await?, caller.as_actor(), &asked.name).await.map_err(refused)?;
    Ok((StatusCode::ACCEPTED, Json(asked)))
}

/// Delivers to this target again whatever changed since a checkpoint, as it is now.
#[utoipa::path(post, path = "/api/subscriptions/{name}/replay", params(("name" = String, Path)), request_body = Since, tag = "checkpoints",
    responses((status = ACCEPTED, body = Replay), (status = NOT_FOUND, body = Problem),
        (status = CONFLICT, body = Problem, description = "it would not be whole")))]
pub async fn replay(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Body(Since { from, stream, dry_run }): Body<Since>,
) -> Result<(StatusCode, Json<Replay>), Problem> {
    let database = admin.database().await?;
    let begun = checkpoints::replay(&database, caller.as_actor(), &name, &from, stream.as_deref(), dry_run).await;
    let checkpoints::Replay { checkpoint_at, log_rows, read_anew } = begun.map_err(refused)?;
    Ok((StatusCode::ACCEPTED, Json(Replay { checkpoint_at, log_rows, read_anew, dry_run })))
}

/// The database's own words, which are about checkpoints.
fn refused(failure: tokio_postgres::Error) -> Problem {
    let Some(error) = failure.as_db_error() else { return failure.into() };
    let status = match *error.code() {
        SqlState::UNDEFINED_OBJECT => StatusCode::NOT_FOUND,
        SqlState::INVALID_PARAMETER_VALUE => StatusCode::BAD_REQUEST,
        SqlState::DUPLICATE_OBJECT | SqlState::NO_DATA_FOUND | SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE => {
            StatusCode::CONFLICT
        }
        _ => return failure.into(),
    };
    let hint = error.hint().map(|hint| format!(". {hint}")).unwrap_or_default();
    Problem::new(status, format!("{}{hint}", error.message()))
}
