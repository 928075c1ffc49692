//! What an invocation did, for its log line.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use database::delivery::{self, Counts};
use message::{Entry, Message, Op};
use search::{Done, Outcome, Reason};
use telemetry::{Line, Trace, TracedChanges};
use tracing::{error, info, warn};

use crate::batch::Received;

/// A change that is older counts as so old: a year.
const LONGEST_MS: i64 = 365 * 24 * 60 * 60 * 1000;

/// Counts changes, but for those that count messages and say so.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    messages: usize,
    trace_ids: BTreeSet<String>,
    pub(crate) messages_retried: usize,
    re_read: usize,
    dead_lettered: usize,
    pub(crate) second_looks: usize,
    pub(crate) messages_sent_anew: usize,
    written: usize,
    stale: usize,
    gone: usize,
    retried: usize,
    configuration: usize,
    refusals: BTreeMap<(String, Kind, String), Refusal>,
    passed_over: BTreeMap<String, usize>,
    counts: Counts,
    times_ms: Vec<u64>,
    pub(crate) traced: TracedChanges,
    heartbeat_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Retry,
    Configuration,
    Permanent,
}

#[derive(Debug)]
struct Refusal {
    changes: usize,
    example: String,
}

impl Tally {
    /// Nothing but a number of messages, and the traces in which they were sent.
    pub(crate) fn of(batch: &[Received<'_>]) -> Self {
        let traces = batch.iter().filter_map(|received| Trace::parse(&received.message.as_ref().ok()?.trace));
        let trace_ids = traces.map(|trace| trace.id().to_owned()).collect();
        Self { messages: batch.len(), trace_ids, ..Self::default() }
    }

    pub(crate) fn count(&mut self, stream: &str, outcome: &Outcome) {
        match outcome {
            Outcome::Done(_, Done::Written) => {
                self.written += 1;
                self.counts.add(stream, delivery::WRITTEN, 1);
            }
            Outcome::Done(_, Done::Stale) => {
                self.stale += 1;
                self.counts.add(stream, delivery::STALE, 1);
            }
            Outcome::Done(_, Done::Gone) => {
                self.gone += 1;
                self.counts.add(stream, delivery::GONE, 1);
            }
            Outcome::Done(_, Done::PassedOver) => {
                self.gone += 1;
                self.counts.add(stream, delivery::GONE, 1);
                *self.passed_over.entry(stream.to_owned()).or_default() += 1;
            }
            Outcome::Done(_, Done::Later) => {}
            Outcome::Retry(reason) | Outcome::Unread(reason) => {
                self.retried += 1;
                self.counts.add(stream, delivery::RETRIED, 1);
                self.note(stream, Kind::Retry, reason);
            }
            Outcome::Configuration(reason) | Outcome::NoIndex(reason) => {
                self.configuration += 1;
                self.counts.add(stream, delivery::CONFIGURATION, 1);
                self.note(stream, Kind::Configuration, reason);
            }
            Outcome::Permanent(reason) => self.note(stream, Kind::Permanent, reason),
            Outcome::NoStream => {}
        }
    }

    /// How long a written change was on its way, in milliseconds.
    pub(crate) fn count_latency(&mut self, stream: &str, ms: i64) {
        // A message may say anything, and a sum that PostgreSQL cannot take would have all of its batch come back.
        let ms = ms.clamp(0, LONGEST_MS);
        self.counts.add(stream, delivery::latency_bucket(ms), 1);
        self.counts.add(stream, delivery::LATENCY_SUM_MS, ms);
        let ms = ms.unsigned_abs();
        self.times_ms.push(ms);
        if stream == delivery::HEARTBEAT {
            self.heartbeat_ms = Some(ms);
        }
    }

    /// A letter of this stream, which is empty where it could not be read.
    pub(crate) fn count_letter(&mut self, stream: &str) {
        self.dead_lettered += 1;
        self.counts.add(stream, delivery::DEAD_LETTERED, 1);
    }

    /// Changes that are read anew, since they are old.
    pub(crate) fn count_re_read(&mut self, stream: &str, changes: usize) {
        if changes > 0 {
            self.re_read += changes;
            self.counts.add(stream, delivery::RE_READ, i64::try_from(changes).unwrap_or(i64::MAX));
        }
    }

    /// The changes that came to their end with a message that is not received again. A second look is no change.
    pub(crate) fn count_ends(&mut self, message: &Message<'_>, outcomes: &[Outcome]) {
        for (Entry { change, .. }, outcome) in message.entries.iter().zip(outcomes) {
            let measure = match outcome {
                _ if change.op == Op::Look => continue,
                Outcome::Done(_, Done::Written | Done::Stale | Done::Gone | Done::PassedOver) => {
                    delivery::succeeded(change.operation)
                }
                Outcome::Permanent(_) => delivery::failed(change.operation),
                // Sent anew, in a message of its own.
                Outcome::Unread(_)
                | Outcome::Done(_, Done::Later)
                | Outcome::Retry(_)
                | Outcome::Configuration(_)
                | Outcome::NoIndex(_)
                | Outcome::NoStream => continue,
            };
            self.counts.add(&message.stream, measure, 1);
        }
    }

    /// What is to be added to the counters that outlive the function.
    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    fn note(&mut self, stream: &str, kind: Kind, reason: &Reason) {
        let key = (stream.to_owned(), kind, reason.error_type.clone());
        let refusal = self.refusals.entry(key).or_insert_with(|| Refusal { changes: 0, example: reason.text.clone() });
        refusal.changes += 1;
    }

    /// The same for CloudWatch.
    pub(crate) fn measure(&self, line: &mut Line) {
        line.count("Written", self.written as u64)
            .count("Stale", self.stale as u64)
            .count("Gone", self.gone as u64)
            .count("Retried", self.retried as u64)
            .count("ConfigurationErrors", self.configuration as u64)
            .count("DeadLettered", self.dead_lettered as u64)
            .count("ReRead", self.re_read as u64);
        line.times("CommitToIndexed", &self.times_ms);
        if let Some(ms) = self.heartbeat_ms {
            line.gauge("HeartbeatAge", "Milliseconds", ms);
        }
        line.fact("streams", self.counts.by_stream());
    }

    /// One line for the invocation, and one for each way in which something went wrong.
    ///
    /// What is said of a document may quote it, and is told in the dead letter only.
    pub(crate) fn log(&self, duration: Duration) {
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        for ((stream, kind, error_type), Refusal { changes, example }) in &self.refusals {
            match kind {
                Kind::Retry => warn!(stream, error_type, changes, "changes are to be retried"),
                Kind::Configuration => {
                    error!(
                        stream,
                        error_type,
                        changes,
                        reason = example,
                        "changes wait for the configuration to be mended"
                    );
                }
                Kind::Permanent => warn!(stream, error_type, changes, "changes can never be written"),
            }
        }
        for (stream, changes) in &self.passed_over {
            warn!(stream, changes, "passed over changes of a stream that was dropped");
        }
        let trace_ids: Vec<&str> = self.trace_ids.iter().map(String::as_str).collect();
        info!(
            trace_ids = trace_ids.join(","),
            messages = self.messages,
            messages_retried = self.messages_retried,
            messages_sent_anew = self.messages_sent_anew,
            written = self.written,
            stale = self.stale,
            gone = self.gone,
            dead_lettered = self.dead_lettered,
            retried = self.retried,
            configuration = self.configuration,
            re_read = self.re_read,
            second_looks = self.second_looks,
            duration_ms,
            "a batch is done"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_age_a_message_tells_of_can_be_counted() {
        let mut tally = Tally::default();
        for ms in [i64::MIN, -1, 5, i64::MAX, i64::MAX] {
            tally.count_latency("cities", ms);
        }
        let sum = tally.counts().rows().into_iter().find(|count| count.measure == delivery::LATENCY_SUM_MS).unwrap();
        assert_eq!(sum.value, 5 + 2 * LONGEST_MS);
    }
}
