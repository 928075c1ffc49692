//! From a page of the log to messages: what each of its documents is now.

use std::collections::{BTreeMap, HashMap};

use config::Trace;
use database::delivery::{self, Counts};
use database::{Answers as _, Read, Session, Stream, log};
use message::{Change, Op, Packer};
use queue::{Message, Queue};
use tracing::{error, info, warn};

use crate::sender::Sender;
use crate::{Drained, Error};

/// Ten messages of a batch, escaped, fit Lambda's event of 6 MB.
const MESSAGE_BYTES: usize = 256 * 1024;
/// A larger document travels without itself, and is read by the indexer.
const DOCUMENT_BYTES: i32 = 240 * 1024;
/// A longer key is cut, or no message could hold it, and nothing behind it would be drained. Elasticsearch takes 512
/// bytes: what has more is a dead letter in any case.
const KEY_BYTES: usize = 2048;
/// A longer payload stays behind, for the same reason: its change becomes a dead letter that names it. `sluice.emit`
/// takes 900,000 bytes, but a character that SQS refuses grows to twice its size on the way.
const PAYLOAD_BYTES: usize = 950_000;

/// Turns pages into messages, and packs together what belongs to one stream.
pub struct Outgoing<'a, S, Q> {
    session: &'a S,
    trace: &'a Trace,
    streams: HashMap<String, Stream>,
    packers: BTreeMap<String, Packer>,
    sender: Sender<Q>,
    counters: &'a mut Drained,
    counts: Counts,
}

impl<'a, S: Session, Q: Queue> Outgoing<'a, S, Q> {
    /// With a fresh look at the streams.
    pub async fn new(
        session: &'a S,
        trace: &'a Trace,
        sender: Sender<Q>,
        counters: &'a mut Drained,
    ) -> Result<Self, Error> {
        let streams = session.streams().await?;
        Ok(Self { session, trace, streams, packers: BTreeMap::new(), sender, counters, counts: Counts::default() })
    }

    /// Takes a page: its documents are read now, under this version, which was drawn before.
    pub async fn push(&mut self, rows: Vec<log::Row>, version: i64, read_at_ms: i64) -> Result<(), Error> {
        self.counters.pages += 1;
        self.counters.changes += rows.len() as u64;
        let mut by_stream: BTreeMap<String, Vec<log::Row>> = BTreeMap::new();
        for row in rows {
            by_stream.entry(row.stream.clone()).or_default().push(row);
        }
        for (name, rows) in by_stream {
            self.counts.add(&name, delivery::DRAINED, as_count(rows.len()));
            let Some(stream) = self.live_stream(&name, &rows).await? else { continue };
            // One write for each key: the last row stands for those before it.
            let latest: HashMap<String, log::Row> = rows.into_iter().map(|row| (row.key.clone(), row)).collect();
            let mut latest: Vec<log::Row> = latest.into_values().collect();
            latest.sort_unstable_by_key(|row| row.id);
            if stream.source.is_some() {
                self.read(&stream, &latest, version, read_at_ms).await?;
            } else {
                for row in latest {
                    let op = if row.is_delete { Op::Delete } else { Op::Upsert };
                    let payload = row.payload.as_deref().filter(|payload| travelling_bytes(payload) <= PAYLOAD_BYTES);
                    self.pack(&name, &row, version, op, read_at_ms, payload).await?;
                }
            }
        }
        Ok(())
    }

    /// Sends what is left, and waits until all of it is sent. What was done, by stream.
    pub async fn finish(mut self) -> Result<Counts, Error> {
        for (stream, packer) in std::mem::take(&mut self.packers) {
            if let Some(body) = packer.finish() {
                self.send(&stream, body).await?;
            }
        }
        self.sender.finish().await?;
        Ok(self.counts)
    }

    /// The stream, if its changes can travel. Those of a stream without an index are set aside until it has one; those
    /// of a stream that was dropped are passed over.
    async fn live_stream(&mut self, name: &str, rows: &[log::Row]) -> Result<Option<Stream>, Error> {
        let is_live = |streams: &HashMap<String, Stream>| streams.get(name).is_some_and(|s| s.live_index.is_some());
        if !is_live(&self.streams) {
            let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
            if self.session.wait(name, &ids).await? {
                self.counters.waiting += ids.len() as u64;
                return Ok(None);
            }
            self.streams = self.session.streams().await?;
            if !is_live(&self.streams) {
                warn!(stream = name, changes = ids.len(), "passed over changes of a stream that was dropped");
                self.counters.unknown += ids.len() as u64;
                return Ok(None);
            }
        }
        Ok(self.streams.get(name).cloned())
    }

    /// Reads the documents and packs them as they come. Where they cannot be read, the changes travel without them, and
    /// the indexer tries until the source is mended: the other streams go on, and nothing is skipped.
    async fn read(&mut self, stream: &Stream, rows: &[log::Row], version: i64, read_at_ms: i64) -> Result<(), Error> {
        let keys = rows.iter().map(|row| row.key.clone()).collect();
        let mut documents = self.session.read(stream, keys, DOCUMENT_BYTES, true);
        let left = loop {
            match documents.next().await {
                Ok(Some((index, read))) => {
                    let (op, document) = match read {
                        Read::Document(document) => (Op::Upsert, Some(document)),
                        Read::Missing => (Op::Delete, None),
                        // The indexer reads it anew, and buries it with the reason where that fails, too.
                        Read::TooLarge { .. } | Read::Failed { .. } => (Op::Read, None),
                    };
                    self.pack(&stream.name, &rows[index], version, op, read_at_ms, document.as_deref()).await?;
                }
                Ok(None) => return Ok(()),
                Err(failure) if failure.is_connection_lost() => return Err(failure.into()),
                Err(failure) => {
                    let reason = std::error::Error::source(&failure)
                        .and_then(|source| source.downcast_ref().map(database::describe))
                        .unwrap_or_default();
                    error!(stream = stream.name, error = %failure, reason, "changes travel without their documents");
                    break documents.into_unanswered();
                }
            }
        };
        self.counters.source_errors += 1;
        for index in left {
            self.pack(&stream.name, &rows[index], version, Op::Read, read_at_ms, None).await?;
        }
        Ok(())
    }

    async fn pack(
        &mut self,
        stream: &str,
        row: &log::Row,
        version: i64,
        op: Op,
        read_at_ms: i64,
        document: Option<&str>,
    ) -> Result<(), Error> {
        match op {
            Op::Upsert => self.counters.documents += 1,
            Op::Delete => self.counters.deletes += 1,
            Op::Read | Op::Look => self.counters.to_read_again += 1,
        }
        if !self.packers.contains_key(stream) {
            self.packers.insert(stream.to_owned(), Packer::new(stream, self.trace.as_str(), MESSAGE_BYTES));
        }
        self.counts.add(stream, delivery::PUBLISHED, 1);
        let trace = row.traceparent.as_deref().and_then(Trace::parse).filter(Trace::is_sampled);
        if let Some(trace) = &trace {
            info!(trace_id = trace.id(), stream, change_id = row.id, "a traced change is sent");
        }
        let key = &row.key[..row.key.floor_char_boundary(KEY_BYTES)];
        let change = Change {
            id: row.id,
            key: key.into(),
            version,
            op,
            at: read_at_ms,
            since: Some(row.logged_ms),
            trace: trace.as_ref().map(|trace| trace.as_str().into()),
        };
        let full = self.packers.get_mut(stream).and_then(|packer| packer.push(&change, document));
        match full {
            Some(body) => self.send(stream, body).await,
            None => Ok(()),
        }
    }

    async fn send(&mut self, stream: &str, body: message::Body) -> Result<(), Error> {
        self.counters.messages += 1;
        self.counters.bytes += body.text.len() as u64;
        self.counts.add(stream, delivery::PUBLISHED_BYTES, as_count(body.text.len()));
        Ok(self.sender.push(Message::traced(body.text, self.trace)).await?)
    }
}

fn as_count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn travelling_bytes(payload: &str) -> usize {
    let escaped = payload.matches(['\u{fffe}', '\u{ffff}']).count();
    payload.len() + escaped * ("\\ufffe".len() - '\u{fffe}'.len_utf8())
}
