//! The limit of a reader of the sink: the same documents by their ids, looked at by nobody.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::copy::print;

/// Prints the documents, the bytes and the seconds of reading 1 to `documents` of an index at ELASTICSEARCH_URL, so many at a
/// time. Each has to be there.
pub async fn run(index: &str, documents: usize, page: usize) -> Result<()> {
    let url = std::env::var("ELASTICSEARCH_URL").context("ELASTICSEARCH_URL is not set")?;
    let url = format!("{url}/{index}/_mget");
    let client = reqwest::Client::new();
    let (began, mut bytes) = (Instant::now(), 0);
    for first in (1..=documents).step_by(page) {
        let ids: Vec<String> = (first..=documents).take(page).map(|id| id.to_string()).collect();
        let answer = client.post(&url).json(&json!({ "ids": ids })).send().await?.error_for_status()?.text().await?;
        let found = answer.matches(r#""found":true"#).count();
        ensure!(found == ids.len(), "{found} of {} documents are in the index", ids.len());
        bytes += answer.len();
    }
    print(&json!({"documents": documents, "bytes": bytes, "seconds": began.elapsed().as_secs_f64()}));
    Ok(())
}
