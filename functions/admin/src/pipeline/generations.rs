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

/// Lets the generation that is being built take over as soon as it can. The validator does it within a minute.
#[utoipa::path(post, path = "/api/streams/{name}/takeover", params(("name" = String, Path)), request_body = Takeover,
    operation_id = "approve_generation", tag = "streams",
    responses((status = ACCEPTED, body = Generations), (status = NOT_FOUND, body = Problem), (status = CONFLICT, body = Problem)))]
pub async fn take_over(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Body(Takeover { accept_dead_letters }): Body<Takeover>,
) -> Result<(StatusCode, Json<Generations>), Problem> {
    let database = admin.database().await?;
    let is_done = generations::approve(&database, &name, accept_dead_letters, caller.as_actor()).await?;
    answer(&database, &name, is_done, "no generation of it is being built").await
}

/// Goes back to the generation that was live before. The validator does it within a minute.
#[utoipa::path(post, path = "/api/streams/{name}/rollback", params(("name" = String, Path)), operation_id = "roll_generation_back",
    tag = "streams",
    responses((status = ACCEPTED, body = Generations), (status = NOT_FOUND, body = Problem), (status = CONFLICT, body = Problem)))]
pub async fn roll_back(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<(StatusCode, Json<Generations>), Problem> {
    let database = admin.database().await?;
    let is_done = generations::roll_back(&database, &name, caller.as_actor()).await?;
    answer(&database, &name, is_done, "no generation of it is kept").await
}

/// Gives up the generation that is being built, or else the ways back.
#[utoipa::path(post, path = "/api/streams/{name}/abort", params(("name" = String, Path)), operation_id = "abort_generation",
    tag = "streams",
    responses((status = ACCEPTED, body = Generations), (status = NOT_FOUND, body = Problem), (status = CONFLICT, body = Problem)))]
pub async fn abort(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<(StatusCode, Json<Generations>), Problem> {
    let database = admin.database().await?;
    let is_done = generations::abort(&database, &name, caller.as_actor()).await? > 0;
    answer(&database, &name, is_done, "it has no generation beside the live one").await
}

async fn answer(
    database: &Client,
    stream: &str,
    is_done: bool,
    otherwise: &str,
) -> Result<(StatusCode, Json<Generations>), Problem> {
    let generations = found(database, stream).await?;
    if !is_done {
        return Err(Problem::new(StatusCode::CONFLICT, format!("stream {stream}: {otherwise}")));
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
