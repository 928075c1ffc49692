//! Validation: how far each stream is compared with what its targets have, and what differs; it is asked for, and repaired.
//!
//! The work is the validator's. Here it is asked for, and its results are shown; both sides of a document that differs are read
//! when somebody looks at it ([`differences`], [`documents`]).

pub mod differences;
pub mod documents;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use database::subscriptions::ELASTICSEARCH;
use database::validation::{self, Status};
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use utoipa::ToSchema;

use crate::access::{Caller, Role};
use crate::extract::Body;
use crate::problem::Problem;
use crate::services::Admin;

/// Instead of a problem that is for operators.
const ELSEWHERE: &str = "an operator is told why";

/// Documents that differ in one way, and are at one point.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Class {
    /// missing, stale, extra, `dead_lettered`, unreadable, `version_ahead`, untracked; or waiting, which are changes that wait for
    /// an index, or a table.
    pub class: String,
    /// candidate, confirmed, repairing, repaired or stuck
    pub state: String,
    pub count: i64,
    /// Up to ten of them, 1,000 characters of each. Null: it is a list of streams.
    keys: Option<Vec<String>>,
}

/// A stream, and how it is compared with its index, or its table.
#[derive(Debug, Serialize, ToSchema)]
pub struct Validation {
    stream: String,
    /// Where it goes.
    subscription: String,
    /// How far the round is: asked, source, index, confirming, done; or never: there was none.
    state: String,
    /// What is confirmed to differ is read and written again.
    repair: bool,
    /// It is only told what would be.
    dry_run: bool,
    /// Who asked for the round; scrub: nobody did, it was due.
    by: Option<String>,
    /// Documents of the source that were compared in this round.
    checked: i64,
    /// Documents of the index, or of the table, that were looked for in the source.
    walked: i64,
    /// Of those compared, equal as JSON values, and not byte by byte.
    printed_differently: i64,
    /// Documents that were put right in this round.
    repaired: i64,
    /// What the last round found that came to its end: equal, different or not compared. Null: none did.
    verdict: Option<String>,
    /// Why the round does not go on, or was given up. It may quote the data: to others than operators it says where to look.
    problem: Option<String>,
    /// When the round began, in UTC. Null: it is still to begin.
    begun_at: Option<String>,
    /// When something was last done.
    updated_at: Option<String>,
    /// When the verdict was given.
    verdict_at: Option<String>,
    /// What differs now.
    classes: Vec<Class>,
}

/// Each stream, once for each target that it can be compared with.
#[derive(Debug, Serialize, ToSchema)]
pub struct Validations {
    streams: Vec<Validation>,
}

/// What is to be compared, or repaired.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// This stream; all, if none is named.
    #[serde(default)]
    stream: Option<String>,
    /// In this target, elasticsearch or clickhouse; if none is named, in each that a stream goes to. For a repair without a round:
    /// in Elasticsearch, or where the stream goes there not, in the other.
    #[serde(default)]
    target: Option<String>,
    /// What is confirmed to differ is read and written again.
    #[serde(default)]
    repair: bool,
    /// Only told what that would be.
    #[serde(default)]
    dry_run: bool,
    /// With a stream and `repair`: no round begins; these documents are repaired, as far as they are confirmed to differ.
    #[serde(default)]
    keys: Option<Vec<String>>,
    /// With a stream and `repair`: no round begins; all documents are repaired that are confirmed to differ.
    #[serde(default)]
    confirmed: bool,
}

/// What was asked for.
#[derive(Debug, Serialize, ToSchema)]
pub struct Begun {
    /// As they are now: what was asked for begins within a minute.
    streams: Vec<Validation>,
    /// Documents that will be repaired. Null: a round was asked for, which is to find out.
    wanted: Option<i64>,
}

impl Validation {
    fn told_to(role: Role, status: Status) -> Self {
        let classes = classes(&status);
        Self {
            stream: status.stream,
            subscription: status.subscription,
            state: status.state,
            repair: status.repair,
            dry_run: status.dry_run,
            by: status.actor,
            checked: status.checked,
            walked: status.walked,
            printed_differently: status.printed_differently,
            repaired: status.repaired,
            verdict: status.verdict,
            problem: status.problem.map(|problem| if role.sees_contents() { problem } else { ELSEWHERE.to_owned() }),
            begun_at: status.begun_at,
            updated_at: status.updated_at,
            verdict_at: status.verdict_at,
            classes,
        }
    }

    fn without_keys(mut self) -> Self {
        self.classes.iter_mut().for_each(|class| class.keys = None);
        self
    }
}

/// What differs in a stream, as the database tells it.
pub fn classes(status: &Status) -> Vec<Class> {
    Vec::deserialize(&status.classes).unwrap_or_default()
}

/// Each stream, how far its round is, what the last one found, and how many documents differ.
#[utoipa::path(get, path = "/api/validation", operation_id = "list_validations", tag = "validation",
    responses((status = OK, body = Validations)))]
pub async fn list(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Validations>, Problem> {
    let statuses = validation::list(&*admin.database().await?).await?;
    let streams = statuses.into_iter().map(|status| Validation::told_to(caller.role, status).without_keys()).collect();
    Ok(Json(Validations { streams }))
}

/// Asks for a round of one stream, or of all, in place of the one that goes on; or for the repair of what is confirmed to differ.
///
/// The validator begins within a minute. A repair has the documents read anew, so it overwrites nothing that is newer.
#[utoipa::path(post, path = "/api/validation", request_body = Asked, tag = "validation",
    responses((status = ACCEPTED, body = Begun), (status = BAD_REQUEST, body = Problem), (status = NOT_FOUND, body = Problem),
        (status = CONFLICT, body = Problem, description = "there is nothing to repair"),
        (status = UNPROCESSABLE_ENTITY, body = Problem)))]
pub async fn ask(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Body(asked): Body<Asked>,
) -> Result<(StatusCode, Json<Begun>), Problem> {
    let database = admin.database().await?;
    let target = asked.target.as_deref();
    let named = match &asked.stream {
        Some(stream) => Some(find(&database, stream, target).await?),
        None => None,
    };
    let (streams, target, wanted) = if asked.keys.is_some() || asked.confirmed {
        let named = named.filter(|_| asked.repair && !asked.dry_run).ok_or_else(|| {
            Problem::bad_request(
                "without a round there is only a repair of one stream: name the `stream`, set `repair`, and leave `dry_run` out",
            )
        })?;
        let wanted = want_repair(&database, &caller, &asked, &named).await?;
        (vec![named.stream], Some(named.subscription), Some(wanted))
    } else {
        let Asked { repair, dry_run, .. } = asked;
        let stream = asked.stream.as_deref();
        let asked_for = validation::ask(&database, target, stream, repair, dry_run, caller.as_actor()).await;
        let streams = asked_for.map_err(refused)?;
        (streams, asked.target, None)
    };
    let mut statuses = validation::list(&database).await?;
    statuses.retain(|status| {
        streams.contains(&status.stream) && target.as_ref().is_none_or(|target| *target == status.subscription)
    });
    let streams = statuses.into_iter().map(|status| Validation::told_to(caller.role, status).without_keys()).collect();
    Ok((StatusCode::ACCEPTED, Json(Begun { streams, wanted })))
}

/// Wants documents repaired without another round: how many.
async fn want_repair(database: &Client, caller: &Caller, asked: &Asked, named: &Status) -> Result<i64, Problem> {
    let keys = asked.keys.as_deref();
    if keys.is_some() && asked.confirmed {
        return Err(Problem::bad_request("either name the `keys`, or set `confirmed`, which means all of them"));
    }
    if keys.is_some_and(<[String]>::is_empty) {
        return Err(Problem::bad_request("`keys` names no document; leave it out, and set `confirmed`, to mean all"));
    }
    match validation::want_repair(database, &named.subscription, &named.stream, keys, caller.as_actor()).await? {
        0 => Err(Problem::conflict(
            "none of these documents can be repaired: a repair takes those that are confirmed or stuck, and missing, stale, \
             extra or version_ahead. If they have changed since, ask for another round.",
        )),
        wanted => Ok(wanted),
    }
}

/// The stream in this target; without one in Elasticsearch, or where it goes there not, in the other.
async fn find(database: &Client, stream: &str, target: Option<&str>) -> Result<Status, Problem> {
    let mut found = validation::list(database).await?;
    found.retain(|status| status.stream == stream && target.is_none_or(|target| status.subscription == target));
    found.sort_by_key(|status| status.subscription != ELASTICSEARCH);
    let place = target.unwrap_or("Elasticsearch or ClickHouse");
    let none =
        || Problem::not_found(format!("there is no stream {stream} that could be compared with what {place} has"));
    found.into_iter().next().ok_or_else(none)
}

/// A target that no stream is compared in is told in the database's words.
fn refused(failure: tokio_postgres::Error) -> Problem {
    match failure.as_db_error() {
        Some(error) if *error.code() == SqlState::UNDEFINED_OBJECT => Problem::not_found(error.message()),
        _ => failure.into(),
    }
}
