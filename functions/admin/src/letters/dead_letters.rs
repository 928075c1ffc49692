//! The dead letters: seen, redriven, discarded.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::{Extension, Json};
use database::refusals::Search;
use database::subscriptions::ELASTICSEARCH;
use database::{audit, letters, validation};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_postgres::Client;
use tracing::warn;
use utoipa::{IntoParams, ToSchema};

use crate::access::Caller;
use crate::extract::{Body, Params};
use crate::letters::direct;
use crate::letters::lease::Lease;
use crate::letters::listed::{DeadLetter, List, Looked, Target};
use crate::letters::pass::Pass;
use crate::letters::queue::{Facts, Letter, Letters};
use crate::letters::redrive::{Fate, Redrive, detail};
use crate::problem::Problem;
use crate::services::Admin;

const LIMIT: usize = 100;
/// Letters that a list looks at, at most: with a filter, most of them may not be meant.
const LOOKED_AT: usize = 2000;
/// A list hides letters from others no longer than this, and most often for the blink that it takes.
const LISTED_FOR: Duration = Duration::from_secs(5);
const LIST_TIMEOUT: Duration = Duration::from_millis(2500);
/// A pass that looks for one letter.
pub const PASS_HIDES_FOR: Duration = Duration::from_secs(30);
const PASS_TIMEOUT: Duration = Duration::from_secs(25);
const LISTED_DOCUMENT_BYTES: usize = 256 << 10;

/// Which letters.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Which {
    /// At most so many; 100 unless told, and at most.
    limit: Option<usize>,
    /// Only of this target.
    target: Option<Target>,
    /// Only of this stream.
    stream: Option<String>,
    /// Only with this word for the reason.
    error_type: Option<String>,
}

/// Letters: those of direct targets, the newest first, and then the queue's, as SQS gave them.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadLetters {
    letters: Vec<DeadLetter>,
    /// How many there are, of the target that was asked for or of all. In the queue approximately; of a direct target 50,000 at
    /// most.
    depth: i64,
    /// There are letters that were not looked at.
    is_sample: bool,
}

impl Which {
    fn search(&self) -> Search<'_> {
        Search {
            target: self.target.map(Target::name),
            stream: self.stream.as_deref(),
            error_type: self.error_type.as_deref(),
            ..Search::default()
        }
    }
}

/// What became of one letter.
#[derive(Debug, Serialize, ToSchema)]
pub struct Outcome {
    message_id: String,
    stream: Option<String>,
    key: Option<String>,
    result: Fate,
    /// The new row of the log.
    change_id: Option<i64>,
    /// When it was redriven, in UTC.
    redriven_at: String,
    /// By whom.
    by: String,
}

/// Why a letter is thrown away.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// 1 to 500 characters, for the audit.
    reason: String,
}

/// A letter that is gone.
#[derive(Debug, Serialize, ToSchema)]
pub struct Discarded {
    message_id: String,
    stream: Option<String>,
    key: Option<String>,
    /// discarded
    result: &'static str,
}

/// What could not be written, and why. Looking consumes nothing, and hides a letter of the queue from others for a moment only.
///
/// Where no target is asked for, half of the places are for the queue's letters.
#[utoipa::path(get, path = "/api/dlq", operation_id = "list_dead_letters", params(Which), tag = "dead letters",
    responses((status = OK, body = DeadLetters), (status = BAD_REQUEST, body = Problem)))]
pub async fn list(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Params(which): Params<Which>,
) -> Result<Json<DeadLetters>, Problem> {
    let limit = which.limit.unwrap_or(LIMIT).clamp(1, LIMIT);
    let mut list = List::new(limit, caller.role.sees_contents());
    let (mut depth, mut is_sample) = (0, false);
    let database = admin.database().await;
    let queues = admin.services().await.queues.as_ref();
    let queues = queues.filter(|_| which.target.is_none_or(|target| target == Target::Elasticsearch));
    if which.target != Some(Target::Elasticsearch) || queues.is_none() {
        match &database {
            Ok(database) => {
                let places = if queues.is_some() { limit.div_ceil(2) } else { limit };
                let looked = direct::list(database, &which.search(), places, LISTED_DOCUMENT_BYTES, &mut list).await?;
                (depth, is_sample) = (looked.depth, looked.is_sample);
            }
            Err(_) => is_sample = true,
        }
    }
    if let Some(queues) = queues {
        let looked = look_into_queue(&queues.letters, database.as_deref().ok(), &which, &mut list).await?;
        depth += looked.depth;
        is_sample |= looked.is_sample;
    } else {
        database?;
    }
    Ok(Json(DeadLetters { letters: list.into_letters(), depth, is_sample }))
}

/// Without its turn, or while PostgreSQL is away, it looks all the same, and may see a part only.
async fn look_into_queue(
    letters: &Letters,
    database: Option<&Client>,
    which: &Which,
    list: &mut List,
) -> Result<Looked, Problem> {
    let Some(database) = database else { return Ok(look(letters, which, list).await?) };
    let lease = Lease::take(database, LIST_TIMEOUT).await?;
    let looked = look(letters, which, list).await;
    if let Some(lease) = lease {
        lease.release(database).await;
    }
    Ok(looked?)
}

async fn look(letters: &Letters, which: &Which, list: &mut List) -> Result<Looked, queue::Error> {
    let depth = letters.depth().await?;
    let mut pass = Pass::new(letters, LISTED_FOR, Instant::now() + LIST_TIMEOUT);
    let collected = collect(&mut pass, which, usize::try_from(depth.visible).unwrap_or(0), list).await;
    let seen = i64::try_from(pass.seen()).unwrap_or(i64::MAX);
    pass.end().await;
    collected?;
    Ok(Looked { depth: depth.all().max(seen), is_sample: seen < depth.all() })
}

async fn collect(pass: &mut Pass<'_>, which: &Which, visible: usize, list: &mut List) -> Result<(), queue::Error> {
    while !list.is_full() && pass.seen() < visible.min(LOOKED_AT) {
        let Some(letters) = pass.next().await? else { break };
        for letter in &letters {
            pass.hold(letter);
            if !list.is_full() && letter.matches(which.stream.as_deref(), which.error_type.as_deref()) {
                list.push(letter.listed(LISTED_DOCUMENT_BYTES));
            }
        }
    }
    Ok(())
}

/// Redrives one letter, for its target alone: by its message id, or one of the queue by its change id.
///
/// What fails again is a new letter.
#[utoipa::path(post, path = "/api/dlq/{id}/redrive", params(("id" = String, Path)), tag = "dead letters",
    responses((status = OK, body = Outcome), (status = NOT_FOUND, body = Problem), (status = CONFLICT, body = Problem)))]
pub async fn redrive(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Outcome>, Problem> {
    let database = admin.database().await?;
    if let Some(name) = direct::Name::parse(&id) {
        let fate = direct::redrive(&database, &caller, name).await?;
        return outcome(&database, &id, fate).await.map(Json);
    }
    let queues = admin.services().await.queues.as_ref().ok_or_else(|| absent(&id))?;
    let redrive = Redrive::new(queues, &database, &caller, None).await?;
    let found = with_letter(&queues.letters, &database, &id, async |letter| {
        let done = redrive.letters(std::slice::from_ref(letter)).await?;
        let fate =
            done.fates.into_iter().next().unwrap_or_else(|| Err(Problem::unavailable("nothing became of it")))?;
        Ok((letter.message_id.clone(), fate))
    })
    .await;
    match found {
        Ok((message_id, fate)) => outcome(&database, &message_id, Some(fate)).await.map(Json),
        // Somebody was faster, or the letter is in other hands.
        Err(problem) => outcome(&database, &id, None).await.map(Json).map_err(|_| problem),
    }
}

/// The same, for clients of the older API: prefer the POST, since this GET changes something.
#[utoipa::path(get, path = "/api/retry/{id}", params(("id" = String, Path)), tag = "dead letters",
    responses((status = OK, body = Outcome), (status = NOT_FOUND, body = Problem), (status = CONFLICT, body = Problem)))]
pub async fn retry(admin: State<Admin>, caller: Extension<Caller>, id: Path<String>) -> Result<Json<Outcome>, Problem> {
    redrive(admin, caller, id).await
}

/// Throws one letter away, with a reason that is kept.
#[utoipa::path(delete, path = "/api/dlq/{id}", params(("id" = String, Path)), request_body = Reason, tag = "dead letters",
    responses((status = OK, body = Discarded), (status = NOT_FOUND, body = Problem), (status = CONFLICT, body = Problem),
        (status = UNPROCESSABLE_ENTITY, body = Problem)))]
pub async fn discard(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Body(Reason { reason }): Body<Reason>,
) -> Result<Json<Discarded>, Problem> {
    let reason = reason.trim();
    if reason.is_empty() || reason.chars().count() > 500 {
        return Err(Problem::bad_request("give a reason of 1 to 500 characters; it is kept in the audit"));
    }
    let reason = reason.replace('\0', "\u{2400}");
    let database = admin.database().await?;
    if let Some(name) = direct::Name::parse(&id) {
        let (stream, key) = direct::discard(&database, &caller, name, &reason).await?.ok_or_else(|| absent(&id))?;
        return Ok(Json(Discarded { message_id: id, stream: Some(stream), key: Some(key), result: "discarded" }));
    }
    let letters = &admin.services().await.queues.as_ref().ok_or_else(|| absent(&id))?.letters;
    with_letter(letters, &database, &id, async |letter| {
        let mut detail = detail(letter);
        detail["reason"] = reason.into();
        // Noted first: nothing may vanish without a trace.
        audit::note(&database, caller.as_actor(), "discard", &letter.message_id, "discarded", &detail).await?;
        if !matches!(letters.delete(&[&letter.receipt]).await, Ok(1)) {
            audit::note(&database, caller.as_actor(), "discard", &letter.message_id, "not deleted by SQS", &detail)
                .await?;
            return Err(Problem::unavailable("SQS did not delete the letter; try again"));
        }
        if let Some(facts) = &letter.facts {
            forget(&database, facts).await;
        }
        let (stream, key) = (letter.stream().map(str::to_owned), letter.key().map(str::to_owned));
        Ok(Json(Discarded { message_id: letter.message_id.clone(), stream, key, result: "discarded" }))
    })
    .await
}

/// What differs now is not explained by the letter any more. Of one whose names PostgreSQL cannot hold nothing was noted.
async fn forget(database: &Client, Facts { stream, key, version, .. }: &Facts) {
    if stream.contains('\0') || key.contains('\0') {
        return;
    }
    let forgotten =
        validation::forget_overtaken_letters(database, ELASTICSEARCH, stream, &[key.as_str()], &[*version]).await;
    if let Err(failure) = forgotten {
        warn!(error = database::describe(&failure), "a letter that was discarded is still taken for an explanation");
    }
}

/// Goes through the queue until it finds this letter, and lets `act` have it. Whatever `act` leaves is released.
async fn with_letter<T>(
    letters: &Letters,
    database: &Client,
    id: &str,
    act: impl AsyncFnOnce(&Letter) -> Result<T, Problem>,
) -> Result<T, Problem> {
    let lease = Lease::wait(database).await?;
    let mut pass = Pass::new(letters, PASS_HIDES_FOR, Instant::now() + PASS_TIMEOUT);
    let outcome = match find(&mut pass, id).await {
        Ok(Some(letter)) => {
            let outcome = act(&letter).await;
            if outcome.is_err() {
                pass.hold(&letter);
            }
            outcome
        }
        Ok(None) => Err(not_found(&pass, id).await),
        Err(failure) => Err(failure.into()),
    };
    pass.end().await;
    lease.release(database).await;
    outcome
}

async fn find(pass: &mut Pass<'_>, id: &str) -> Result<Option<Letter>, queue::Error> {
    while let Some(letters) = pass.next().await? {
        let mut found = None;
        for letter in letters {
            if found.is_none() && letter.is_called(id) {
                found = Some(letter);
            } else {
                pass.hold(&letter);
            }
        }
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn absent(id: &str) -> Problem {
    Problem::not_found(format!("there is no dead letter {id}"))
}

async fn not_found(pass: &Pass<'_>, id: &str) -> Problem {
    match pass.has_seen_all().await {
        Ok(true) => absent(id),
        Ok(false) => Problem::conflict(format!(
            "{id} is not among the letters that can be seen; others are in flight, try again in half a minute"
        )),
        Err(failure) => failure.into(),
    }
}

/// What the audit knows of a redrive. `fate`: what was done just now.
async fn outcome(database: &Client, id: &str, fate: Option<Fate>) -> Result<Outcome, Problem> {
    let redriven = letters::find_redriven(database, id).await?;
    let redriven = redriven.ok_or_else(|| absent(id))?;
    Ok(Outcome {
        message_id: redriven.message_id,
        stream: redriven.stream,
        key: redriven.key,
        change_id: redriven.change_id,
        redriven_at: redriven.redriven_at,
        by: redriven.actor,
        result: fate.unwrap_or(Fate::AlreadyRedriven),
    })
}
