//! Messages that can be read, of changes that should not be.

use message::{Change, Op};

use super::{Content, Expected, Fate, Generator, injected};

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

impl Generator {
    /// Balanced, in a place that nobody reads, or in a document.
    pub(super) fn deep(&mut self) -> (String, Content) {
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
                it.fate = refused_for_levels(depth);
                self.among_good(stream, it)
            }
            _ => {
                it.document = Some(format!("{{\"n\":{}}}", nested.replacen("[1]", "[\"x\"]", 1)));
                it.fate = refused_for_levels(depth + 1);
                self.among_good(stream, it)
            }
        }
    }

    /// Up to 1 MiB of them, which is more than the queue takes. Not exactly what still fits a dead letter.
    pub(super) fn brackets(&mut self) -> (String, Content) {
        let count = self.pick(&[1 << 10, 50 << 10, 200 << 10, 990_000, 1 << 20]);
        let brackets = self.pick(&["[", "{", "[{", "{\"a\":"]);
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
    pub(super) fn control_characters(&mut self) -> (String, Content) {
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

    pub(super) fn hostile_key(&mut self) -> (String, Content) {
        let stream = self.stream();
        let mut it = if self.random.u8(..4) == 0 { self.delete() } else { self.upsert() };
        let bytes = self.pick(&[0, 513, 600, 5000]);
        match self.random.u8(..4) {
            0 => (it.change.key, it.fate) = ("k".repeat(bytes).into(), Fate::Refused("invalid_key")),
            // One to three bytes over.
            1 => (it.change.key, it.fate) = ("€".repeat(171 + bytes % 100).into(), Fate::Refused("invalid_key")),
            2 => it.change.key = format!("{:k<512}", it.change.key).into(),
            _ => it.change.key = format!("{}{}", self.pick(&HOSTILE_KEYS), it.change.key).into(),
        }
        self.among_good(stream, it)
    }

    pub(super) fn versions(&mut self) -> (String, Content) {
        let stream = self.stream();
        let mut it = if self.random.bool() { self.delete() } else { self.upsert() };
        let impossible = [-5, -1, i64::MIN, 1 << 53, i64::MAX];
        match self.random.u8(..4) {
            0 => it.change.version = 0,
            1 => it.change.version = (1 << 53) - 1,
            _ => {
                it.change.version = self.pick(&impossible);
                it.fate = Fate::Refused("invalid_version");
            }
        }
        self.among_good(stream, it)
    }

    /// The far past is read anew where there is a source, the future never.
    pub(super) fn times(&mut self) -> (String, Content) {
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
            _ => (it.change.at, it.fate) = (self.pick(&[i64::MIN, -1, 0]), Fate::ReadAnew),
        }
        self.among_good(stream, it)
    }

    pub(super) fn hostile_stream(&mut self) -> (String, Content) {
        let stream = match self.random.u8(..4) {
            0 => self.random.choice(&self.streams.foreign).unwrap().clone(),
            1 => "a".repeat(self.pick(&[100, 101, 5000])),
            _ => self.pick(&HOSTILE_STREAMS).to_owned(),
        };
        let changes = (0..self.random.usize(1..3)).map(|_| {
            // A delete of what nobody defines is passed over.
            if self.random.bool() {
                return self.delete();
            }
            Expected { fate: Fate::Refused("unknown_stream"), ..self.upsert() }
        });
        let changes = changes.collect();
        self.of(stream, changes)
    }

    pub(super) fn unwritable(&mut self) -> (String, Content) {
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

    pub(super) fn refused_document(&mut self) -> (String, Content) {
        let stream = self.stream();
        let (document, error_type) = self.pick(&REFUSED_DOCUMENTS);
        let it = Expected { document: Some(document.to_owned()), fate: Fate::Refused(error_type), ..self.upsert() };
        self.among_good(stream, it)
    }

    /// Lines of a bulk request where they could be taken for one's own: in a document, behind it, in a key, in a name.
    pub(super) fn injection(&mut self) -> (String, Content) {
        let stream = self.stream();
        let action = format!(
            r#"{{"index":{{"_index":"{}","_id":"{}"}}}}"#,
            self.random.choice(&self.streams.foreign).unwrap(),
            injected(&self.name)
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
    pub(super) fn hundreds(&mut self) -> (String, Content) {
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

/// Elasticsearch refuses what is no number, but it is not even asked about so many levels.
fn refused_for_levels(levels: usize) -> Fate {
    Fate::Refused(if levels > 1000 { "invalid_document" } else { "document_parsing_exception" })
}
