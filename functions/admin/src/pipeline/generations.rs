//! Generations of a stream's index: which there are, and what becomes of them.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use database::generations::{self, Status};
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;
use utoipa::ToSchema;

use crate::access::Caller;
use crate::extract::Body;
use crate::problem::Problem;
use crate::services::Admin;

/// One index of a stream.
#[derive(Debug, Serialize, ToSchema)]
pub struct Generation {
    /// Counted from 1.
    number: i32,
    /// `live`, `building`, `kept` or `dropped`.
    state: String,
    index: String,
    /// Of one that is building: when it was begun; of one that is kept: since when.
    begun_at: Option<String>,
    /// Whether nothing is left to be read for it.
    is_filled: bool,
    /// Keys that were read to fill it so far.
    logged: i64,
    /// Its dead letters.
    letters: i64,
    /// Until when it is kept.
    keep_until: Option<String>,
    /// Why one that is building does not take over yet.
    waits: Option<String>,
    /// Whether it is time alone that it waits for.
    is_fine: bool,
}

/// The newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct Generations {
    generations: Vec<Generation>,
}

/// How a generation takes over.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Takeover {
    /// Without the documents that its index refuses, a thousand at most.
    #[serde(default)]
    accept_dead_letters: bool,
}

/// The generations of a stream's index.
#[utoipa::path(get, path = "/api/streams/{name}/generations", params(("name" = String, Path)), operation_id = "list_generations",
    tag = "streams", responses((status = OK, body = Generations), (status = NOT_FOUND, body = Problem)))]
pub async fn list(State(admin): State<Admin>, Path(name): Path<String>) -> Result<Json<Generations>, Problem> {
    found(&*admin.database().await?, &name).await.map(Json)
}

/// Lets a generation take over, goes back, or gives up. The validator does it within a minute.
#[utoipa::path(post, path = "/api/streams/{name}/{action}", params(("name" = String, Path), ("action" = String, Path, description = "takeover, rollback or abort")),
    request_body = Takeover, operation_id = "change_generation", tag = "streams",
    responses((status = ACCEPTED, body = Generations), (status = NOT_FOUND, body = Problem), (status = CONFLICT, body = Problem)))]
pub async fn change(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path((name, action)): Path<(String, String)>,
    Body(Takeover { accept_dead_letters }): Body<Takeover>,
) -> Result<(StatusCode, Json<Generations>), Problem> {
    let database = admin.database().await?;
    let actor = caller.as_actor();
    let is_done = match action.as_str() {
        "takeover" => generations::approve(&database, &name, accept_dead_letters, actor).await?,
        "rollback" => generations::roll_back(&database, &name, actor).await?,
        "abort" => generations::abort(&database, &name, actor).await? > 0,
        _ => return Err(Problem::not_found("of a stream there are takeover, rollback and abort")),
    };
    let generations = found(&database, &name).await?;
    if !is_done {
        let otherwise = "it has no generation of which that could become";
        return Err(Problem::new(StatusCode::CONFLICT, format!("stream {name}: {otherwise}")));
    }
    Ok((StatusCode::ACCEPTED, Json(generations)))
}

async fn found(database: &Client, stream: &str) -> Result<Generations, Problem> {
    let found = generations::list_status(database, Some(stream)).await?;
    if found.is_empty() {
        return Err(Problem::new(StatusCode::NOT_FOUND, format!("there is no stream {stream} with an index")));
    }
    let generation = |found: Status| {
        let Status { number, state, index, begun_at, is_filled, logged, letters, keep_until, waits, is_fine, .. } =
            found;
        Generation { number, state, index, begun_at, is_filled, logged, letters, keep_until, waits, is_fine }
    };
    Ok(Generations { generations: found.into_iter().map(generation).collect() })
}
