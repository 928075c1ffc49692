//! What a list of letters has in it: the queue's, and those of direct targets.

use database::refusals;
use database::subscriptions::{CLICKHOUSE, ELASTICSEARCH, KAFKA, SYNC};
use message::Op;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::newest;

/// Of a key, which has 512 bytes or is a letter by that, or of a reason.
pub const SHOWN_CHARS: usize = 1000;
/// Of a stream or a word to group by.
pub const SHOWN_NAME_CHARS: usize = 100;
/// The documents of a list share half of an answer. The rest of a hundred letters is less than the other half.
const LISTED_BYTES: usize = newest::ANSWER_BYTES / 2;

/// Where changes are delivered, and may become letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// By way of the queue: its letters are in the dead-letter queue.
    Elasticsearch,
    /// Directly, as all that follow: its letters are in PostgreSQL.
    Clickhouse,
    Kafka,
    Sync,
}

impl Target {
    /// Its subscription's.
    pub fn name(self) -> &'static str {
        match self {
            Self::Elasticsearch => ELASTICSEARCH,
            Self::Clickhouse => CLICKHOUSE,
            Self::Kafka => KAFKA,
            Self::Sync => SYNC,
        }
    }
}

/// A change that could not be written.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadLetter {
    /// By which it is redriven or discarded: SQS's id, or of a direct target's letter the target and a number, `clickhouse-7`.
    pub message_id: String,
    /// Where the change could not be delivered: elasticsearch, clickhouse, kafka or sync.
    pub target: String,
    /// The stream; none where the message could not be read.
    pub stream: Option<String>,
    /// The document's key as text, 1,000 characters at most.
    pub key: Option<String>,
    /// The version of the write that failed.
    pub version: Option<i64>,
    /// The row of the log.
    pub change_id: Option<i64>,
    /// upsert, delete, read or look. Null: the letter does not say.
    #[schema(value_type = Option<String>)]
    pub op: Option<Op>,
    /// A word to group by.
    pub error_type: String,
    /// Why, in a sentence, which may quote the document. Null: the caller is no operator.
    pub reason: Option<String>,
    /// When the change was first put on the queue. Null: it was not, or the letter does not say.
    pub first_seen: Option<String>,
    /// When it was given up.
    pub failed_at: Option<String>,
    /// How often it was received from the queue.
    pub attempts: Option<u32>,
    /// The document that travelled, unless it is too long to be listed, or the caller is no operator. Of a direct target's letter
    /// only what was emitted: all else is read anew.
    #[schema(value_type = Option<serde_json::Value>)]
    pub document: Option<Box<RawValue>>,
    /// The length of the document in bytes.
    pub document_bytes: Option<usize>,
    /// The message as it came, where it could not be read; its beginning, if it is long. Null, too, for who is no operator.
    pub body: Option<String>,
}

impl DeadLetter {
    /// Without what may have something of the document in it.
    fn without_contents(self) -> Self {
        Self { reason: None, document: None, body: None, ..self }
    }
}

impl From<refusals::Letter> for DeadLetter {
    fn from(letter: refusals::Letter) -> Self {
        Self {
            message_id: format!("{}-{}", letter.target, letter.id),
            target: letter.target,
            stream: Some(beginning(&letter.stream, SHOWN_NAME_CHARS)),
            key: Some(beginning(&letter.key, SHOWN_CHARS)),
            version: Some(letter.version),
            change_id: letter.change_id,
            op: None,
            error_type: beginning(&letter.error_type, SHOWN_NAME_CHARS),
            reason: letter.reason.map(|reason| beginning(&reason, SHOWN_CHARS)),
            first_seen: None,
            failed_at: Some(letter.at),
            attempts: None,
            document: letter.payload.as_deref().and_then(document),
            document_bytes: letter.payload_bytes.and_then(|bytes| usize::try_from(bytes).ok()),
            body: None,
        }
    }
}

/// What a look for letters was like.
pub struct Looked {
    /// How many there are.
    pub depth: i64,
    /// There are some that were not looked at.
    pub is_sample: bool,
}

/// Letters for one answer, as they are found.
pub struct List {
    letters: Vec<DeadLetter>,
    limit: usize,
    /// What is left for documents.
    room: usize,
    sees_contents: bool,
}

impl List {
    /// Of `limit` letters at most.
    pub fn new(limit: usize, sees_contents: bool) -> Self {
        Self { letters: vec![], limit, room: LISTED_BYTES, sees_contents }
    }

    pub fn is_full(&self) -> bool {
        self.letters.len() >= self.limit
    }

    /// Adds one, with what the caller may see of it and as far as there is room.
    pub fn push(&mut self, mut letter: DeadLetter) {
        let content = newest::bytes(&(&letter.document, &letter.body));
        if !self.sees_contents {
            letter = letter.without_contents();
        } else if content <= self.room {
            self.room -= content;
        } else {
            (letter.document, letter.body) = (None, None);
        }
        self.letters.push(letter);
    }

    pub fn into_letters(self) -> Vec<DeadLetter> {
        self.letters
    }
}

/// What is no JSON, though it came as a document, is shown as the text that it is.
pub fn document(text: &str) -> Option<Box<RawValue>> {
    RawValue::from_string(text.to_owned()).or_else(|_| serde_json::value::to_raw_value(text)).ok()
}

pub fn beginning(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}
