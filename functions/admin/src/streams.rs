//! What is defined, and whether both sides have as much of it.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use elasticsearch::{CountParts, Elasticsearch};
use serde::Serialize;
use tokio_postgres::Client;
use tracing::warn;
use utoipa::ToSchema;

use crate::problem::Problem;
use crate::services::Admin;

/// Beyond this a count would take too long for a page: the planner's guess is as good.
const COUNTED: i64 = 100_000;
const COUNT_TIMEOUT: Duration = Duration::from_secs(5);

/// A stream of documents.
#[derive(Debug, Serialize, ToSchema)]
pub struct Stream {
    name: String,
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
#[utoipa::path(get, path = "/api/streams", tag = "streams", responses((status = OK, body = Streams)))]
pub async fn list(State(admin): State<Admin>) -> Result<Json<Streams>, Problem> {
    let query = "SELECT s.name, s.source, array_to_string(s.key, ', '), t.index, t.is_current,
             ARRAY(SELECT k.relation::text FROM sluice.tracked AS k WHERE k.stream = s.name ORDER BY 1),
             t.untracked_tables::text[], t.waiting, t.expansions, t.last_error
         FROM sluice.stream AS s JOIN sluice.stream_status() AS t ON t.stream = s.name ORDER BY s.name";
    let database = admin.database().await?;
    let rows = database.query(query, &[]).await?;
    let client = admin.services().await.search.client().await.ok();
    let mut streams = vec![];
    for row in rows {
        let (name, source): (String, Option<String>) = (row.get(0), row.get(1));
        let (source_count, is_estimate) = match &source {
            Some(source) => count_source(&database, source).await.map_or((None, false), |it| (Some(it.0), it.1)),
            None => (None, false),
        };
        let alias = format!("{}{name}", admin.config.search.index_prefix);
        streams.push(Stream {
            index_count: match &client {
                Some(client) => count_index(client, &alias).await,
                None => None,
            },
            key: row.get::<_, Option<String>>(2).filter(|key| !key.is_empty()),
            index: row.get(3),
            is_current: row.get(4),
            tables: row.get(5),
            untracked_tables: row.get(6),
            waiting: row.get(7),
            expansions: row.get(8),
            last_error: row.get(9),
            source_count,
            source_count_is_estimate: is_estimate,
            name,
            source,
        });
    }
    Ok(Json(Streams { streams }))
}

/// How many documents the source has, and whether that is a guess.
async fn count_source(database: &Client, source: &str) -> Result<(i64, bool), tokio_postgres::Error> {
    // `source` is a qualified and quoted name, which define_stream has made of a relation.
    let query = format!("SELECT count(*) FROM (SELECT FROM {source} LIMIT {}) AS counted", COUNTED + 1);
    let count = database.query_one(&query, &[]).await.map(|row| row.get::<_, i64>(0)).inspect_err(|failure| {
        warn!(source, error = database::describe(failure), "a source cannot be counted");
    })?;
    if count <= COUNTED {
        return Ok((count, false));
    }
    let plan: serde_json::Value =
        database.query_one(&format!("EXPLAIN (FORMAT JSON) SELECT FROM {source}"), &[]).await?.get(0);
    let guess = plan[0]["Plan"]["Plan Rows"].as_i64().unwrap_or(count);
    Ok((guess.max(count), true))
}

async fn count_index(client: &Elasticsearch, alias: &str) -> Option<i64> {
    let answer = client.count(CountParts::Index(&[alias])).request_timeout(COUNT_TIMEOUT).send().await.ok()?;
    let answer: serde_json::Value = answer.error_for_status_code().ok()?.json().await.ok()?;
    answer["count"].as_i64()
}
