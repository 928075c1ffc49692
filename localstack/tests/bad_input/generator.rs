//! Messages that nobody should send, each with what must become of it.
//!
//! What is not valid UTF-8 is neither a body of SQS nor a `String`: it cannot arrive.

use std::time::{SystemTime, UNIX_EPOCH};

use fastrand::Rng;
use message::{Change, Op};
use serde_json::{Value, json};

/// The streams that the messages are for.
#[derive(Clone)]
pub struct Streams {
    /// Read from a table with the keys `source-0` to `source-9`. Its documents, like those of `payloads`, have the
    /// fields `key` (keyword), `n` (long) and `day` (date).
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

const HOSTILE_KEYS: [&str; 20] = [
    "\"",
    "\\",
    "a\nb",
    "\r\n",
    "\t",
    "\u{1}\u{1f}",
    "\u{7f}",
    "é",
    "\u{202e}abc",
    "\u{1f600}",
    "../../_all",
    "%2e%2e%2f",
    "_doc/1?x=y#z",
    " ",
    "null",
    "*",
    "{}",
    "'; DROP TABLE sluice.outbox; --",
    "\u{2028}\u{2029}",
    "\u{feff}",
];

const HOSTILE_STREAMS: [&str; 30] = [
    "",
    " ",
    "*",
    "_all",
    ".kibana",
    ".security",
    "a,b",
    "../x",
    "..",
    ".",
    "<a-{now/d}>",
    "<logstash-{now/d{yyyy}}>",
    "-a",
    "+a",
    "a*",
    "Sourced",
    "a b",
    "a/_doc/1",
    "a%2f_bulk",
    "a?pipeline=x",
    "a#b",
    "a\\b",
    "é",
    "\u{0}",
    "a\n",
    "a\r\nhost: x",
    "\"",
    "_",
    "sluice.outbox",
    "no-such_stream",
];

/// What Elasticsearch, or the indexer before it, says of each.
const REFUSED_DOCUMENTS: [(&str, &str); 20] = [
    (r#"{"x":1}"#, "strict_dynamic_mapping_exception"),
    (r#"{"n":1,"x":{"y":[1]}}"#, "strict_dynamic_mapping_exception"),
    (r#"{"n":"x"}"#, "document_parsing_exception"),
    (r#"{"n":{}}"#, "document_parsing_exception"),
    (r#"{"n":9223372036854775808}"#, "document_parsing_exception"),
    (r#"{"n":1e400}"#, "document_parsing_exception"),
    (r#"{"n":1,"n":2}"#, "document_parsing_exception"),
    (r#"{"day":"soon"}"#, "document_parsing_exception"),
    (r#"{"_id":"x"}"#, "document_parsing_exception"),
    (r#"{"_source":{"n":1}}"#, "document_parsing_exception"),
    (r#"{"":1}"#, "document_parsing_exception"),
    ("garbage", "invalid_document"),
    ("null", "invalid_document"),
    ("[{}]", "invalid_document"),
    ("\"{}\"", "invalid_document"),
    (r#"{"n":1"#, "invalid_document"),
    (r#"{"n":1}}"#, "invalid_document"),
    (r#"{"n":NaN}"#, "invalid_document"),
    (r#"{"n":01}"#, "invalid_document"),
    (r#"{'n':1}"#, "invalid_document"),
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
    streams: Streams,
    now_ms: i64,
    messages: u64,
    version: i64,
}

impl Message {
    /// Of no bytes, or of none at all.
    pub fn without_a_body() -> Self {
        Self { category: "no body", body: String::new(), content: Content::Unreadable }
    }
}

impl Generator {
    pub fn new(seed: u64, streams: Streams) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        // Far enough from now that a slow machine does not make them old.
        let now_ms = i64::try_from(now.as_millis()).unwrap() + 24 * 3_600_000;
        Self { random: Rng::with_seed(seed), streams, now_ms, messages: 0, version: 1000 }
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

    fn trace(&self) -> String {
        format!("m{}", self.messages)
    }

    fn stream(&mut self) -> String {
        if self.random.bool() { self.streams.sourced.clone() } else { self.streams.payloads.clone() }
    }

    /// An upsert of a good document, with a key and a version of its own.
    fn upsert(&mut self) -> Expected {
        self.version += 1;
        let key = format!("{}-{}", self.trace(), self.version);
        let change =
            Change { id: self.version, key: key.into(), version: self.version, op: Op::Upsert, at: self.now_ms };
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
                let document = self.random.choice(ODD_DOCUMENTS).map(str::to_owned);
                Expected { document, ..self.upsert() }
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
            it.change.at = *self.random.choice(&[i64::MIN, -1, 0, 1_600_000_000_000]).unwrap();
        } else {
            (it.change.op, it.document) = (Op::Read, None);
        }
        Expected { fate: Fate::ReadAnew, ..it }
    }

    fn garbage(&mut self) -> (String, Content) {
        const TEXTS: [&str; 16] = [
            "garbage",
            "{",
            "}",
            "{}",
            "[]",
            "null",
            "1.10",
            "\"text\"",
            "\n\n\n",
            "{}\n{}",
            "<xml/>",
            "v=1&stream=a",
            "\u{feff}{\"v\":1}",
            "{\"index\":{}}\n{\"n\":1}",
            "{\"v\":1}",
            "{\"v\":1}\n{\"v\":1}",
        ];
        let body = match self.random.u8(..3) {
            0 => (*self.random.choice(&TEXTS).unwrap()).to_owned(),
            1 => (0..self.random.usize(1..300)).map(|_| self.random.char(..)).collect(),
            _ => (0..self.random.usize(1..300))
                .map(|_| self.random.choice(*b"{}[]\":,0\n\\ ").map(char::from).unwrap())
                .collect(),
        };
        (body, Content::Unreadable)
    }

    /// Before the last change's facts are complete.
    fn cut_off(&mut self) -> (String, Content) {
        let (mut body, content) = self.good();
        let Content::Changes { changes, .. } = content else { return (body, content) };
        let last = serde_json::to_string(&changes[changes.len() - 1].change).unwrap();
        let end = body.rfind(&last).unwrap() + last.len();
        let mut at = self.random.usize(1..end);
        while !body.is_char_boundary(at) {
            at -= 1;
        }
        body.truncate(at);
        (body, Content::Unreadable)
    }

    fn character_missing(&mut self) -> (String, Content) {
        let (stream, delete) = (self.stream(), self.delete());
        let (mut body, _) = self.of(stream, vec![delete]);
        let structural: Vec<usize> = body.match_indices(['{', '}', '"', ':', ',']).map(|(at, _)| at).collect();
        body.remove(*self.random.choice(&structural).unwrap());
        (body, Content::Unreadable)
    }

    fn wrong_type(&mut self) -> (String, Content) {
        const FIELDS: [(&str, &[&str]); 9] = [
            ("v", &["missing", "null", "true", "\"1\"", "1.5", "-1", "[]", "{}"]),
            ("stream", &["missing", "null", "true", "1.5", "-1", "[]", "{}", "[\"a\"]"]),
            ("changes", &["missing", "null", "true", "\"1\"", "1.5", "-1", "[]", "{}"]),
            ("trace", &["null", "true", "1.5", "-1", "[]", "{}"]),
            ("id", &["missing", "null", "true", "\"1\"", "1.5", "[]", "{}", "9223372036854775808"]),
            ("key", &["missing", "null", "true", "1.5", "-1", "[]", "{}", "[\"a\"]"]),
            (
                "version",
                &["missing", "null", "true", "\"1\"", "1.5", "[]", "{}", "9223372036854775808", "1e3", "-0", "01"],
            ),
            ("op", &["missing", "null", "true", "\"\"", "1", "[]", "{}", "[\"delete\"]"]),
            ("at", &["missing", "null", "true", "\"1\"", "1.5", "[]", "{}", "-9223372036854775809", "\"2026-01-01\""]),
        ];
        let (stream, delete) = (self.stream(), self.delete());
        let header = json!({"v": 1, "stream": stream, "changes": 1, "trace": self.trace()});
        let facts = serde_json::to_value(&delete.change).unwrap();
        let (field, values) = self.random.choice(FIELDS).unwrap();
        let value = *self.random.choice(values).unwrap();
        let line = |facts: &Value| {
            let facts = facts.as_object().unwrap().iter();
            let fields = facts.filter_map(|(name, right)| match (name == field, value) {
                (true, "missing") => None,
                (true, wrong) => Some(format!("\"{name}\":{wrong}")),
                (false, _) => Some(format!("\"{name}\":{right}")),
            });
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        };
        (format!("{}\n{}\n", line(&header), line(&facts)), Content::Unreadable)
    }

    fn unknown_envelope(&mut self) -> (String, Content) {
        let v = *self
            .random
            .choice(&["0", "2", "3", "255", "4294967297", "18446744073709551615", "18446744073709551616"])
            .unwrap();
        let (body, _) = self.good();
        (body.replacen("\"v\":1", &format!("\"v\":{v}"), 1), Content::Unreadable)
    }

    fn ids(&mut self) -> (String, Content) {
        let (stream, mut one, mut other) = (self.stream(), self.upsert(), self.upsert());
        if self.random.bool() {
            (one.change.id, other.change.id) = (i64::MIN, i64::MAX);
            return self.of(stream, vec![one, other]);
        }
        one.change.id = other.change.id;
        (self.of(stream, vec![one, other]).0, Content::Unreadable)
    }

    fn lying_header(&mut self) -> (String, Content) {
        let (body, content) = self.good();
        let Content::Changes { changes, .. } = content else { return (body, content) };
        let told = match self.random.u8(..4) {
            0 => 0,
            1 => changes.len() - 1,
            2 => changes.len() + self.random.usize(1..1000),
            _ => usize::MAX,
        };
        let right = format!("\"changes\":{}", changes.len());
        (body.replacen(&right, &format!("\"changes\":{told}"), 1), Content::Unreadable)
    }

    fn unknown_op(&mut self) -> (String, Content) {
        let op = *self
            .random
            .choice(&["create", "update", "truncate", "Upsert", "DELETE", " delete", "delete\\u0000"])
            .unwrap();
        let (stream, delete) = (self.stream(), self.delete());
        (self.of(stream, vec![delete]).0.replacen("\"delete\"", &format!("\"{op}\""), 1), Content::Unreadable)
    }

    /// Balanced, in a place that nobody reads, or in a document.
    fn deep(&mut self) -> (String, Content) {
        let depth = self.random.usize(200..20_000);
        let nested = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        let stream = self.stream();
        let mut it = self.upsert();
        match self.random.u8(..4) {
            0 => {
                let (body, content) = self.of(stream, vec![it]);
                (body.replacen("{\"", &format!("{{\"x\":{nested},\""), 1), content)
            }
            1 => {
                let (body, content) = self.of(stream, vec![it]);
                (body.replacen("\n{\"", &format!("\n{{\"x\":{nested},\""), 1), content)
            }
            2 => {
                it.document = Some(format!("{}1{}", "{\"n\":".repeat(depth), "}".repeat(depth)));
                it.fate = Fate::Refused("document_parsing_exception");
                self.among_good(stream, it)
            }
            _ => {
                it.document = Some(format!("{{\"n\":{}}}", nested.replacen("[1]", "[\"x\"]", 1)));
                it.fate = Fate::Refused("document_parsing_exception");
                self.among_good(stream, it)
            }
        }
    }

    /// Up to 1 MiB of them, which is more than the queue takes. Not exactly what still fits a dead letter.
    fn brackets(&mut self) -> (String, Content) {
        let count = *self.random.choice(&[1 << 10, 50 << 10, 200 << 10, 990_000, 1 << 20]).unwrap();
        let brackets = self.random.choice(["[", "{", "[{", "{\"a\":"]).unwrap();
        let brackets = brackets.repeat(count / brackets.len());
        let stream = self.stream();
        let mut it = self.upsert();
        match self.random.u8(..6) {
            0 => (brackets, Content::Unreadable),
            1 => {
                (self.of(stream, vec![it]).0.replacen("\"v\":1", &format!("\"v\":{brackets}"), 1), Content::Unreadable)
            }
            2 => (self.of(stream, vec![it]).0.replacen("\n{", &format!("\n{brackets}"), 1), Content::Unreadable),
            3 => {
                (it.document, it.fate) = (Some(brackets), Fate::Refused("invalid_document"));
                self.of(stream, vec![it])
            }
            4 => {
                (it.change.key, it.fate) = (brackets.into(), Fate::Refused("invalid_key"));
                self.of(stream, vec![it])
            }
            _ => {
                it.fate = Fate::Refused("unknown_stream");
                self.of(brackets, vec![it])
            }
        }
    }

    /// As they are, which only a caller of the handler can send, and as escapes.
    fn control_characters(&mut self) -> (String, Content) {
        let stream = self.stream();
        let mut it = self.upsert();
        let key = it.change.key.clone();
        match self.random.u8(..6) {
            0 => (self.of(stream, vec![it]).0.replacen(&*key, "\u{0}", 1), Content::Unreadable),
            1 => (self.of(stream, vec![it]).0.replacen(&*key, "\\ud800", 1), Content::Unreadable),
            2 => (self.of("\u{1}".to_owned(), vec![it]).0.replacen("\\u0001", "\\udfff", 1), Content::Unreadable),
            3 => {
                it.document = Some("{\"key\":\"\u{0}\"}".to_owned());
                it.fate = Fate::Refused("invalid_document");
                self.among_good(stream, it)
            }
            4 => {
                it.document = Some(r#"{"key":"\u0000 \udfff\ud800 \ud83d"}"#.to_owned());
                self.among_good(stream, it)
            }
            _ => {
                it.change.key = format!("{key}\u{0}\u{ffff}").into();
                self.among_good(stream, it)
            }
        }
    }

    fn hostile_key(&mut self) -> (String, Content) {
        let stream = self.stream();
        let mut it = if self.random.u8(..4) == 0 { self.delete() } else { self.upsert() };
        let bytes = *self.random.choice(&[0, 513, 600, 5000]).unwrap();
        match self.random.u8(..4) {
            0 => (it.change.key, it.fate) = ("k".repeat(bytes).into(), Fate::Refused("invalid_key")),
            // One to three bytes over.
            1 => (it.change.key, it.fate) = ("€".repeat(171 + bytes % 100).into(), Fate::Refused("invalid_key")),
            2 => it.change.key = format!("{:k<512}", it.change.key).into(),
            _ => it.change.key = format!("{}{}", self.random.choice(HOSTILE_KEYS).unwrap(), it.change.key).into(),
        }
        self.among_good(stream, it)
    }

    fn versions(&mut self) -> (String, Content) {
        let stream = self.stream();
        let mut it = if self.random.bool() { self.delete() } else { self.upsert() };
        let impossible = [-5, -1, i64::MIN, 1 << 53, i64::MAX];
        match self.random.u8(..4) {
            0 => it.change.version = 0,
            1 => it.change.version = (1 << 53) - 1,
            _ => {
                it.change.version = *self.random.choice(&impossible).unwrap();
                it.fate = Fate::Refused("invalid_version");
            }
        }
        self.among_good(stream, it)
    }

    /// The far past is read anew where there is a source, the future never.
    fn times(&mut self) -> (String, Content) {
        let (stream, mut it) = (self.stream(), self.upsert());
        match self.random.u8(..4) {
            0 => it.change.at = i64::MAX,
            1 => {
                (it.change.op, it.document) = (Op::Read, None);
                let is_sourced = stream == self.streams.sourced;
                it.fate = if is_sourced { Fate::ReadAnew } else { Fate::Refused("no_source") };
            }
            2 if stream == self.streams.sourced => {
                // PostgreSQL has no text with a NUL in it.
                it.change.key = format!("{}\u{0}", it.change.key).into();
                (it.change.at, it.fate) = (0, Fate::Refused("22021"));
            }
            _ => (it.change.at, it.fate) = (*self.random.choice(&[i64::MIN, -1, 0]).unwrap(), Fate::ReadAnew),
        }
        self.among_good(stream, it)
    }

    fn hostile_stream(&mut self) -> (String, Content) {
        let stream = match self.random.u8(..4) {
            0 => self.random.choice(&self.streams.foreign).unwrap().clone(),
            1 => "a".repeat(*self.random.choice(&[100, 101, 5000]).unwrap()),
            _ => (*self.random.choice(&HOSTILE_STREAMS).unwrap()).to_owned(),
        };
        let changes = (0..self.random.usize(1..3)).map(|_| {
            let it = if self.random.bool() { self.delete() } else { self.upsert() };
            Expected { fate: Fate::Refused("unknown_stream"), ..it }
        });
        let changes = changes.collect();
        self.of(stream, changes)
    }

    fn unwritable(&mut self) -> (String, Content) {
        let Some(stream) = self.random.choice(&self.streams.unwritable).cloned() else { return self.hostile_stream() };
        let mut changes =
            vec![Expected { fate: Fate::Waiting, ..self.delete() }, Expected { fate: Fate::Waiting, ..self.upsert() }];
        if self.random.bool() {
            // Is not dead-lettered before the others are done.
            let change = Change { version: -5, ..self.delete().change };
            changes.push(Expected { change, document: None, fate: Fate::Refused("invalid_version") });
        }
        self.of(stream, changes)
    }

    fn refused_document(&mut self) -> (String, Content) {
        let stream = self.stream();
        let (document, error_type) = *self.random.choice(&REFUSED_DOCUMENTS).unwrap();
        let it = Expected { document: Some(document.to_owned()), fate: Fate::Refused(error_type), ..self.upsert() };
        self.among_good(stream, it)
    }

    /// Lines of a bulk request where they could be taken for one's own: in a document, behind it, in a key, in a name.
    fn injection(&mut self) -> (String, Content) {
        let stream = self.stream();
        let action = format!(
            r#"{{"index":{{"_index":"{}","_id":"injected"}}}}"#,
            self.random.choice(&self.streams.foreign).unwrap()
        );
        let mut it = self.upsert();
        let document = it.document.clone().unwrap();
        match self.random.u8(..6) {
            0 => {
                // A line of its own is more than the header tells.
                it.document = Some(format!("{document}\n{action}\n{document}"));
                (self.of(stream, vec![it]).0, Content::Unreadable)
            }
            1 => {
                it.document = Some(format!("{document}\r{action}\r{document}"));
                it.fate = Fate::Refused("invalid_document");
                self.among_good(stream, it)
            }
            2 => {
                it.document = Some(format!("{document}\r"));
                self.among_good(stream, it)
            }
            3 => {
                it.change.key = format!("{}\"}}}}\n{action}\n{document}\n", it.change.key).into();
                self.among_good(stream, it)
            }
            4 => {
                it.document = Some(action);
                it.fate = Fate::Refused("strict_dynamic_mapping_exception");
                self.among_good(stream, it)
            }
            _ => {
                it.fate = Fate::Refused("unknown_stream");
                self.of(format!("{stream}/_bulk\n{action}\n"), vec![it])
            }
        }
    }

    /// Small ones, half of them refused: each is a letter of its own.
    fn hundreds(&mut self) -> (String, Content) {
        let stream = self.stream();
        let changes = if self.random.u8(..20) == 0 { 100..400 } else { 10..30 };
        let changes = (0..self.random.usize(changes)).map(|n| match n % 2 {
            0 => self.upsert(),
            _ => Expected { document: Some("[]".to_owned()), fate: Fate::Refused("invalid_document"), ..self.upsert() },
        });
        let changes = changes.collect();
        self.of(stream, changes)
    }
}
