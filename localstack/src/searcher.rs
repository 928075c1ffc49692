use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use elasticsearch::http::headers::HeaderMap;
use elasticsearch::http::transport::Transport;
use elasticsearch::http::{Method, StatusCode};
use elasticsearch::{Elasticsearch, Error};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::variable;

/// Between two searches while there is no server.
const PAUSE: Duration = Duration::from_millis(20);

/// A document that somebody searches for, and its field with a number that only rises, or the text of one.
#[derive(Clone, Debug)]
pub struct Sought {
    /// By which it is searched.
    pub alias: String,
    /// Its `_id`.
    pub key: String,
    /// The field.
    pub field: String,
}

/// Than what no search may find an older document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Than what one before it found.
    Found,
    /// Than what is known to have arrived. A message that is delivered once more carries what the source has by then, under the version
    /// that it had: until what was sent after it has arrived, too, a search may find less than one before it.
    Arrived,
}

/// Somebody who searches all the time. No search may fail, or find nothing, or find an older document than it should.
///
/// It is a task of its own: a test that waits for a command holds it up only where the runtime has one thread.
#[derive(Debug)]
pub struct Searcher {
    shared: Arc<Shared>,
    task: JoinHandle<Result<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Of each document, the number that has arrived.
    arrived: Vec<AtomicI64>,
    is_over: AtomicBool,
    /// Odd while the server is away.
    outages: AtomicU64,
    searches: AtomicU64,
}

impl Searcher {
    /// Begins. Each document must be there.
    pub fn start(sought: Vec<Sought>, measure: Measure) -> Result<Self> {
        let elasticsearch = Elasticsearch::new(Transport::single_node(&variable("ELASTICSEARCH_URL"))?);
        let arrived = sought.iter().map(|_| AtomicI64::new(0)).collect();
        let shared = Arc::new(Shared { arrived, ..Shared::default() });
        let task = tokio::spawn(search(elasticsearch, sought, measure, Arc::clone(&shared)));
        Ok(Self { shared, task })
    }

    /// These numbers, one for each document, have arrived, and the indexes were refreshed since.
    pub fn has_arrived(&self, numbers: &[i64]) {
        for (arrived, number) in self.shared.arrived.iter().zip(numbers) {
            arrived.fetch_max(*number, Ordering::SeqCst);
        }
    }

    /// The server is away while this is done: what is asked meanwhile counts for nothing. Afterwards it may have forgotten what
    /// it had shown before it acknowledged it.
    pub async fn during_an_outage<T>(&self, outage: impl Future<Output = T>) -> T {
        self.shared.outages.fetch_add(1, Ordering::SeqCst);
        let outcome = outage.await;
        self.shared.outages.fetch_add(1, Ordering::SeqCst);
        outcome
    }

    /// How many searches found what they should by now.
    pub fn searches(&self) -> u64 {
        self.shared.searches.load(Ordering::Relaxed)
    }

    /// Ends it: how many searches there were, or what was wrong with the last one.
    pub async fn stop(self) -> Result<u64> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.task.await??;
        Ok(self.shared.searches.load(Ordering::Relaxed))
    }
}

async fn search(
    elasticsearch: Elasticsearch,
    sought: Vec<Sought>,
    measure: Measure,
    shared: Arc<Shared>,
) -> Result<()> {
    let mut found_before = vec![0; sought.len()];
    while !shared.is_over.load(Ordering::Relaxed) {
        for ((sought, arrived), before) in sought.iter().zip(&shared.arrived).zip(&mut found_before) {
            let outages = shared.outages.load(Ordering::SeqCst);
            let least = if measure == Measure::Found { *before } else { arrived.load(Ordering::SeqCst) };
            let answer = ask(&elasticsearch, sought).await;
            if outages % 2 == 1 || outages != shared.outages.load(Ordering::SeqCst) {
                *before = 0;
                sleep(PAUSE).await;
                continue;
            }
            let (status, found) = answer.with_context(|| format!("searching {}", sought.alias))?;
            let number = number_of(sought, status, &found)?;
            ensure!(number >= least, "{sought:?}: {number} is older than {least}");
            *before = number;
            shared.searches.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

async fn ask(elasticsearch: &Elasticsearch, sought: &Sought) -> Result<(StatusCode, Value), Error> {
    let path = format!("/{}/_search", sought.alias);
    let body = json!({"query": {"ids": {"values": [sought.key]}}}).to_string();
    let sent = elasticsearch.send(Method::Post, &path, HeaderMap::new(), None::<&()>, Some(body), None).await?;
    Ok((sent.status_code(), sent.json().await?))
}

/// What the one document has, that all shards were asked for.
fn number_of(sought: &Sought, status: StatusCode, found: &Value) -> Result<i64> {
    ensure!(status == StatusCode::OK && found["_shards"]["failed"] == 0, "{sought:?}: {status} {found}");
    let value = &found["hits"]["hits"][0]["_source"][&sought.field];
    let number = value.as_i64().or_else(|| value.as_str()?.parse().ok());
    ensure!(found["hits"]["total"]["value"] == 1, "{sought:?}: {found}");
    number.with_context(|| format!("{sought:?}: {found}"))
}
