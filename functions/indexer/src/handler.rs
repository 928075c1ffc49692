use std::{
    collections::{BTreeMap, HashSet},
    error::Error as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lambda_events::event::sqs::{SqsBatchResponse, SqsEvent};
use message::Op;
use search::Connection;
use tokio::time::Instant;
use tracing::warn;

use crate::{
    alias::Aliases,
    back_off::BackOff,
    batch::{Received, Work},
    bulk::{Bulk, Write},
    cluster::Cluster,
    config::Settings,
    dead_letter::{DeadLetters, Letter},
    deadline::Deadline,
    decision::{Outcome, Reason, Verdict, check, decide_message, needs_re_read},
    re_read::{Reading, Source},
    tally::Tally,
};

/// Kept free at the end of an invocation: for dead letters, and for the answer itself.
const DEAD_LETTER_MARGIN: Duration = Duration::from_secs(3);
const ANSWER_MARGIN: Duration = Duration::from_millis(500);

/// A message of the batch has no id, so that it could not be given back by itself.
#[derive(Debug, thiserror::Error)]
#[error("a message without an id was received: the whole batch is given back")]
pub struct Unidentified;

/// The handler of one function instance. It keeps connections and nothing else between two batches.
#[derive(Debug)]
pub struct Indexer {
    cluster: Cluster,
    source: Source,
    dead_letters: DeadLetters,
    back_off: BackOff,
    aliases: Aliases,
    settings: Settings,
}

impl Indexer {
    /// Connects to nothing yet.
    pub fn new(search: Connection, source: Source, sqs: aws_sdk_sqs::Client, settings: Settings) -> Self {
        Self {
            cluster: Cluster::new(search),
            source,
            dead_letters: DeadLetters::new(sqs.clone(), settings.dead_letter_queue_url.clone()),
            back_off: BackOff::new(sqs, settings.queue_url.clone()),
            aliases: Aliases::new(settings.index_prefix.clone()),
            settings,
        }
    }

    /// Handles a batch, and names the messages that are to be received again. All others may be deleted: each of their
    /// changes is written, stale, gone or in the dead-letter queue.
    ///
    /// It returns before the deadline, and nothing runs on after it.
    pub async fn handle(&self, event: &SqsEvent, deadline: Instant) -> Result<SqsBatchResponse, Unidentified> {
        let started = Instant::now();
        let now_ms = now_ms();
        let batch = Received::batch(event)?;
        let mut tally = Tally::of(batch.len());

        let deadline = Deadline::at(deadline).less(ANSWER_MARGIN);
        let outcomes = self.index(&batch, now_ms, deadline.less(DEAD_LETTER_MARGIN), &mut tally).await;
        let retried = self.settle(&batch, &outcomes, now_ms, deadline, &mut tally).await;

        let given_back: Vec<&Received<'_>> = retried.iter().map(|&message| &batch[message]).collect();
        self.back_off.apply(&given_back, deadline).await;
        tally.messages_retried = retried.len();
        tally.log(started.elapsed());
        let mut response = SqsBatchResponse::default();
        for message in retried {
            response.add_failure(batch[message].id);
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
        let mut by_stream: BTreeMap<&str, Vec<Work<'_>>> = BTreeMap::new();
        for (position, received) in batch.iter().enumerate() {
            let Ok(message) = &received.message else { continue };
            let works = message.entries.iter().map(|entry| Work {
                message: position,
                entry,
                receive_count: received.receive_count,
            });
            by_stream.entry(message.stream.as_ref()).or_default().extend(works);
        }
        let mut outcomes: Vec<Vec<Outcome>> = batch.iter().map(|_| Vec::new()).collect();
        for (stream, works) in &by_stream {
            let ended = self.index_stream(stream, works, now_ms, deadline, tally).await;
            // The works of a message are in the order of its changes.
            for (work, outcome) in works.iter().zip(ended) {
                tally.count(stream, &outcome);
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
                    let bulk =
                        Bulk { cluster: &self.cluster, alias: &alias, limit_bytes: self.settings.bulk_bytes, deadline };
                    let (old, fresh): (Vec<usize>, Vec<usize>) =
                        possible.into_iter().partition(|&index| self.is_to_re_read(&works[index], now_ms));
                    write_travelled(bulk, works, &fresh, &mut outcomes).await;
                    tally.re_read += old.len();
                    self.write_re_read(bulk, stream, works, &old, &mut outcomes).await;
                }
            }
        }
        let mut outcomes: Vec<Outcome> = outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap_or_else(|| Outcome::Retry(Reason::new("no_answer", "it was not handled"))))
            .collect();
        self.look_for_the_stream(stream, &mut outcomes, deadline).await;
        outcomes
    }

    fn is_to_re_read(&self, work: &Work<'_>, now_ms: i64) -> bool {
        needs_re_read(&work.entry.change, work.receive_count, now_ms, self.settings.re_read_after)
    }

    /// Reads these changes' documents from PostgreSQL, and writes them with the changes' own versions.
    async fn write_re_read(
        &self,
        bulk: Bulk<'_>,
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
                old.iter().partition(|&&index| works[index].entry.change.op == Op::Read);
            let reason = Reason::new("no_source", "its document did not travel, and the stream has no source to read");
            fill(outcomes, &without, &Outcome::Permanent(reason));
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
                                writes.push(Write { key: &change.key, version: change.version, document });
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

    /// Sends dead letters, and tells which messages are to be received again.
    async fn settle(
        &self,
        batch: &[Received<'_>],
        outcomes: &[Vec<Outcome>],
        now_ms: i64,
        deadline: Deadline,
        tally: &mut Tally,
    ) -> Vec<usize> {
        let mut retried: HashSet<usize> = HashSet::new();
        let mut letters = Vec::new();
        let mut senders = Vec::new();
        for (position, (received, outcomes)) in batch.iter().zip(outcomes).enumerate() {
            match (&received.message, decide_message(outcomes)) {
                (Ok(_), Verdict::Retry) => {
                    retried.insert(position);
                }
                (Ok(message), Verdict::Acknowledge { permanent }) => {
                    for index in permanent {
                        let Outcome::Permanent(reason) = &outcomes[index] else { continue };
                        let at = received.circumstances(now_ms);
                        letters.push(Letter::of_change(
                            &message.stream,
                            &message.trace,
                            &message.entries[index],
                            reason,
                            at,
                        ));
                        senders.push(position);
                    }
                }
                (Err(error), _) => {
                    warn!(message_id = received.id, %error, "a message cannot be read");
                    let problem = error.source().map(|problem| format!(": {problem}")).unwrap_or_default();
                    let reason = Reason::new("malformed_message", format!("{error}{problem}"));
                    letters.push(Letter::of_message(received.body, &reason, received.circumstances(now_ms)));
                    senders.push(position);
                }
            }
        }
        let sent = self.dead_letters.send(&letters, deadline).await;
        tally.dead_lettered = sent.len();
        let unsent = senders.iter().enumerate().filter(|(letter, _)| !sent.contains(letter));
        retried.extend(unsent.map(|(_, &position)| position));

        let mut retried: Vec<usize> = retried.into_iter().collect();
        retried.sort_unstable();
        retried
    }
}

/// Writes these changes with the documents that travelled.
async fn write_travelled(bulk: Bulk<'_>, works: &[Work<'_>], which: &[usize], outcomes: &mut [Option<Outcome>]) {
    let writes: Vec<Write<'_>> = which
        .iter()
        .map(|&index| {
            let entry = works[index].entry;
            Write { key: &entry.change.key, version: entry.change.version, document: entry.document.map(Into::into) }
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

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
