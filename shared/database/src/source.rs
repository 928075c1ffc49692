//! Reading documents: what a stream's rows are now.

use std::collections::{HashMap, HashSet};
use std::future::{poll_fn, ready};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join;
use memchr::memchr2;
use serde_json::Value;
use telemetry::call;
use thiserror::Error;
use tokio_postgres::error::{DbError, Severity, SqlState};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, RowStream};

/// In the spans of calls.
pub(crate) const PEER: &str = "postgresql";

/// How long a read waits for a lock on the source: whoever has it locked holds up its stream alone.
const READ_LOCK_TIMEOUT: &str = "250ms";

/// A named set of documents, as `sluice.stream` defines it, and as one subscription delivers it.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// Names the alias in Elasticsearch, too; with its number behind it where it is a generation beside the live one.
    pub name: String,
    /// Which generation of its index this is.
    pub generation: i32,
    /// The stream whose rows of the log are its rows, too: then it is a generation beside the live one.
    pub follows: Option<String>,
    /// Whose fields are read.
    pub subscription: String,
    /// Whether it delivers the stream at all.
    pub is_delivered: bool,
    /// The table or view that its documents are read from; `None`: it is fed by `sluice.emit` with payloads.
    pub source: Option<String>,
    /// The index that has its live mapping, or the table, or the topic; `None`: migrate has not made it yet.
    pub live_index: Option<String>,
    /// What a direct target has of it.
    pub live_definition: Option<Value>,
    /// Whether the subscription has letters of it: a direct target's go when their keys arrive.
    pub has_refusals: bool,
    /// What reads its documents by an array of keys; `None`: there is nothing to read, or nobody can.
    pub query: Option<String>,
    /// Why nobody can read its source, with what to do.
    pub problem: Option<String>,
    /// Whether reading it failed when it was last tried.
    pub has_fault: bool,
}

/// What flights of this generation of a stream are noted under.
pub fn flight_name(stream: &str, generation: i32) -> String {
    let base = stream.split('.').next().unwrap_or(stream);
    if generation > 1 { format!("{base}.g{generation}") } else { base.to_owned() }
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
    /// There is no such row, and there can be none where the text is no value of the key's type. Or the row prints its key
    /// in another way, `7` for `007`; then the change is logged anew under the key as the row prints it.
    Missing,
    /// This key's own data cannot be read, and will not until they are changed: a division by zero in the view, two rows
    /// for one key (21000), or whatever else fails for this key and not for others.
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
    /// A table or view that was dropped or renamed, or that the functions may not read.
    #[error("stream {name}: {problem}")]
    UnreadableSource {
        /// The stream.
        name: String,
        /// What is wrong with its source, and what to do.
        problem: String,
    },
    /// There was too little time for the rest.
    #[error("the documents of stream {name} take longer to read than a page may")]
    Slow {
        /// The stream.
        name: String,
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
            Self::NoSource(_) | Self::UnreadableSource { .. } | Self::Slow { .. } => false,
            // A source may raise such a code itself, and the session goes on.
            Self::Query { source, .. } => source.as_db_error().is_none_or(|error| {
                error.code().code().starts_with("57P") && error.parsed_severity() != Some(Severity::Error)
            }),
        }
    }

    /// Whether the time was over, and nothing else was wrong.
    pub fn is_late(&self) -> bool {
        matches!(self, Self::Slow { .. }) || self.refusal().is_some_and(|it| *it.code() == SqlState::QUERY_CANCELED)
    }

    /// What PostgreSQL said, or else the error itself.
    pub fn reason(&self) -> String {
        match self {
            Self::Query { source, .. } => crate::describe(source),
            Self::NoSource(_) | Self::UnreadableSource { .. } | Self::Slow { .. } => self.to_string(),
        }
    }

    /// Of a query that was refused: by what it was given, or by what is wrong with the source.
    fn refusal(&self) -> Option<&DbError> {
        match self {
            Self::Query { source, .. } => source.as_db_error().filter(|_| !self.is_connection_lost()),
            Self::NoSource(_) | Self::UnreadableSource { .. } | Self::Slow { .. } => None,
        }
    }
}

/// Whether the same query may well succeed in a moment: it waited for too long, or for others. A source that raises such a
/// code itself means something by it.
fn is_passing(refusal: &DbError) -> bool {
    let passing = [
        &SqlState::QUERY_CANCELED,
        &SqlState::LOCK_NOT_AVAILABLE,
        &SqlState::T_R_SERIALIZATION_FAILURE,
        &SqlState::T_R_DEADLOCK_DETECTED,
    ];
    passing.contains(&refusal.code()) && refusal.routine() != Some("exec_stmt_raise")
}

/// All streams, by name, as this subscription delivers them: a fresh look.
pub async fn streams(client: &Client, subscription: &str) -> Result<HashMap<String, Stream>, tokio_postgres::Error> {
    let streams = list(client, subscription, None).await?;
    Ok(streams.into_iter().map(|stream| (stream.name.clone(), stream)).collect())
}

/// The stream of this name; `None`: there is none.
pub async fn stream(client: &Client, subscription: &str, name: &str) -> Result<Option<Stream>, tokio_postgres::Error> {
    Ok(list(client, subscription, Some(name)).await?.pop())
}

async fn list(client: &Client, subscription: &str, name: Option<&str>) -> Result<Vec<Stream>, tokio_postgres::Error> {
    let query = "SELECT s.name, s.source, t.stream IS NOT NULL AND g.state IS DISTINCT FROM 'dropped', t.live_index,
             CASE WHEN t.stream IS NOT NULL THEN sluice.read_query(s, sluice.fields_of(t), sluice.texts_of(t), sluice.buckets_of(t)) END,
             CASE WHEN t.stream IS NOT NULL THEN sluice.source_problem(s, sluice.fields_of(t)) END,
             EXISTS (SELECT FROM sluice.stream_fault AS f WHERE f.subscription = t.subscription AND f.stream = s.name),
             CASE WHEN t.subscription <> 'elasticsearch' THEN t.live_mapping END,
             EXISTS (SELECT FROM sluice.dead_letter AS l WHERE l.subscription = t.subscription AND l.stream = s.name),
             s.generation, s.follows
         FROM sluice.stream AS s
         LEFT JOIN sluice.generation AS g ON g.stream = s.name
         LEFT JOIN sluice.target AS t ON t.stream = s.name AND t.subscription = $1
         WHERE s.name = coalesce($2, s.name)";
    let rows = client.query_typed(query, &[(&subscription, Type::TEXT), (&name, Type::TEXT)]).await?;
    let stream = |row: &Row| Stream {
        name: row.get(0),
        subscription: subscription.to_owned(),
        source: row.get(1),
        is_delivered: row.get(2),
        live_index: row.get(3),
        query: row.get(4),
        problem: row.get(5),
        has_fault: row.get(6),
        live_definition: row.get(7),
        has_refusals: row.get(8),
        generation: row.get(9),
        follows: row.get(10),
    };
    Ok(rows.iter().map(stream).collect())
}

/// The generation of a stream that a name means: `books` the live one, `books.g2` the second one, whichever is live. `None`: there
/// is none.
pub fn of_name<'s>(streams: &'s HashMap<String, Stream>, name: &str) -> Option<&'s Stream> {
    streams.get(name).or_else(|| {
        let (base, generation) = name.split_once(".g")?;
        streams.get(base).filter(|live| generation.parse() == Ok(live.generation))
    })
}

impl Stream {
    /// The stream that it is a generation of.
    pub fn base(&self) -> &str {
        self.follows.as_deref().unwrap_or(&self.name)
    }

    /// What its flights are noted under, for good: it may become the live one, or cease to be.
    pub fn flight_name(&self) -> String {
        flight_name(self.base(), self.generation)
    }

    /// Begins to read the documents of these keys, each of at most `limit_bytes`.
    ///
    /// Each query is undone: whatever the source's own functions have set in the session would be in force for other
    /// streams. Each waits for locks for a short time only. Within a transaction give the longest time that it may take: then
    /// every query gets a savepoint, so that one that fails leaves the transaction usable.
    pub fn read<'a>(
        &'a self,
        client: &'a Client,
        keys: Vec<String>,
        limit_bytes: i32,
        in_transaction: Option<Duration>,
    ) -> Documents<'a> {
        Documents {
            stream: self,
            client,
            limit_bytes,
            until: in_transaction.map(|time| Instant::now() + time),
            todo: if keys.is_empty() { vec![] } else { vec![(0..keys.len()).collect::<Vec<_>>()] },
            keys,
            logs: true,
            running: None,
            is_sound: false,
            has_answered: false,
            printed: vec![],
            missing: vec![],
        }
    }
}

/// The documents of many keys, streamed: no more of them are in memory than the connection has buffered.
///
/// One query for all keys. Where it fails, the keys that were not answered are halved and asked again, until the one at
/// fault stands alone. It is at fault if others are answered: otherwise the stream is, and that was tried often enough.
pub struct Documents<'a> {
    stream: &'a Stream,
    client: &'a Client,
    keys: Vec<String>,
    limit_bytes: i32,
    /// Whether keys that their rows print in another way are logged anew.
    logs: bool,
    /// Within a transaction: when to stop.
    until: Option<Instant>,
    todo: Vec<Vec<usize>>,
    running: Option<Running<'a>>,
    /// The query itself was found to be in order.
    is_sound: bool,
    /// It answered for some key.
    has_answered: bool,
    /// Keys whose rows print them in another way, and how. They are missing, but that is told only when what their rows
    /// print is logged: whoever stops before asks again.
    printed: Vec<(usize, String)>,
    missing: Vec<usize>,
}

struct Running<'a> {
    rows: Pin<Box<RowStream>>,
    /// It is on its way behind the query.
    undo: Control<'a>,
    /// Positions in `keys`; the query numbers what it is asked from 0.
    asked: Vec<usize>,
    /// Of `asked`, what the caller has got.
    given: HashSet<usize>,
    /// The latest answer, held back until the next row shows that it is the only one of its key: the query answers key
    /// by key, so two rows for one follow each other.
    held: Option<(usize, Read)>,
}

/// A statement that was sent, and has not been answered.
type Control<'a> = Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>> + Send + Sync + 'a>>;

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
    /// For whoever only looks: nothing is logged.
    #[must_use]
    pub fn without_log(mut self) -> Self {
        self.logs = false;
        self
    }

    /// The next answer: an index into the keys, each of them once, in no particular order; `None` after the last.
    ///
    /// After an error, [`Self::into_unanswered`] tells which keys are left.
    pub async fn next(&mut self) -> Result<Option<(usize, Read)>, ReadError> {
        loop {
            let Some(running) = &mut self.running else {
                let Some(asked) = self.todo.pop() else {
                    self.log_printed().await?;
                    return Ok(self.missing.pop().map(|position| (position, Read::Missing)));
                };
                if let Some(failed) = call(PEER, "read", self.start(asked)).await? {
                    return Ok(Some(failed));
                }
                continue;
            };
            match running.rows.next().await {
                Some(Ok(row)) => {
                    self.has_answered = true;
                    if let Some(printed) = row.get(4) {
                        let index = index_of(&row);
                        running.given.insert(index);
                        self.printed.push((running.asked[index], printed));
                        continue;
                    }
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
                    if let Some(running) = self.running.take() {
                        // Where the connection is lost, so says the query's own error.
                        running.undo.await.ok();
                    }
                    let error = self.error(error);
                    if let Some(failed) = self.recover(asked, error).await? {
                        return Ok(Some(failed));
                    }
                }
                None => {
                    let last = running.held.take().map(|held| running.give(held));
                    if let Some(running) = self.running.take() {
                        running.undo.await.map_err(|error| self.error(error))?;
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
        let mut left: Vec<usize> = self.todo.into_iter().flatten().chain(self.missing).collect();
        left.extend(self.printed.iter().map(|(position, _)| position));
        left.extend(self.running.iter().flat_map(Running::unanswered));
        left.sort_unstable();
        left
    }
    async fn start(&mut self, asked: Vec<usize>) -> Result<Option<(usize, Read)>, ReadError> {
        let Some(query) = &self.stream.query else {
            self.todo.push(asked);
            let name = self.stream.name.clone();
            return Err(match self.stream.problem.clone() {
                Some(problem) => ReadError::UnreadableSource { name, problem },
                None => ReadError::NoSource(name),
            });
        };
        let begin = match self.begin() {
            Ok(begin) => begin,
            Err(slow) => {
                self.todo.push(asked);
                return Err(slow);
            }
        };
        let keys: Vec<&str> = asked.iter().map(|&position| self.keys[position].as_str()).collect();
        let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&keys, Type::TEXT_ARRAY), (&self.limit_bytes, Type::INT4)];
        // Unnamed, hence planned for these keys; a generic plan may be a much worse one.
        let read = self.client.query_typed_raw(query, parameters);
        // What begins, the query and what undoes are sent one behind the other: nothing is waited for in between.
        let (began, read) = join(self.client.batch_execute(&begin), read).await;
        if let Err(error) = began {
            self.todo.push(asked);
            return Err(self.error(error));
        }
        match read {
            Ok(rows) => {
                let undo = self.send(self.undo()).await;
                self.running = Some(Running { rows: Box::pin(rows), undo, asked, given: HashSet::new(), held: None });
                Ok(None)
            }
            Err(error) => {
                let error = self.error(error);
                if !error.is_connection_lost() {
                    self.control(self.undo()).await?;
                }
                self.recover(asked, error).await
            }
        }
    }

    /// What follows from a failed query: the one key that is at fault, smaller queries, or the error.
    async fn recover(&mut self, mut asked: Vec<usize>, failure: ReadError) -> Result<Option<(usize, Read)>, ReadError> {
        let Some(refusal) = failure.refusal().filter(|refusal| !is_passing(refusal)) else {
            self.todo.push(asked);
            return Err(failure);
        };
        let (code, message) = (refusal.code().code().to_owned(), refusal.message().to_owned());
        let is_data = code.starts_with("22");
        let is_the_keys = if let [position] = asked[..] {
            let key = &self.keys[position];
            if (is_data || code.starts_with("23")) && self.holds("SELECT sluice.is_no_key($2, $3)", key).await? {
                return Ok(Some((position, Read::Missing)));
            }
            is_data || self.has_answered || self.holds("SELECT sluice.answers_for_another($1, $2, $3)", key).await?
        } else {
            is_data || self.is_sound().await?
        };
        if !is_the_keys {
            self.todo.push(asked);
            return Err(failure);
        }
        if let [position] = asked[..] {
            return Ok(Some((position, Read::Failed { code, message })));
        }
        let half = asked.split_off(asked.len() / 2);
        self.todo.extend([half, asked]);
        Ok(None)
    }

    /// Whether the query can be asked at all: it is, for no key.
    async fn is_sound(&mut self) -> Result<bool, ReadError> {
        if !self.is_sound {
            let query = self.stream.query.as_deref().unwrap_or_default();
            let none: Vec<&str> = vec![];
            self.is_sound = self.try_out(query, &[(&none, Type::TEXT_ARRAY), (&0, Type::INT4)]).await?.is_some();
        }
        Ok(self.is_sound)
    }

    /// The answer to a question about the subscription, the stream and a key; one that cannot be answered is no.
    async fn holds(&self, question: &str, key: &str) -> Result<bool, ReadError> {
        let Stream { subscription, name, .. } = self.stream;
        let asked: [(&(dyn ToSql + Sync), Type); 3] =
            [(subscription, Type::TEXT), (name, Type::TEXT), (&key, Type::TEXT)];
        let rows = self.try_out(question, &asked).await?;
        Ok(rows.is_some_and(|rows| rows.first().is_some_and(|row| row.get(0))))
    }

    /// What a query gives, `None`: it fails.
    async fn try_out(
        &self,
        query: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Option<Vec<Row>>, ReadError> {
        self.control(&self.begin()?).await?;
        let rows = self.client.query_typed(query, parameters).await.map_err(|error| self.error(error));
        let is_refused = rows.as_ref().is_err_and(|failure| failure.refusal().is_some());
        if rows.is_ok() || is_refused {
            self.control(self.undo()).await?;
        }
        if is_refused { Ok(None) } else { rows.map(Some) }
    }

    /// What goes before a query; within a transaction with the time that is left for it.
    fn begin(&self) -> Result<String, ReadError> {
        let Some(until) = self.until else {
            return Ok(format!("BEGIN; SET LOCAL lock_timeout = '{READ_LOCK_TIMEOUT}'"));
        };
        match until.saturating_duration_since(Instant::now()).as_millis() {
            0 => Err(ReadError::Slow { name: self.stream.name.clone() }),
            ms => Ok(format!(
                "SAVEPOINT documents; SET LOCAL statement_timeout = {ms}; SET LOCAL lock_timeout = '{READ_LOCK_TIMEOUT}'"
            )),
        }
    }

    /// What ends it, whether the query failed or not.
    fn undo(&self) -> &'static str {
        if self.until.is_some() { "ROLLBACK TO SAVEPOINT documents; RELEASE SAVEPOINT documents" } else { "ROLLBACK" }
    }

    /// Has the documents brought up to date that are kept under another text of the same key than was asked for.
    async fn log_printed(&mut self) -> Result<(), ReadError> {
        if self.logs && !self.printed.is_empty() {
            let texts: Vec<&str> = self.printed.iter().map(|(_, text)| text.as_str()).collect();
            let log = "INSERT INTO sluice.outbox (stream, key, op, only_for)
                 SELECT $1, key, 'upsert', $3 FROM unnest($2::text[]) AS key";
            let logged = self.client.execute(log, &[&self.stream.name, &texts, &self.stream.subscription]).await;
            logged.map_err(|error| self.error(error))?;
        }
        self.missing.extend(self.printed.drain(..).map(|(position, _)| position));
        Ok(())
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

fn index_of(row: &Row) -> usize {
    row.get::<_, i32>(0) as usize
}

fn answer(row: &Row) -> (usize, Read) {
    let read = match (row.get::<_, Option<bool>>(1), row.get(2), row.get(3)) {
        (None, _, _) => Read::Missing,
        (Some(_), Some(document), _) => Read::Document(one_line(document)),
        (Some(_), None, bytes) => Read::TooLarge { bytes: Option::unwrap_or_default(bytes) },
    };
    (index_of(row), read)
}

/// A `json` value keeps its own line breaks, and a document is one line; JSON has them only between tokens.
pub(crate) fn one_line(document: String) -> String {
    match memchr2(b'\n', b'\r', document.as_bytes()) {
        Some(_) => document.replace(['\n', '\r'], " "),
        None => document,
    }
}
