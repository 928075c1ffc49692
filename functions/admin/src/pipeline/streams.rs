//! What is defined, and whether both sides have as much of it.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use database::streams::{self, Status};
use database::subscriptions::ELASTICSEARCH;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tracing::warn;
use utoipa::ToSchema;

use crate::problem::Problem;
use crate::services::Admin;

/// Beyond this a count would take too long for a page: the planner's guess is as good.
const COUNTED: i64 = 100_000;
const COUNT_TIMEOUT: Duration = Duration::from_secs(2);
/// Of all counts together; those that are not there by then are left out, and the page is shown all the same.
const COUNTS_TIMEOUT: Duration = Duration::from_secs(8);
/// Indexes that are counted side by side.
const LANES: usize = 8;

/// A stream of documents, and how one subscription delivers it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Stream {
    name: String,
    /// Where it goes.
    subscription: String,
    /// The table or view that its documents are read from; null: they are given to `sluice.emit`.
    source: Option<String>,
    /// The source's columns that are the key.
    key: Option<String>,
    /// Where its alias points; null: run migrate.
    index: Option<String>,
    /// Whether the index has the mapping that is wanted.
    is_current: bool,
    /// The tables whose changes are noted for it.
    tables: Vec<String>,
    /// Tables that its view reads, and nobody tracks.
    untracked_tables: Vec<String>,
    /// Changes that wait until it has an index.
    waiting: i64,
    /// Expansions under way: keys being looked for, or a resync.
    expansions: i64,
    /// Why the last of them was put aside.
    last_error: Option<String>,
    /// Why it does not keep up: its source cannot be read, it has no index, its changed documents cannot be found out. Null:
    /// nothing is in its way.
    problem: Option<String>,
    /// Documents in the source.
    source_count: Option<i64>,
    /// Whether that is the planner's guess.
    source_count_is_estimate: bool,
    /// Documents in the index.
    index_count: Option<i64>,
}

/// All of them.
#[derive(Debug, Serialize, ToSchema)]
pub struct Streams {
    streams: Vec<Stream>,
}

/// What is defined, its tables, its index, and counts on both sides.
#[utoipa::path(get, path = "/api/streams", operation_id = "list_streams", tag = "streams",
    responses((status = OK, body = Streams)))]
pub async fn list(State(admin): State<Admin>) -> Result<Json<Streams>, Problem> {
    let statuses = streams::list_status(&*admin.database().await?).await?;
    let is_indexed = |status: &&Status| status.subscription == ELASTICSEARCH;
    let names: Vec<String> = statuses.iter().filter(is_indexed).map(|status| status.name.clone()).collect();
    let sources: BTreeSet<String> = statuses.iter().filter_map(|status| status.source.clone()).collect();
    let until = Instant::now() + COUNTS_TIMEOUT;
    let (sources, indexes) = tokio::join!(count_sources(&admin, &sources, until), count_indexes(&admin, &names, until));
    let stream = |status: Status| {
        let source_count = status.source.as_ref().and_then(|source| sources.get(source));
        Stream {
            source_count: source_count.map(|count| count.0),
            source_count_is_estimate: source_count.is_some_and(|count| count.1),
            index_count: indexes.get(&status.name).copied().filter(|_| is_indexed(&&status)),
            name: status.name,
            subscription: status.subscription,
            source: status.source,
            key: status.key,
            index: status.index,
            is_current: status.is_current,
            tables: status.tables,
            untracked_tables: status.untracked_tables,
            waiting: status.waiting,
            expansions: status.expansions,
            last_error: status.last_error,
            problem: status.problem,
        }
    };
    let streams = statuses.into_iter().map(stream).collect();
    Ok(Json(Streams { streams }))
}

/// A stream that does not keep up, and why.
#[derive(Debug, Serialize, ToSchema)]
pub struct Held {
    pub stream: String,
    /// Where it does not arrive.
    pub subscription: String,
    /// It may quote the data: to others than operators it says where to look.
    pub reason: String,
}

/// Streams that do not keep up.
pub async fn held(database: &Client) -> Result<Vec<Held>, tokio_postgres::Error> {
    let held = |streams::Problem { stream, subscription, reason }| Held { stream, subscription, reason };
    Ok(streams::list_problems(database).await?.into_iter().map(held).collect())
}

/// The counts of those that could be counted, one after the other: they are the database's work.
async fn count_sources(admin: &Admin, sources: &BTreeSet<String>, until: Instant) -> HashMap<String, (i64, bool)> {
    let mut counts = HashMap::new();
    let count_all = async {
        let session = admin.own_session(COUNT_TIMEOUT).await.ok()?;
        for source in sources {
            if let Ok(count) = count_source(&session, source).await {
                counts.insert(source.clone(), count);
            }
        }
        Some(())
    };
    timeout_at(until, count_all).await.ok();
    counts
}

/// How many documents the source has, and whether that is a guess.
async fn count_source(database: &Client, source: &str) -> Result<(i64, bool), tokio_postgres::Error> {
    // `source` is a qualified and quoted name, which define_stream has made of a relation.
    let query = format!("SELECT count(*) FROM (SELECT FROM {source} LIMIT {}) AS counted", COUNTED + 1);
    let count = match database.query_one(&query, &[]).await {
        Ok(row) => row.get(0),
        // A view that takes long.
        Err(failure) if failure.code() == Some(&SqlState::QUERY_CANCELED) => COUNTED + 1,
        Err(failure) => {
            warn!(source, error = database::describe(&failure), "a source cannot be counted");
            return Err(failure);
        }
    };
    if count <= COUNTED {
        return Ok((count, false));
    }
    let plan: serde_json::Value =
        database.query_one(&format!("EXPLAIN (FORMAT JSON) SELECT FROM {source}"), &[]).await?.get(0);
    Ok((plan[0]["Plan"]["Plan Rows"].as_i64().unwrap_or(count), true))
}

/// The counts of the indexes that answered in time.
async fn count_indexes(admin: &Admin, streams: &[String], until: Instant) -> HashMap<String, i64> {
    let Ok(Ok(client)) = timeout_at(until, admin.services().await.search.client()).await else { return HashMap::new() };
    let mut lanes = JoinSet::new();
    for lane in streams.chunks(streams.len().div_ceil(LANES).max(1)) {
        let (client, lane, prefix) = (client.clone(), lane.to_vec(), admin.config.search.index_prefix.clone());
        lanes.spawn(async move {
            let mut counts = vec![];
            for name in lane {
                let count = timeout_at(until, count_index(&client, &format!("{prefix}{name}"))).await;
                counts.extend(count.ok().flatten().map(|count| (name, count)));
            }
            counts
        });
    }
    lanes.join_all().await.into_iter().flatten().collect()
}

async fn count_index(client: &search::Client, alias: &str) -> Option<i64> {
    let answer = client.get([alias, "_count"]).timeout(COUNT_TIMEOUT).send().await.ok()?;
    let answer: serde_json::Value = answer.error_for_status_code().ok()?.json().await.ok()?;
    answer["count"].as_i64()
}
