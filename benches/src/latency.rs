//! From commit to found by its id: what an application sees that writes to PostgreSQL and reads from Elasticsearch.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_postgres::NoTls;

use crate::copy::print;

/// Who write at once: one of them cannot commit a thousand times a second.
const WRITERS: u32 = 8;
/// Looked for in a second, at most; the rest of the writes is load. Every so many, whether they are found soon or not: whoever
/// looks for the next when the last is found does not see how slow it is while it is slow.
const SAMPLED: u32 = 100;
/// Between two looks, which are no work of the pipeline's.
const PAUSE: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_mins(5);

type Committed = Arc<Mutex<HashMap<String, Instant>>>;

/// Prints the percentiles of writes at a steady rate, a transaction each: `statement` has a number as $1, which is the
/// document's id, from `first` on. The index is at ELASTICSEARCH_URL.
pub async fn run(statement: &str, index: &str, first: i64, rate: u32, seconds: u32) -> Result<()> {
    let committed = Committed::default();
    let (is_over, over) = watch::channel(false);
    let looking = tokio::spawn(look(index.to_owned(), committed.clone(), over));
    let began = Instant::now();
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let due = (writer..rate * seconds).step_by(WRITERS as usize).map(move |write| {
            let is_sampled = write % (rate / SAMPLED).max(1) == 0;
            (first + i64::from(write), began + Duration::from_secs(1) * write / rate, is_sampled)
        });
        writers.spawn(write(statement.to_owned(), due, committed.clone()));
    }
    while let Some(done) = writers.join_next().await {
        done??;
    }
    let reached = f64::from(rate * seconds) / began.elapsed().as_secs_f64();
    is_over.send_replace(true);
    let mut times = looking.await??;
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 1000].as_secs_f64() * 1000.0;
    print(&json!({
        "rate": reached, "sampled": times.len(), "p50": at(500), "p95": at(950), "p99": at(990), "max": at(1000),
    }));
    Ok(())
}

/// Each when it is due, or as soon after as the one before has been committed.
async fn write(statement: String, due: impl Iterator<Item = (i64, Instant, bool)>, committed: Committed) -> Result<()> {
    let database = std::env::var("DATABASE_URL").context("DATABASE_URL is not set")?;
    let (client, connection) = tokio_postgres::connect(&database, NoTls).await?;
    tokio::spawn(connection);
    let statement = client.prepare(&statement).await?;
    for (id, at, is_sampled) in due {
        sleep_until(at).await;
        client.execute(&statement, &[&id]).await?;
        if is_sampled {
            committed.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_string(), Instant::now());
        }
    }
    Ok(())
}

/// Until nothing more is written, and all of it is found.
async fn look(index: String, committed: Committed, is_over: watch::Receiver<bool>) -> Result<Vec<Duration>> {
    let url = std::env::var("ELASTICSEARCH_URL").context("ELASTICSEARCH_URL is not set")?;
    let url = format!("{url}/{index}/_mget?_source=false&filter_path=docs._id,docs.found");
    let client = reqwest::Client::new();
    let mut times = vec![];
    let mut found_at = Instant::now();
    loop {
        let is_last = *is_over.borrow();
        let ids: Vec<String> = committed.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        if ids.is_empty() {
            if is_last {
                return Ok(times);
            }
            found_at = Instant::now();
            sleep(PAUSE).await;
            continue;
        }
        ensure!(found_at.elapsed() < PATIENCE, "{} documents were not found in {PATIENCE:?}", ids.len());
        let answer = client.post(&url).json(&json!({ "ids": ids })).send().await?.error_for_status()?;
        let answer: Value = answer.json().await?;
        let now = Instant::now();
        for document in answer["docs"].as_array().into_iter().flatten().filter(|document| document["found"] == true) {
            let id = document["_id"].as_str().unwrap_or_default();
            let since = committed.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
            times.extend(since.map(|since| now - since));
            found_at = now;
        }
        sleep(PAUSE).await;
    }
}
