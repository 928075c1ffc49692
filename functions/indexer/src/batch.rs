//! A batch as it was received, read but not judged.

use aws_lambda_events::event::sqs::{SqsEvent, SqsMessage};
use message::{Entry, Message, ParseError};

use crate::dead_letter::{Circumstances, timestamp};

/// A message of the batch has no id, so that it could not be given back by itself.
#[derive(Debug, thiserror::Error)]
#[error("a message without an id was received: the whole batch is given back")]
pub struct Unidentified;

/// One message of the batch.
#[derive(Debug)]
pub(crate) struct Received<'a> {
    /// What SQS calls it, and the only thing by which it can be given back.
    pub(crate) id: &'a str,
    pub(crate) body: &'a str,
    /// For this receipt of it; without one its delay stays as it is.
    pub(crate) receipt_handle: Option<&'a str>,
    pub(crate) message: Result<Message<'a>, ParseError>,
    /// How often SQS has handed it out, this time included.
    pub(crate) receive_count: u32,
    /// The same, and the receipts of those that it was sent anew for.
    pub(crate) attempts: u32,
    /// When SQS got it, in milliseconds since 1970.
    pub(crate) sent_ms: Option<i64>,
    first_seen: String,
}

/// One change, and the message that it belongs to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work<'a> {
    /// A position in the batch.
    pub(crate) message: usize,
    pub(crate) entry: &'a Entry<'a>,
    pub(crate) attempts: u32,
}

impl<'a> Received<'a> {
    /// Reads a batch. Without an id a message cannot be given back, so that such a batch must fail as a whole.
    pub(crate) fn batch(event: &'a SqsEvent) -> Result<Vec<Self>, Unidentified> {
        event.records.iter().map(Self::new).collect()
    }

    fn new(record: &'a SqsMessage) -> Result<Self, Unidentified> {
        let id = record.message_id.as_deref().filter(|id| !id.is_empty()).ok_or(Unidentified)?;
        let body = record.body.as_deref().unwrap_or_default();
        let system = |name: &str| record.attributes.get(name);
        let own = |name: &str| record.message_attributes.get(name).and_then(|value| value.string_value.as_deref());
        // Without a count, it counts as received before: a re-read too many does no harm, one too few may.
        let receive_count = system("ApproximateReceiveCount").and_then(|count| count.parse().ok()).unwrap_or(2);
        let earlier: u32 = own("attempts").and_then(|attempts| attempts.parse().ok()).unwrap_or(0);
        let sent_ms = system("SentTimestamp").and_then(|ms| ms.parse().ok());
        let first_seen = own("first_seen").map(str::to_owned).or_else(|| sent_ms.map(timestamp));
        Ok(Self {
            id,
            body,
            receipt_handle: record.receipt_handle.as_deref(),
            message: Message::parse(body),
            receive_count,
            attempts: receive_count.saturating_add(earlier),
            sent_ms,
            first_seen: first_seen.unwrap_or_default(),
        })
    }

    /// Whether somebody waits for it to land.
    pub(crate) fn is_of_a_flight(&self) -> bool {
        self.message.as_ref().is_ok_and(|message| message.part.is_some())
    }

    pub(crate) fn circumstances(&self, now_ms: i64) -> Circumstances<'_> {
        Circumstances { first_seen: &self.first_seen, attempts: self.attempts, now_ms }
    }
}
