//! What a change is in a topic.

use std::sync::Arc;

use bytes::Bytes;
use database::Stream;
use message::Change;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::client::Message;

/// How documents are wrapped, as `sluice.deliver` was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Envelope {
    /// CloudEvents in binary mode: the document is the value, all else is in headers.
    CloudEvents,
    /// Debezium's change events: the value is an object with the document in `after`.
    Debezium,
}

impl Envelope {
    pub(crate) fn of(stream: &Stream) -> Self {
        match stream.live_definition.as_ref().and_then(|definition| definition.get("envelope")).and_then(Value::as_str)
        {
            Some("debezium") => Self::Debezium,
            _ => Self::CloudEvents,
        }
    }

    /// The messages of a change, in the order in which they are sent: one, and for a delete in Debezium's a tombstone behind it.
    /// Without a document it is a delete.
    pub(crate) fn wrap(
        self,
        topic: &Arc<str>,
        key: &Bytes,
        stream: &str,
        change: &Change<'_>,
        document: Option<&str>,
    ) -> Vec<Message> {
        let message = |value, headers| Message { topic: Arc::clone(topic), key: key.clone(), value, headers };
        let traceparent = || change.trace.as_ref().map(|trace| ("traceparent", text(trace)));
        match self {
            Self::CloudEvents => {
                let mut headers = cloud_events(stream, key, change, document.is_some());
                headers.extend(traceparent());
                vec![message(document.map(text), headers)]
            }
            Self::Debezium => {
                let headers: Vec<_> = traceparent().into_iter().collect();
                let mut messages = vec![message(Some(debezium(stream, change, document)), headers)];
                if document.is_none() {
                    messages.push(message(None, vec![]));
                }
                messages
            }
        }
    }
}

/// The attributes, as the Kafka binding of CloudEvents 1.0 has them in headers. `sequence` is the extension of that name.
fn cloud_events(stream: &str, key: &Bytes, change: &Change<'_>, has_document: bool) -> Vec<(&'static str, Bytes)> {
    let kind = if has_document { "sluice.document.upserted" } else { "sluice.document.deleted" };
    let mut headers = Vec::with_capacity(9);
    headers.push(("ce_specversion", Bytes::from_static(b"1.0")));
    headers.push(("ce_id", text(&format!("{}-{}", change.version, change.id))));
    headers.push(("ce_source", text(&format!("/sluice/{stream}"))));
    headers.push(("ce_type", Bytes::from_static(kind.as_bytes())));
    if let Some(time) = rfc3339(logged_ms(change)) {
        headers.push(("ce_time", text(&time)));
    }
    // An attribute that is there is not empty.
    if !key.is_empty() {
        headers.push(("ce_subject", key.clone()));
    }
    headers.push(("ce_sequence", text(&sequence(change.version))));
    if has_document {
        headers.push(("content-type", Bytes::from_static(b"application/json")));
    }
    headers
}

/// An event as Debezium writes it without schemas. What was there before is not known; nor is whether it is new, so that each
/// upsert is an update.
fn debezium(stream: &str, change: &Change<'_>, document: Option<&str>) -> Bytes {
    let (op, after) = document.map_or(("d", "null"), |document| ("u", document));
    let table = Value::from(stream);
    let (logged_ms, sequence, read_ms) = (logged_ms(change), sequence(change.version), change.at);
    let value = format!(
        "{{\"before\":null,\"after\":{after},\"source\":{{\"version\":\"{}\",\"connector\":\"sluice\",\"name\":\"sluice\",\
         \"ts_ms\":{logged_ms},\"snapshot\":\"false\",\"sequence\":\"{sequence}\",\"table\":{table}}},\"op\":\"{op}\",\"ts_ms\":{read_ms}}}",
        env!("CARGO_PKG_VERSION"),
    );
    value.into()
}

/// When it happened: when it was logged, by the database's clock.
fn logged_ms(change: &Change<'_>) -> i64 {
    change.since.unwrap_or(change.at)
}

/// Of all digits, so that texts are ordered as versions are.
fn sequence(version: i64) -> String {
    format!("{version:019}")
}

fn rfc3339(ms: i64) -> Option<String> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok()?.format(&Rfc3339).ok()
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use message::{Op, Operation};
    use serde_json::json;

    use super::*;

    fn change(key: &str) -> Change<'_> {
        Change {
            id: 7,
            key: key.into(),
            version: 1_790_000_000_000_001,
            op: Op::Upsert,
            operation: Operation::Update,
            at: 1_790_000_000_250,
            since: Some(1_790_000_000_000),
            trace: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
        }
    }

    fn wrap(envelope: Envelope, key: &str, document: Option<&str>) -> Vec<Message> {
        envelope.wrap(&"books".into(), &text(key), "books", &change(key), document)
    }

    fn headers(message: &Message) -> Vec<(&str, &str)> {
        message.headers.iter().map(|(name, value)| (*name, std::str::from_utf8(value).unwrap())).collect()
    }

    #[test]
    fn a_document_is_a_cloud_event_whose_value_is_its_bytes() {
        let document = "{\"id\": 1, \"price\":1.10}";
        let messages = wrap(Envelope::CloudEvents, "1", Some(document));
        let [message] = messages.as_slice() else { panic!("{messages:?}") };
        assert_eq!((&*message.topic, &*message.key), ("books", b"1".as_slice()));
        assert_eq!(message.value.as_deref(), Some(document.as_bytes()));
        assert_eq!(
            headers(message),
            [
                ("ce_specversion", "1.0"),
                ("ce_id", "1790000000000001-7"),
                ("ce_source", "/sluice/books"),
                ("ce_type", "sluice.document.upserted"),
                ("ce_time", "2026-09-21T14:13:20Z"),
                ("ce_subject", "1"),
                ("ce_sequence", "0001790000000000001"),
                ("content-type", "application/json"),
                ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            ]
        );
    }

    #[test]
    fn a_delete_is_a_tombstone_and_no_attribute_is_empty() {
        let messages = wrap(Envelope::CloudEvents, "", None);
        let [message] = messages.as_slice() else { panic!("{messages:?}") };
        assert_eq!(message.value, None);
        assert!(headers(message).contains(&("ce_type", "sluice.document.deleted")));
        assert!(headers(message).iter().all(|(name, value)| *name != "content-type" && !value.is_empty()));
    }

    #[test]
    fn in_debezium_s_envelope_a_tombstone_follows_each_delete() {
        let messages = wrap(Envelope::Debezium, "1", Some("{\"id\":1,\"title\":\"a \\\"b\\\"\"}"));
        let value: Value = serde_json::from_slice(messages[0].value.as_ref().unwrap()).unwrap();
        assert_eq!(messages.len(), 1);
        assert_eq!(
            value,
            json!({
                "before": null,
                "after": {"id": 1, "title": "a \"b\""},
                "source": {
                    "version": env!("CARGO_PKG_VERSION"),
                    "connector": "sluice",
                    "name": "sluice",
                    "ts_ms": 1_790_000_000_000_i64,
                    "snapshot": "false",
                    "sequence": "0001790000000000001",
                    "table": "books",
                },
                "op": "u",
                "ts_ms": 1_790_000_000_250_i64,
            })
        );
        let messages = wrap(Envelope::Debezium, "1", None);
        let value: Value = serde_json::from_slice(messages[0].value.as_ref().unwrap()).unwrap();
        assert_eq!((&value["op"], &value["after"]), (&json!("d"), &Value::Null));
        assert_eq!((messages.len(), &messages[1].value, &messages[1].key), (2, &None, &messages[0].key));
    }

    #[test]
    fn sequences_are_ordered_as_versions_are() {
        let versions = [0, 9, 10, 1_790_000_000_000_001, i64::MAX];
        assert!(versions.map(sequence).is_sorted());
    }
}
