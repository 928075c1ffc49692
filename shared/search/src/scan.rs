//! Every key that an index has.

use elasticsearch::{Elasticsearch, OpenPointInTimeParts, SearchParts, indices::IndicesRefreshParts};
use serde_json::{Value, json};

use crate::request::{Error, answer, find, whole_answer};

/// As many as Elasticsearch gives (`index.max_result_window`).
const PAGE_SIZE: i64 = 10_000;
/// How long Elasticsearch keeps the point in time for us between two pages: the source may be slow at each chunk.
const KEEP_ALIVE: &str = "10m";

/// A document, without its content.
pub struct Found {
    /// Its key, the document's `_id`.
    pub key: String,
    /// Of its last write, as Sluice gave it.
    pub version: i64,
    /// Elasticsearch's number of its last write; each shard counts for itself.
    pub seq_no: i64,
}

/// The highest version of an index, 0 where it has no documents, or is gone.
pub async fn highest_version(elasticsearch: &Elasticsearch, index: &str) -> Result<i64, Error> {
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

/// An index as it is at one time, in the order in which its documents were written.
///
/// A document that is written again moves to the end. So a scan that begins where another one was misses nothing, though it
/// sees another time: unlike by slices of a scroll, or of a point in time, whose bounds change with each write.
pub struct Scan<'a> {
    elasticsearch: &'a Elasticsearch,
    index: &'a str,
    query: Value,
    /// The point in time; each answer may give it another id.
    pit_id: String,
}

impl<'a> Scan<'a> {
    /// Of the documents whose sequence number is not below this. `None`: there is no such index.
    pub async fn open(elasticsearch: &'a Elasticsearch, index: &'a str, from: i64) -> Result<Option<Self>, Error> {
        let doing = format!("reading the keys of the index {index}");
        if !refresh(elasticsearch, index, &doing).await? {
            return Ok(None);
        }
        let parts = OpenPointInTimeParts::Index(&[index]);
        let sent = elasticsearch.open_point_in_time(parts).keep_alive(KEEP_ALIVE).send().await;
        let opened = answer(sent, doing).await?;
        let query = json!({
            "_source": false, "version": true, "seq_no_primary_term": true, "track_total_hits": false, "size": PAGE_SIZE,
            "query": {"range": {"_seq_no": {"gte": from}}}, "sort": [{"_seq_no": "asc"}],
        });
        let pit_id = opened["id"].as_str().unwrap_or_default().to_owned();
        Ok(Some(Self { elasticsearch, index, query, pit_id }))
    }

    /// The next page; nothing after the last.
    pub async fn next(&mut self) -> Result<Option<Vec<Found>>, Error> {
        self.query["pit"] = json!({"id": self.pit_id, "keep_alive": KEEP_ALIVE});
        let sent = self.elasticsearch.search(SearchParts::None).body(&self.query).send().await;
        let mut page = whole_answer(sent, format!("reading the keys of the index {}", self.index)).await?;
        if let Some(id) = page["pit_id"].as_str() {
            id.clone_into(&mut self.pit_id);
        }
        let Value::Array(hits) = page["hits"]["hits"].take() else { return Ok(None) };
        let Some(last) = hits.last() else { return Ok(None) };
        self.query["search_after"] = last["sort"].clone();
        Ok(Some(hits.iter().filter_map(found).collect()))
    }

    /// Elasticsearch would forget the point in time by itself, later; so a failure is of no interest.
    pub async fn close(self) {
        let _ = self.elasticsearch.close_point_in_time().body(json!({"id": self.pit_id})).send().await;
    }
}

fn found(hit: &Value) -> Option<Found> {
    Some(Found {
        key: hit["_id"].as_str()?.to_owned(),
        version: hit["_version"].as_i64()?,
        seq_no: hit["_seq_no"].as_i64()?,
    })
}
