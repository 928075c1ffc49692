//! What is no message, or lies about itself.

use serde_json::{Value, json};

use super::{Content, Generator};

impl Generator {
    pub(super) fn garbage(&mut self) -> (String, Content) {
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
            0 => self.pick(&TEXTS).to_owned(),
            1 => (0..self.random.usize(1..300)).map(|_| self.random.char(..)).collect(),
            _ => (0..self.random.usize(1..300)).map(|_| char::from(self.pick(b"{}[]\":,0\n\\ "))).collect(),
        };
        (body, Content::Unreadable)
    }

    /// Before the last change's facts are complete.
    pub(super) fn cut_off(&mut self) -> (String, Content) {
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

    pub(super) fn character_missing(&mut self) -> (String, Content) {
        let (stream, delete) = (self.stream(), self.delete());
        let (mut body, _) = self.of(stream, vec![delete]);
        let structural: Vec<usize> = body.match_indices(['{', '}', '"', ':', ',']).map(|(at, _)| at).collect();
        body.remove(self.pick(&structural));
        (body, Content::Unreadable)
    }

    pub(super) fn wrong_type(&mut self) -> (String, Content) {
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
        let (field, values) = self.pick(&FIELDS);
        let value = self.pick(values);
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

    pub(super) fn unknown_envelope(&mut self) -> (String, Content) {
        let v = self.pick(&["0", "2", "3", "255", "4294967297", "18446744073709551615", "18446744073709551616"]);
        let (body, _) = self.good();
        (body.replacen("\"v\":1", &format!("\"v\":{v}"), 1), Content::Unreadable)
    }

    pub(super) fn ids(&mut self) -> (String, Content) {
        let (stream, mut one, mut other) = (self.stream(), self.upsert(), self.upsert());
        if self.random.bool() {
            (one.change.id, other.change.id) = (i64::MIN, i64::MAX);
            return self.of(stream, vec![one, other]);
        }
        one.change.id = other.change.id;
        (self.of(stream, vec![one, other]).0, Content::Unreadable)
    }

    pub(super) fn lying_header(&mut self) -> (String, Content) {
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

    pub(super) fn unknown_op(&mut self) -> (String, Content) {
        let op = self.pick(&["create", "update", "truncate", "Upsert", "DELETE", " delete", "delete\\u0000"]);
        let (stream, delete) = (self.stream(), self.delete());
        (self.of(stream, vec![delete]).0.replacen("\"delete\"", &format!("\"{op}\""), 1), Content::Unreadable)
    }
}
