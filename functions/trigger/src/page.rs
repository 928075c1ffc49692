//! From a page of the log to messages: what each of its documents is now.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use database::delivery::{self, Counts};
use database::{Answers as _, Read, Session, Stream, log};
use message::{Change, Op, Packer};
use queue::{Message, Queue};
use telemetry::{Trace, TracedChanges};
use tokio::time::{Instant, timeout};
use tracing::{error, info, warn};

use crate::rests::Rests;
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

/// How long sources that are too slow may hold up one transaction. The documents of a stream and page may take half of what
/// is left of it. Then the changes travel without them, and their source rests.
const PATIENCE: Duration = Duration::from_secs(4);
/// With less time than this nothing is read.
const WORTH_READING: Duration = Duration::from_millis(100);
/// How long after its time-out a query is waited for: what its source calls may have caught that.
pub(crate) const UNANSWERED: Duration = Duration::from_secs(2);

/// Turns pages into messages, and packs together what belongs to one stream.
pub struct Outgoing<'a, S, Q> {
    session: &'a S,
    trace: &'a Trace,
    stop_at: Instant,
    streams: HashMap<String, Stream>,
    /// Of these the changes wait, to the end of the transaction: what waited is sent before what came later.
    set_aside: HashSet<String>,
    rests: &'a mut Rests,
    patience: Duration,
    packers: BTreeMap<String, Packer>,
    sender: Sender<Q>,
    counters: &'a mut Drained,
    counts: Counts,
    traced: TracedChanges,
}

impl<'a, S: Session, Q: Queue> Outgoing<'a, S, Q> {
    /// With a fresh look at the streams.
    pub async fn new(
        session: &'a S,
        trace: &'a Trace,
        stop_at: Instant,
        rests: &'a mut Rests,
        sender: Sender<Q>,
        counters: &'a mut Drained,
    ) -> Result<Self, Error> {
        let streams = session.streams().await?;
        let (set_aside, packers, counts) = (HashSet::new(), BTreeMap::new(), Counts::default());
        let traced = TracedChanges::default();
        Ok(Self {
            session,
            trace,
            stop_at,
            streams,
            set_aside,
            rests,
            patience: PATIENCE,
            packers,
            sender,
            counters,
            counts,
            traced,
        })
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
            // One write for each key: the last row stands for those before it. Of a key that may have been cut, each.
            let whole = |row: &log::Row| if row.key.len() < KEY_BYTES { 0 } else { row.id };
            let latest: HashMap<(String, i64), log::Row> =
                rows.into_iter().map(|row| ((row.key.clone(), whole(&row)), row)).collect();
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
        if !self.streams.contains_key(name) {
            // Defined since this transaction began, or dropped.
            self.streams = self.session.streams().await?;
        }
        let Some(stream) = self.streams.get(name) else {
            warn!(stream = name, changes = rows.len(), "passed over changes of a stream that was dropped");
            self.counters.unknown += rows.len() as u64;
            return Ok(None);
        };
        if stream.live_index.is_some() && !self.set_aside.contains(name) {
            return Ok(Some(stream.clone()));
        }
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        self.session.wait(&ids).await?;
        self.set_aside.insert(name.to_owned());
        self.counters.waiting += ids.len() as u64;
        Ok(None)
    }

    /// Reads the documents and packs them as they come. Where they cannot be read, or not soon, the changes travel without
    /// them, and the indexer tries until the source is mended: the other streams go on, and nothing is skipped.
    async fn read(&mut self, stream: &Stream, rows: &[log::Row], version: i64, read_at_ms: i64) -> Result<(), Error> {
        let mut left: Vec<usize> = (0..rows.len()).collect();
        let mut goes_on = !self.rests.is_resting(&stream.name);
        while goes_on && !left.is_empty() {
            let time = (self.patience / 2).min(self.stop_at.saturating_duration_since(Instant::now()));
            if time < WORTH_READING {
                break;
            }
            (left, goes_on) = self.read_within(time, stream, rows, left, version, read_at_ms).await?;
        }
        for index in left {
            self.pack(&stream.name, &rows[index], version, Op::Read, read_at_ms, None).await?;
        }
        Ok(())
    }

    /// The indexes of the rows whose documents could not be read, and whether to go on with them: the time went by while
    /// others were sent, and not while PostgreSQL was waited for.
    async fn read_within(
        &mut self,
        time: Duration,
        stream: &Stream,
        rows: &[log::Row],
        asked: Vec<usize>,
        version: i64,
        read_at_ms: i64,
    ) -> Result<(Vec<usize>, bool), Error> {
        let keys = asked.iter().map(|&index| rows[index].key.clone()).collect();
        let session = self.session;
        let mut documents = session.read(stream, keys, DOCUMENT_BYTES, Some(time));
        let mut waited = Duration::ZERO;
        loop {
            let began = Instant::now();
            let Ok(next) = timeout(time + UNANSWERED, documents.next()).await else {
                self.counters.source_errors += 1;
                self.rests.begin(&stream.name);
                return Err(Error::Unanswered { stream: stream.name.clone() });
            };
            waited += began.elapsed();
            match next {
                Ok(Some((position, read))) => {
                    let (op, document) = match read {
                        Read::Document(document) => (Op::Upsert, Some(document)),
                        Read::Missing => (Op::Delete, None),
                        // The indexer reads it anew, and buries it with the reason where that fails, too.
                        Read::TooLarge { .. } | Read::Failed { .. } => (Op::Read, None),
                    };
                    let row = &rows[asked[position]];
                    self.pack(&stream.name, row, version, op, read_at_ms, document.as_deref()).await?;
                }
                Ok(None) => {
                    if self.rests.end(&stream.name) || stream.has_fault {
                        session.note_fault(&stream.name, None).await?;
                    }
                    return Ok((vec![], false));
                }
                Err(failure) if failure.is_connection_lost() => return Err(failure.into()),
                Err(failure) => {
                    let left: Vec<usize> =
                        documents.into_unanswered().into_iter().map(|position| asked[position]).collect();
                    if failure.is_late() && waited < time / 2 && left.len() < asked.len() {
                        return Ok((left, true));
                    }
                    self.patience = self.patience.saturating_sub(waited);
                    let reason = failure.reason();
                    error!(stream = stream.name, error = %failure, reason, "changes travel without their documents");
                    self.counters.source_errors += 1;
                    self.rests.begin(&stream.name);
                    session.note_fault(&stream.name, Some(&reason)).await?;
                    return Ok((left, false));
                }
            }
        }
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
        if let Some(trace) = &trace
            && self.traced.take()
        {
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
