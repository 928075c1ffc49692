//! Changes that can never be written, as letters to the dead-letter queue with their reason.

use aws_sdk_sqs::primitives::{DateTime, DateTimeFormat};
use message::{Change, Entry, Message, Operation, Packer};
use search::Reason;

/// A reason may quote a whole document. What is cut off stands in the index's own log, and the change is in the body.
const VALUE_CHARS: usize = 1000;

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

/// A change of a message by itself, in the format of a message: for the same generation, where it is put back as it is.
pub(crate) fn of_change(
    message: &Message<'_>,
    entry: &Entry<'_>,
    reason: &Reason,
    at: Circumstances<'_>,
) -> queue::Message {
    let packer = Packer::new(message.stream.as_ref(), message.trace.as_ref(), usize::MAX);
    let mut packer = packer.of_generation(message.generation);
    // Its failure is counted: where it is sent to the queue once more as it is, that is a try of its own.
    packer.push(&Change { operation: Operation::Upsert, ..entry.change.clone() }, entry.document);
    let body = packer.finish().map(|body| body.text).unwrap_or_default();
    let mut letter = letter(body, reason, at);
    put(&mut letter, "stream", &message.stream);
    put(&mut letter, "key", &entry.change.key);
    put(&mut letter, "version", &entry.change.version.to_string());
    letter
}

/// A message that could not be read, as it came.
pub(crate) fn of_message(body: &str, reason: &Reason, at: Circumstances<'_>) -> queue::Message {
    letter(printable(body).collect(), reason, at)
}

fn letter(body: String, reason: &Reason, at: Circumstances<'_>) -> queue::Message {
    let mut letter = queue::Message::new(if body.is_empty() { "-".to_owned() } else { body });
    put(&mut letter, "error_type", &reason.error_type);
    put(&mut letter, "reason", &reason.text);
    put(&mut letter, "first_seen", at.first_seen);
    put(&mut letter, "attempts", &at.attempts.to_string());
    put(&mut letter, "failed_at", &timestamp(at.now_ms));
    letter
}

/// Adds an attribute. SQS refuses an empty value, and some characters.
pub(crate) fn put(message: &mut queue::Message, name: &'static str, value: &str) {
    let mut value: String = printable(value).take(VALUE_CHARS).collect();
    if value.is_empty() {
        value.push('-');
    }
    message.attributes.push((name, value));
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
    use message::{Change, Op, Operation};

    use super::*;

    const AT: Circumstances<'_> =
        Circumstances { first_seen: "2026-01-01T00:00:00Z", attempts: 3, now_ms: 1_790_000_000_999 };

    fn entry(key: &str) -> Entry<'_> {
        let change = Change {
            id: 7,
            key: key.into(),
            version: 5,
            op: Op::Upsert,
            operation: Operation::Upsert,
            at: 1,
            since: None,
            trace: None,
        };
        Entry { change, document: Some(r#"{"n": 1.10}"#) }
    }

    fn message(generation: i32) -> Message<'static> {
        Message { stream: "cities".into(), generation, trace: "t-1".into(), part: None, entries: vec![] }
    }

    #[test]
    fn a_letter_is_a_message_of_one_change_with_all_attributes() {
        let reason = Reason::new("strict_dynamic_mapping_exception", "no such field");
        let letter = of_change(&message(1), &entry("42"), &reason, AT);
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

    /// Of what was emitted the body is all there is: it is put back as it is, and would be written to another index.
    #[test]
    fn a_letter_is_of_the_generation_that_its_message_is_of() {
        for generation in [1, 2, 17] {
            let letter = of_change(&message(generation), &entry("42"), &Reason::new("a", "b"), AT);
            assert_eq!(Message::parse(&letter.body).unwrap().generation, generation);
        }
    }

    #[test]
    fn values_are_escaped_and_cut_and_never_empty() {
        let reason = Reason::new("", "x".repeat(5000));
        let letter = of_change(&message(1), &entry("\u{0}\u{fffe}é\u{10ffff}"), &reason, AT);
        let value = |name| letter.attributes.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str());
        assert_eq!(value("error_type"), Some("-"));
        assert_eq!(value("reason").map(str::len), Some(VALUE_CHARS));
        assert_eq!(value("key"), Some("\\u{0}\\u{fffe}é\u{10ffff}"));
    }

    #[test]
    fn a_message_that_cannot_be_read_is_kept_as_it_came() {
        let reason = Reason::new("malformed_message", "line 1 is missing");
        assert_eq!(of_message("gar\tbage\n", &reason, AT).body, "gar\tbage\n");
        assert_eq!(of_message("a\u{0}b", &reason, AT).body, "a\\u{0}b");
        assert_eq!(of_message("", &reason, AT).body, "-");
    }
}
