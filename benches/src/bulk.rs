//! The limit of the sink: bodies that are ready, sent as fast as Elasticsearch takes them.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use futures_util::{TryStreamExt as _, pin_mut};
use serde_json::json;
use tokio_postgres::NoTls;

use crate::copy::print;

/// Prints the documents and the seconds of writing what a query gives, `key` and `document`, to an index at
/// ELASTICSEARCH_URL: in bodies of so many bytes, so many at a time.
pub async fn run(query: &str, index: &str, body_bytes: usize, concurrency: usize) -> Result<()> {
    let url = std::env::var("ELASTICSEARCH_URL").context("ELASTICSEARCH_URL is not set")?;
    let (bodies, documents) = bodies(query, body_bytes).await?;
    let (bodies, next) = (Arc::new(bodies), Arc::new(AtomicUsize::new(0)));
    let url = format!("{url}/{index}/_bulk?filter_path=errors");
    let client = reqwest::Client::new();
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..concurrency {
        let (client, url, bodies, next) = (client.clone(), url.clone(), bodies.clone(), next.clone());
        tasks.spawn(async move {
            while let Some(body) = bodies.get(next.fetch_add(1, Ordering::Relaxed)) {
                let request = client.post(&url).header("Content-Type", "application/x-ndjson").body(body.clone());
                let answer = request.send().await?.error_for_status()?.text().await?;
                ensure!(answer.contains("\"errors\":false"), "Elasticsearch says {answer:.300}");
            }
            Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    print(&json!({"documents": documents, "seconds": began.elapsed().as_secs_f64()}));
    Ok(())
}

async fn bodies(query: &str, body_bytes: usize) -> Result<(Vec<String>, usize)> {
    let database = std::env::var("DATABASE_URL").context("DATABASE_URL is not set")?;
    let (client, connection) = tokio_postgres::connect(&database, NoTls).await?;
    tokio::spawn(connection);
    let rows = client.query_raw::<_, &str, _>(query, []).await?;
    pin_mut!(rows);
    let (mut bodies, mut body, mut documents) = (vec![], String::new(), 0);
    while let Some(row) = rows.try_next().await? {
        let (key, document): (&str, &str) = (row.get(0), row.get(1));
        // As the functions write: an upsert with a version.
        let action = json!({"index": {"_id": key, "version": 1, "version_type": "external"}});
        writeln!(body, "{action}\n{document}")?;
        documents += 1;
        if body.len() >= body_bytes {
            bodies.push(std::mem::take(&mut body));
        }
    }
    bodies.extend(Some(body).filter(|body| !body.is_empty()));
    Ok((bodies, documents))
}
