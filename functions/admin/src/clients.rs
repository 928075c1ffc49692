//! Live sync: who is connected, what there is to pull, and whose changes met another document.

use axum::extract::State;
use axum::{Extension, Json};
use database::clients::{self, Search};
use database::subscriptions::{self, SYNC};
use database::sync::{self, Name};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::access::Caller;
use crate::extract::Params;
use crate::newest;
use crate::problem::Problem;
use crate::services::Admin;

/// Beyond this a count would take too long for a page.
const COUNTED: i64 = 100_000;
/// The most that is listed of one side.
const SIDE_BYTES: i32 = 256 << 10;

/// Live sync, and how far what clients pull is behind.
#[derive(Debug, Serialize, ToSchema)]
pub struct LiveSync {
    /// Streams that go to clients. None: live sync is not used.
    streams: Vec<String>,
    /// Clients that are connected by a WebSocket. Those of a process that was killed count for two minutes more.
    connected: i64,
    buckets: i64,
    /// Documents in them: one that is in two counts twice.
    items: i64,
    /// Whether both are PostgreSQL's guess: there are more than 100,000 buckets.
    is_estimate: bool,
    /// 100,000 means as many or more. Null: there is none, as where tokens are another issuer's.
    accounts: Option<i64>,
    /// Ever.
    conflicts: i64,
    /// 100,000 means as many or more.
    conflicts_of_day: i64,
    /// Nobody drains into what clients pull.
    paused: bool,
    /// Rows of the log that wait for it.
    pending_rows: i64,
    /// For how long the oldest of them has been in the log.
    lag_ms: i64,
}

/// Whether clients pull, how many are connected, how much there is, and how far it is behind.
#[utoipa::path(get, path = "/api/sync", operation_id = "live_sync", tag = "live sync",
    responses((status = OK, body = LiveSync)))]
pub async fn summary(State(admin): State<Admin>) -> Result<Json<LiveSync>, Problem> {
    let database = admin.database().await?;
    let totals = clients::read_totals(&database, COUNTED).await?;
    let connected = clients::count_connected(&database).await?;
    let reader = subscriptions::list(&database).await?.into_iter().find(|one| one.name == SYNC);
    let (paused, pending_rows, lag_ms) =
        reader.map_or((false, 0, 0), |reader| (reader.is_paused, reader.pending_rows, reader.lag_ms));
    Ok(Json(LiveSync {
        streams: totals.streams,
        connected,
        buckets: totals.buckets,
        items: totals.items,
        is_estimate: totals.is_estimate,
        accounts: Some(totals.accounts).filter(|accounts| *accounts > 0),
        conflicts: totals.conflicts,
        conflicts_of_day: totals.conflicts_of_day,
        paused,
        pending_rows,
        lag_ms,
    }))
}

/// Which buckets.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WhichBuckets {
    /// At most so many; 100 unless told, 500 at most.
    limit: Option<i64>,
    /// The `next_after` of the page before.
    after: Option<String>,
    /// Only of this stream.
    stream: Option<String>,
}

/// What a bucket has.
#[derive(Debug, Serialize, ToSchema)]
pub struct Bucket {
    stream: String,
    bucket: String,
    items: i64,
    /// Of its last change.
    seq: i64,
    /// The sum of its items', modulo 2³².
    checksum: i64,
}

impl From<sync::Bucket> for Bucket {
    fn from(found: sync::Bucket) -> Self {
        let sync::Bucket { name: Name { stream, bucket }, seq, count, checksum, .. } = found;
        Self { stream, bucket, items: count, seq, checksum }
    }
}

/// Buckets, by stream and name.
#[derive(Debug, Serialize, ToSchema)]
pub struct Buckets {
    buckets: Vec<Bucket>,
    /// Ask with this `after` for those that follow; null: there are none.
    next_after: Option<String>,
}

/// What is in each bucket, by stream and name.
#[utoipa::path(get, path = "/api/sync/buckets", operation_id = "list_buckets", params(WhichBuckets), tag = "live sync",
    responses((status = OK, body = Buckets), (status = BAD_REQUEST, body = Problem)))]
pub async fn buckets(
    State(admin): State<Admin>,
    Params(which): Params<WhichBuckets>,
) -> Result<Json<Buckets>, Problem> {
    let limit = newest::limit(which.limit);
    let after = which.after.as_deref().map(place).transpose()?;
    let found =
        clients::list_buckets(&*admin.database().await?, after.as_ref(), which.stream.as_deref(), limit).await?;
    let buckets: Vec<Bucket> = found.into_iter().map(Bucket::from).collect();
    let is_full = i64::try_from(buckets.len()).is_ok_and(|length| length == limit);
    let next = |last: &Bucket| serde_json::json!([last.stream, last.bucket]).to_string();
    let next_after = buckets.last().filter(|_| is_full).map(next);
    Ok(Json(Buckets { buckets, next_after }))
}

/// Behind which bucket a page begins: both of its names, in JSON, since either may have any character.
fn place(text: &str) -> Result<Name, Problem> {
    let (stream, bucket) = serde_json::from_str(text)
        .map_err(|_| Problem::bad_request("`after` is the `next_after` of the page before, as it was given"))?;
    Ok(Name { stream, bucket })
}

/// Which conflicts.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WhichConflicts {
    /// At most so many; 100 unless told, 500 at most.
    limit: Option<i64>,
    /// Only those before this number.
    before: Option<i64>,
    /// Only of this stream.
    stream: Option<String>,
}

/// A change of a client that had another document than there was.
#[derive(Debug, Serialize, ToSchema)]
pub struct Conflict {
    /// They rise in the order in which they came.
    number: i64,
    /// In UTC.
    at: String,
    stream: String,
    /// The document's key as text, 1,000 characters at most.
    key: String,
    /// Whose change it was: the `sub` of the token, 1,000 characters at most.
    subject: String,
    /// insert, update or delete
    op: String,
    /// Whether it was written all the same.
    applied: bool,
    /// What the client sent: JSON, as it came. Null: nothing, as for a delete; or it is too long to be listed, which its length
    /// tells; or the caller is no operator.
    fields: Option<String>,
    fields_bytes: Option<i32>,
    /// What there was: JSON, as it was read. Null: nothing; or as above.
    document: Option<String>,
    document_bytes: Option<i32>,
}

impl From<clients::Conflict> for Conflict {
    fn from(found: clients::Conflict) -> Self {
        Self {
            number: found.number,
            at: found.at,
            stream: found.stream,
            key: found.key,
            subject: found.subject,
            op: found.op,
            applied: found.is_applied,
            fields: found.fields,
            fields_bytes: found.fields_bytes,
            document: found.document,
            document_bytes: found.document_bytes,
        }
    }
}

/// Conflicts, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct Conflicts {
    conflicts: Vec<Conflict>,
    /// Ask with this `before` for older ones; null: there are none.
    next_before: Option<i64>,
}

/// Changes of clients that had another document than there was, newest first, with both sides. They are kept for a year.
#[utoipa::path(get, path = "/api/sync/conflicts", operation_id = "list_conflicts", params(WhichConflicts), tag = "live sync",
    responses((status = OK, body = Conflicts), (status = BAD_REQUEST, body = Problem)))]
pub async fn conflicts(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Params(which): Params<WhichConflicts>,
) -> Result<Json<Conflicts>, Problem> {
    let limit = newest::limit(which.limit);
    let search = Search {
        before: which.before,
        stream: which.stream.as_deref(),
        limit,
        side_bytes: caller.role.sees_contents().then_some(SIDE_BYTES),
        // So much alone is more than an answer takes: where the list ends by it, the page does before.
        list_bytes: newest::ANSWER_BYTES as i64,
    };
    let found = clients::list_conflicts(&*admin.database().await?, &search).await?;
    let conflicts = found.into_iter().map(Conflict::from).collect();
    let (conflicts, next_before) = newest::page(conflicts, limit, |conflict| conflict.number);
    Ok(Json(Conflicts { conflicts, next_before }))
}
