use std::borrow::{Borrow as _, Cow};
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use database::delivery::Refusal;
use database::sync::{self, Documents};
use database::{Connect as _, ConnectError, Connection, Postgres, Session as _, Stream, describe};
use drain::{Outcome, Sent, Sink, Step};
use message::{Change, Op};
use serde::Deserialize;
use telemetry::Trace;

/// A page of a pull has 4 MB of documents at most.
const DOCUMENT_BYTES: i32 = 1_000_000;
/// So much is gathered before it is written.
const WRITE_BYTES: usize = 8 << 20;
/// An index of PostgreSQL takes 2,704 bytes: the stream, the bucket and the key.
const KEY_BYTES: usize = 1024;
const NAME_BYTES: usize = 256;
/// A row of the store for each.
const BUCKETS: usize = 100;

/// Why a step was not stored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no way to the database.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Another drainer has taken over, or the session is gone.
    #[error("the store cannot be written: {}", describe(.0))]
    Query(#[from] tokio_postgres::Error),
    /// A step was begun without [`Sink::take_over`], or behind one that failed.
    #[error("the store was not taken over")]
    NotTakenOver,
}

/// The tables that clients pull from. It writes on a session of its own, a step in one transaction. A drainer that takes over shuts out
/// those before it: of a document that is in no bucket there is no row whose version a frozen one could be compared with.
pub struct Store {
    database: Postgres,
    keep: Duration,
    writer: Slot,
}

/// A step has the writer while it is open, and does not give it back if it fails: its session ends, and its transaction with it.
#[derive(Clone, Default)]
struct Slot(Arc<Mutex<Option<Writer>>>);

struct Writer {
    session: Connection,
    epoch: i64,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<Writer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Connects to nothing yet. Deletes are kept for so long.
    pub fn new(database: Postgres, keep: Duration) -> Self {
        Self { database, keep, writer: Slot::default() }
    }
}

impl Sink for Store {
    type Step = Storing;

    const DOCUMENT_BYTES: i32 = DOCUMENT_BYTES;

    const READS_AGAIN: bool = false;

    async fn take_over(&mut self) -> Result<(), Error> {
        *self.writer.lock() = None;
        let session = self.database.connect("sluice sync").await?;
        let epoch = sync::take_over(session.borrow(), self.keep).await?;
        *self.writer.lock() = Some(Writer { session, epoch });
        Ok(())
    }

    async fn has_room(&mut self) -> Result<bool, Error> {
        Ok(true)
    }

    fn begin(&mut self, _: &Trace, _: i64) -> Storing {
        Storing {
            writer: self.writer.lock().take(),
            slot: self.writer.clone(),
            has_begun: false,
            gathered: BTreeMap::new(),
            bytes: 0,
            sent: BTreeMap::new(),
            refused: vec![],
        }
    }
}

/// Documents on their way.
pub struct Storing {
    writer: Option<Writer>,
    slot: Slot,
    has_begun: bool,
    /// By stream.
    gathered: BTreeMap<String, Documents>,
    bytes: usize,
    sent: BTreeMap<String, u64>,
    refused: Vec<Refusal>,
}

/// What is read beside the document.
#[derive(Deserialize)]
struct Membership<'a> {
    #[serde(borrow)]
    buckets: Vec<Cow<'a, str>>,
}

impl Step for Storing {
    type Error = Error;

    async fn put(&mut self, stream: &Stream, change: &Change<'_>, document: Option<&str>) -> Result<(), Error> {
        let document = document.filter(|_| change.op != Op::Delete);
        if let Err((error_type, reason)) = check(&change.key, document) {
            self.refused.push(Refusal {
                change_id: change.id,
                stream: stream.name.clone(),
                key: change.key.to_string(),
                version: change.version,
                error_type: error_type.to_owned(),
                reason,
            });
            return Ok(());
        }
        let bytes = change.key.len() + document.map_or(0, str::len);
        *self.sent.entry(stream.name.clone()).or_default() += bytes as u64;
        let gathered = self.gathered.entry(stream.name.clone()).or_default();
        gathered.keys.push(change.key.to_string());
        gathered.versions.push(change.version);
        gathered.documents.push(document.map(str::to_owned));
        self.bytes += bytes;
        if self.bytes >= WRITE_BYTES { self.write().await } else { Ok(()) }
    }

    async fn finish(mut self) -> Result<Outcome, Error> {
        self.write().await?;
        if self.has_begun {
            let writer = self.writer.as_ref().ok_or(Error::NotTakenOver)?;
            writer.session.commit().await?;
        }
        *self.slot.lock() = self.writer.take();
        let sent = self.sent.into_iter().map(|(stream, bytes)| Sent { stream, messages: 0, bytes }).collect();
        Ok(Outcome { sent, refused: self.refused, unfit: vec![] })
    }
}

impl Storing {
    /// Writes what was gathered, in the step's transaction.
    async fn write(&mut self) -> Result<(), Error> {
        self.bytes = 0;
        for (stream, documents) in std::mem::take(&mut self.gathered) {
            let Writer { session, epoch } = self.writer.as_ref().ok_or(Error::NotTakenOver)?;
            if !self.has_begun {
                session.begin().await?;
                self.has_begun = true;
            }
            sync::store(session.borrow(), *epoch, &stream, &documents).await?;
        }
        Ok(())
    }
}

/// Whether the store can hold it. An error: a word to group by, and a sentence.
fn check(key: &str, document: Option<&str>) -> Result<(), (&'static str, String)> {
    if key.len() > KEY_BYTES {
        return Err(("key_too_long", format!("its key has {} bytes, {KEY_BYTES} are the most", key.len())));
    }
    let Some(document) = document else { return Ok(()) };
    let Membership { buckets } = serde_json::from_str(document)
        .map_err(|error| ("unreadable", format!("the names of its buckets cannot be read: {error}")))?;
    let buckets: HashSet<&str> = buckets.iter().map(AsRef::as_ref).collect();
    if buckets.len() > BUCKETS {
        let reason = format!("it is in {} buckets, {BUCKETS} are the most", buckets.len());
        return Err(("too_many_buckets", reason));
    }
    if let Some(name) = buckets.iter().find(|name| name.is_empty() || name.len() > NAME_BYTES) {
        let reason = format!("the name of a bucket of its has {} bytes, 1 to {NAME_BYTES} are right", name.len());
        return Err(("bucket_name", reason));
    }
    Ok(())
}
