//! Documents as PostgreSQL has them now.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use database::{
    Answers as _, Connect, Postgres, Read, ReadError, Session, Settings, Stream,
    delivery::{Counts, DeadLetter, Landing},
    describe,
    subscriptions::ELASTICSEARCH,
};
use search::{Deadline, Outcome, Reason};
use secrets::Secrets;
use tokio::time::{timeout, timeout_at};
use tracing::warn;

use crate::{
    decision::{ReadDecision, decide_connection, decide_read, decide_stream},
    pace::Pace,
};

/// The largest document that is written at all. The function holds it about three times over.
const DOCUMENT_BYTES: i32 = 20 << 20;
/// The first, tiny query of a connection that was left open: the other side may have vanished while the sandbox was frozen.
const IDLE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(3);
/// What PostgreSQL ends as 57014, ended by the invocation's own clock.
const DEADLINE: &str = "deadline";

/// PostgreSQL, for those who need it. Connected when the first of them comes; at most one connection.
pub struct Database<D: Connect = Postgres> {
    database: D,
    /// Taken out for use and put back when all went well, so that whatever went wrong or was given up closes it.
    idle: Mutex<Option<D::Session>>,
    pace: Pace,
}

/// What is known of one key after it was asked for.
#[derive(Debug)]
pub(crate) enum Reading {
    /// The document, or `None`: there is none.
    Current(Option<String>),
    /// It could not be read.
    Unread(Outcome),
}

impl Database {
    /// Nothing is connected yet.
    pub fn new(settings: Settings, secrets: Secrets) -> Self {
        Self::of(Postgres::new(settings, secrets))
    }
}

impl<D: Connect> Database<D> {
    /// Nothing is connected yet.
    pub fn of(database: D) -> Self {
        Self { database, idle: Mutex::new(None), pace: Pace::default() }
    }

    /// All streams that go to Elasticsearch: a fresh look.
    async fn streams(&self, deadline: Deadline) -> Result<HashMap<String, Stream>, Outcome> {
        if let Some(client) = self.take_idle()
            && let Ok(Ok(streams)) = timeout(IDLE_CONNECTION_TIMEOUT, client.streams(ELASTICSEARCH)).await
        {
            self.put_back(client);
            return Ok(delivered(streams));
        }
        let client = self.connect(deadline).await?;
        match timeout_at(deadline.instant(), client.streams(ELASTICSEARCH)).await {
            Ok(Ok(streams)) => {
                self.put_back(client);
                Ok(delivered(streams))
            }
            Ok(Err(error)) => {
                let problem = describe(&error);
                warn!(error = problem, "the streams could not be read");
                Err(Outcome::Retry(Reason::new("database", problem).general()))
            }
            Err(_) => Err(Outcome::Retry(Reason::deadline())),
        }
    }

    /// The definition of one generation of a stream as it is now.
    pub(crate) async fn stream(&self, name: &str, generation: i32, deadline: Deadline) -> Result<Stream, Outcome> {
        decide_stream(self.streams(deadline).await?, name, generation)
    }

    /// Whether there was not time enough for this stream's documents, when they were last read.
    pub(crate) fn is_slow(&self, stream: &str) -> bool {
        self.pace.is_slow(stream)
    }

    /// Reads these keys, and hands each of them over once, by its index: in portions of about `portion_bytes`, so that
    /// no more of the documents are in memory.
    ///
    /// They are read in an order of chance: where the time is too short for all, other keys are the first next time.
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
        let mut left: Vec<usize> = (0..keys.len()).collect();
        fastrand::shuffle(&mut left);
        let mut at_a_time = self.pace.first(&stream.name);
        let mut is_slow = false;
        while !left.is_empty() {
            if deadline.remaining().is_none() {
                is_slow = true;
                hand_over(unread(left, &slow(DEADLINE))).await;
                break;
            }
            let asked = left.split_off(left.len().saturating_sub(at_a_time));
            let (unanswered, ended) = ask(&client, stream, keys, &asked, portion_bytes, deadline, &mut hand_over).await;
            let answered = asked.len() - unanswered.len();
            match ended {
                Ended::Well => at_a_time = at_a_time.saturating_mul(2),
                Ended::CutOff { code } => {
                    is_slow = true;
                    self.pace.was_cut_off(&stream.name, asked.len(), answered);
                    at_a_time = self.pace.first(&stream.name);
                    if asked.len() == 1 {
                        // It takes as long alone: the others have their turn.
                        hand_over(unread(unanswered, &slow(code))).await;
                    } else {
                        left.splice(0..0, unanswered);
                    }
                }
                // Some of them went well: it is not the stream's fault, and the rest has its turn.
                Ended::Failed { outcome: Outcome::Retry(reason) | Outcome::Configuration(reason), is_usable: true }
                    if answered > 0 =>
                {
                    hand_over(unread(unanswered, &Outcome::Unread(reason))).await;
                }
                Ended::OutOfTime => {
                    self.pace.was_cut_off(&stream.name, asked.len(), answered);
                    // The query may still be running: this connection is closed.
                    return hand_over(unread(unanswered.into_iter().chain(left), &slow(DEADLINE))).await;
                }
                Ended::Failed { outcome, is_usable } => {
                    hand_over(unread(unanswered.into_iter().chain(left), &outcome)).await;
                    let fault = if let Outcome::Configuration(reason) = &outcome { Some(&*reason.text) } else { None };
                    if is_usable && (fault.is_none() || note_fault(&client, stream, fault, deadline).await) {
                        self.put_back(client);
                    }
                    return;
                }
            }
        }
        if !is_slow {
            self.pace.went_well(&stream.name);
        }
        if !stream.has_fault || is_slow || note_fault(&client, stream, None, deadline).await {
            self.put_back(client);
        }
    }

    /// Adds to the counters of deliveries, and notes what has landed: both, or neither. Whether that is known to be done.
    pub(crate) async fn land(&self, counts: &Counts, landings: &[Landing], deadline: Deadline) -> bool {
        let counts = counts.rows();
        let land = async |client: D::Session| {
            client.land(ELASTICSEARCH, &counts, landings).await.map(|()| self.put_back(client))
        };
        let noting = async {
            // A session that was left open may have been ended since.
            if let Some(client) = self.take_idle()
                && land(client).await.is_ok()
            {
                return true;
            }
            let Ok(client) = self.connect(deadline).await else { return false };
            let noted = land(client).await;
            if let Err(error) = &noted {
                warn!(error = describe(error), "what has landed is not noted");
            }
            noted.is_ok()
        };
        timeout_at(deadline.instant(), noting).await.unwrap_or(false)
    }

    /// Notes which changes are in the dead-letter queue. Where that fails, nobody can say later why their documents differ.
    pub(crate) async fn note_letters(&self, letters: &[DeadLetter], deadline: Deadline) {
        let Ok(client) = self.client(deadline).await else { return };
        match timeout_at(deadline.instant(), client.note_letters(ELASTICSEARCH, letters)).await {
            Ok(Ok(())) => self.put_back(client),
            Ok(Err(error)) => warn!(error = describe(&error), "dead letters are not noted"),
            Err(_) => {}
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
                Err(decide_connection(&error))
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

/// Of a stream that goes elsewhere nothing is known here.
fn delivered(mut streams: HashMap<String, Stream>) -> HashMap<String, Stream> {
    streams.retain(|_, stream| stream.is_delivered);
    streams
}

/// Has operators told why the stream's documents cannot be read; `None`: that they can. Whether the session is of more use.
async fn note_fault(client: &impl Session, stream: &Stream, problem: Option<&str>, deadline: Deadline) -> bool {
    match timeout_at(deadline.instant(), client.note_fault(ELASTICSEARCH, &stream.name, problem)).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            warn!(stream = stream.name, error = describe(&error), "that the stream cannot be read is not noted");
            false
        }
        Err(_) => false,
    }
}

/// How a query for some keys ended.
enum Ended {
    Well,
    /// PostgreSQL ended it, since it took too long.
    CutOff {
        code: String,
    },
    OutOfTime,
    /// It would have, whichever key was asked for.
    Failed {
        outcome: Outcome,
        is_usable: bool,
    },
}

/// Reads the documents of some of the keys, and hands over what came. The keys that were not answered, and why.
async fn ask(
    client: &impl Session,
    stream: &Stream,
    keys: &[&str],
    asked: &[usize],
    portion_bytes: usize,
    deadline: Deadline,
    hand_over: &mut impl AsyncFnMut(Vec<(usize, Reading)>),
) -> (Vec<usize>, Ended) {
    let texts = asked.iter().map(|&index| keys[index].to_owned()).collect();
    let mut documents = client.read(stream, texts, DOCUMENT_BYTES, None);
    // Counted here: a question that is given up in the middle has forgotten what it asked for.
    let mut is_answered = vec![false; asked.len()];
    let mut portion = Vec::new();
    let mut bytes = 0;
    let ended = loop {
        match timeout_at(deadline.instant(), documents.next()).await {
            Ok(Ok(Some((position, read)))) => {
                bytes += if let Read::Document(document) = &read { document.len() } else { 0 };
                is_answered[position] = true;
                portion.push((asked[position], reading(read)));
                if bytes >= portion_bytes {
                    bytes = 0;
                    hand_over(std::mem::take(&mut portion)).await;
                }
            }
            Ok(Ok(None)) => break Ended::Well,
            Ok(Err(error)) => break ended(&error),
            Err(_) => break Ended::OutOfTime,
        }
    };
    drop(documents);
    let unanswered =
        asked.iter().zip(is_answered).filter(|(_, is_answered)| !is_answered).map(|(&index, _)| index).collect();
    hand_over(portion).await;
    (unanswered, ended)
}

fn slow(code: impl Into<String>) -> Outcome {
    Outcome::Unread(Reason::new(code, "there was no time to read its document"))
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

fn ended(error: &ReadError) -> Ended {
    if let ReadError::Query { name, source } = error {
        warn!(stream = name, error = describe(source), "documents could not be read");
    }
    match decide_read(error) {
        ReadDecision::Fewer { code } => Ended::CutOff { code },
        ReadDecision::All(outcome) => Ended::Failed { outcome, is_usable: !error.is_connection_lost() },
    }
}
