//! Reading documents: what a stream's rows are now.

use std::collections::{HashMap, HashSet};
use std::future::{poll_fn, ready};
use std::pin::Pin;
use std::task::Poll;

use config::call;
use futures_util::StreamExt;
use futures_util::future::join;
use memchr::memchr2;
use thiserror::Error;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, RowStream};

use crate::session::PEER;

/// A named set of documents, as `sluice.stream` defines it.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// Names the alias in Elasticsearch, too.
    pub name: String,
    /// The table or view that its documents are read from; `None`: it is fed by `sluice.emit` with payloads.
    pub source: Option<String>,
    /// The index that has its live mapping; `None`: migrate has not made it yet.
    pub live_index: Option<String>,
    /// What reads its documents by an array of keys; `None`: there is nothing to read, or it is missing.
    pub query: Option<String>,
}

/// What a key's document is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// One line of JSON; but for line breaks exactly as PostgreSQL gave it.
    Document(String),
    /// It has more bytes than were asked for.
    TooLarge {
        /// Its size.
        bytes: i32,
    },
    /// There is no such row.
    Missing,
    /// This key's own data cannot be read, and will not until they are changed: a division by zero in the view, a key
    /// that is no value of its type (SQLSTATE class 22), or two rows for one key (21000).
    Failed {
        /// The SQLSTATE.
        code: String,
        /// PostgreSQL's message; it may quote data.
        message: String,
    },
}

/// Why the documents of a stream cannot be read, whichever key is asked for.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The stream is fed by `sluice.emit`.
    #[error("stream {0} has no source to read")]
    NoSource(String),
    /// A table or view that was dropped or renamed.
    #[error("the source {relation} of stream {name} does not exist: create it, or define the stream anew")]
    MissingSource {
        /// The stream.
        name: String,
        /// What it names.
        relation: String,
    },
    /// The query failed, or the connection.
    #[error("the documents of stream {name} cannot be read")]
    Query {
        /// The stream.
        name: String,
        /// What PostgreSQL said.
        #[source]
        source: tokio_postgres::Error,
    },
}

impl ReadError {
    /// Whether the connection is of no more use, so that another key or stream would fare no better.
    pub fn is_connection_lost(&self) -> bool {
        match self {
            Self::NoSource(_) | Self::MissingSource { .. } => false,
            Self::Query { source, .. } => {
                source.as_db_error().is_none_or(|error| error.code().code().starts_with("57P"))
            }
        }
    }
}

/// All streams, by name: a fresh look.
pub async fn streams(client: &Client) -> Result<HashMap<String, Stream>, tokio_postgres::Error> {
    let rows = client
        .query_typed("SELECT s.name, s.source, s.live_index, sluice.read_query(s) FROM sluice.stream AS s", &[])
        .await?;
    Ok(rows
        .iter()
        .map(|row| {
            let stream = Stream { name: row.get(0), source: row.get(1), live_index: row.get(2), query: row.get(3) };
            (stream.name.clone(), stream)
        })
        .collect())
}

impl Stream {
    /// Begins to read the documents of these keys, each of at most `limit_bytes`.
    ///
    /// Within a transaction set `in_transaction`, and every query gets a savepoint, so that one that fails leaves the
    /// transaction usable.
    pub fn read<'a>(
        &'a self,
        client: &'a Client,
        keys: Vec<String>,
        limit_bytes: i32,
        in_transaction: bool,
    ) -> Documents<'a> {
        let todo = if keys.is_empty() { vec![] } else { vec![(0..keys.len()).collect::<Vec<_>>()] };
        Documents { stream: self, client, keys, limit_bytes, in_transaction, todo, running: None }
    }
}

/// The documents of many keys, streamed: no more of them are in memory than the connection has buffered.
///
/// One query for all keys. Where it fails by data, the keys that were not answered are halved and asked again, until
/// the one at fault stands alone.
pub struct Documents<'a> {
    stream: &'a Stream,
    client: &'a Client,
    keys: Vec<String>,
    limit_bytes: i32,
    in_transaction: bool,
    todo: Vec<Vec<usize>>,
    running: Option<Running<'a>>,
}

struct Running<'a> {
    rows: Pin<Box<RowStream>>,
    /// Of the savepoint; it is on its way behind the query.
    release: Option<Control<'a>>,
    /// Positions in `keys`; the query numbers what it is asked from 0.
    asked: Vec<usize>,
    /// Of `asked`, what the caller has got.
    given: HashSet<usize>,
    /// The latest answer, held back until the next row shows that it is the only one of its key: the query answers key
    /// by key, so two rows for one follow each other.
    held: Option<(usize, Read)>,
}

/// A statement that was sent, and has not been answered.
type Control<'a> = Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>> + Send + 'a>>;

impl Running<'_> {
    fn give(&mut self, (index, read): (usize, Read)) -> (usize, Read) {
        self.given.insert(index);
        (self.asked[index], read)
    }

    fn unanswered(&self) -> Vec<usize> {
        let waiting = self.asked.iter().enumerate().filter(|(index, _)| !self.given.contains(index));
        waiting.map(|(_, &position)| position).collect()
    }
}

impl<'a> Documents<'a> {
    /// The next answer: an index into the keys, each of them once, in no particular order; `None` after the last.
    ///
    /// After an error, [`Self::into_unanswered`] tells which keys are left.
    pub async fn next(&mut self) -> Result<Option<(usize, Read)>, ReadError> {
        loop {
            let Some(running) = &mut self.running else {
                let Some(asked) = self.todo.pop() else { return Ok(None) };
                if let Some(failed) = call(PEER, "read", self.start(asked)).await? {
                    return Ok(Some(failed));
                }
                continue;
            };
            match running.rows.next().await {
                Some(Ok(row)) => {
                    let (index, read) = answer(&row);
                    match running.held.take() {
                        Some((held, _)) if held == index => {
                            let message = "the source has two rows for this key".to_owned();
                            running.held = Some((index, Read::Failed { code: "21000".to_owned(), message }));
                        }
                        Some(done) => {
                            running.held = Some((index, read));
                            return Ok(Some(running.give(done)));
                        }
                        None => running.held = Some((index, read)),
                    }
                }
                Some(Err(error)) => {
                    let asked = running.unanswered();
                    if let Some(release) = self.running.take().and_then(|running| running.release) {
                        // Refused, like all that comes behind what failed.
                        release.await.ok();
                    }
                    if let Some(failed) = self.recover(asked, error).await? {
                        return Ok(Some(failed));
                    }
                }
                None => {
                    let last = running.held.take().map(|held| running.give(held));
                    if let Some(release) = self.running.take().and_then(|running| running.release) {
                        release.await.map_err(|error| self.error(error))?;
                    }
                    if last.is_some() {
                        return Ok(last);
                    }
                }
            }
        }
    }

    /// The indexes of the keys that have not been answered.
    pub fn into_unanswered(self) -> Vec<usize> {
        let mut left: Vec<usize> = self.todo.into_iter().flatten().collect();
        left.extend(self.running.iter().flat_map(Running::unanswered));
        left.sort_unstable();
        left
    }
    async fn start(&mut self, asked: Vec<usize>) -> Result<Option<(usize, Read)>, ReadError> {
        let Some(query) = &self.stream.query else {
            self.todo.push(asked);
            let name = self.stream.name.clone();
            return Err(match self.stream.source.clone() {
                Some(relation) => ReadError::MissingSource { name, relation },
                None => ReadError::NoSource(name),
            });
        };
        let keys: Vec<&str> = asked.iter().map(|&position| self.keys[position].as_str()).collect();
        let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&keys, Type::TEXT_ARRAY), (&self.limit_bytes, Type::INT4)];
        // Unnamed, hence planned for these keys; a generic plan may be a much worse one.
        let read = self.client.query_typed_raw(query, parameters);
        // Savepoint, query and release are sent one behind the other: nothing is waited for in between.
        let read = if self.in_transaction {
            let (savepoint, read) = join(self.client.batch_execute("SAVEPOINT documents"), read).await;
            if let Err(error) = savepoint {
                self.todo.push(asked);
                return Err(self.error(error));
            }
            read
        } else {
            read.await
        };
        match read {
            Ok(rows) => {
                let release =
                    if self.in_transaction { Some(self.send("RELEASE SAVEPOINT documents").await) } else { None };
                self.running =
                    Some(Running { rows: Box::pin(rows), release, asked, given: HashSet::new(), held: None });
                Ok(None)
            }
            Err(error) => self.recover(asked, error).await,
        }
    }

    /// What follows from a failed query: the one key that is at fault, smaller queries, or the error.
    async fn recover(
        &mut self,
        mut asked: Vec<usize>,
        error: tokio_postgres::Error,
    ) -> Result<Option<(usize, Read)>, ReadError> {
        let failure = self.error(error);
        if !failure.is_connection_lost() && self.in_transaction {
            self.control("ROLLBACK TO SAVEPOINT documents").await?;
        }
        let data = match &failure {
            ReadError::Query { source, .. } => source.as_db_error().filter(|e| e.code().code().starts_with("22")),
            ReadError::NoSource(_) | ReadError::MissingSource { .. } => None,
        };
        let Some(data) = data else {
            self.todo.push(asked);
            return Err(failure);
        };
        if let [position] = asked[..] {
            let (code, message) = (data.code().code().to_owned(), data.message().to_owned());
            return Ok(Some((position, Read::Failed { code, message })));
        }
        let half = asked.split_off(asked.len() / 2);
        self.todo.extend([half, asked]);
        Ok(None)
    }

    /// Sends a statement, whose answer comes behind those of what was sent before.
    async fn send(&self, statement: &'static str) -> Control<'a> {
        let mut answer: Control<'a> = Box::pin(self.client.batch_execute(statement));
        // The client sends what it is first polled for.
        match poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await {
            Poll::Ready(answered) => Box::pin(ready(answered)),
            Poll::Pending => answer,
        }
    }

    async fn control(&self, statement: &str) -> Result<(), ReadError> {
        self.client.batch_execute(statement).await.map_err(|error| self.error(error))
    }

    fn error(&self, source: tokio_postgres::Error) -> ReadError {
        ReadError::Query { name: self.stream.name.clone(), source }
    }
}

fn answer(row: &Row) -> (usize, Read) {
    let (index, found): (i32, Option<bool>) = (row.get(0), row.get(1));
    let read = match (found, row.get(2), row.get(3)) {
        (None, _, _) => Read::Missing,
        (Some(_), Some(document), _) => Read::Document(one_line(document)),
        (Some(_), None, bytes) => Read::TooLarge { bytes: Option::unwrap_or_default(bytes) },
    };
    (index as usize, read)
}

/// A `json` value keeps its own line breaks, and a document is one line; JSON has them only between tokens.
pub(crate) fn one_line(document: String) -> String {
    match memchr2(b'\n', b'\r', document.as_bytes()) {
        Some(_) => document.replace(['\n', '\r'], " "),
        None => document,
    }
}
