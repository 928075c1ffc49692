//! What an invocation did, for its log line.

use std::{collections::BTreeMap, time::Duration};

use config::Line;
use database::{delivery, log::Count};
use tracing::{error, info, warn};

use crate::decision::{Done, Outcome, Reason};

/// Counts changes, but for those that count messages and say so.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    messages: usize,
    pub(crate) messages_retried: usize,
    pub(crate) re_read: usize,
    dead_lettered: usize,
    pub(crate) second_looks: usize,
    pub(crate) messages_sent_anew: usize,
    written: usize,
    stale: usize,
    gone: usize,
    retried: usize,
    configuration: usize,
    refusals: BTreeMap<(String, Kind, String), Refusal>,
    measures: BTreeMap<(String, &'static str), i64>,
    times_ms: Vec<u64>,
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
    /// Nothing but a number of messages.
    pub(crate) fn of(messages: usize) -> Self {
        Self { messages, ..Self::default() }
    }

    pub(crate) fn count(&mut self, stream: &str, outcome: &Outcome) {
        match outcome {
            Outcome::Done(_, Done::Written) => {
                self.written += 1;
                self.add(stream, delivery::WRITTEN, 1);
            }
            Outcome::Done(_, Done::Stale) => {
                self.stale += 1;
                self.add(stream, delivery::STALE, 1);
            }
            Outcome::Done(_, Done::Gone) => {
                self.gone += 1;
                self.add(stream, delivery::GONE, 1);
            }
            Outcome::Retry(reason) => {
                self.retried += 1;
                self.add(stream, delivery::RETRIED, 1);
                self.note(stream, Kind::Retry, reason);
            }
            Outcome::Configuration(reason) | Outcome::NoIndex(reason) => {
                self.configuration += 1;
                self.add(stream, delivery::CONFIGURATION, 1);
                self.note(stream, Kind::Configuration, reason);
            }
            Outcome::Permanent(reason) => self.note(stream, Kind::Permanent, reason),
        }
    }

    /// How long a written change was on its way, in milliseconds.
    pub(crate) fn count_latency(&mut self, stream: &str, ms: i64) {
        self.add(stream, delivery::latency_bucket(ms), 1);
        self.add(stream, delivery::LATENCY_SUM_MS, ms.max(0));
        self.times_ms.push(ms.max(0).unsigned_abs());
    }

    /// A letter of this stream, which is empty where it could not be read.
    pub(crate) fn count_letter(&mut self, stream: &str) {
        self.dead_lettered += 1;
        self.add(stream, delivery::DEAD_LETTERED, 1);
    }

    fn add(&mut self, stream: &str, measure: &'static str, value: i64) {
        *self.measures.entry((stream.to_owned(), measure)).or_default() += value;
    }

    /// What is to be added to the counters that outlive the function.
    pub(crate) fn counts(self) -> impl Iterator<Item = Count> {
        self.measures.into_iter().map(|((stream, measure), value)| Count { stream, measure, value })
    }

    fn note(&mut self, stream: &str, kind: Kind, reason: &Reason) {
        let key = (stream.to_owned(), kind, reason.error_type.clone());
        let refusal = self.refusals.entry(key).or_insert_with(|| Refusal { changes: 0, example: reason.text.clone() });
        refusal.changes += 1;
    }

    /// The same for CloudWatch.
    pub(crate) fn measure(&self, line: &mut Line) {
        for (name, count) in [
            ("Written", self.written),
            ("Stale", self.stale),
            ("Gone", self.gone),
            ("Retried", self.retried),
            ("ConfigurationErrors", self.configuration),
            ("DeadLettered", self.dead_lettered),
            ("ReRead", self.re_read),
        ] {
            line.count(name, count as u64);
        }
        line.times("CommitToIndexed", &self.times_ms);
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
        info!(
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
