//! Every key that an index has.

use elasticsearch::{
    ClearScrollParts, CountParts, Elasticsearch, ScrollParts, SearchParts, indices::IndicesRefreshParts,
};
use serde_json::{Value, json};

use crate::elastic::{Error, find, whole_answer};

/// As many as Elasticsearch gives (`index.max_result_window`): it goes through all ids of a shard for each page of a slice.
const PAGE_SIZE: i64 = 10_000;
/// How long Elasticsearch keeps the scan for us between two pages: the source may be slow at each chunk.
const KEEP_ALIVE: &str = "10m";

/// A document, without its content.
pub(crate) struct Found {
    pub(crate) key: String,
    pub(crate) version: i64,
}

/// How many documents an index has; `None`: there is no such index.
pub(crate) async fn count(elasticsearch: &Elasticsearch, index: &str) -> Result<Option<u64>, Error> {
    let sent = elasticsearch.count(CountParts::Index(&[index])).send().await;
    let found = find(sent, format!("counting the documents of the index {index}")).await?;
    Ok(found.map(|found| found["count"].as_u64().unwrap_or(0)))
}

/// The highest version of an index, 0 where it has no documents, or is gone.
pub(crate) async fn highest_version(elasticsearch: &Elasticsearch, index: &str) -> Result<i64, Error> {
    let doing = format!("reading the highest version of the index {index}");
    if !refresh(elasticsearch, index, &doing).await? {
        return Ok(0);
    }
    let sent = elasticsearch
        .search(SearchParts::Index(&[index]))
        .size(1)
        .body(json!({"_source": false, "version": true, "sort": [{"_version": "desc"}]}))
        .send()
        .await;
    match whole_answer(sent, doing).await {
        Ok(found) => Ok(found["hits"]["hits"][0]["_version"].as_i64().unwrap_or(0)),
        // The first releases of Elasticsearch 8 cannot sort by it. Then what is ahead is overtaken when it is walked.
        Err(Error::Refused { status: 400, .. }) => Ok(0),
        Err(error) => Err(error),
    }
}

/// A search sees what was refreshed. Whether there is such an index.
async fn refresh(elasticsearch: &Elasticsearch, index: &str, doing: &str) -> Result<bool, Error> {
    let sent = elasticsearch.indices().refresh(IndicesRefreshParts::Index(&[index])).send().await;
    Ok(find(sent, doing).await?.is_some())
}

/// A slice of an index, page by page, as it was when the scan began.
pub(crate) struct Scan<'a> {
    elasticsearch: &'a Elasticsearch,
    index: &'a str,
    query: Value,
    scroll_id: Option<String>,
}

impl<'a> Scan<'a> {
    /// The slice with this number, from 0 on, of so many. Each document is in the same one each time.
    pub(crate) fn new(elasticsearch: &'a Elasticsearch, index: &'a str, slice: i32, slices: i32) -> Self {
        let mut query = json!({"_source": false, "version": true, "sort": ["_doc"]});
        // Elasticsearch knows no single one.
        if slices > 1 {
            query["slice"] = json!({"id": slice, "max": slices});
        }
        Self { elasticsearch, index, query, scroll_id: None }
    }

    /// The next page; nothing after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Found>>, Error> {
        let doing = format!("reading the keys of the index {}", self.index);
        let sent = match &self.scroll_id {
            Some(id) => {
                let body = json!({"scroll": KEEP_ALIVE, "scroll_id": id});
                self.elasticsearch.scroll(ScrollParts::None).body(body).send().await
            }
            None => {
                refresh(self.elasticsearch, self.index, &doing).await?;
                self.elasticsearch
                    .search(SearchParts::Index(&[self.index]))
                    .scroll(KEEP_ALIVE)
                    .size(PAGE_SIZE)
                    .body(&self.query)
                    .send()
                    .await
            }
        };
        let mut page = whole_answer(sent, doing).await?;
        self.scroll_id = page["_scroll_id"].as_str().map(str::to_owned);
        let Value::Array(hits) = page["hits"]["hits"].take() else { return Ok(None) };
        let found: Vec<Found> = hits.iter().filter_map(found).collect();
        if found.is_empty() {
            self.close().await;
            return Ok(None);
        }
        Ok(Some(found))
    }

    /// Elasticsearch would forget the scan by itself, later; so a failure is of no interest.
    pub(crate) async fn close(&mut self) {
        if let Some(id) = self.scroll_id.take() {
            let body = json!({"scroll_id": id});
            let _ = self.elasticsearch.clear_scroll(ClearScrollParts::None).body(body).send().await;
        }
    }
}

fn found(hit: &Value) -> Option<Found> {
    Some(Found { key: hit["_id"].as_str()?.to_owned(), version: hit["_version"].as_i64()? })
}
