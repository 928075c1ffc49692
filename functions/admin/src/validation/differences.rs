//! The documents of a stream that differ, with both sides.

use axum::extract::{Path, State};
use axum::{Extension, Json};
use database::validation;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use crate::access::Caller;
use crate::extract::Params;
use crate::newest::{self, ANSWER_BYTES};
use crate::problem::Problem;
use crate::services::Admin;
use crate::validation::documents::{self, Both};
use crate::validation::{Validation, find};

const CLASSES: [&str; 7] = ["missing", "stale", "extra", "dead_lettered", "unreadable", "version_ahead", "untracked"];
const STATES: [&str; 5] = ["candidate", "confirmed", "repairing", "repaired", "stuck"];
/// Of one answer.
const LIMIT: usize = 1000;
/// More of a stream are not kept.
const KEPT: usize = 10_000;
/// The documents of a list share three quarters of an answer; what else there is has the rest.
const DOCUMENTS_BYTES: usize = ANSWER_BYTES / 4 * 3;
const DOCUMENT_BYTES: usize = 256 << 10;

/// Which differences.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Which {
    /// In this target, elasticsearch or clickhouse. Left out: in Elasticsearch, or where the stream goes there not, in the other.
    target: Option<String>,
    /// Only of this class.
    class: Option<String>,
    /// Only in this state.
    state: Option<String>,
    /// Only of this document.
    key: Option<String>,
    /// false: the documents are not read, so that the answer is there at once.
    documents: Option<bool>,
}

/// A document that differs, and how both sides have it now.
#[derive(Debug, Serialize, ToSchema)]
pub struct Difference {
    key: String,
    /// missing: only the source has it. stale: the target has other contents. extra: only the target has it. `dead_lettered`: a
    /// dead letter explains it. unreadable: the source fails. `version_ahead`: the target has a version that Sluice has not
    /// given yet. untracked: the source has changed, and the log has no row of it.
    class: String,
    /// candidate: seen once. confirmed: it stays so until it is repaired. repairing: it was logged again. repaired: both sides
    /// are equal. stuck: it was repaired, and differs still.
    state: String,
    /// When it was first seen, in UTC.
    found_at: String,
    /// The source's document as it is now. Null: there is none, or `source_problem` says why it is not known; or the caller is no
    /// operator.
    #[schema(value_type = Option<serde_json::Value>)]
    source: Option<Box<RawValue>>,
    /// Why the source's document is not told.
    source_problem: Option<String>,
    /// The index's document, in the same way.
    #[schema(value_type = Option<serde_json::Value>)]
    target: Option<Box<RawValue>>,
    /// Why the index's document is not told; of ClickHouse's none is.
    target_problem: Option<String>,
    /// The version of the index's document.
    target_version: Option<i64>,
}

/// Documents that differ, in the order in which they were found.
#[derive(Debug, Serialize, ToSchema)]
pub struct Differences {
    stream: Validation,
    differences: Vec<Difference>,
    /// There are more than are listed.
    is_sample: bool,
}

impl From<validation::Difference> for Difference {
    fn from(found: validation::Difference) -> Self {
        let validation::Difference { key, class, state, found_at } = found;
        Self {
            key,
            class,
            state,
            found_at,
            source: None,
            source_problem: None,
            target: None,
            target_problem: None,
            target_version: None,
        }
    }
}

impl Difference {
    fn with(self, Both { source, target }: Both) -> Self {
        Self {
            source: source.document,
            source_problem: source.problem,
            target: target.document,
            target_problem: target.problem,
            target_version: target.version,
            ..self
        }
    }
}

/// Documents of a stream that differ, the first 1,000, and both sides of them as they are now.
///
/// Those for which an answer has no room are listed without; ask for them by their key.
#[utoipa::path(get, path = "/api/validation/{stream}", operation_id = "list_differences", params(("stream" = String, Path), Which),
    tag = "validation",
    responses((status = OK, body = Differences), (status = BAD_REQUEST, body = Problem), (status = NOT_FOUND, body = Problem)))]
pub async fn list(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path(stream): Path<String>,
    Params(which): Params<Which>,
) -> Result<Json<Differences>, Problem> {
    let class = known("class", which.class.as_deref(), &CLASSES)?;
    let state = known("state", which.state.as_deref(), &STATES)?;
    let database = admin.database().await?;
    let status = find(&database, &stream, which.target.as_deref()).await?;
    let reader = status.subscription.clone();
    let looked_at = if which.key.is_some() { KEPT } else { LIMIT + 1 };
    let limit = i64::try_from(looked_at).unwrap_or(i64::MAX);
    let found = validation::list_differences(&database, &reader, &stream, class, state, limit).await?;
    let is_meant = |found: &validation::Difference| which.key.as_ref().is_none_or(|key| *key == found.key);
    let found = found.into_iter().filter(is_meant).map(Difference::from).collect();
    let row = Validation::told_to(caller.role, status);
    let room = (ANSWER_BYTES - DOCUMENTS_BYTES).saturating_sub(newest::bytes(&row));
    let (mut differences, is_sample) = bounded(found, room);
    if caller.role.sees_contents() && which.documents != Some(false) {
        let keys: Vec<String> = differences.iter().map(|difference| difference.key.clone()).collect();
        let most = if which.key.is_some() { DOCUMENTS_BYTES / 2 } else { DOCUMENT_BYTES };
        let both = documents::read(&admin, &reader, &stream, &keys, most, DOCUMENTS_BYTES).await;
        differences = differences.into_iter().zip(both).map(|(difference, both)| difference.with(both)).collect();
    }
    Ok(Json(Differences { stream: row, differences, is_sample }))
}

/// A word to filter by: one that nobody knows would find nothing, as if nothing differed.
fn known<'a>(name: &str, asked: Option<&'a str>, known: &[&str]) -> Result<Option<&'a str>, Problem> {
    match asked {
        Some(word) if !known.contains(&word) => {
            Err(Problem::bad_request(format!("there is no {name} {word}; it is one of {}", known.join(", "))))
        }
        asked => Ok(asked),
    }
}

/// Those for which there is room, and whether there are more.
fn bounded(mut differences: Vec<Difference>, mut room: usize) -> (Vec<Difference>, bool) {
    let fits = |difference: &&Difference| {
        let bytes = newest::bytes(difference);
        let fits = bytes <= room;
        room = room.saturating_sub(bytes);
        fits
    };
    let fitting = differences.iter().take(LIMIT).take_while(fits).count();
    let is_sample = fitting < differences.len();
    differences.truncate(fitting);
    (differences, is_sample)
}
