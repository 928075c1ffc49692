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
    /// Why: what the log says was done. It is counted by this, and by nothing is it decided.
    #[serde(rename = "row", default, skip_serializing_if = "Operation::is_upsert")]
    pub operation: Operation,
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

/// What the log says was done: to the row whose change was captured, or by whoever logged a document by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// The row was inserted.
    Insert,
    /// The row was updated.
    Update,
    /// The row was deleted, or has another key now; or so it was emitted.
    Delete,
    /// The document was logged for another reason: an emit, a resync, an expansion, a redrive, a repair.
    #[default]
    Upsert,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Insert, Self::Update, Self::Delete, Self::Upsert];

    /// As the log has it; a word that is not known is an upsert.
    pub fn of_log(op: &str) -> Self {
        match op {
            "insert" => Self::Insert,
            "update" => Self::Update,
            "delete" => Self::Delete,
            _ => Self::Upsert,
        }
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_upsert(&self) -> bool {
        *self == Self::Upsert
    }
}
