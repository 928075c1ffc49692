use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// What is known of one change, apart from its document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change<'a> {
    /// The row of the log. Each occurs once in a message.
    pub id: i64,
    /// The document's key as text, its `_id` in Elasticsearch.
    #[serde(borrow)]
    pub key: Cow<'a, str>,
    /// The version of the read, drawn before it: a higher one has seen at least as much.
    pub version: i64,
    /// What is to be done with the document.
    pub op: Op,
    /// When the document was read, by the database's clock, in milliseconds since 1970.
    pub at: i64,
    /// When it was logged, by the same clock, so that whoever writes it knows how long it was on the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<i64>,
    /// The trace that its writer was in, as W3C's traceparent, if the writer wants to see it.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Cow<'a, str>>,
}

/// What a message is of all that one step of the drain sent of its stream: by this, whoever carries it out says that it has
/// landed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Part {
    /// The step's first version.
    pub flight: i64,
    /// Counted from 1.
    #[serde(rename = "part")]
    pub number: i32,
}

/// What is to be done with a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// Write the document on the next line.
    Upsert,
    /// There is no such document any more.
    Delete,
    /// Read what it is now, and write that: the document did not travel.
    Read,
    /// The second look at a delete, some time after it: the same as [`Op::Read`], and no further look follows.
    Look,
}
