//! Every key that an index has.

use elasticsearch::{ClearScrollParts, Elasticsearch, ScrollParts, SearchParts, indices::IndicesRefreshParts};
use serde_json::{Value, json};

use crate::elastic::{Error, answer};

const PAGE_SIZE: i64 = 1_000;
/// How long Elasticsearch keeps the scan for us between two pages.
const KEEP_ALIVE: &str = "2m";

/// A document, without its content.
pub(crate) struct Found {
    pub(crate) key: String,
    pub(crate) version: i64,
}

/// An index, page by page, as it was when the scan began.
pub(crate) struct Scan<'a> {
    elasticsearch: &'a Elasticsearch,
    index: &'a str,
    scroll_id: Option<String>,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(elasticsearch: &'a Elasticsearch, index: &'a str) -> Self {
        Self { elasticsearch, index, scroll_id: None }
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
                // A search sees what was refreshed.
                let indexes = [self.index];
                let refresh = IndicesRefreshParts::Index(&indexes);
                answer(self.elasticsearch.indices().refresh(refresh).send().await, doing.as_str()).await?;
                self.elasticsearch
                    .search(SearchParts::Index(&indexes))
                    .scroll(KEEP_ALIVE)
                    .size(PAGE_SIZE)
                    .body(json!({"_source": false, "version": true, "sort": ["_doc"]}))
                    .send()
                    .await
            }
        };
        let mut page = answer(sent, doing).await?;
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
    async fn close(&mut self) {
        if let Some(id) = self.scroll_id.take() {
            let body = json!({"scroll_id": id});
            let _ = self.elasticsearch.clear_scroll(ClearScrollParts::None).body(body).send().await;
        }
    }
}

fn found(hit: &Value) -> Option<Found> {
    Some(Found { key: hit["_id"].as_str()?.to_owned(), version: hit["_version"].as_i64()? })
}
