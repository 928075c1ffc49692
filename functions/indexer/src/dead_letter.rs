//! Changes that can never be written, sent to the dead-letter queue with their reason.

use std::collections::HashSet;

use aws_sdk_sqs::{
    Client,
    error::DisplayErrorContext,
    primitives::{DateTime, DateTimeFormat},
    types::{MessageAttributeValue, SendMessageBatchRequestEntry},
};
use message::{Entry, Packer};
use tokio::time::timeout_at;
use tracing::warn;

use crate::{deadline::Deadline, decision::Reason};

/// SQS takes that many in one request, and 1 MiB in all; LocalStack and older accounts a quarter of it.
const BATCH_LETTERS: usize = 10;
const BATCH_BYTES: usize = 256 << 10;
/// A reason may quote a whole document. What is cut off stands in the index's own log, and the change is in the body.
const VALUE_CHARS: usize = 1000;

/// The dead-letter queue.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    client: Client,
    queue_url: String,
}

/// One message for the dead-letter queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Letter {
    body: String,
    attributes: Vec<(&'static str, String)>,
}

/// What is told of every letter, whatever is in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Circumstances<'a> {
    /// When the change was first put on the queue, as text.
    pub(crate) first_seen: &'a str,
    /// How often it was received.
    pub(crate) attempts: u32,
    /// In milliseconds since 1970.
    pub(crate) now_ms: i64,
}

impl Letter {
    /// A change by itself, in the format of a message.
    pub(crate) fn of_change(
        stream: &str,
        trace: &str,
        entry: &Entry<'_>,
        reason: &Reason,
        at: Circumstances<'_>,
    ) -> Self {
        let mut packer = Packer::new(stream, trace, usize::MAX);
        packer.push(&entry.change, entry.document);
        let body = packer.finish().map(|body| body.text).unwrap_or_default();
        let mut letter = Self::new(body, reason, at);
        letter.put("stream", stream);
        letter.put("key", &entry.change.key);
        letter.put("version", &entry.change.version.to_string());
        letter
    }

    /// A message that could not be read, as it came.
    pub(crate) fn of_message(body: &str, reason: &Reason, at: Circumstances<'_>) -> Self {
        Self::new(printable(body).collect(), reason, at)
    }

    fn new(body: String, reason: &Reason, at: Circumstances<'_>) -> Self {
        let body = if body.is_empty() { "-".to_owned() } else { body };
        let mut letter = Self { body, attributes: Vec::with_capacity(8) };
        letter.put("error_type", &reason.error_type);
        letter.put("reason", &reason.text);
        letter.put("first_seen", at.first_seen);
        letter.put("attempts", &at.attempts.to_string());
        letter.put("failed_at", &timestamp(at.now_ms));
        letter
    }

    /// SQS refuses an empty value, and some characters.
    fn put(&mut self, name: &'static str, value: &str) {
        let mut value: String = printable(value).take(VALUE_CHARS).collect();
        if value.is_empty() {
            value.push('-');
        }
        self.attributes.push((name, value));
    }

    fn bytes(&self) -> usize {
        let attributes = self.attributes.iter().map(|(name, value)| name.len() + "String".len() + value.len());
        self.body.len() + attributes.sum::<usize>()
    }

    fn to_entry(&self, id: usize) -> Result<SendMessageBatchRequestEntry, aws_sdk_sqs::error::BuildError> {
        let mut entry = SendMessageBatchRequestEntry::builder().id(id.to_string()).message_body(&self.body);
        for (name, value) in &self.attributes {
            let value = MessageAttributeValue::builder().data_type("String").string_value(value).build()?;
            entry = entry.message_attributes(*name, value);
        }
        entry.build()
    }
}

impl DeadLetters {
    pub(crate) fn new(client: Client, queue_url: String) -> Self {
        Self { client, queue_url }
    }

    /// Sends them all, and tells by position which ones SQS has confirmed.
    pub(crate) async fn send(&self, letters: &[Letter], deadline: Deadline) -> HashSet<usize> {
        let mut sent = HashSet::new();
        for batch in batches(letters) {
            match timeout_at(deadline.instant(), self.send_batch(letters, &batch)).await {
                Ok(confirmed) => {
                    sent.extend(batch.into_iter().filter(|position| confirmed.contains(&position.to_string())));
                }
                Err(_) => warn!(letters = batch.len(), "there was no time left to send dead letters"),
            }
        }
        sent
    }

    async fn send_batch(&self, letters: &[Letter], batch: &[usize]) -> HashSet<String> {
        let entries: Result<Vec<_>, _> = batch.iter().map(|&position| letters[position].to_entry(position)).collect();
        let entries = match entries {
            Ok(entries) => entries,
            Err(error) => {
                warn!(%error, "a dead letter could not be made");
                return HashSet::new();
            }
        };
        match self.client.send_message_batch().queue_url(&self.queue_url).set_entries(Some(entries)).send().await {
            Ok(answer) => {
                for failed in answer.failed() {
                    warn!(code = failed.code(), error = failed.message(), "SQS did not take a dead letter");
                }
                answer.successful().iter().map(|letter| letter.id().to_owned()).collect()
            }
            Err(error) => {
                warn!(error = %DisplayErrorContext(&error), letters = batch.len(), "SQS did not take dead letters");
                HashSet::new()
            }
        }
    }
}

/// Positions, as many together as one request takes.
fn batches(letters: &[Letter]) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut bytes = 0;
    for (position, letter) in letters.iter().enumerate() {
        bytes += letter.bytes();
        match batches.last_mut() {
            Some(batch) if batch.len() < BATCH_LETTERS && bytes <= BATCH_BYTES => batch.push(position),
            Some(_) | None => {
                bytes = letter.bytes();
                batches.push(vec![position]);
            }
        }
    }
    batches
}

/// In the form that people read; SQS itself has milliseconds.
pub(crate) fn timestamp(ms: i64) -> String {
    let seconds = DateTime::from_secs(ms.div_euclid(1000));
    seconds.fmt(DateTimeFormat::DateTime).unwrap_or_else(|_| ms.to_string())
}

/// With an escape in place of each character that SQS does not accept.
fn printable(text: &str) -> impl Iterator<Item = char> {
    text.chars().flat_map(|c| {
        let is_accepted = matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..);
        let escaped = (!is_accepted).then(|| c.escape_unicode());
        let kept = is_accepted.then_some(c);
        kept.into_iter().chain(escaped.into_iter().flatten())
    })
}

#[cfg(test)]
mod tests {
    use message::{Change, Message, Op};

    use super::*;

    const AT: Circumstances<'_> =
        Circumstances { first_seen: "2026-01-01T00:00:00Z", attempts: 3, now_ms: 1_790_000_000_999 };

    fn entry(key: &str) -> Entry<'_> {
        let change = Change { id: 7, key: key.into(), version: 5, op: Op::Upsert, at: 1 };
        Entry { change, document: Some(r#"{"n": 1.10}"#) }
    }

    #[test]
    fn a_letter_is_a_message_of_one_change_with_all_attributes() {
        let reason = Reason::new("strict_dynamic_mapping_exception", "no such field");
        let letter = Letter::of_change("cities", "t-1", &entry("42"), &reason, AT);
        let message = Message::parse(&letter.body).unwrap();
        assert_eq!((message.stream.as_ref(), message.entries.as_slice()), ("cities", [entry("42")].as_slice()));
        assert_eq!(
            letter.attributes,
            [
                ("error_type", "strict_dynamic_mapping_exception"),
                ("reason", "no such field"),
                ("first_seen", "2026-01-01T00:00:00Z"),
                ("attempts", "3"),
                ("failed_at", "2026-09-21T14:13:20Z"),
                ("stream", "cities"),
                ("key", "42"),
                ("version", "5"),
            ]
            .map(|(name, value)| (name, value.to_owned()))
        );
    }

    #[test]
    fn values_are_escaped_and_cut_and_never_empty() {
        let reason = Reason::new("", "x".repeat(5000));
        let letter = Letter::of_change("cities", "t", &entry("\u{0}\u{fffe}é\u{10ffff}"), &reason, AT);
        let value = |name| letter.attributes.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str());
        assert_eq!(value("error_type"), Some("-"));
        assert_eq!(value("reason").map(str::len), Some(VALUE_CHARS));
        assert_eq!(value("key"), Some("\\u{0}\\u{fffe}é\u{10ffff}"));
    }

    #[test]
    fn a_message_that_cannot_be_read_is_kept_as_it_came() {
        let reason = Reason::new("malformed_message", "line 1 is missing");
        assert_eq!(Letter::of_message("gar\tbage\n", &reason, AT).body, "gar\tbage\n");
        assert_eq!(Letter::of_message("a\u{0}b", &reason, AT).body, "a\\u{0}b");
        assert_eq!(Letter::of_message("", &reason, AT).body, "-");
    }

    #[test]
    fn a_request_has_ten_letters_and_a_limited_size() {
        let letter = |bytes: usize| Letter { body: "x".repeat(bytes), attributes: vec![] };
        let small: Vec<Letter> = (0..25).map(|_| letter(10)).collect();
        assert_eq!(batches(&small).iter().map(Vec::len).collect::<Vec<_>>(), [10, 10, 5]);
        let large = [letter(100), letter(BATCH_BYTES), letter(BATCH_BYTES + 1), letter(100), letter(100)];
        assert_eq!(batches(&large), [vec![0], vec![1], vec![2], vec![3, 4]]);
    }
}
