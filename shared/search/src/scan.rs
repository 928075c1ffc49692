//! Every key that an index has.

use serde_json::{Value, json};

use crate::client::Client;
use crate::engine::Server;
use crate::request::{Error, answer, find, whole_answer};

/// As many as Elasticsearch gives (`index.max_result_window`), and far more than an index has shards.
const PAGE_SIZE: usize = 10_000;
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

/// The highest version of an index, 0 where it has no documents, or is gone. Where the server cannot tell it, that of the last
/// writes: versions grow, and what is ahead all the same is overtaken when it is walked.
pub async fn highest_version(elasticsearch: &Client, index: &str) -> Result<i64, Error> {
    let doing = format!("reading the highest version of the index {index}");
    if !refresh(elasticsearch, index, &doing).await? {
        return Ok(0);
    }
    let highest_of_first = async |size: usize, field: &str| {
        let query = json!({"_source": false, "version": true, "size": size, "sort": [{field: "desc"}]});
        let sent = elasticsearch.post([index, "_search"]).json(&query).send().await;
        let found = whole_answer(sent, doing.clone()).await?;
        let hits = found["hits"]["hits"].as_array().into_iter().flatten();
        Ok(hits.filter_map(|hit| hit["_version"].as_i64()).max().unwrap_or(0))
    };
    match highest_of_first(1, "_version").await {
        // OpenSearch and the first releases of Elasticsearch 8 cannot sort by it.
        Err(Error::Refused { status: 400, .. }) => highest_of_first(PAGE_SIZE, "_seq_no").await,
        answer => answer,
    }
}

/// A search sees what was refreshed. Whether there is such an index.
async fn refresh(elasticsearch: &Client, index: &str, doing: &str) -> Result<bool, Error> {
    let sent = elasticsearch.post([index, "_refresh"]).send().await;
    Ok(find(sent, doing).await?.is_some())
}

/// An index as it is at one time, in the order in which its documents were written.
///
/// A document that is written again moves to the end. So a scan that begins where another one was misses nothing, though it
/// sees another time: unlike by slices of a scroll, or of a point in time, whose bounds change with each write.
///
/// Shards count each for itself, so that documents of several may have the same number, and only Elasticsearch tells such ones
/// apart by the shard. So a full page is given without those of its last number, with which the next one begins.
pub struct Scan<'a> {
    server: &'a Server,
    index: &'a str,
    /// The next page begins with this number; `None`: all were given.
    from: Option<i64>,
    /// The point in time; each answer may give it another id.
    pit_id: String,
}

impl<'a> Scan<'a> {
    /// Of the documents whose sequence number is not below this. `None`: there is no such index.
    pub async fn open(server: &'a Server, index: &'a str, from: i64) -> Result<Option<Self>, Error> {
        let doing = format!("reading the keys of the index {index}");
        if !refresh(server, index, &doing).await? {
            return Ok(None);
        }
        let opened = answer(server.open_point_in_time(index, KEEP_ALIVE).await, doing).await?;
        Ok(Some(Self { server, index, from: Some(from), pit_id: server.point_in_time(&opened) }))
    }

    /// The next page; nothing after the last.
    pub async fn next(&mut self) -> Result<Option<Vec<Found>>, Error> {
        let Some(from) = self.from else { return Ok(None) };
        let query = json!({
            "_source": false, "version": true, "seq_no_primary_term": true, "track_total_hits": false, "size": PAGE_SIZE,
            "query": {"range": {"_seq_no": {"gte": from}}}, "sort": [{"_seq_no": "asc"}],
            "pit": {"id": self.pit_id, "keep_alive": KEEP_ALIVE},
        });
        let sent = self.server.post(["_search"]).json(&query).send().await;
        let page = whole_answer(sent, format!("reading the keys of the index {}", self.index)).await?;
        if let Some(id) = page["pit_id"].as_str() {
            id.clone_into(&mut self.pit_id);
        }
        let mut page: Vec<Found> = page["hits"]["hits"].as_array().into_iter().flatten().filter_map(found).collect();
        self.from = page.last().map(|last| last.seq_no).filter(|_| page.len() == PAGE_SIZE);
        if let Some(next) = self.from {
            page.retain(|found| found.seq_no < next);
        }
        Ok((!page.is_empty()).then_some(page))
    }

    /// The server would forget the point in time by itself, later; so a failure is of no interest.
    pub async fn close(self) {
        let _ = self.server.close_point_in_time(&self.pit_id).await;
    }
}

fn found(hit: &Value) -> Option<Found> {
    Some(Found {
        key: hit["_id"].as_str()?.to_owned(),
        version: hit["_version"].as_i64()?,
        seq_no: hit["_seq_no"].as_i64()?,
    })
}
