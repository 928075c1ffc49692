use std::{
    collections::BTreeMap,
    error::Error as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lambda_events::event::sqs::{SqsBatchResponse, SqsEvent};
use config::Trace;
use database::{Connect, Postgres};
use message::Op;
use queue::{Queue, Sqs, send_all};
use search::Connection;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    again,
    alias::{Aliases, is_forgotten, without_source},
    back_off,
    batch::{Received, Work},
    bulk::{Bulk, Write},
    cluster::{Cluster, Elastic},
    config::Settings,
    counters::Counters,
    dead_letter,
    deadline::Deadline,
    decision::{Action, Done, Outcome, Reason, Verdict, check, decide_message, needs_re_read},
    re_read::{Reading, Source},
    tally::Tally,
};

/// Kept free at the end of an invocation: for what is to be sent, and for the answer itself.
const SETTLE_MARGIN: Duration = Duration::from_secs(3);
const ANSWER_MARGIN: Duration = Duration::from_millis(500);

/// A message of the batch has no id, so that it could not be given back by itself.
#[derive(Debug, thiserror::Error)]
#[error("a message without an id was received: the whole batch is given back")]
pub struct Unidentified;

/// The handler of one function instance. It keeps connections and nothing else between two batches.
pub struct Indexer<C = Elastic, D: Connect = Postgres, Q = Sqs> {
    cluster: C,
    source: Source<D>,
    queue: Q,
    dead_letter_queue: Q,
    aliases: Aliases,
    counters: Counters,
    settings: Settings,
}

impl Indexer {
    /// Connects to nothing yet.
    pub fn new(search: Connection, source: Source, sqs: aws_sdk_sqs::Client, settings: Settings) -> Self {
        let queue = Sqs::new(sqs.clone(), settings.queue_url.as_str());
        let dead_letter_queue = Sqs::new(sqs, settings.dead_letter_queue_url.as_str());
        Self::of(Elastic::new(search), source, queue, dead_letter_queue, settings)
    }
}

impl<C: Cluster, D: Connect, Q: Queue> Indexer<C, D, Q> {
    /// The same over other services than the real ones.
    pub fn of(cluster: C, source: Source<D>, queue: Q, dead_letter_queue: Q, settings: Settings) -> Self {
        let aliases = Aliases::new(settings.index_prefix.clone());
        Self { cluster, source, queue, dead_letter_queue, aliases, counters: Counters::default(), settings }
    }

    /// Handles a batch, and names the messages that are to be received again. All others may be deleted: each of their
    /// changes is written, stale, gone or in the dead-letter queue, or the message was sent anew.
    ///
    /// It returns before the deadline, and nothing runs on after it. `now` is the wall clock.
    pub async fn handle(
        &self,
        event: &SqsEvent,
        now: SystemTime,
        deadline: Instant,
    ) -> Result<SqsBatchResponse, Unidentified> {
        let started = Instant::now();
        let now_ms = since_1970_ms(now);
        let batch = Received::batch(event)?;
        let mut tally = Tally::of(&batch);

        let deadline = Deadline::at(deadline).less(ANSWER_MARGIN);
        let outcomes = self.index(&batch, now_ms, deadline.less(SETTLE_MARGIN), &mut tally).await;
        let mut retried = self.settle(&batch, &outcomes, now_ms, deadline, &mut tally).await;
        self.send_anew(&batch, &mut retried, now_ms, deadline, &mut tally).await;

        let receipts: Vec<(&str, Duration)> =
            retried.iter().filter_map(|(&position, delay)| Some((batch[position].receipt_handle?, *delay))).collect();
        back_off::apply(&self.queue, &receipts, deadline).await;
        tally.messages_retried = retried.len();
        tally.log(started.elapsed());
        if let Some(metrics) = &self.settings.metrics {
            let mut line = metrics.line();
            tally.measure(&mut line);
            line.print(now);
        }
        self.counters.add(tally.into_counts(), &self.source, deadline).await;
        let mut response = SqsBatchResponse::default();
        for position in retried.into_keys() {
            response.add_failure(batch[position].id);
        }
        Ok(response)
    }

    /// Writes what can be written. An outcome for each change of each message, in their order.
    async fn index(
        &self,
        batch: &[Received<'_>],
        now_ms: i64,
        deadline: Deadline,
        tally: &mut Tally,
    ) -> Vec<Vec<Outcome>> {
        let started = Instant::now();
        let mut by_stream: BTreeMap<&str, Vec<Work<'_>>> = BTreeMap::new();
        for (position, received) in batch.iter().enumerate() {
            let Ok(message) = &received.message else { continue };
            let works =
                message.entries.iter().map(|entry| Work { message: position, entry, attempts: received.attempts });
            by_stream.entry(message.stream.as_ref()).or_default().extend(works);
        }
        let mut outcomes: Vec<Vec<Outcome>> = batch.iter().map(|_| Vec::new()).collect();
        for (stream, works) in &by_stream {
            let ended = self.index_stream(stream, works, now_ms, deadline, tally).await;
            // The works of a message are in the order of its changes.
            for (work, outcome) in works.iter().zip(ended) {
                tally.count(stream, &outcome);
                let latency_ms = work.entry.change.since.map(|since| now_ms + as_ms(started.elapsed()) - since);
                if let (Some(ms), Outcome::Done(_, Done::Written)) = (latency_ms, &outcome) {
                    tally.count_latency(stream, ms);
                }
                if let Some(trace) = work.entry.change.trace.as_deref().and_then(Trace::parse) {
                    let (change_id, outcome) = (work.entry.change.id, outcome.name());
                    info!(trace_id = trace.id(), stream, change_id, outcome, latency_ms, "a traced change");
                }
                outcomes[work.message].push(outcome);
            }
        }
        outcomes
    }

    /// Writes the changes of one stream. The outcomes are in the order of the works.
    async fn index_stream(
        &self,
        stream: &str,
        works: &[Work<'_>],
        now_ms: i64,
        deadline: Deadline,
        tally: &mut Tally,
    ) -> Vec<Outcome> {
        let mut outcomes: Vec<Option<Outcome>> =
            works.iter().map(|work| check(&work.entry.change, work.entry.document).err()).collect();
        let possible: Vec<usize> = (0..works.len()).filter(|&index| outcomes[index].is_none()).collect();
        if !possible.is_empty() {
            match self.aliases.of(stream, &self.cluster, &self.source, deadline).await {
                Err(outcome) => fill(&mut outcomes, &possible, &outcome),
                Ok(alias) => {
                    let limit_bytes = self.settings.bulk_bytes;
                    let bulk = &Bulk { cluster: &self.cluster, alias: &alias, limit_bytes, deadline };
                    let (old, fresh): (Vec<usize>, Vec<usize>) =
                        possible.into_iter().partition(|&index| self.is_to_re_read(&works[index], now_ms));
                    write_travelled(bulk, works, &fresh, &mut outcomes).await;
                    tally.count_re_read(stream, old.len());
                    self.write_re_read(bulk, stream, works, &old, &mut outcomes).await;
                }
            }
        }
        let mut outcomes: Vec<Outcome> = outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap_or_else(|| Outcome::Retry(Reason::new("no_answer", "it was not handled"))))
            .collect();
        self.look_for_the_stream(stream, &mut outcomes, deadline).await;
        for (work, outcome) in works.iter().zip(&mut outcomes) {
            // A second look at what is no more, or never was anywhere else, has nothing to see.
            if work.entry.change.op == Op::Look && is_forgotten(outcome) {
                *outcome = Outcome::Done(Action::Delete, Done::Gone);
            }
        }
        outcomes
    }

    fn is_to_re_read(&self, work: &Work<'_>, now_ms: i64) -> bool {
        needs_re_read(&work.entry.change, work.attempts, now_ms, self.settings.re_read_after)
    }

    /// Reads these changes' documents from PostgreSQL, and writes them with the changes' own versions.
    async fn write_re_read(
        &self,
        bulk: &Bulk<'_, C>,
        stream: &str,
        works: &[Work<'_>],
        old: &[usize],
        outcomes: &mut [Option<Outcome>],
    ) {
        if old.is_empty() {
            return;
        }
        let definition = match self.source.stream(stream, bulk.deadline).await {
            Ok(definition) => definition,
            Err(outcome) => return fill(outcomes, old, &outcome),
        };
        if definition.source.is_none() {
            // Fed by `sluice.emit`: what travelled is all there is.
            let (without, with): (Vec<usize>, Vec<usize>) =
                old.iter().partition(|&&index| matches!(works[index].entry.change.op, Op::Read | Op::Look));
            fill(outcomes, &without, &without_source());
            return write_travelled(bulk, works, &with, outcomes).await;
        }

        let mut by_key: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for &index in old {
            by_key.entry(works[index].entry.change.key.as_ref()).or_default().push(index);
        }
        let keys: Vec<&str> = by_key.keys().copied().collect();
        self.source
            .read(&definition, &keys, bulk.limit_bytes, bulk.deadline, async |portion| {
                let mut asking = Vec::new();
                let mut writes = Vec::new();
                for (key, reading) in portion {
                    let indexes = &by_key[keys[key]];
                    match reading {
                        Reading::Unread(outcome) => fill(outcomes, indexes, &outcome),
                        Reading::Current(document) => {
                            for &index in indexes {
                                let change = &works[index].entry.change;
                                if let Err(outcome) = check(change, document.as_deref()) {
                                    outcomes[index] = Some(outcome);
                                    continue;
                                }
                                let document = document.clone().map(Into::into);
                                writes.push(Write::new(&change.key, change.version, document));
                                asking.push(index);
                            }
                        }
                    }
                }
                for (index, outcome) in asking.into_iter().zip(bulk.write(&writes).await) {
                    outcomes[index] = Some(outcome);
                }
            })
            .await;
    }

    /// Elasticsearch had no such index: now it matters whether there is such a stream.
    async fn look_for_the_stream(&self, stream: &str, outcomes: &mut [Outcome], deadline: Deadline) {
        if !outcomes.iter().any(|outcome| matches!(outcome, Outcome::NoIndex(_))) {
            return;
        }
        let looked = self.aliases.without_index(stream, &self.source, deadline).await;
        for outcome in outcomes.iter_mut().filter(|outcome| matches!(outcome, Outcome::NoIndex(_))) {
            *outcome = looked.clone();
        }
    }

    /// Sends second looks and dead letters. The messages that are to be received again, each with its delay.
    async fn settle(
        &self,
        batch: &[Received<'_>],
        outcomes: &[Vec<Outcome>],
        now_ms: i64,
        deadline: Deadline,
        tally: &mut Tally,
    ) -> BTreeMap<usize, Duration> {
        let mut retried = BTreeMap::new();
        let mut looks = Parcels::default();
        let mut letters = Parcels::default();
        let delay =
            |position: usize, is_general| back_off::delay(batch[position].attempts, is_general, fastrand::f64());
        for (position, (received, outcomes)) in batch.iter().zip(outcomes).enumerate() {
            let at = received.circumstances(now_ms);
            match (&received.message, decide_message(outcomes)) {
                (Ok(_), Verdict::Retry { is_general }) => {
                    retried.insert(position, delay(position, is_general));
                }
                (Ok(message), Verdict::Acknowledge { permanent }) => {
                    if let Some((look, keys)) = again::second_look(message, outcomes, self.settings.second_look_after) {
                        looks.push(position, look);
                        tally.second_looks += keys;
                    }
                    for index in permanent {
                        let Outcome::Permanent(reason) = &outcomes[index] else { continue };
                        let entry = &message.entries[index];
                        letters
                            .push(position, dead_letter::of_change(&message.stream, &message.trace, entry, reason, at));
                    }
                }
                (Err(error), _) => {
                    warn!(message_id = received.id, %error, "a message cannot be read");
                    let problem = error.source().map(|problem| format!(": {problem}")).unwrap_or_default();
                    let reason = Reason::new("malformed_message", format!("{error}{problem}"));
                    letters.push(position, dead_letter::of_message(received.body, &reason, at));
                }
            }
        }
        // What is to be received again is not dead-lettered yet, or it would be once more.
        for position in looks.send(&self.queue, deadline).await.unsent {
            letters.forget(position);
            retried.insert(position, delay(position, true));
        }
        let letters = letters.send(&self.dead_letter_queue, deadline).await;
        for letter in &letters.sent {
            tally.count_letter(letter.attribute("stream").unwrap_or_default());
        }
        for position in letters.unsent {
            retried.insert(position, delay(position, true));
        }
        retried
    }

    /// Sends those anew which SQS would otherwise drop, or move to the dead-letter queue, one day. They are not retried.
    async fn send_anew(
        &self,
        batch: &[Received<'_>],
        retried: &mut BTreeMap<usize, Duration>,
        now_ms: i64,
        deadline: Deadline,
        tally: &mut Tally,
    ) {
        let is_due = |received: &Received<'_>| {
            self.settings.send_anew.is_due(received.receive_count, received.sent_ms.unwrap_or(now_ms), now_ms)
        };
        let due: Vec<usize> = retried.keys().copied().filter(|&position| is_due(&batch[position])).collect();
        let messages: Vec<queue::Message> =
            due.iter().map(|position| again::sent_anew(&batch[*position], now_ms, retried[position])).collect();
        for sent in send_all(&self.queue, &messages, deadline.instant()).await {
            retried.remove(&due[sent]);
            tally.messages_sent_anew += 1;
        }
    }
}

/// What is to be sent on behalf of received messages.
#[derive(Default)]
struct Parcels {
    senders: Vec<usize>,
    messages: Vec<queue::Message>,
}

#[derive(Default)]
struct Dispatched {
    sent: Vec<queue::Message>,
    /// The received messages of which something was not sent.
    unsent: Vec<usize>,
}

impl Parcels {
    fn push(&mut self, sender: usize, message: queue::Message) {
        self.senders.push(sender);
        self.messages.push(message);
    }

    fn forget(&mut self, sender: usize) {
        let mut senders = self.senders.iter();
        self.messages.retain(|_| senders.next() != Some(&sender));
        self.senders.retain(|other| *other != sender);
    }

    async fn send(self, queue: &impl Queue, deadline: Deadline) -> Dispatched {
        let sent = send_all(queue, &self.messages, deadline.instant()).await;
        let mut dispatched = Dispatched::default();
        for (position, (sender, message)) in self.senders.into_iter().zip(self.messages).enumerate() {
            if sent.contains(&position) {
                dispatched.sent.push(message);
            } else {
                dispatched.unsent.push(sender);
            }
        }
        dispatched
    }
}

/// Writes these changes with the documents that travelled.
async fn write_travelled(
    bulk: &Bulk<'_, impl Cluster>,
    works: &[Work<'_>],
    which: &[usize],
    outcomes: &mut [Option<Outcome>],
) {
    let writes: Vec<Write<'_>> = which
        .iter()
        .map(|&index| {
            let entry = works[index].entry;
            Write::new(&entry.change.key, entry.change.version, entry.document.map(Into::into))
        })
        .collect();
    for (&index, outcome) in which.iter().zip(bulk.write(&writes).await) {
        outcomes[index] = Some(outcome);
    }
}

fn fill(outcomes: &mut [Option<Outcome>], which: &[usize], outcome: &Outcome) {
    for &index in which {
        outcomes[index] = Some(outcome.clone());
    }
}

fn since_1970_ms(time: SystemTime) -> i64 {
    as_ms(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn as_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
