//! What becomes of a change: the one place where an answer of Elasticsearch leads to a decision.
//!
//! Nothing here waits, reads a clock or talks to anybody.

use std::time::Duration;

use database::delivery;
use message::{Change, Op};
use serde::Deserialize;
use serde_json::value::RawValue;

/// The end of one change, as far as this invocation goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The index is where this change wants it to be, or further.
    Done(Action, Done),
    /// It may go better next time, without anybody's help.
    Retry(Reason),
    /// It will go better when somebody has mended the configuration. Retried for as long as that takes.
    Configuration(Reason),
    /// Elasticsearch has no such alias or index: [`Outcome::Configuration`] where the stream is defined, else
    /// [`Outcome::Permanent`].
    NoIndex(Reason),
    /// It can never be written: to the dead-letter queue.
    Permanent(Reason),
}

impl Outcome {
    /// As logs name it: by the measure that counts it, where one does.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Done(_, Done::Written) => delivery::WRITTEN,
            Self::Done(_, Done::Stale) => delivery::STALE,
            Self::Done(_, Done::Gone) => delivery::GONE,
            Self::Retry(_) => delivery::RETRIED,
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

/// What came back from Elasticsearch for one request.
#[derive(Debug)]
pub enum Answer {
    /// A success, with its body.
    Success(Vec<u8>),
    /// An error, with what the body says about it, where it says anything.
    Refused {
        /// The status of HTTP.
        status: u16,
        /// From Elasticsearch itself; a proxy in between sends HTML.
        cause: Option<Cause>,
    },
    /// Nothing, or not all of it: the request may have been carried out, or not.
    Lost(Reason),
    /// The request could not be sent as things are configured.
    Misconfigured(Reason),
}

/// What follows from the answer to a bulk request.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Each item has an outcome of its own.
    ByItem(Vec<ItemAnswer>),
    /// Too large, or one of them spoils it: send it again in halves.
    Halve,
    /// The same for all of them.
    All(Outcome),
}

/// One entry of `items` in the answer to a bulk request.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct ItemAnswer {
    /// The key that was sent.
    #[serde(rename = "_id")]
    pub id: Option<String>,
    /// As HTTP counts.
    pub status: u16,
    /// `created`, `updated`, `deleted`, `not_found`.
    pub result: Option<String>,
    /// Where it failed.
    pub error: Option<Cause>,
}

/// An error as Elasticsearch tells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Cause {
    /// `error.type`.
    #[serde(rename = "type")]
    pub error_type: String,
    /// In words.
    pub reason: Option<String>,
    /// The error below it.
    pub caused_by: Option<Box<Cause>>,
}

/// Each `error.type` that is about the document itself, whatever the state of the cluster. `tests/refusals.md` has what
/// Elasticsearch says of which fault, and the tests hold both against it.
///
/// What is not in this list with a status of 400 is about the configuration: `index_closed_exception`,
/// `routing_missing_exception`, and above all `illegal_argument_exception`, which is said of a missing pipeline and of an
/// alias without a write index.
const ABOUT_THE_DOCUMENT: [&str; 4] = [
    // A value that its field does not take, malformed JSON, a metadata field in the document, too deep, too many nested
    // objects, too many fields under a dynamic object, an immense term in a keyword.
    "document_parsing_exception",
    // The same before 8.8.
    "mapper_parsing_exception",
    // A field that the mapping does not have.
    "strict_dynamic_mapping_exception",
    // An immense term that Lucene finds, in a text field. Elasticsearch wraps it into an `illegal_argument_exception`.
    "max_bytes_length_exceeded_exception",
];

/// How the sentence of an `illegal_argument_exception` begins that is about the document: no other type tells it apart.
/// Elasticsearch says so when a dynamic object would have to get a mapping that cannot be.
const ABOUT_THE_DOCUMENT_IN_WORDS: [&str; 3] = [
    // "mapper [free.a] cannot be changed from type [long] to [text]": two types for one new field. Before 9.
    "mapper [",
    // The same of a value and an object.
    "can't merge a non object mapping [",
    // "is longer than the limit of [50] characters".
    "Field name [",
];

/// Each `error.type` of a whole request's 400 that is about one of its items.
const ABOUT_AN_ITEM_OF_THE_REQUEST: [&str; 3] = [
    // An id of more than 512 bytes or none, a version out of range.
    "action_request_validation_exception",
    // An action that is no JSON to Elasticsearch.
    "x_content_parse_exception",
    "x_content_e_o_f_exception",
];

/// Elasticsearch's limit for an `_id`.
const MAX_KEY_BYTES: usize = 512;
/// Above it, JavaScript and other readers of JSON round.
const VERSION_END: i64 = 1 << 53;

impl Cause {
    /// From the body of a refusal. `None`: it is not from Elasticsearch.
    pub fn of_body(body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Error {
            InWords(String),
            Whole(Cause),
        }
        #[derive(Deserialize)]
        struct Body {
            error: Error,
        }
        match serde_json::from_slice::<Body>(body).ok()?.error {
            Error::Whole(cause) => Some(cause),
            Error::InWords(reason) => {
                Some(Self { error_type: "unknown".to_owned(), reason: Some(reason), caused_by: None })
            }
        }
    }

    fn chain(&self) -> impl Iterator<Item = &Cause> {
        std::iter::successors(Some(self), |cause| cause.caused_by.as_deref())
    }

    fn is_any_of(&self, error_types: &[&str]) -> bool {
        self.chain().any(|cause| error_types.contains(&cause.error_type.as_str()))
    }

    fn is_about_the_document(&self) -> bool {
        let is_told_in_words = || {
            let sentence = self.reason.as_deref().unwrap_or_default();
            self.error_type == "illegal_argument_exception"
                && ABOUT_THE_DOCUMENT_IN_WORDS.iter().any(|beginning| sentence.starts_with(beginning))
        };
        self.is_any_of(&ABOUT_THE_DOCUMENT) || is_told_in_words()
    }

    /// The outermost type, with the outermost and the innermost sentence.
    fn to_reason(&self) -> Reason {
        let outer = self.reason.clone().unwrap_or_default();
        let innermost = self.chain().skip(1).filter_map(|cause| cause.reason.as_deref()).last();
        let text = match innermost {
            Some(inner) if !outer.contains(inner) => format!("{outer}: {inner}"),
            Some(_) | None => outer,
        };
        Reason::new(&self.error_type, text)
    }
}

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
    op != Op::Look && matches!(outcome, Outcome::Done(Action::Delete, _))
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

/// What follows from the answer to a bulk request of so many `items`.
pub fn decide_request(answer: Answer, items: usize) -> Decision {
    let (status, cause) = match answer {
        Answer::Success(body) => return decide_success(&body),
        Answer::Lost(reason) => return Decision::All(Outcome::Retry(reason.general())),
        Answer::Misconfigured(reason) => return Decision::All(Outcome::Configuration(reason.general())),
        Answer::Refused { status, cause } => (status, cause),
    };
    let reason = match &cause {
        Some(cause) => cause.to_reason(),
        None => Reason::new(format!("status_{status}"), "the answer does not say why"),
    };
    let is_about_an_item =
        cause.is_some_and(|cause| cause.is_any_of(&ABOUT_AN_ITEM_OF_THE_REQUEST) || cause.is_about_the_document());
    match status {
        400 | 413 if items > 1 => Decision::Halve,
        400 if is_about_an_item => Decision::All(Outcome::Permanent(reason)),
        413 => Decision::All(Outcome::Permanent(Reason::new("document_too_large", reason.text))),
        400 | 404 => Decision::All(Outcome::Configuration(reason)),
        401 | 403 => Decision::All(Outcome::Configuration(reason.general())),
        // 429, 5xx, and whatever nobody thought of.
        _ => Decision::All(Outcome::Retry(reason.general())),
    }
}

fn decide_success(body: &[u8]) -> Decision {
    #[derive(Deserialize)]
    struct Body {
        items: Vec<Item>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Item {
        Index(ItemAnswer),
        Delete(ItemAnswer),
    }
    let Ok(body) = serde_json::from_slice::<Body>(body) else {
        let reason = Reason::new("malformed_answer", "the answer is not that of a bulk request");
        return Decision::All(Outcome::Retry(reason));
    };
    let answers = body.items.into_iter().map(|item| match item {
        Item::Index(answer) | Item::Delete(answer) => answer,
    });
    Decision::ByItem(answers.collect())
}

/// What becomes of the change that this item answers.
pub fn decide_item(action: Action, answer: &ItemAnswer) -> Outcome {
    let Some(error) = &answer.error else {
        return match (answer.status, action, answer.result.as_deref()) {
            (200 | 201, _, _) => Outcome::Done(action, Done::Written),
            (404, Action::Delete, Some("not_found")) => Outcome::Done(action, Done::Gone),
            (status, _, _) => Outcome::Retry(Reason::new(format!("status_{status}"), "the item does not say why")),
        };
    };
    let reason = error.to_reason();
    match answer.status {
        409 if error.error_type == "version_conflict_engine_exception" => Outcome::Done(action, Done::Stale),
        400 if error.is_about_the_document() => Outcome::Permanent(reason),
        404 if error.error_type == "index_not_found_exception" => Outcome::NoIndex(reason),
        400 | 401 | 403 => Outcome::Configuration(reason),
        // 429, 5xx, and whatever nobody thought of.
        _ => Outcome::Retry(reason),
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
}

/// What becomes of a message whose changes ended so.
pub fn decide_message<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> Verdict {
    let mut permanent = Vec::new();
    let mut retry = None;
    for (position, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            Outcome::Done(_, Done::Written | Done::Stale | Done::Gone) => {}
            Outcome::Permanent(_) => permanent.push(position),
            Outcome::Retry(reason) | Outcome::Configuration(reason) | Outcome::NoIndex(reason) => {
                retry = Some(retry.unwrap_or(false) || reason.is_general);
            }
        }
    }
    match retry {
        Some(is_general) => Verdict::Retry { is_general },
        None => Verdict::Acknowledge { permanent },
    }
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod tests;
