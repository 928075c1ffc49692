//! Elasticsearch as a direct target: bulk requests straight from the log. What draining is, [`drain`] says; what an answer of
//! Elasticsearch means, [`search`].

use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use config::Env;
use database::delivery::Refusal;
use database::subscriptions::ELASTICSEARCH;
use database::{Postgres, Stream};
use drain::{Drainer, Outcome, Sent, Sink, Step, Unfit};
use message::{Change, Op};
use search::{Aliases, Bulk, Connection, Deadline, Elastic, Outcome as Answer, Reason, Write};
use secrets::Secrets;
use telemetry::Trace;
use thiserror::Error;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep};

/// Elasticsearch takes 100 MB in one request; no document of a search index comes near this.
const DOCUMENT_BYTES: i32 = 20 << 20;
/// For one bulk request, its halves among it. PostgreSQL ends the drainer's session after a minute without a statement.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Requests that are under way at once, while the next pages are read.
const REQUESTS: usize = 2;
/// How often a stream's documents are tried that Elasticsearch has no room for just now, before the stream rests.
const ATTEMPTS: u32 = 3;

/// What the environment says, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The database and its secret.
    pub database: database::Settings,
    /// Elasticsearch and its secret.
    pub search: search::Settings,
    /// How to drain.
    pub drain: drain::Settings,
    /// `SECOND_LOOK_AFTER`: how long after a delete its key is looked at once more.
    pub second_look_after: Duration,
    /// `BULK_BYTES`: a bulk request is no larger, unless a single document is.
    pub bulk_bytes: usize,
}

impl Config {
    /// Reads and checks all of it.
    ///
    /// # Errors
    /// Everything that is missing or malformed, by name.
    pub fn from_env(mut env: Env) -> Result<Self, config::Error> {
        let config = Self {
            database: database::Settings::from_env(&mut env),
            search: search::Settings::from_env(&mut env),
            drain: drain::Settings::from_env(ELASTICSEARCH, &mut env),
            second_look_after: env.duration("SECOND_LOOK_AFTER", Duration::from_secs(15 * 60)),
            // Each is in memory some three times, and two are under way.
            bulk_bytes: env.parsed("BULK_BYTES", 2 << 20, "a number of bytes from 1024 to 52428800", |n| {
                (1 << 10..=50 << 20).contains(n)
            }),
        };
        env.finish()?;
        Ok(config)
    }
}

/// A drainer straight into Elasticsearch, which runs in a [`tokio::task::LocalSet`]. It connects to nothing yet.
pub fn new(config: Config, secrets: &Secrets) -> Drainer<Postgres, Direct> {
    let database = Postgres::new(config.database, secrets.clone());
    let shared = Shared {
        aliases: Aliases::new(config.search.index_prefix.clone()),
        cluster: Elastic::new(Connection::new(config.search, secrets.clone())),
        bulk_bytes: config.bulk_bytes,
    };
    let sink = Direct { shared: Arc::new(shared), second_look_after: config.second_look_after };
    Drainer::new(config.drain, None, database, sink)
}

/// The indexes: documents with external versions, so that whatever is written twice, late or again is right.
pub struct Direct {
    shared: Arc<Shared>,
    second_look_after: Duration,
}

struct Shared {
    cluster: Elastic,
    aliases: Aliases,
    bulk_bytes: usize,
}

/// Elasticsearch takes nothing as things are.
#[derive(Debug, Error)]
pub enum WriteError {
    /// It does not answer, has no room, or lets nobody in.
    #[error("Elasticsearch does not take documents: {error_type}: {text}")]
    Away {
        /// A word to group by.
        error_type: String,
        /// In a sentence; not about a document.
        text: String,
    },
    /// A task was cancelled or panicked.
    #[error("a task that writes ended without an answer")]
    Task(#[from] JoinError),
}

impl From<Reason> for WriteError {
    fn from(Reason { error_type, text, .. }: Reason) -> Self {
        Self::Away { error_type, text }
    }
}

impl Sink for Direct {
    type Step = Writing;

    const DOCUMENT_BYTES: i32 = DOCUMENT_BYTES;

    const READS_AGAIN: bool = false;

    /// Elasticsearch remembers the version of a deleted document for an hour, and not over a restart.
    fn looks_again_after(&self) -> Option<Duration> {
        Some(self.second_look_after)
    }

    async fn has_room(&mut self) -> Result<bool, WriteError> {
        Ok(true)
    }

    fn begin(&mut self, _: &Trace, _: i64) -> Writing {
        Writing {
            shared: Arc::clone(&self.shared),
            gathered: BTreeMap::new(),
            bytes: 0,
            requests: JoinSet::new(),
            sent: HashMap::new(),
            outcome: Outcome::default(),
        }
    }
}

/// Documents on their way.
pub struct Writing {
    shared: Arc<Shared>,
    /// By stream, what is to be sent.
    gathered: BTreeMap<String, Gathered>,
    /// Of all of it.
    bytes: usize,
    requests: JoinSet<Done>,
    /// Bytes, by stream.
    sent: HashMap<String, u64>,
    outcome: Outcome,
}

#[derive(Default)]
struct Gathered {
    /// Of its index.
    generation: i32,
    /// What was emitted is not read again: none of it may be set aside behind a later one of its key.
    is_ordered: bool,
    puts: Vec<Put>,
}

struct Put {
    id: i64,
    key: String,
    version: i64,
    document: Option<String>,
}

/// What became of the writes of one stream.
struct Done {
    stream: String,
    answers: Vec<(Put, Answer)>,
}

impl Step for Writing {
    type Error = WriteError;

    async fn put(&mut self, stream: &Stream, change: &Change<'_>, document: Option<&str>) -> Result<(), WriteError> {
        let document = document.filter(|_| change.op != Op::Delete);
        let put = Put {
            id: change.id,
            key: change.key.clone().into_owned(),
            version: change.version,
            document: document.map(str::to_owned),
        };
        if let Err(refused) = search::check(&put.key, put.version, document) {
            return self.note(&stream.name, put, refused);
        }
        let bytes = put.key.len() + document.map_or(0, str::len);
        *self.sent.entry(stream.name.clone()).or_default() += bytes as u64;
        let gathered = self.gathered.entry(stream.name.clone()).or_default();
        (gathered.generation, gathered.is_ordered) = (stream.generation, stream.source.is_none());
        gathered.puts.push(put);
        self.bytes += bytes;
        if self.bytes >= self.shared.bulk_bytes {
            self.send().await?;
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<Outcome, WriteError> {
        self.send().await?;
        while let Some(done) = self.requests.join_next().await {
            self.take(done?)?;
        }
        let sent = self.sent.into_iter().map(|(stream, bytes)| Sent { stream, messages: 0, bytes });
        self.outcome.sent.extend(sent);
        Ok(self.outcome)
    }
}

impl Writing {
    /// Sends what was gathered, each stream to its index.
    async fn send(&mut self) -> Result<(), WriteError> {
        self.bytes = 0;
        for (stream, Gathered { generation, is_ordered, puts }) in mem::take(&mut self.gathered) {
            while self.requests.len() >= if is_ordered { 1 } else { REQUESTS } {
                if let Some(done) = self.requests.join_next().await {
                    self.take(done?)?;
                }
            }
            // Nothing of it goes past what waits.
            if let Some(unfit) = self.outcome.unfit.iter_mut().find(|unfit| unfit.stream == stream) {
                unfit.ids.extend(puts.iter().map(|put| put.id));
                continue;
            }
            let shared = Arc::clone(&self.shared);
            self.requests.spawn_local(async move { shared.write(stream, generation, puts).await });
        }
        Ok(())
    }

    fn take(&mut self, Done { stream, answers }: Done) -> Result<(), WriteError> {
        answers.into_iter().try_for_each(|(put, answer)| self.note(&stream, put, answer))
    }

    /// What is about one change is a letter; what is about one stream lets it rest; what is about all fails the step.
    fn note(&mut self, stream: &str, put: Put, answer: Answer) -> Result<(), WriteError> {
        let reason = match answer {
            Answer::Done(..) => return Ok(()),
            Answer::Permanent(Reason { error_type, text, .. }) => {
                self.outcome.refused.push(Refusal {
                    change_id: put.id,
                    stream: stream.to_owned(),
                    key: put.key,
                    version: put.version,
                    error_type,
                    reason: text,
                });
                return Ok(());
            }
            Answer::Retry(reason) | Answer::Unread(reason) | Answer::Configuration(reason) if reason.is_general => {
                return Err(reason.into());
            }
            Answer::Retry(reason) | Answer::Unread(reason) | Answer::Configuration(reason) => {
                format!("Elasticsearch does not take it: {}: {}", reason.error_type, reason.text)
            }
            Answer::NoIndex(_) | Answer::NoStream => "it has no index: run migrate".to_owned(),
        };
        match self.outcome.unfit.iter_mut().find(|unfit| unfit.stream == stream) {
            Some(unfit) => unfit.ids.push(put.id),
            None => self.outcome.unfit.push(Unfit { stream: stream.to_owned(), reason, ids: vec![put.id] }),
        }
        Ok(())
    }
}

impl Shared {
    /// Writes the documents of one stream, and again those that Elasticsearch has no room for just now.
    async fn write(&self, stream: String, generation: i32, puts: Vec<Put>) -> Done {
        let deadline = Deadline::at(Instant::now() + REQUEST_TIMEOUT);
        let alias = match self.aliases.of(&stream, generation, &self.cluster, deadline).await {
            Ok(alias) => alias,
            Err(outcome) => {
                return Done { stream, answers: puts.into_iter().map(|put| (put, outcome.clone())).collect() };
            }
        };
        let bulk = Bulk { cluster: &self.cluster, alias: &alias, limit_bytes: self.bulk_bytes, deadline };
        let mut answers: Vec<Option<Answer>> = vec![None; puts.len()];
        let mut left: Vec<usize> = (0..puts.len()).collect();
        for attempt in 1..=ATTEMPTS {
            let writes: Vec<Write<'_>> = left
                .iter()
                .map(|&index| Write::new(&puts[index].key, puts[index].version, puts[index].document.as_deref()))
                .collect();
            let outcomes = bulk.write(&writes).await;
            let mut again = vec![];
            for (&index, outcome) in left.iter().zip(outcomes) {
                if matches!(&outcome, Answer::Retry(reason) if !reason.is_general) {
                    again.push(index);
                }
                answers[index] = Some(outcome);
            }
            left = again;
            if left.is_empty() || attempt == ATTEMPTS {
                break;
            }
            sleep(Duration::from_millis(100) * 4_u32.pow(attempt - 1)).await;
        }
        if answers.iter().any(|answer| matches!(answer, Some(Answer::NoIndex(_)))) {
            self.aliases.forget(&stream, generation).await;
        }
        let unanswered = || Answer::Retry(Reason::new("no_answer", "it was not answered").general());
        let answers = puts.into_iter().zip(answers).map(|(put, answer)| (put, answer.unwrap_or_else(unanswered)));
        Done { stream, answers: answers.collect() }
    }
}
