use std::{borrow::Cow, collections::HashSet};

use memchr::memchr;
use serde::Deserialize;

use crate::{Change, ENVELOPE_VERSION, Op, Part};

/// A message body, read. It borrows from the body; documents are slices of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<'a> {
    /// The stream that all of its changes belong to.
    pub stream: Cow<'a, str>,
    /// Which generation of its index they are for.
    pub generation: i32,
    /// The invocation that made it.
    pub trace: Cow<'a, str>,
    /// What it is of what was sent with it. `None`: of nothing.
    pub part: Option<Part>,
    /// The changes, one at least.
    pub entries: Vec<Entry<'a>>,
}

/// One change, with its document where one travelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The facts.
    pub change: Change<'a>,
    /// The document's line, there if and only if `op` is [`Op::Upsert`]. Not looked into: it may be anything.
    pub document: Option<&'a str>,
}

/// Why a body is not a message. It says where, and never what stands there.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// The first line is no header.
    #[error("line 1 is not the header of a message")]
    Header(#[source] serde_json::Error),
    /// The header's version is not one that this code knows.
    #[error("the envelope has version {found}, and this code reads {ENVELOPE_VERSION}")]
    UnknownVersion {
        /// The version that the header tells.
        found: u64,
    },
    /// A line that should be a change is none.
    #[error("line {line} is not a change")]
    Change {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The body ends where a line should follow, or the line is empty.
    #[error("line {line} is missing")]
    MissingLine {
        /// Counted from 1.
        line: usize,
    },
    /// There are lines after the last change that the header tells of.
    #[error("line {line} is more than the header's {changes} changes")]
    ExtraLine {
        /// Counted from 1.
        line: usize,
        /// What the header tells.
        changes: usize,
    },
    /// A message without a change.
    #[error("the message has no changes")]
    Empty,
    /// Two changes are the same row of the log.
    #[error("line {line} has the id {id} a second time")]
    DoubledId {
        /// Counted from 1.
        line: usize,
        /// The row of the log.
        id: i64,
    },
}

#[derive(Deserialize)]
struct Version {
    v: u64,
}

#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    stream: Cow<'a, str>,
    #[serde(default = "first")]
    generation: i32,
    changes: usize,
    #[serde(borrow, default)]
    trace: Cow<'a, str>,
    flight: Option<i64>,
    part: Option<i32>,
}

impl<'a> Message<'a> {
    /// Reads a body: all of it, or none. Fields that are unknown are passed over, so that a later trigger may add some.
    pub fn parse(body: &'a str) -> Result<Self, ParseError> {
        let mut lines = Lines::new(body);
        let first = lines.next()?;
        let Version { v } = serde_json::from_str(first).map_err(ParseError::Header)?;
        if v != ENVELOPE_VERSION {
            return Err(ParseError::UnknownVersion { found: v });
        }
        let header: Header<'a> = serde_json::from_str(first).map_err(ParseError::Header)?;
        if header.changes == 0 {
            return Err(ParseError::Empty);
        }

        let mut entries = Vec::new(); // The header's number is not trusted with an allocation.
        let mut ids = HashSet::new();
        for _ in 0..header.changes {
            let facts = lines.next()?;
            let line = lines.line;
            let change: Change<'a> =
                serde_json::from_str(facts).map_err(|source| ParseError::Change { line, source })?;
            if !ids.insert(change.id) {
                return Err(ParseError::DoubledId { line, id: change.id });
            }
            let document = match change.op {
                Op::Upsert => Some(lines.next()?),
                Op::Delete | Op::Read | Op::Look => None,
            };
            entries.push(Entry { change, document });
        }
        lines.end(header.changes)?;
        let part = header.flight.zip(header.part).map(|(flight, number)| Part { flight, number });
        Ok(Self { stream: header.stream, generation: header.generation, trace: header.trace, part, entries })
    }
}

fn first() -> i32 {
    1
}

struct Lines<'a> {
    /// `None`: the last line has been given.
    rest: Option<&'a str>,
    line: usize,
}

impl<'a> Lines<'a> {
    fn new(body: &'a str) -> Self {
        Self { rest: Some(body.strip_suffix('\n').unwrap_or(body)), line: 0 }
    }

    fn next(&mut self) -> Result<&'a str, ParseError> {
        self.line += 1;
        let rest = self.rest.take().unwrap_or_default();
        let line = match memchr(b'\n', rest.as_bytes()) {
            Some(end) => {
                self.rest = Some(&rest[end + 1..]);
                &rest[..end]
            }
            None => rest,
        };
        Some(line).filter(|line| !line.trim_ascii_start().is_empty()).ok_or(ParseError::MissingLine { line: self.line })
    }

    fn end(self, changes: usize) -> Result<(), ParseError> {
        match self.rest {
            Some(_) => Err(ParseError::ExtraLine { line: self.line + 1, changes }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Operation, Packer};

    const HEADER: &str = r#"{"v":1,"stream":"cities","changes":1,"trace":"t"}"#;
    const CHANGE: &str = r#"{"id":7,"key":"42","version":5,"op":"delete","at":9}"#;
    const UPSERT: &str = r#"{"id":8,"key":"43","version":5,"op":"upsert","at":9}"#;

    fn refusal(lines: &[&str]) -> String {
        Message::parse(&lines.join("\n")).expect_err("it should be refused").to_string()
    }

    #[test]
    fn a_message_is_read_without_a_copy_of_its_documents() {
        let body = format!("{}\n{UPSERT}\n{{\"n\": 1.10}}\n{CHANGE}\n", HEADER.replace(":1,\"trace", ":2,\"trace"));
        let message = Message::parse(&body).unwrap();
        assert_eq!((message.stream.as_ref(), message.trace.as_ref()), ("cities", "t"));
        assert_eq!(message.entries[0].document, Some(r#"{"n": 1.10}"#));
        assert!(matches!(message.entries[0].change.key, Cow::Borrowed("43")));
        assert_eq!(
            message.entries[1].change,
            Change {
                id: 7,
                key: "42".into(),
                version: 5,
                op: Op::Delete,
                operation: Operation::Upsert,
                at: 9,
                since: None,
                trace: None
            }
        );
        assert_eq!(message.entries[1].document, None);
    }

    #[test]
    fn a_final_line_break_may_be_missing() {
        assert!(Message::parse(&[HEADER, CHANGE].join("\n")).is_ok());
    }

    #[test]
    fn a_field_of_a_later_trigger_is_passed_over() {
        let header = HEADER.replace("\"trace\"", "\"priority\":{\"a\":[1]},\"trace\"");
        assert!(Message::parse(&[&header, CHANGE].join("\n")).is_ok());
    }

    #[test]
    fn a_body_that_is_no_message_is_refused_with_the_line() {
        let two = HEADER.replace(":1,\"trace", ":2,\"trace");
        let none = HEADER.replace(":1,\"trace", ":0,\"trace");
        let many = HEADER.replace(":1,\"trace", ":18446744073709551615,\"trace");
        let other = HEADER.replace("\"v\":1", "\"v\":2");
        let cases: [(&[&str], &str); 21] = [
            (&[""], "line 1 is missing"),
            (&["garbage"], "line 1 is not the header of a message"),
            (&["[]"], "line 1 is not the header of a message"),
            (&[r#"{"stream":"cities","changes":1}"#, CHANGE], "line 1 is not the header of a message"),
            (&[r#"{"v":1,"changes":1}"#, CHANGE], "line 1 is not the header of a message"),
            (&[r#"{"v":1,"stream":"cities","changes":-1}"#, CHANGE], "line 1 is not the header of a message"),
            (&[&other, CHANGE], "the envelope has version 2, and this code reads 1"),
            (&[&none], "the message has no changes"),
            (&[HEADER], "line 2 is missing"),
            (&[HEADER, "", CHANGE], "line 2 is missing"),
            (&[&two, CHANGE], "line 3 is missing"),
            (&[&many, CHANGE], "line 3 is missing"),
            (&[HEADER, UPSERT], "line 3 is missing"),
            (&[HEADER, UPSERT, " "], "line 3 is missing"),
            (&[HEADER, CHANGE, UPSERT], "line 3 is more than the header's 1 changes"),
            (&[HEADER, CHANGE, "", ""], "line 3 is more than the header's 1 changes"),
            (&[&two, CHANGE, CHANGE], "line 3 has the id 7 a second time"),
            (&[HEADER, &CHANGE.replace("delete", "truncate")], "line 2 is not a change"),
            (&[HEADER, &CHANGE.replace("42", "\\ud800")], "line 2 is not a change"),
            (&[HEADER, &CHANGE.replace(":5,", ":9223372036854775808,")], "line 2 is not a change"),
            (&[HEADER, &CHANGE.replace(":5,", ":1.5,")], "line 2 is not a change"),
        ];
        for (lines, told) in cases {
            assert_eq!(refusal(lines), told, "{lines:?}");
        }
    }

    #[test]
    fn a_version_out_of_range_is_a_number_that_the_reader_judges() {
        for version in ["-5", "9223372036854775807"] {
            let body = [HEADER, &CHANGE.replace(":5,", &format!(":{version},"))].join("\n");
            assert_eq!(Message::parse(&body).unwrap().entries[0].change.version.to_string(), version);
        }
    }

    #[test]
    fn deep_nesting_does_no_harm() {
        let brackets = "[".repeat(1 << 20);
        for lines in [vec![brackets.as_str()], vec![HEADER, brackets.as_str()]] {
            refusal(&lines);
        }
        assert!(Message::parse(&[HEADER, UPSERT, &brackets].join("\n")).is_ok());
        refusal(&[&HEADER.replace("\"t\"", &brackets), CHANGE]);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_a_panic(body in "\\PC*") {
            let _ = Message::parse(&body);
        }

        #[test]
        fn a_damaged_message_is_read_or_refused_without_a_panic(at in 0usize..400, cut in 0usize..40, put in "[\\PC\\n{}\":0-9-]{0,8}") {
            let mut body = format!("{}\n{UPSERT}\n{{\"n\":1}}\n{CHANGE}\n", HEADER.replace(":1,\"trace", ":2,\"trace"));
            let at = at.min(body.len());
            let end = (at + cut).min(body.len());
            body.replace_range(at..end, &put);
            let _ = Message::parse(&body);
        }

        #[test]
        fn what_is_packed_is_read(
            stream in ".*",
            changes in prop::collection::vec((0usize..4, ".*", any::<i64>(), 0usize..4, any::<i64>(), "[^\u{0}-\u{1f}\u{fffe}\u{ffff}\"\\\\]*"), 1..20),
            limit_bytes in 0usize..2000,
        ) {
            let mut packer = Packer::new(stream.clone(), "t", limit_bytes);
            let mut expected = Vec::new();
            let mut bodies = Vec::new();
            for (index, (operation, key, version, op, at, text)) in changes.into_iter().enumerate() {
                let op = [Op::Upsert, Op::Delete, Op::Read, Op::Look][op];
                let document = (op == Op::Upsert).then(|| format!("{{\"text\":\"{text}\"}}"));
                let id = i64::try_from(index).unwrap();
                let operation = Operation::ALL[operation];
                let change = Change { id, key: key.into(), version, op, operation, at, since: None, trace: None };
                bodies.extend(packer.push(&change, document.as_deref()));
                expected.push((change, document));
            }
            bodies.extend(packer.finish());

            let mut read = Vec::new();
            for body in &bodies {
                let message = Message::parse(&body.text).unwrap();
                prop_assert_eq!(&message.stream, &stream);
                prop_assert_eq!(message.entries.len(), body.changes);
                read.extend(message.entries.into_iter().map(|entry| (entry.change, entry.document.map(str::to_owned))));
            }
            prop_assert_eq!(read, expected);
        }
    }
}
