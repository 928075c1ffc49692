//! Messages that nobody should send, each with what must become of it.
//!
//! What is not valid UTF-8 is neither a body of SQS nor a `String`: it cannot arrive.

mod hostile;
mod unreadable;

use std::time::{SystemTime, UNIX_EPOCH};

use fastrand::Rng;
use message::{Change, Op, Operation};
use serde_json::json;

/// The streams that the messages are for.
#[derive(Clone)]
pub struct Streams {
    /// Read from a table, which may have the keys `source-0` to `source-9`. Its documents, like those of `payloads`,
    /// have the fields `key` (keyword), `n` (long) and `day` (date).
    pub sourced: String,
    /// Without a source.
    pub payloads: String,
    /// Defined, and nowhere to write to; there may be none.
    pub unwritable: Vec<String>,
    /// Names that a stream can have, of aliases and indexes that are none of this one's.
    pub foreign: Vec<String>,
}

pub struct Message {
    pub category: &'static str,
    pub body: String,
    pub content: Content,
}

/// What is in a message, to somebody who can read.
#[derive(Clone)]
pub enum Content {
    /// No message at all.
    Unreadable,
    Changes {
        stream: String,
        trace: String,
        changes: Vec<Expected>,
    },
}

/// One change, and what must become of it.
#[derive(Clone)]
pub struct Expected {
    pub change: Change<'static>,
    pub document: Option<String>,
    pub fate: Fate,
}

#[derive(Clone)]
pub enum Fate {
    /// In the index, if no newer version is.
    Done,
    /// The same with what PostgreSQL has, if the stream has a source.
    ReadAnew,
    /// A dead letter with this `error_type`.
    Refused(&'static str),
    /// Given back: the stream has nowhere to write to.
    Waiting,
}

type Make = fn(&mut Generator) -> (String, Content);

/// The share of each kind, and how it is made.
const CATEGORIES: [(&str, u32, Make); 20] = [
    ("good", 20, Generator::good),
    ("no message at all", 6, Generator::garbage),
    ("cut off", 5, Generator::cut_off),
    ("a character missing", 5, Generator::character_missing),
    ("a field of a wrong type", 8, Generator::wrong_type),
    ("an unknown version of the envelope", 3, Generator::unknown_envelope),
    ("ids doubled or extreme", 3, Generator::ids),
    ("a header that lies", 4, Generator::lying_header),
    ("an unknown op", 2, Generator::unknown_op),
    ("deep nesting", 3, Generator::deep),
    ("brackets", 3, Generator::brackets),
    ("NUL and lone surrogates", 4, Generator::control_characters),
    ("hostile keys", 7, Generator::hostile_key),
    ("versions", 5, Generator::versions),
    ("times", 4, Generator::times),
    ("hostile streams", 6, Generator::hostile_stream),
    ("streams without a way", 3, Generator::unwritable),
    ("refused documents", 7, Generator::refused_document),
    ("injected actions", 5, Generator::injection),
    ("hundreds of changes", 1, Generator::hundreds),
];

/// Accepted, and to be in the index byte by byte.
const ODD_DOCUMENTS: [&str; 10] = [
    "{}",
    "  { }\t",
    r#"{"n":null}"#,
    r#"{"n":[[1],[[2]]]}"#,
    r#"{"n":"7"}"#,
    r#"{"key":9007199254740993}"#,
    r#"{"key":1.10000000000000000000000000001}"#,
    r#"{"key":"\u0000\ud800\ufffe"}"#,
    "{\"key\":\"\u{2028}\u{1f600}\u{fffd}\"}",
    r#"{"key":"{\"delete\":{\"_index\":\"*\"}}"}"#,
];

pub struct Generator {
    random: Rng,
    /// Keys begin with it.
    name: String,
    streams: Streams,
    now_ms: i64,
    messages: u64,
    version: i64,
    /// Of all changes so far, but for the table's, which others have, too, and for what no index takes as one.
    keys: Vec<String>,
}

/// What a key may have.
const KEY_BYTES: usize = 512;

impl Message {
    /// Of no bytes, or of none at all.
    pub fn without_a_body() -> Self {
        Self { category: "no body", body: String::new(), content: Content::Unreadable }
    }
}

impl Generator {
    /// `name` is that of nobody else, and so are the keys of the changes.
    pub fn new(seed: u64, name: &str, streams: Streams) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        // Far enough from now that a slow machine does not make them old.
        let now_ms = i64::try_from(now.as_millis()).unwrap() + 24 * 3_600_000;
        Self {
            random: Rng::with_seed(seed),
            name: name.to_owned(),
            streams,
            now_ms,
            messages: 0,
            version: 1000,
            keys: vec![injected(name)],
        }
    }

    /// The next message, of any category.
    pub fn message(&mut self) -> Message {
        self.messages += 1;
        let mut draw = self.random.u32(..CATEGORIES.iter().map(|(_, share, _)| share).sum::<u32>());
        for (category, share, make) in CATEGORIES {
            if draw < share {
                let (body, content) = make(self);
                return Message { category, body, content };
            }
            draw -= share;
        }
        unreachable!("the shares are drawn from their sum")
    }

    /// A message of one change that must end so, for the sourced stream.
    pub fn upsert_as(&mut self, category: &'static str, fate: Fate) -> Message {
        self.messages += 1;
        let mut it = self.upsert();
        if matches!(fate, Fate::Refused(_)) {
            it.document = Some("[]".to_owned());
        }
        let (body, content) = self.of(self.streams.sourced.clone(), vec![Expected { fate, ..it }]);
        Message { category, body, content }
    }

    /// What a document would have as its key, if a message were written where it should not.
    pub fn keys(&self) -> &[String] {
        &self.keys
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.random.usize(..from.len())]
    }

    fn trace(&self) -> String {
        format!("m{}", self.messages)
    }

    fn stream(&mut self) -> String {
        if self.random.bool() { self.streams.sourced.clone() } else { self.streams.payloads.clone() }
    }

    /// An upsert of a good document, with a key and a version of its own.
    fn upsert(&mut self) -> Expected {
        self.version += 1;
        let key = format!("{}{}-{}", self.name, self.trace(), self.version);
        let change = Change {
            id: self.version,
            key: key.into(),
            version: self.version,
            op: Op::Upsert,
            operation: Operation::Upsert,
            at: self.now_ms,
            since: None,
            trace: None,
        };
        let document = format!(r#"{{"key": "{}","n":{}}}"#, self.version, self.random.i64(..));
        Expected { change, document: Some(document), fate: Fate::Done }
    }

    fn delete(&mut self) -> Expected {
        let upsert = self.upsert();
        Expected { change: Change { op: Op::Delete, ..upsert.change }, document: None, ..upsert }
    }

    /// Among none to three good ones, all of one stream.
    fn among_good(&mut self, stream: String, it: Expected) -> (String, Content) {
        let mut changes: Vec<Expected> = (0..self.random.usize(..4)).map(|_| self.upsert()).collect();
        changes.insert(self.random.usize(..=changes.len()), it);
        self.of(stream, changes)
    }

    fn of(&mut self, stream: String, changes: Vec<Expected>) -> (String, Content) {
        let keys = changes.iter().map(|expected| expected.change.key.to_string());
        self.keys.extend(keys.filter(|key| key.contains(&self.name) && key.len() <= KEY_BYTES));
        let trace = self.trace();
        let header = json!({"v": 1, "stream": stream, "changes": changes.len(), "trace": trace}).to_string();
        let mut lines = vec![header];
        for expected in &changes {
            lines.push(serde_json::to_string(&expected.change).unwrap());
            lines.extend(expected.document.clone());
        }
        (lines.join("\n") + "\n", Content::Changes { stream, trace, changes })
    }

    fn good(&mut self) -> (String, Content) {
        let stream = self.stream();
        let changes = (0..self.random.usize(1..5)).map(|_| match self.random.u8(..8) {
            0 => self.delete(),
            1 | 2 if stream == self.streams.sourced => self.read_anew(),
            3 => {
                let document = self.pick(&ODD_DOCUMENTS).to_owned();
                Expected { document: Some(document), ..self.upsert() }
            }
            _ => self.upsert(),
        });
        let changes = changes.collect();
        self.of(stream, changes)
    }

    /// Of a key that the table has or has not, as it may travel when it is old.
    fn read_anew(&mut self) -> Expected {
        let mut it = self.upsert();
        if self.random.bool() {
            it.change.key = format!("source-{}", self.random.u8(..10)).into();
        }
        if self.random.bool() {
            it.change.at = self.pick(&[i64::MIN, -1, 0, 1_600_000_000_000]);
        } else {
            (it.change.op, it.document) = (Op::Read, None);
        }
        Expected { fate: Fate::ReadAnew, ..it }
    }
}

/// The key of a write that is no change, but a part of one's text.
fn injected(name: &str) -> String {
    format!("{name}injected")
}
