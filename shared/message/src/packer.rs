use std::{borrow::Cow, mem};

use serde::Serialize;

use crate::{Change, ENVELOPE_VERSION, Op, Part};

/// Packs the changes of one stream into bodies of a limited size.
#[derive(Debug)]
pub struct Packer {
    stream: String,
    generation: i32,
    trace: String,
    limit_bytes: usize,
    part: Option<Part>,
    lines: String,
    changes: usize,
}

/// One message body, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// What SQS is given.
    pub text: String,
    /// How many changes are in it.
    pub changes: usize,
}

#[derive(Serialize)]
struct Header<'a> {
    v: u64,
    stream: &'a str,
    #[serde(skip_serializing_if = "is_first")]
    generation: i32,
    changes: usize,
    trace: &'a str,
    #[serde(flatten)]
    part: Option<Part>,
}

impl Packer {
    /// An empty body for `stream`. `trace` names the invocation that made it, for the log lines of whoever reads it.
    ///
    /// A body holds at most `limit_bytes`, or a single change that alone is larger.
    pub fn new(stream: impl Into<String>, trace: impl Into<String>, limit_bytes: usize) -> Self {
        let (stream, trace) = (stream.into(), trace.into());
        Self { stream, generation: 1, trace, limit_bytes, part: None, lines: String::new(), changes: 0 }
    }

    /// The documents are those of this generation of the stream.
    #[must_use]
    pub fn of_generation(self, generation: i32) -> Self {
        Self { generation, ..self }
    }

    /// The first body is this part of a flight, the following ones are those after it. `None`: of no flight.
    #[must_use]
    pub fn from_part(self, part: Option<Part>) -> Self {
        Self { part, ..self }
    }

    /// Adds a change; where the body at hand has no room for it, gives that body back and begins the next with it.
    ///
    /// Only an upsert carries a document, and an upsert without one travels as [`Op::Read`].
    pub fn push(&mut self, change: &Change<'_>, document: Option<&str>) -> Option<Body> {
        let document = document.filter(|_| change.op == Op::Upsert).map(one_line);
        let op = if document.is_none() && change.op == Op::Upsert { Op::Read } else { change.op };
        let trace = change.trace.as_deref().map(Cow::Borrowed);
        let facts = to_json(&Change { op, key: Cow::Borrowed(&change.key), trace, ..*change });

        let added_bytes = facts.len() + 1 + document.as_ref().map_or(0, |document| document.len() + 1);
        let header_bytes = self.header(self.changes + 1).len() + 1;
        let is_full = self.changes > 0 && header_bytes + self.lines.len() + added_bytes > self.limit_bytes;
        let full = if is_full { self.take() } else { None };

        self.changes += 1;
        self.lines.push_str(&facts);
        self.lines.push('\n');
        if let Some(document) = document {
            self.lines.push_str(&document);
            self.lines.push('\n');
        }
        full
    }

    /// The last body, unless nothing was pushed since the one before.
    pub fn finish(mut self) -> Option<Body> {
        self.take()
    }

    fn take(&mut self) -> Option<Body> {
        let changes = mem::take(&mut self.changes);
        let lines = mem::take(&mut self.lines);
        let body = (changes > 0).then(|| Body { text: format!("{}\n{lines}", self.header(changes)), changes });
        self.part = self.part.map(|part| Part { number: part.number + i32::from(changes > 0), ..part });
        body
    }

    fn header(&self, changes: usize) -> String {
        let Self { stream, generation, trace, part, .. } = self;
        to_json(&Header { v: ENVELOPE_VERSION, stream, generation: *generation, changes, trace, part: *part })
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_first(generation: &i32) -> bool {
    *generation == 1
}

fn to_json(value: &impl Serialize) -> String {
    #[expect(clippy::expect_used, reason = "structs of numbers and texts have a JSON form")]
    let json = serde_json::to_string(value).expect("a header or a change as JSON");
    one_line(&json).into_owned()
}

/// The same JSON on one line of characters that SQS accepts: #x9, #xA, #xD, and from #x20 up without surrogates, U+FFFE and
/// U+FFFF.
///
/// JSON has those two nowhere but inside a string, where an escape means the same; and it has raw line breaks nowhere but
/// between tokens, where a space means the same. All else is as it was, tabs included. What is no JSON may have any control
/// character anywhere: its letter has to travel, too.
fn one_line(json: &str) -> Cow<'_, str> {
    // Those two, among others, begin with the byte 0xEF. No early end within a chunk, so that the compiler may look at many
    // bytes at once: nearly every document is clean.
    let is_plain = |byte: &u8| ((*byte >= b' ') | (*byte == b'\t')) & (*byte != 0xEF);
    let is_clean = json.as_bytes().chunks(64).all(|chunk| chunk.iter().fold(true, |all, byte| all & is_plain(byte)));
    if is_clean {
        return Cow::Borrowed(json);
    }
    let mut line = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match c {
            '\u{fffe}' => line.push_str("\\ufffe"),
            '\u{ffff}' => line.push_str("\\uffff"),
            c if c < ' ' && c != '\t' => line.push(' '),
            c => line.push(c),
        }
    }
    Cow::Owned(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Message, Operation};

    fn change(id: i64, key: &str, op: Op) -> Change<'_> {
        Change {
            id,
            key: key.into(),
            version: 5,
            op,
            operation: Operation::Upsert,
            at: 1_790_000_000_000,
            since: None,
            trace: None,
        }
    }

    fn pack(changes: &[(Change<'_>, Option<&str>)], limit_bytes: usize) -> Vec<Body> {
        let mut packer = Packer::new("cities", "t-1", limit_bytes);
        let mut bodies: Vec<Body> =
            changes.iter().filter_map(|(change, document)| packer.push(change, *document)).collect();
        bodies.extend(packer.finish());
        bodies
    }

    #[test]
    fn a_body_is_a_header_and_the_lines_of_its_changes() {
        let bodies = pack(
            &[
                (change(7, "42", Op::Upsert), Some(r#"{"n": 1.10}"#)),
                (change(8, "4\"3", Op::Delete), None),
                (change(9, "é", Op::Read), None),
            ],
            1000,
        );
        assert_eq!(
            bodies,
            [Body {
                changes: 3,
                text: concat!(
                    r#"{"v":1,"stream":"cities","changes":3,"trace":"t-1"}"#,
                    "\n",
                    r#"{"id":7,"key":"42","version":5,"op":"upsert","at":1790000000000}"#,
                    "\n",
                    r#"{"n": 1.10}"#,
                    "\n",
                    r#"{"id":8,"key":"4\"3","version":5,"op":"delete","at":1790000000000}"#,
                    "\n",
                    r#"{"id":9,"key":"é","version":5,"op":"read","at":1790000000000}"#,
                    "\n"
                )
                .to_owned()
            }]
        );
    }

    #[test]
    fn a_change_says_what_was_done_to_its_row_and_an_upsert_says_nothing() {
        let of = |operation| Change { operation, ..change(7, "42", Op::Delete) };
        for (operation, told) in [
            (Operation::Insert, r#""op":"delete","row":"insert","at""#),
            (Operation::Update, r#""op":"delete","row":"update","at""#),
            (Operation::Delete, r#""op":"delete","row":"delete","at""#),
            (Operation::Upsert, r#""op":"delete","at""#),
        ] {
            let body = pack(&[(of(operation), None)], 1000).remove(0);
            assert!(body.text.contains(told), "{}", body.text);
            assert_eq!(Message::parse(&body.text).unwrap().entries[0].change.operation, operation);
        }
    }

    #[test]
    fn a_body_stays_within_the_limit_and_no_change_is_lost() {
        let document = format!(r#"{{"text":"{}"}}"#, "x".repeat(100));
        let changes: Vec<_> = (0..100).map(|id| (change(id, "k", Op::Upsert), Some(document.as_str()))).collect();
        for limit_bytes in [300, 1000, 1001, 1002, 5000] {
            let bodies = pack(&changes, limit_bytes);
            assert!(bodies.iter().all(|body| body.text.len() <= limit_bytes), "limit {limit_bytes}");
            let ids: Vec<i64> = bodies
                .iter()
                .flat_map(|body| Message::parse(&body.text).unwrap().entries)
                .map(|entry| entry.change.id)
                .collect();
            assert_eq!(ids, (0..100).collect::<Vec<_>>(), "limit {limit_bytes}");
        }
    }

    #[test]
    fn a_change_larger_than_the_limit_travels_alone() {
        let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(5000));
        let bodies = pack(
            &[
                (change(1, "a", Op::Delete), None),
                (change(2, "b", Op::Upsert), Some(&large)),
                (change(3, "c", Op::Delete), None),
            ],
            1000,
        );
        assert_eq!(bodies.iter().map(|body| body.changes).collect::<Vec<_>>(), [1, 1, 1]);
    }

    #[test]
    fn the_bodies_of_a_flight_are_numbered() {
        let mut packer =
            Packer::new("cities", "t-1", 1).from_part(Some(Part { flight: 1_790_000_000_000_001, number: 1 }));
        let mut bodies: Vec<Body> = (1..=3).filter_map(|id| packer.push(&change(id, "a", Op::Delete), None)).collect();
        bodies.extend(packer.finish());
        let parts = bodies.iter().map(|body| Message::parse(&body.text).unwrap().part);
        let numbers: Vec<_> = parts.map(|part| part.map(|part| (part.flight, part.number))).collect();
        assert_eq!(numbers, [1, 2, 3].map(|number| Some((1_790_000_000_000_001, number))));
        let header = r#"{"v":1,"stream":"cities","changes":1,"trace":"t-1","flight":1790000000000001,"part":2}"#;
        assert_eq!(bodies[1].text.lines().next(), Some(header));
    }

    #[test]
    fn a_body_names_its_generation_where_that_is_not_the_first() {
        for generation in [1, 2, 17] {
            let mut packer = Packer::new("cities", "t-1", 1000).of_generation(generation);
            packer.push(&change(1, "a", Op::Delete), None);
            let body = packer.finish().unwrap().text;
            assert_eq!(body.contains("generation"), generation > 1, "{body}");
            let message = Message::parse(&body).unwrap();
            assert_eq!((message.stream.as_ref(), message.generation), ("cities", generation));
        }
    }

    #[test]
    fn nothing_packed_is_no_body() {
        assert_eq!(Packer::new("cities", "t-1", 1000).finish(), None);
    }

    #[test]
    fn an_upsert_without_its_document_travels_as_one_to_read() {
        let bodies = pack(&[(change(1, "a", Op::Upsert), None)], 1000);
        assert_eq!(Message::parse(&bodies[0].text).unwrap().entries[0].change.op, Op::Read);
    }

    #[test]
    fn a_body_has_only_characters_that_sqs_accepts_and_means_the_same() {
        let document = "{\"a\":\n\t[\"\u{fffe}\u{ffff}\u{7f}\u{1fffe}\u{85}\\u0000\"]\r}";
        let key = "\u{0}\u{1}\t\n\u{7f}\u{fffe}\u{ffff}\u{10ffff}";
        let bodies = pack(&[(change(1, key, Op::Upsert), Some(document))], 1000);
        assert!(bodies[0].text.chars().all(is_accepted), "{:?}", bodies[0].text);

        let message = Message::parse(&bodies[0].text).unwrap();
        assert_eq!(message.entries[0].change.key, key);
        let travelled: serde_json::Value = serde_json::from_str(message.entries[0].document.unwrap()).unwrap();
        assert_eq!(travelled, serde_json::from_str::<serde_json::Value>(document).unwrap());
    }

    #[test]
    fn a_document_without_line_breaks_travels_byte_by_byte() {
        let document = "\t{ \"a\" :\t1.10,\t\t\"b\":[\t]}\t";
        let bodies = pack(&[(change(1, "a", Op::Upsert), Some(document))], 1000);
        assert_eq!(Message::parse(&bodies[0].text).unwrap().entries[0].document, Some(document));
    }

    #[test]
    fn a_document_that_is_no_json_travels_too() {
        for control in '\0'..' ' {
            let document = format!("{{\"a\":\"{control}\"}}");
            let bodies = pack(&[(change(1, "a", Op::Upsert), Some(&document))], 1000);
            assert!(bodies[0].text.chars().all(is_accepted), "{:?}", bodies[0].text);
            assert_eq!(bodies[0].text.lines().count(), 3, "{:?}", bodies[0].text);
        }
    }

    fn is_accepted(c: char) -> bool {
        matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}')
    }
}
