//! What becomes of a write.

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
    /// [`Outcome::NoStream`]. Whoever knows the streams tells.
    NoIndex(Reason),
    /// No stream of this name is defined. What follows depends on what the change carries.
    NoStream,
    /// It can never be written: to the dead-letter queue.
    Permanent(Reason),
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
    /// A delete that was carried out before: what is left to be done comes later.
    Later,
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
