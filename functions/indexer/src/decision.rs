//! What becomes of a change and of its message: decided here and nowhere else.
//!
//! Nothing here waits, reads a clock or talks to anybody.

mod answer;

use std::time::Duration;

use database::delivery;
use message::{Change, Op};
use serde_json::value::RawValue;

pub use answer::{Answer, Cause, Decision, ItemAnswer, decide_item, decide_request};

/// The end of one change, as far as this invocation goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The index is where this change wants it to be, or further.
    Done(Action, Done),
    /// It may go better next time, without anybody's help.
    Retry(Reason),
    /// There was no time to read its document. Retried as well, but what else is in its message need not be done again:
    /// each receipt has fewer documents to read.
    Unread(Reason),
    /// It will go better when somebody has mended the configuration. Retried for as long as that takes.
    Configuration(Reason),
    /// Elasticsearch has no such alias or index: [`Outcome::Configuration`] where the stream is defined, else
    /// [`Outcome::NoStream`].
    NoIndex(Reason),
    /// No stream of this name is defined. What follows depends on what the change carries: see [`without_stream`].
    NoStream,
    /// It can never be written: to the dead-letter queue.
    Permanent(Reason),
}

impl Outcome {
    /// As logs name it: by the measure that counts it, where one does.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Done(_, Done::Written) => delivery::WRITTEN,
            Self::Done(_, Done::Stale) => delivery::STALE,
            Self::Done(_, Done::Gone | Done::PassedOver) | Self::NoStream => delivery::GONE,
            Self::Retry(_) | Self::Unread(_) => delivery::RETRIED,
            Self::Configuration(_) | Self::NoIndex(_) => delivery::CONFIGURATION,
            Self::Permanent(_) => "permanent",
        }
    }
}

/// How a change was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// The document is written or deleted.
    Written,
    /// A newer or equal version is there.
    Stale,
    /// It was to be deleted, and there was none.
    Gone,
    /// Its stream was dropped.
    PassedOver,
}

/// Why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// A word to group by: Elasticsearch's `error.type`, a SQLSTATE, or one of our own.
    pub error_type: String,
    /// A sentence. It may quote the document, so it is not for the logs.
    pub text: String,
    /// It hit all that was asked, whatever that was: Elasticsearch or PostgreSQL is away, or lets nobody in. Else it is
    /// about this change, its message or its stream.
    pub is_general: bool,
}

impl Reason {
    /// A reason of our own.
    pub fn new(error_type: impl Into<String>, text: impl Into<String>) -> Self {
        Self { error_type: error_type.into(), text: text.into(), is_general: false }
    }

    /// The same, where all that was asked is hit by it.
    pub fn general(self) -> Self {
        Self { is_general: true, ..self }
    }

    /// There was no time left.
    pub fn deadline() -> Self {
        Self::new("deadline", "the invocation had no time left for it").general()
    }
}

/// What a change asks of Elasticsearch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Write the document.
    Index,
    /// Delete it.
    Delete,
}

/// Elasticsearch's limit for an `_id`.
const MAX_KEY_BYTES: usize = 512;
/// Above it, JavaScript and other readers of JSON round.
const VERSION_END: i64 = 1 << 53;

/// Whether a change may be sent at all. One with an impossible key or version would have a whole request refused.
///
/// `document` is what would be written; `None`: a delete, or not read yet.
pub fn check(change: &Change<'_>, document: Option<&str>) -> Result<(), Outcome> {
    let permanent = |error_type: &str, text: String| Err(Outcome::Permanent(Reason::new(error_type, text)));
    let key_bytes = change.key.len();
    if key_bytes == 0 || key_bytes > MAX_KEY_BYTES {
        return permanent("invalid_key", format!("the key has {key_bytes} bytes, and must have 1 to {MAX_KEY_BYTES}"));
    }
    if !(0..VERSION_END).contains(&change.version) {
        return permanent("invalid_version", format!("the version {} is not from 0 to below 2^53", change.version));
    }
    if document.is_some_and(|document| !is_one_object(document)) {
        return permanent("invalid_document", "the document is not one JSON object on one line".to_owned());
    }
    Ok(())
}

/// Anything else would be two lines of a bulk request, or be refused in words that could be about the configuration.
fn is_one_object(document: &str) -> bool {
    document.trim_ascii_start().starts_with('{')
        && !document.contains('\n')
        && serde_json::from_str::<&RawValue>(document).is_ok()
}

/// What becomes of a change of a stream that nobody defines.
///
/// Its stream was dropped, mostly, and then nobody waits for the change. Only a document that travelled may be all that
/// there is of it, if it was given to `sluice.emit`, or if the function was pointed at the wrong database: that one is kept
/// as a letter.
pub fn without_stream(document: Option<&str>) -> Outcome {
    match document {
        Some(_) => Outcome::Permanent(Reason::new("unknown_stream", "no stream of this name is defined")),
        None => Outcome::Done(Action::Delete, Done::PassedOver),
    }
}

/// What becomes of the other changes of a key in a batch, when the newest of them ended so: all of them had the same
/// document, and of one document one write is enough, or one letter.
pub fn older_of_a_key(newest: &Outcome) -> Outcome {
    match newest {
        Outcome::Done(action, _) => Outcome::Done(*action, Done::Stale),
        Outcome::Permanent(_) => Outcome::Done(Action::Index, Done::Stale),
        Outcome::Retry(_)
        | Outcome::Unread(_)
        | Outcome::Configuration(_)
        | Outcome::NoIndex(_)
        | Outcome::NoStream => newest.clone(),
    }
}

/// Whether a change's document is to be read from PostgreSQL, because what travelled may be out of date: an
/// Elasticsearch that has forgotten a delete would take it for new.
pub fn needs_re_read(change: &Change<'_>, receive_count: u32, now_ms: i64, re_read_after: Duration) -> bool {
    let age_ms = u128::try_from(now_ms.saturating_sub(change.at)).unwrap_or(0);
    matches!(change.op, Op::Read | Op::Look) || receive_count > 1 || age_ms > re_read_after.as_millis()
}

/// Whether the key is to be looked at once more, after all that may be in flight has arrived.
///
/// Elasticsearch remembers the version of a deleted document for a while only, and not over a restart: an older write that
/// was under way meanwhile brings the document back. Stale deletes are not excepted: a delete is stale, too, that was
/// carried out before and whose answer was lost.
pub fn needs_second_look(op: Op, outcome: &Outcome) -> bool {
    op != Op::Look && matches!(outcome, Outcome::Done(Action::Delete, Done::Written | Done::Stale | Done::Gone))
}

/// When a message that is to be retried is sent anew instead of being given back.
#[derive(Debug, Clone, Copy)]
pub struct SendAnew {
    /// After so many receipts SQS moves a message to the dead-letter queue.
    pub max_receive_count: u32,
    /// SQS drops a message when its retention is over.
    pub max_age: Duration,
}

impl SendAnew {
    /// In the last tenth of the receipts, or past the age. `sent_ms`, `now_ms`: in milliseconds since 1970.
    pub fn is_due(&self, receive_count: u32, sent_ms: i64, now_ms: i64) -> bool {
        let age_ms = u128::try_from(now_ms.saturating_sub(sent_ms)).unwrap_or(0);
        receive_count >= self.max_receive_count - self.max_receive_count / 10 || age_ms > self.max_age.as_millis()
    }
}

/// What becomes of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Back to the queue. Nothing of it is dead-lettered yet, or it would be again at every attempt.
    Retry {
        /// Whether some of it failed for a general reason.
        is_general: bool,
    },
    /// Acknowledged as soon as these of its changes are in the dead-letter queue; there may be none.
    Acknowledge {
        /// Positions in what was given.
        permanent: Vec<usize>,
    },
    /// The same, and as soon as the changes that are left have been sent in a message of their own.
    Shorten {
        /// Positions in what was given.
        permanent: Vec<usize>,
        /// Positions, too.
        left: Vec<usize>,
    },
}

/// What becomes of a message whose changes ended so.
pub fn decide_message<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> Verdict {
    let (mut permanent, mut left) = (Vec::new(), Vec::new());
    let mut retry = None;
    let mut changes = 0;
    for (position, outcome) in outcomes.into_iter().enumerate() {
        changes += 1;
        match outcome {
            Outcome::Done(_, Done::Written | Done::Stale | Done::Gone | Done::PassedOver) => {}
            Outcome::Permanent(_) => permanent.push(position),
            Outcome::Unread(_) => left.push(position),
            Outcome::Retry(reason) | Outcome::Configuration(reason) | Outcome::NoIndex(reason) => {
                retry = Some(retry.unwrap_or(false) || reason.is_general);
            }
            Outcome::NoStream => retry = retry.or(Some(false)),
        }
    }
    match retry {
        Some(is_general) => Verdict::Retry { is_general },
        None if left.is_empty() => Verdict::Acknowledge { permanent },
        None if left.len() == changes => Verdict::Retry { is_general: false },
        None => Verdict::Shorten { permanent, left },
    }
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod tests;
