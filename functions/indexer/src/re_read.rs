//! Documents as PostgreSQL has them now.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use config::{SecretError, Secrets};
use database::{
    Answers as _, Connect, ConnectError, Postgres, Read, ReadError, Session as _, Settings, Stream, describe,
    log::Count,
};
use tokio::time::{timeout, timeout_at};
use tracing::warn;

use crate::{
    alias,
    deadline::Deadline,
    decision::{Outcome, Reason},
};

/// The largest document that is written at all. The function holds it about three times over.
const DOCUMENT_BYTES: i32 = 20 << 20;
/// The first, tiny query of a connection that was left open: the other side may have vanished while the sandbox was frozen.
const IDLE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(3);

/// PostgreSQL, for those who need it. Connected when the first of them comes; at most one connection.
pub struct Source<D: Connect = Postgres> {
    database: D,
    /// Taken out for use and put back when all went well, so that whatever went wrong or was given up closes it.
    idle: Mutex<Option<D::Session>>,
}

/// What is known of one key after it was asked for.
#[derive(Debug)]
pub(crate) enum Reading {
    /// The document, or `None`: there is none.
    Current(Option<String>),
    /// It could not be read.
    Unread(Outcome),
}

impl Source {
    /// Nothing is connected yet.
    pub fn new(settings: Settings, secrets: Secrets) -> Self {
        Self::of(Postgres::new(settings, secrets))
    }
}

impl<D: Connect> Source<D> {
    /// Nothing is connected yet.
    pub fn of(database: D) -> Self {
        Self { database, idle: Mutex::new(None) }
    }

    /// All streams: a fresh look.
    pub(crate) async fn streams(&self, deadline: Deadline) -> Result<HashMap<String, Stream>, Outcome> {
        if let Some(client) = self.take_idle()
            && let Ok(Ok(streams)) = timeout(IDLE_CONNECTION_TIMEOUT, client.streams()).await
        {
            self.put_back(client);
            return Ok(streams);
        }
        let client = self.connect(deadline).await?;
        match timeout_at(deadline.instant(), client.streams()).await {
            Ok(Ok(streams)) => {
                self.put_back(client);
                Ok(streams)
            }
            Ok(Err(error)) => {
                let problem = describe(&error);
                warn!(error = problem, "the streams could not be read");
                Err(Outcome::Retry(Reason::new("database", problem).general()))
            }
            Err(_) => Err(Outcome::Retry(Reason::deadline())),
        }
    }

    /// The definition of one stream as it is now.
    pub(crate) async fn stream(&self, name: &str, deadline: Deadline) -> Result<Stream, Outcome> {
        self.streams(deadline).await?.remove(name).ok_or_else(alias::unknown)
    }

    /// Reads these keys, and hands each of them over once, by its index: in portions of about `portion_bytes`, so that
    /// no more of the documents are in memory.
    pub(crate) async fn read(
        &self,
        stream: &Stream,
        keys: &[&str],
        portion_bytes: usize,
        deadline: Deadline,
        mut hand_over: impl AsyncFnMut(Vec<(usize, Reading)>),
    ) {
        let client = match self.client(deadline).await {
            Ok(client) => client,
            Err(outcome) => return hand_over(unread(0..keys.len(), &outcome)).await,
        };
        let texts = keys.iter().map(|&key| key.to_owned()).collect();
        let mut documents = client.read(stream, texts, DOCUMENT_BYTES, None);
        let mut portion = Vec::new();
        let mut bytes = 0;
        let failure = loop {
            match timeout_at(deadline.instant(), documents.next()).await {
                Ok(Ok(Some((index, read)))) => {
                    bytes += if let Read::Document(document) = &read { document.len() } else { 0 };
                    portion.push((index, reading(read)));
                    if bytes >= portion_bytes {
                        bytes = 0;
                        hand_over(std::mem::take(&mut portion)).await;
                    }
                }
                Ok(Ok(None)) => break None,
                Ok(Err(error)) => break Some((decide_error(&error), !error.is_connection_lost())),
                // The query may still be running: this connection is closed.
                Err(_) => break Some((Outcome::Retry(Reason::deadline()), false)),
            }
        };
        let unanswered = documents.into_unanswered();
        if let Some((outcome, _)) = &failure {
            portion.extend(unread(unanswered, outcome));
        }
        if failure.is_none_or(|(_, is_usable)| is_usable) {
            self.put_back(client);
        }
        hand_over(portion).await;
    }

    /// Adds to the counters of deliveries: whether that is known to be done.
    pub(crate) async fn count_deliveries(&self, counts: &[Count], deadline: Deadline) -> bool {
        let Ok(client) = self.client(deadline).await else { return false };
        match timeout_at(deadline.instant(), client.count_deliveries(counts)).await {
            Ok(Ok(())) => {
                self.put_back(client);
                true
            }
            Ok(Err(error)) => {
                warn!(error = describe(&error), "the deliveries are counted later");
                false
            }
            Err(_) => false,
        }
    }

    async fn client(&self, deadline: Deadline) -> Result<D::Session, Outcome> {
        match self.take_idle() {
            Some(client) => Ok(client),
            None => self.connect(deadline).await,
        }
    }

    async fn connect(&self, deadline: Deadline) -> Result<D::Session, Outcome> {
        match timeout_at(deadline.instant(), self.database.connect("sluice-indexer")).await {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(error)) => {
                warn!(%error, "there is no way to PostgreSQL");
                let reason = Reason::new("database", error.to_string()).general();
                let is_transient = matches!(
                    error,
                    ConnectError::Unreachable { .. }
                        | ConnectError::NoSession { .. }
                        | ConnectError::Secret(SecretError::Unreadable { .. })
                );
                Err(if is_transient { Outcome::Retry(reason) } else { Outcome::Configuration(reason) })
            }
            Err(_) => Err(Outcome::Retry(Reason::deadline())),
        }
    }

    fn take_idle(&self) -> Option<D::Session> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).take().filter(|client| !client.is_closed())
    }

    fn put_back(&self, client: D::Session) {
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(client);
    }
}

fn unread(indexes: impl IntoIterator<Item = usize>, outcome: &Outcome) -> Vec<(usize, Reading)> {
    indexes.into_iter().map(|index| (index, Reading::Unread(outcome.clone()))).collect()
}

fn reading(read: Read) -> Reading {
    match read {
        Read::Document(document) => Reading::Current(Some(document)),
        Read::Missing => Reading::Current(None),
        Read::TooLarge { bytes } => Reading::Unread(Outcome::Permanent(Reason::new(
            "document_too_large",
            format!("the document has {bytes} bytes, and at most {DOCUMENT_BYTES} are written"),
        ))),
        Read::Failed { code, message } => Reading::Unread(Outcome::Permanent(Reason::new(code, message))),
    }
}

/// What a query that fails whichever key is asked for means for the keys that it did not answer. Nothing is
/// dead-lettered for the sake of a view that somebody broke: they wait until it is mended.
fn decide_error(error: &ReadError) -> Outcome {
    match error {
        ReadError::NoSource(_) => Outcome::Permanent(Reason::new(alias::NO_SOURCE, error.to_string())),
        ReadError::UnreadableSource { .. } => {
            Outcome::Configuration(Reason::new("unreadable_source", error.to_string()))
        }
        ReadError::Slow { .. } => Outcome::Retry(Reason::new("slow_source", error.to_string())),
        ReadError::Query { source, .. } => {
            let problem = describe(source);
            warn!(error = problem, "documents could not be read");
            let code = source.code().map_or("database", |code| code.code());
            let reason = Reason::new(code, problem);
            if error.is_connection_lost() {
                return Outcome::Retry(reason.general());
            }
            // 42: a column or function that is missing, a privilege that is.
            if code.starts_with("42") { Outcome::Configuration(reason) } else { Outcome::Retry(reason) }
        }
    }
}
