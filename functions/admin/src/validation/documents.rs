//! Both sides of documents, as they are now: read in portions, until an answer is full, or the time is over.

use std::time::Duration;

use database::subscriptions::ELASTICSEARCH;
use database::{Read, Stream};
use search::documents::{Documents, Found, Wanted};
use serde_json::value::{RawValue, to_raw_value};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Client;

use crate::newest;
use crate::services::Admin;

/// Documents that are read together.
const PORTION: usize = 50;
/// A portion of Elasticsearch's that is larger is asked for in halves.
const PORTION_BYTES: u64 = 8 << 20;
/// Of all of it: a side that takes longer is left out.
const TIMEOUT: Duration = Duration::from_secs(8);
/// Of one read of the source.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);
/// Of what a server says.
const SHOWN_CHARS: usize = 300;
const ELSEWHERE: &str = "this page does not read ClickHouse; look there, in the stream's view";
const NO_ROOM: &str = "this answer has no room for it; ask for this document alone, by its key";

/// A document of one side. Without one, and without a problem, the side has none.
#[derive(Clone, Debug, Default)]
pub struct Side {
    pub document: Option<Box<RawValue>>,
    /// Why it is not known.
    pub problem: Option<String>,
    /// Of Elasticsearch's document.
    pub version: Option<i64>,
}

impl Side {
    fn unknown(problem: &str) -> Self {
        Self { problem: Some(problem.chars().take(SHOWN_CHARS).collect()), ..Self::default() }
    }

    fn too_long(bytes: impl std::fmt::Display) -> Self {
        Self::unknown(&format!("it has {bytes} bytes, which is too long to be listed"))
    }
}

/// A document as both sides have it.
#[derive(Debug)]
pub struct Both {
    pub source: Side,
    pub target: Side,
}

impl Both {
    fn bytes(&self) -> usize {
        newest::bytes(&(&self.source.document, &self.source.problem, &self.target.document, &self.target.problem))
    }
}

/// Reads these documents of a stream, as this subscription delivers it, on both sides, each of `most` bytes at most, and all of
/// them within `room`.
pub async fn read(admin: &Admin, reader: &str, stream: &str, keys: &[String], most: usize, room: usize) -> Vec<Both> {
    let until = Instant::now() + TIMEOUT;
    let (mut source, mut target) = tokio::join!(
        Source::open(admin, reader, stream, most, until),
        Target::open(admin, reader, stream, most, until)
    );
    let (mut all, mut left) = (Vec::with_capacity(keys.len()), room);
    for portion in keys.chunks(PORTION) {
        if left == 0 {
            break;
        }
        let (sources, targets) = tokio::join!(source.read(portion), target.read(portion));
        for (source, target) in sources.into_iter().zip(targets) {
            let both = Both { source, target };
            let bytes = both.bytes();
            if bytes <= left {
                left -= bytes;
                all.push(both);
            } else {
                left = 0;
                all.push(no_room());
            }
        }
    }
    all.resize_with(keys.len(), no_room);
    all
}

fn no_room() -> Both {
    Both { source: Side::unknown(NO_ROOM), target: Side::unknown(NO_ROOM) }
}

fn late() -> String {
    format!("no answer within {} s", TIMEOUT.as_secs())
}

/// PostgreSQL; once it has failed it is not asked again.
struct Source {
    session: Result<(Client, Stream), String>,
    most: usize,
    until: Instant,
}

impl Source {
    async fn open(admin: &Admin, reader: &str, stream: &str, most: usize, until: Instant) -> Self {
        let open = async {
            // A session of its own: what is read is undone.
            let session = admin.own_session(STATEMENT_TIMEOUT).await.map_err(|failure| failure.to_string())?;
            let found = database::stream(&session, reader, stream).await;
            let found = found.map_err(|failure| database::describe(&failure))?;
            Ok((session, found.ok_or_else(|| format!("there is no stream {stream}"))?))
        };
        Self { session: timeout_at(until, open).await.unwrap_or_else(|_| Err(late())), most, until }
    }

    async fn read(&mut self, keys: &[String]) -> Vec<Side> {
        let mut sides = vec![None; keys.len()];
        if let Ok(session) = &self.session {
            let (found, failure) = ask(session, keys.to_vec(), self.most, self.until).await;
            found.into_iter().for_each(|(position, side)| sides[position] = Some(side));
            if let Some(failure) = failure {
                self.session = Err(failure);
            }
        }
        let problem = self.session.as_ref().err().map_or("", String::as_str);
        sides.into_iter().map(|side| side.unwrap_or_else(|| Side::unknown(problem))).collect()
    }
}

/// What could be read, each with the position of its key; and why no more could.
async fn ask(
    (session, stream): &(Client, Stream),
    keys: Vec<String>,
    most: usize,
    until: Instant,
) -> (Vec<(usize, Side)>, Option<String>) {
    let mut documents = stream.read(session, keys, i32::try_from(most).unwrap_or(i32::MAX), None).without_log();
    let mut found = vec![];
    loop {
        match timeout_at(until, documents.next()).await {
            Ok(Ok(Some((position, read)))) => found.push((position, side(read))),
            Ok(Ok(None)) => return (found, None),
            Ok(Err(failure)) => return (found, Some(failure.reason())),
            Err(_) => return (found, Some(late())),
        }
    }
}

fn side(read: Read) -> Side {
    match read {
        Read::Document(document) => {
            // What is no JSON, though it came as a document, is shown as the text that it is.
            let shown = RawValue::from_string(document.clone()).or_else(|_| to_raw_value(&document));
            Side { document: shown.ok(), ..Side::default() }
        }
        Read::Missing => Side::default(),
        Read::TooLarge { bytes } => Side::too_long(bytes),
        Read::Failed { code, message } => Side::unknown(&format!("{message} [{code}]")),
    }
}

/// Elasticsearch; once it has failed it is not asked again.
struct Target {
    client: Result<search::Client, String>,
    alias: String,
    most: usize,
    until: Instant,
}

impl Target {
    async fn open(admin: &Admin, reader: &str, stream: &str, most: usize, until: Instant) -> Self {
        let alias = search::names::alias(&admin.config.search.index_prefix, stream);
        if reader != ELASTICSEARCH {
            return Self { client: Err(ELSEWHERE.to_owned()), alias, most, until };
        }
        let client = match timeout_at(until, admin.services().await.search.client()).await {
            Ok(client) => client.map_err(|failure| failure.to_string()),
            Err(_) => Err(late()),
        };
        Self { client, alias, most, until }
    }

    async fn read(&mut self, keys: &[String]) -> Vec<Side> {
        let mut sides = vec![];
        let mut todo = vec![keys];
        while let Some(portion) = todo.pop() {
            let found = match &self.client {
                Ok(client) => timeout_at(self.until, self.ask(client, portion)).await.unwrap_or_else(|_| Err(late())),
                Err(problem) => Err(problem.clone()),
            };
            match found {
                Ok(Some(found)) => sides.extend(found),
                Ok(None) if portion.len() > 1 => {
                    let (one, other) = portion.split_at(portion.len() / 2);
                    todo.extend([other, one]);
                }
                Ok(None) => sides.push(Side::too_long(format!("more than {PORTION_BYTES}"))),
                Err(problem) => {
                    sides.resize(sides.len() + portion.len(), Side::unknown(&problem));
                    self.client = Err(problem);
                }
            }
        }
        sides
    }

    /// What the index has of these keys. `None`: it is too much for one answer.
    async fn ask(&self, client: &search::Client, keys: &[String]) -> Result<Option<Vec<Side>>, String> {
        let wanted: Vec<Wanted<'_>> = keys.iter().map(|key| Wanted { key, content: true }).collect();
        let read = Documents::read(client, &self.alias, &wanted, PORTION_BYTES).await;
        let Some(documents) = read.map_err(|failure| failure.to_string())? else { return Ok(None) };
        let found = documents.parse(&wanted).map_err(|failure| failure.to_string())?;
        Ok(Some(found.into_iter().map(|found| self.side(found)).collect()))
    }

    fn side(&self, found: Result<Option<Found<'_>>, String>) -> Side {
        match found {
            Err(reason) => Side::unknown(&reason),
            Ok(None) => Side::default(),
            Ok(Some(Found { version, content })) => {
                let version = Some(version);
                match content {
                    Some(content) if content.get().len() > self.most => {
                        Side { version, ..Side::too_long(content.get().len()) }
                    }
                    content => Side { document: content.map(ToOwned::to_owned), version, problem: None },
                }
            }
        }
    }
}
