//! Batches as Lambda hands them over.

use aws_lambda_events::event::sqs::SqsEvent;
use message::{Change, Op, Operation, Packer, Part};
use serde_json::{Value, json};

/// When all of it happens, in milliseconds since 1970: 2026-09-21T14:13:20Z.
pub const NOW_MS: i64 = 1_790_000_000_000;

/// A message under construction.
pub struct Message {
    stream: String,
    changes: Vec<(Change<'static>, Option<String>)>,
    receive_count: u32,
    part: Option<Part>,
}

/// A message of a stream.
pub fn message(stream: &str) -> Message {
    Message { stream: stream.to_owned(), changes: vec![], receive_count: 1, part: None }
}

impl Message {
    pub fn upsert(self, key: &str, version: i64, document: &(impl ToString + ?Sized)) -> Self {
        self.push(key, version, Op::Upsert, Some(document.to_string()))
    }

    pub fn delete(self, key: &str, version: i64) -> Self {
        self.push(key, version, Op::Delete, None)
    }

    pub fn look(self, key: &str, version: i64) -> Self {
        self.push(key, version, Op::Look, None)
    }

    pub fn read(self, key: &str, version: i64) -> Self {
        self.push(key, version, Op::Read, None)
    }

    /// The last change is of a row to which this was done.
    pub fn of(mut self, operation: Operation) -> Self {
        self.changes.last_mut().unwrap().0.operation = operation;
        self
    }

    /// The changes so far were read that many seconds ago.
    pub fn old(mut self, seconds: i64) -> Self {
        for (change, _) in &mut self.changes {
            change.at -= seconds * 1000;
        }
        self
    }

    pub fn received(mut self, times: u32) -> Self {
        self.receive_count = times;
        self
    }

    /// It is this part of a flight.
    pub fn part(self, flight: i64, number: i32) -> Self {
        Self { part: Some(Part { flight, number }), ..self }
    }

    pub fn body(&self) -> String {
        let mut packer = Packer::new(&self.stream, "trace", usize::MAX).from_part(self.part);
        for (change, document) in &self.changes {
            packer.push(change, document.as_deref());
        }
        packer.finish().unwrap().text
    }

    fn push(mut self, key: &str, version: i64, op: Op, document: Option<String>) -> Self {
        let id = i64::try_from(self.changes.len()).unwrap() + 1;
        self.changes.push((
            Change {
                id,
                key: key.to_owned().into(),
                version,
                op,
                operation: Operation::Upsert,
                at: NOW_MS,
                since: None,
                trace: None,
            },
            document,
        ));
        self
    }
}

/// A batch of these messages, called "0", "1" and so on.
pub fn batch(messages: impl IntoIterator<Item = Message>) -> SqsEvent {
    event(messages.into_iter().map(|message| (message.body(), message.receive_count)))
}

/// A batch of bodies, each with how often it was received.
pub fn event(bodies: impl IntoIterator<Item = (String, u32)>) -> SqsEvent {
    let record = |(position, (body, receive_count)): (usize, (String, u32))| {
        json!({
            "messageId": position.to_string(),
            "receiptHandle": format!("receipt {position}"),
            "body": body,
            "attributes": {"ApproximateReceiveCount": receive_count.to_string(), "SentTimestamp": NOW_MS.to_string()},
        })
    };
    let records: Vec<Value> = bodies.into_iter().enumerate().map(record).collect();
    serde_json::from_value(json!({ "Records": records })).unwrap()
}
