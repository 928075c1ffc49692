//! What must have become of the messages, struck off as it is found.

use std::collections::{BTreeMap, HashMap};

use message::{Op, Packer};

use crate::generator::{Content, Expected, Fate, Message, Streams};

/// A letter whose body is longer has no room for its attributes, and is not taken.
const LETTER_BODY_BYTES: usize = (1 << 20) - (16 << 10);
/// Attributes are cut to that many characters.
const ATTRIBUTE_CHARS: usize = 1000;

pub struct Account {
    streams: Streams,
    /// By body.
    letters: HashMap<String, Vec<Letter>>,
    /// The newest version of each stream's key, and where its document is.
    newest: HashMap<(String, String), (i64, Written)>,
    /// Messages by category and by what became of them.
    report: BTreeMap<&'static str, BTreeMap<String, usize>>,
}

struct Letter {
    attributes: Vec<(&'static str, String)>,
}

enum Written {
    /// As it travelled; `None`: it is deleted.
    Travelled(Option<String>),
    /// As PostgreSQL has it.
    Source,
}

impl Account {
    pub fn new(streams: Streams) -> Self {
        Self { streams, letters: HashMap::new(), newest: HashMap::new(), report: BTreeMap::new() }
    }

    /// Notes what must become of a message that is handled, and tells whether it must be given back.
    pub fn expect(&mut self, message: &Message) -> bool {
        let (letters, is_waiting) = match &message.content {
            Content::Unreadable => (vec![Letter::of_message(&message.body)], false),
            Content::Changes { stream, trace, changes } => {
                for expected in changes {
                    self.apply(stream, expected);
                }
                let refused = changes.iter().filter_map(|expected| Letter::of_change(stream, trace, expected));
                (refused.collect(), changes.iter().any(|expected| matches!(expected.fate, Fate::Waiting)))
            }
        };
        let is_too_large = letters.iter().any(|(body, _)| body.len() > LETTER_BODY_BYTES);
        let became = match letters.as_slice() {
            _ if is_waiting => "given back: nowhere to write to".to_owned(),
            _ if is_too_large => "given back: too large for a dead letter".to_owned(),
            [] => "written or deleted".to_owned(),
            [(_, letter), ..] => format!("dead letter: {}", letter.attributes[0].1),
        };
        *self.report.entry(message.category).or_default().entry(became).or_default() += 1;
        if is_waiting || is_too_large {
            return true;
        }
        for (body, letter) in letters {
            self.letters.entry(body).or_default().push(letter);
        }
        false
    }

    fn apply(&mut self, stream: &str, expected: &Expected) {
        let written = match expected.fate {
            Fate::Refused(_) | Fate::Waiting => return,
            Fate::ReadAnew if stream == self.streams.sourced => Written::Source,
            Fate::Done | Fate::ReadAnew => Written::Travelled(expected.document.clone()),
        };
        let change = &expected.change;
        let newest = self.newest.entry((stream.to_owned(), change.key.to_string()));
        let newest = newest.or_insert((i64::MIN, Written::Source));
        if change.version > newest.0 {
            *newest = (change.version, written);
        }
    }

    /// Strikes a dead letter off. What was not expected is told.
    pub fn strike_off(&mut self, body: &str, attribute: impl Fn(&str) -> String) -> Result<(), String> {
        let told = || format!("{} {}: {:.300}", attribute("error_type"), attribute("reason"), body);
        let expected = self.letters.get_mut(body).ok_or_else(|| format!("nobody expects {}", told()))?;
        let said = |name: &str| match attribute(name) {
            word if word == "mapper_parsing_exception" => "document_parsing_exception".to_owned(), // OpenSearch's
            value => value,
        };
        let is_it = |letter: &Letter| letter.attributes.iter().all(|(name, value)| said(name) == *value);
        let position = expected.iter().position(is_it).ok_or_else(|| {
            let expected: Vec<_> = expected.iter().map(|letter| &letter.attributes).collect();
            format!("instead of {expected:.300?} came {}", told())
        })?;
        expected.swap_remove(position);
        if expected.is_empty() {
            self.letters.remove(body);
        }
        if attribute("reason").is_empty() {
            return Err(format!("without a reason: {}", told()));
        }
        Ok(())
    }

    /// How many letters have not come, and one of them in words.
    pub fn missing_letters(&self) -> (usize, String) {
        let one = self.letters.iter().next().map(|(body, letters)| format!("{:?}: {body:.300}", letters[0].attributes));
        (self.letters.values().map(Vec::len).sum(), one.unwrap_or_default())
    }

    /// What must be in the index of a stream: key to version and document, byte by byte but for what surrounds it. `source` has what PostgreSQL has.
    pub fn documents(&self, stream: &str, source: &BTreeMap<String, String>) -> BTreeMap<String, (i64, String)> {
        let of_stream = self.newest.iter().filter(|((of, _), _)| of == stream);
        let documents = of_stream.filter_map(|((_, key), (version, written))| {
            let document = match written {
                Written::Travelled(document) => document.as_ref(),
                Written::Source => source.get(key),
            };
            Some((key.clone(), (*version, document?.trim_ascii().to_owned())))
        });
        documents.collect()
    }

    /// The report.
    pub fn print(&self) {
        for (category, became) in &self.report {
            for (what, messages) in became {
                println!("{messages:6}  {category}: {what}");
            }
        }
    }
}

impl Letter {
    fn of_message(body: &str) -> (String, Self) {
        let body = if body.is_empty() { "-".to_owned() } else { printable(body) };
        (body, Self { attributes: vec![("error_type", "malformed_message".to_owned())] })
    }

    fn of_change(stream: &str, trace: &str, expected: &Expected) -> Option<(String, Self)> {
        let Fate::Refused(error_type) = expected.fate else { return None };
        let change = &expected.change;
        let mut packer = Packer::new(stream, trace, usize::MAX);
        let document = expected.document.as_deref().filter(|_| change.op == Op::Upsert);
        packer.push(change, document);
        let attributes = vec![
            ("error_type", error_type.to_owned()),
            ("stream", attribute(stream)),
            ("key", attribute(&change.key)),
            ("version", change.version.to_string()),
        ];
        Some((packer.finish().unwrap().text, Self { attributes }))
    }
}

fn attribute(value: &str) -> String {
    let value: String = printable(value).chars().take(ATTRIBUTE_CHARS).collect();
    if value.is_empty() { "-".to_owned() } else { value }
}

/// With an escape for what SQS does not take.
fn printable(text: &str) -> String {
    let is_taken = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..);
    text.chars().map(|c| if is_taken(c) { c.to_string() } else { c.escape_unicode().to_string() }).collect()
}
