//! From a page of the log to writes: what each of its documents is now.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use database::delivery::{self, Counts, Flight, Refusal};
use database::{Answers as _, Read, Session, Stream, log, of_name};
use message::{Change, Op, Operation};
use serde::Serialize;
use telemetry::{Trace, TracedChanges};
use tokio::time::{Instant, timeout};
use tracing::{error, warn};

use crate::error::Error;
use crate::rests::Rests;
use crate::sink::{Sent, Sink, Step, Unfit};

/// A longer key is cut, or no message could hold it, and nothing behind it would be drained. Elasticsearch takes 512
/// bytes: what has more is a dead letter in any case.
const KEY_BYTES: usize = 2048;

/// How long sources that are too slow may hold up one transaction. The documents of a stream and page may take half of what
/// is left of it. Then the changes travel without them, and their source rests.
const PATIENCE: Duration = Duration::from_secs(4);
/// With less time than this nothing is read.
const WORTH_READING: Duration = Duration::from_millis(100);
/// How long after its time-out a query is waited for: what its source calls may have caught that.
pub(crate) const AFTER_TIME_OUT: Duration = Duration::from_secs(2);

/// What the drain did.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Drained {
    /// Pages of the log.
    pub pages: u64,
    /// Rows of the log; many of one document become one write.
    pub changes: u64,
    /// Documents sent.
    pub documents: u64,
    /// Deletes sent.
    pub deletes: u64,
    /// Changes sent without their document, for the indexer to read.
    pub to_read_again: u64,
    /// Changes set aside: until their stream has an index, or its rest is over.
    pub waiting: u64,
    /// Changes that a direct target refused: letters.
    pub refused: u64,
    /// Changes of streams that were dropped.
    pub unknown: u64,
    /// Pages of a stream whose source could not be read.
    pub source_errors: u64,
    /// Messages sent.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is added to the counters that outlive the function.
    #[serde(skip)]
    pub counts: Counts,
}

/// What a step of the drain came to.
#[derive(Default)]
pub(crate) struct Done {
    /// By stream.
    pub counts: Counts,
    /// What is under way.
    pub flights: Vec<Flight>,
    /// What a direct target refuses.
    pub refusals: Vec<Refusal>,
    /// Of streams that have letters, the keys that a direct target has taken.
    pub arrived: BTreeMap<String, Vec<String>>,
    /// Of streams that rest, what is to be set aside.
    pub aside: BTreeMap<String, Aside>,
    /// Deletes of a target that forgets them, to be looked at again: streams and keys.
    pub looks: BTreeSet<(String, String)>,
}

/// Changes of a stream that rests.
#[derive(Default)]
pub(crate) struct Aside {
    /// Their rows of the log.
    pub ids: Vec<i64>,
    /// For how long it rests.
    pub pause: Duration,
    /// What operators are told of a target that does not take them; of a source it is noted.
    pub reason: Option<String>,
}

/// Turns pages into writes.
pub(crate) struct Outgoing<'a, S, K: Sink> {
    session: &'a S,
    subscription: &'a str,
    stop_at: Instant,
    streams: HashMap<String, Stream>,
    /// They were looked at again behind the first page: whatever stands in this interval's rows is defined by then.
    has_looked_again: bool,
    /// Of these the changes wait, to the end of the transaction: what waited is sent before what came later.
    set_aside: HashSet<String>,
    rests: &'a mut Rests,
    /// Whether deletes are to be looked at again.
    looks_again: bool,
    patience: Duration,
    step: K::Step,
    counters: &'a mut Drained,
    done: Done,
    /// When the step began.
    began: Instant,
    /// Of a direct target, by stream: when each change that was put was logged, in milliseconds since the step began.
    logged: BTreeMap<String, Vec<i64>>,
    /// Of each stream, the first and the last row that travel, and when the oldest was logged.
    rows: BTreeMap<String, (i64, i64, i64)>,
    /// A direct target's: of each stream, the keys that were put, each with its newest version.
    written: BTreeMap<String, HashMap<String, i64>>,
    /// A direct target's: of each stream, the rows that were put or refused, and what was done to them.
    operations: BTreeMap<String, HashMap<i64, Operation>>,
    traced: TracedChanges,
    /// A direct target's: the traced changes that were put.
    told: Vec<Told>,
}

/// A traced change.
struct Told {
    trace: Trace,
    stream: String,
    id: i64,
    read_at_ms: i64,
}

impl<'a, S: Session, K: Sink> Outgoing<'a, S, K> {
    /// With a fresh look at the streams.
    pub async fn new(
        (session, subscription): (&'a S, &'a str),
        stop_at: Instant,
        rests: &'a mut Rests,
        (step, looks_again): (K::Step, bool),
        counters: &'a mut Drained,
    ) -> Result<Self, Error> {
        let streams = session.streams(subscription).await?;
        Ok(Self {
            session,
            subscription,
            stop_at,
            streams,
            has_looked_again: false,
            set_aside: HashSet::new(),
            rests,
            looks_again,
            patience: PATIENCE,
            step,
            counters,
            done: Done::default(),
            began: Instant::now(),
            logged: BTreeMap::new(),
            rows: BTreeMap::new(),
            written: BTreeMap::new(),
            operations: BTreeMap::new(),
            traced: TracedChanges::default(),
            told: vec![],
        })
    }

    /// Takes a page: its documents are read now, under this version, which was drawn before.
    pub async fn push(&mut self, rows: Vec<log::Row>, version: i64, read_at_ms: i64) -> Result<(), Error> {
        self.look_at_streams(&rows).await?;
        let mut by_stream = self.by_stream(rows);
        // What is logged for a stream is sent to each of its generations.
        for follower in self.streams.values().filter(|stream| stream.is_delivered) {
            let Some(rows) = follower.follows.as_ref().and_then(|name| by_stream.get(name)) else { continue };
            let mut rows = rows.clone();
            rows.extend(by_stream.remove(&follower.name).unwrap_or_default());
            rows.sort_unstable_by_key(|row| row.id);
            by_stream.insert(follower.name.clone(), rows);
        }
        self.put_all(by_stream, version, read_at_ms).await
    }

    /// Takes what was set aside: each row for the generation alone that it waited for. Looks are for all of them.
    pub async fn push_waited(&mut self, rows: Vec<log::Row>, version: i64, read_at_ms: i64) -> Result<(), Error> {
        if rows.iter().all(log::Row::is_look) {
            return self.push(rows, version, read_at_ms).await;
        }
        self.look_at_streams(&rows).await?;
        let by_stream = self.by_stream(rows);
        self.put_all(by_stream, version, read_at_ms).await
    }

    /// The rows of each stream; those of a generation that took over since are the live one's.
    fn by_stream(&mut self, rows: Vec<log::Row>) -> BTreeMap<String, Vec<log::Row>> {
        self.counters.pages += 1;
        self.counters.changes += rows.len() as u64;
        let mut by_stream: BTreeMap<String, Vec<log::Row>> = BTreeMap::new();
        for row in rows {
            let name = of_name(&self.streams, &row.stream).map_or(&row.stream, |stream| &stream.name);
            by_stream.entry(name.clone()).or_default().push(row);
        }
        by_stream
    }

    async fn put_all(
        &mut self,
        by_stream: BTreeMap<String, Vec<log::Row>>,
        version: i64,
        read_at_ms: i64,
    ) -> Result<(), Error> {
        for (name, rows) in by_stream {
            let Some(stream) = self.live_stream(&name, &rows).await? else { continue };
            self.note_rows(&name, &rows);
            // One write for each key: the last row stands for those before it. Of a key that may have been cut, each.
            let whole = |row: &log::Row| if row.key.len() < KEY_BYTES { 0 } else { row.id };
            let latest: HashMap<(String, i64), log::Row> =
                rows.into_iter().map(|row| ((row.key.clone(), whole(&row)), row)).collect();
            let mut latest: Vec<log::Row> = latest.into_values().collect();
            latest.sort_unstable_by_key(|row| row.id);
            if !K::READS_AGAIN {
                latest = self.refuse_cut_keys(&name, latest, version);
            }
            if stream.source.is_some() {
                self.read(&stream, &latest, version, read_at_ms).await?;
            } else {
                if !K::READS_AGAIN && stream.has_fault {
                    self.session.note_fault(self.subscription, &name, None).await?;
                }
                for row in latest {
                    let op = if row.operation == Operation::Delete { Op::Delete } else { Op::Upsert };
                    let payload = row.payload.as_deref();
                    self.put(&stream, &row, version, op, read_at_ms, payload).await?;
                }
            }
        }
        Ok(())
    }

    /// Whether the sink wants no further page in this step.
    pub fn is_full(&mut self) -> bool {
        self.step.is_full()
    }

    /// Waits until all of it is sent.
    pub async fn finish(self) -> Result<Done, Error> {
        let Self {
            step,
            streams,
            counters,
            mut done,
            rows,
            mut written,
            mut operations,
            rests,
            began,
            logged,
            told,
            ..
        } = self;
        let outcome = step.finish().await.map_err(Error::of_sink)?;
        count_written(&mut done.counts, &logged, as_milliseconds(began.elapsed()));
        for Sent { stream, messages, bytes } in outcome.sent {
            counters.messages += messages;
            counters.bytes += bytes;
            done.counts.add(&stream, delivery::PUBLISHED_BYTES, i64::try_from(bytes).unwrap_or(i64::MAX));
            if let Some(&(first_id, last_id, since_ms)) = rows.get(&stream).filter(|_| messages > 0) {
                let parts = i32::try_from(messages).unwrap_or(i32::MAX);
                let stream = streams.get(&stream).map_or(stream, Stream::flight_name);
                done.flights.push(Flight { stream, parts, first_id, last_id, since_ms });
            }
        }
        // A look, whose id is no row's, was not counted as written.
        for refusal in outcome.refused.iter().filter(|refusal| refusal.change_id > 0) {
            done.counts.add(&refusal.stream, delivery::WRITTEN, -1);
        }
        done.refusals.extend(outcome.refused);
        // A page behind it had the key once more, and that was written: there is nothing to be told.
        done.refusals.retain(|refusal| {
            let newest = written.get(&refusal.stream).and_then(|keys| keys.get(&refusal.key));
            newest.is_none_or(|newest| *newest <= refusal.version)
        });
        for refusal in &done.refusals {
            written.get_mut(&refusal.stream).and_then(|keys| keys.remove(&refusal.key));
        }
        written.retain(|stream, _| streams.get(stream).is_some_and(|stream| stream.has_refusals));
        done.arrived = written.into_iter().map(|(stream, keys)| (stream, keys.into_keys().collect())).collect();
        for Unfit { stream, reason, ids } in outcome.unfit {
            // Why, is noted with the stream: it may quote what the log of a function must not have.
            error!(stream, "the target does not take a stream as it is: its changes are set aside");
            let changes = as_count(ids.iter().filter(|id| **id > 0).count());
            done.counts.add(&stream, delivery::WRITTEN, -changes);
            done.counts.add(&stream, delivery::CONFIGURATION, changes);
            if let Some(operations) = operations.get_mut(&stream) {
                for id in &ids {
                    operations.remove(id);
                }
            }
            let pause = rests.left(&stream).unwrap_or_else(|| rests.begin(&stream));
            counters.waiting += ids.len() as u64;
            // Nobody knows which of them have.
            done.arrived.remove(&stream);
            let aside = done.aside.entry(stream).or_default();
            aside.ids.extend(ids);
            (aside.pause, aside.reason) = (pause, Some(reason));
        }
        for refusal in &done.refusals {
            counters.refused += 1;
            done.counts.add(&refusal.stream, delivery::DEAD_LETTERED, 1);
            if let Some(operation) = operations.get_mut(&refusal.stream).and_then(|of| of.remove(&refusal.change_id)) {
                done.counts.add(&refusal.stream, delivery::failed(operation), 1);
            }
        }
        // What is left is there, or was overtaken by a write that is.
        for (stream, operations) in operations {
            for operation in Operation::ALL {
                let changes = operations.values().filter(|it| **it == operation).count();
                if changes > 0 {
                    done.counts.add(&stream, delivery::succeeded(operation), as_count(changes));
                }
            }
        }
        for Told { trace, stream, id, read_at_ms } in told {
            let is_refused = done.refusals.iter().any(|refusal| refusal.change_id == id && refusal.stream == stream);
            let waits = done.aside.get(&stream).is_some_and(|aside| aside.ids.contains(&id));
            let outcome = match (is_refused, waits) {
                (true, _) => "permanent",
                (false, true) => delivery::CONFIGURATION,
                (false, false) => delivery::WRITTEN,
            };
            telemetry::tell_landed(&trace, &stream, id, outcome, read_at_ms, None);
        }
        Ok(done)
    }

    fn note_rows(&mut self, stream: &str, rows: &[log::Row]) {
        let (first, last, since) = self.rows.entry(stream.to_owned()).or_insert((i64::MAX, i64::MIN, i64::MAX));
        for row in rows {
            (*first, *last, *since) = (row.id.min(*first), row.id.max(*last), row.logged_ms.min(*since));
        }
    }

    /// Looks at the streams again, once, where there are rows of one that was not known: it was defined, or given to this
    /// subscription, since this transaction began; or dropped.
    async fn look_at_streams(&mut self, rows: &[log::Row]) -> Result<(), Error> {
        let is_known = |row: &log::Row| of_name(&self.streams, &row.stream).is_some_and(|stream| stream.is_delivered);
        if !self.has_looked_again && !rows.iter().all(is_known) {
            self.streams = self.session.streams(self.subscription).await?;
            self.has_looked_again = true;
        }
        Ok(())
    }

    /// The stream, if its changes can travel. Those of a stream without an index are set aside until it has one; those
    /// of a stream that was dropped, or that goes elsewhere, are passed over.
    async fn live_stream(&mut self, name: &str, rows: &[log::Row]) -> Result<Option<Stream>, Error> {
        let stream = self.streams.get(name);
        if stream.is_some_and(|stream| !stream.is_delivered) {
            return Ok(None);
        }
        self.done.counts.add(name, delivery::DRAINED, as_count(rows.len()));
        let Some(stream) = stream else {
            warn!(stream = name, changes = rows.len(), "passed over changes of a stream that was dropped");
            self.counters.unknown += rows.len() as u64;
            return Ok(None);
        };
        if stream.live_index.is_some() && !self.set_aside.contains(name) {
            let stream = stream.clone();
            if K::READS_AGAIN || !self.rests.is_resting(name) {
                return Ok(Some(stream));
            }
            self.put_aside(name, rows.iter());
            return Ok(None);
        }
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        self.session.wait(self.subscription, name, &ids).await?;
        self.set_aside.insert(name.to_owned());
        self.counters.waiting += ids.len() as u64;
        Ok(None)
    }

    /// Sets changes of a stream that rests aside.
    fn put_aside<'r>(&mut self, stream: &str, rows: impl Iterator<Item = &'r log::Row>) {
        let pause = self.rests.left(stream).unwrap_or_default();
        let aside = self.done.aside.entry(stream.to_owned()).or_default();
        let before = aside.ids.len();
        aside.ids.extend(rows.map(|row| row.id));
        aside.pause = aside.pause.max(pause);
        self.counters.waiting += (aside.ids.len() - before) as u64;
    }

    /// Makes letters of changes whose keys may have been cut: by what is left of one nobody finds its document.
    fn refuse_cut_keys(&mut self, stream: &str, rows: Vec<log::Row>, version: i64) -> Vec<log::Row> {
        let (whole, cut): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.key.len() < KEY_BYTES);
        for row in cut {
            self.refuse(stream, &row, version, "key_too_long", format!("its key has {KEY_BYTES} bytes or more"));
        }
        whole
    }

    fn refuse(&mut self, stream: &str, row: &log::Row, version: i64, error_type: &str, reason: String) {
        warn!(stream, change_id = row.id, error_type, "a change becomes a letter");
        if !row.is_look() {
            self.operations.entry(stream.to_owned()).or_default().insert(row.id, row.operation);
        }
        self.done.refusals.push(Refusal {
            change_id: row.id,
            stream: stream.to_owned(),
            key: row.key.clone(),
            version,
            error_type: error_type.to_owned(),
            reason,
        });
    }

    /// Reads the documents and puts them into the sink as they come. Where they cannot be read, or not soon, the changes
    /// travel without them, and the indexer tries until the source is mended; to a direct target they do not travel, and the
    /// stream rests. The other streams go on, and nothing is skipped.
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
        if !K::READS_AGAIN {
            if !left.is_empty() {
                self.put_aside(&stream.name, left.iter().map(|&index| &rows[index]));
            }
            return Ok(());
        }
        for index in left {
            self.put(stream, &rows[index], version, Op::Read, read_at_ms, None).await?;
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
        let mut documents = session.read(stream, keys, K::DOCUMENT_BYTES, Some(time));
        let mut waited = Duration::ZERO;
        loop {
            let began = Instant::now();
            let Ok(next) = timeout(time + AFTER_TIME_OUT, documents.next()).await else {
                self.counters.source_errors += 1;
                self.rests.begin(&stream.name);
                return Err(Error::Unanswered { stream: stream.name.clone() });
            };
            waited += began.elapsed();
            match next {
                Ok(Some((position, read))) => {
                    let row = &rows[asked[position]];
                    let (op, document) = match read {
                        Read::Document(document) => (Op::Upsert, Some(document)),
                        Read::Missing => (Op::Delete, None),
                        // The indexer reads it anew, and buries it with the reason where that fails, too.
                        Read::TooLarge { .. } | Read::Failed { .. } if K::READS_AGAIN => (Op::Read, None),
                        Read::TooLarge { bytes } => {
                            let reason = format!("its document has {bytes} bytes, {} are the most", K::DOCUMENT_BYTES);
                            self.refuse(&stream.name, row, version, "document_too_large", reason);
                            continue;
                        }
                        Read::Failed { code, message } => {
                            self.refuse(&stream.name, row, version, "unreadable", format!("{message} [{code}]"));
                            continue;
                        }
                    };
                    self.put(stream, row, version, op, read_at_ms, document.as_deref()).await?;
                }
                Ok(None) => {
                    if self.rests.end(&stream.name) || stream.has_fault {
                        session.note_fault(self.subscription, &stream.name, None).await?;
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
                    error!(stream = stream.name, error = %failure, reason, "documents cannot be read: their changes go without them, or wait");
                    self.counters.source_errors += 1;
                    self.rests.begin(&stream.name);
                    session.note_fault(self.subscription, &stream.name, Some(&reason)).await?;
                    return Ok((left, false));
                }
            }
        }
    }

    async fn put(
        &mut self,
        stream: &Stream,
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
        let name = &stream.name;
        if !row.is_look() {
            self.done.counts.add(name, delivery::PUBLISHED, 1);
        }
        if self.looks_again && op == Op::Delete && !row.is_look() && stream.source.is_some() {
            // One look is for all generations to which the row went.
            let of = stream.follows.as_ref().filter(|follows| **follows == row.stream).unwrap_or(name);
            self.done.looks.insert((of.clone(), row.key.clone()));
        }
        // A look arrives as well, and was no change: nothing is counted of it.
        if !K::READS_AGAIN && !row.is_look() {
            let logged = as_milliseconds(self.began.elapsed()) - (read_at_ms - row.logged_ms);
            self.logged.entry(name.clone()).or_default().push(logged);
            self.written.entry(name.clone()).or_default().insert(row.key.clone(), version);
            self.operations.entry(name.clone()).or_default().insert(row.id, row.operation);
        }
        let trace = row.traceparent.as_deref().and_then(Trace::parse).filter(Trace::is_sampled);
        if let Some(trace) = &trace
            && self.traced.take()
        {
            telemetry::tell_sent(trace, name, row.id, row.logged_ms);
            if !K::READS_AGAIN {
                self.told.push(Told { trace: trace.clone(), stream: name.clone(), id: row.id, read_at_ms });
            }
        }
        let key = &row.key[..row.key.floor_char_boundary(KEY_BYTES)];
        let change = Change {
            id: row.id,
            key: key.into(),
            version,
            op,
            operation: row.operation,
            at: read_at_ms,
            since: Some(row.logged_ms),
            trace: trace.as_ref().map(|trace| trace.as_str().into()),
        };
        self.step.put(stream, &change, document).await.map_err(Error::of_sink)
    }
}

/// What a direct target has, now that the step has ended: how many changes of each stream, and how old they were.
fn count_written(counts: &mut Counts, logged: &BTreeMap<String, Vec<i64>>, now: i64) {
    for (stream, logged) in logged {
        let mut buckets: BTreeMap<&'static str, i64> = BTreeMap::new();
        let mut sum = 0;
        for age in logged.iter().map(|logged| (now - logged).max(0)) {
            *buckets.entry(delivery::latency_bucket(age)).or_default() += 1;
            sum += age;
        }
        for (bucket, changes) in buckets {
            counts.add(stream, bucket, changes);
        }
        counts.add(stream, delivery::LATENCY_SUM_MS, sum);
        counts.add(stream, delivery::WRITTEN, as_count(logged.len()));
    }
}

fn as_milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

fn as_count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
