//! A batch as it was received, read but not judged.

use aws_lambda_events::event::sqs::{SqsEvent, SqsMessage};
use message::{Entry, Message, ParseError};

use crate::{
    dead_letter::{Circumstances, timestamp},
    handler::Unidentified,
};

/// One message of the batch.
#[derive(Debug)]
pub(crate) struct Received<'a> {
    /// What SQS calls it, and the only thing by which it can be given back.
    pub(crate) id: &'a str,
    pub(crate) body: &'a str,
    /// For this receipt of it; without one its delay stays as it is.
    pub(crate) receipt_handle: Option<&'a str>,
    pub(crate) message: Result<Message<'a>, ParseError>,
    /// How often it was received, this time included.
    pub(crate) receive_count: u32,
    first_seen: String,
}

/// One change, and the message that it belongs to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work<'a> {
    /// A position in the batch.
    pub(crate) message: usize,
    pub(crate) entry: &'a Entry<'a>,
    pub(crate) receive_count: u32,
}

impl<'a> Received<'a> {
    /// Reads a batch. Without an id a message cannot be given back, so that such a batch must fail as a whole.
    pub(crate) fn batch(event: &'a SqsEvent) -> Result<Vec<Self>, Unidentified> {
        event.records.iter().map(Self::new).collect()
    }

    fn new(record: &'a SqsMessage) -> Result<Self, Unidentified> {
        let id = record.message_id.as_deref().filter(|id| !id.is_empty()).ok_or(Unidentified)?;
        let body = record.body.as_deref().unwrap_or_default();
        // Without a count, it counts as received before: a re-read too many does no harm, one too few may.
        let receive_count =
            record.attributes.get("ApproximateReceiveCount").and_then(|count| count.parse().ok()).unwrap_or(2);
        Ok(Self {
            id,
            body,
            receipt_handle: record.receipt_handle.as_deref(),
            message: Message::parse(body),
            receive_count,
            first_seen: first_seen(record),
        })
    }

    pub(crate) fn circumstances(&self, now_ms: i64) -> Circumstances<'_> {
        Circumstances { first_seen: &self.first_seen, attempts: self.receive_count, now_ms }
    }
}

/// The attribute of a message that was sent anew, or when SQS got this one.
fn first_seen(record: &SqsMessage) -> String {
    let told = record.message_attributes.get("first_seen").and_then(|attribute| attribute.string_value.clone());
    let sent = || record.attributes.get("SentTimestamp").and_then(|ms| ms.parse().ok()).map(timestamp);
    told.or_else(sent).unwrap_or_default()
}
