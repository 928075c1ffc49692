//! Writing documents: bulk requests of a limited size, and the outcome of each write.

use std::collections::HashMap;

use memchr::memchr2_iter;
use serde_json::value::RawValue;
use tracing::warn;

use crate::answer::{Decision, ItemAnswer, decide_item, decide_request};
use crate::cluster::Cluster;
use crate::deadline::Deadline;
use crate::outcome::{Action, Done, Outcome, Reason};

/// A request that is refused as a whole is halved until its culprit stands alone. Where that many stand alone and nothing
/// else has come through, it is not they who are at fault, and the rest is spared the way.
const ALONE_AND_NOTHING_ELSE: usize = 3;

/// Elasticsearch's limit for an `_id`.
const MAX_KEY_BYTES: usize = 512;
/// Elasticsearch takes no document of more levels. OpenSearch does not look at each value of one, and where some thousand levels stand
/// for a number its stack overflows, which ends the whole node.
const MAX_LEVELS: usize = 1000;
/// Above it, JavaScript and other readers of JSON round.
const VERSION_END: i64 = 1 << 53;

/// One document to be written or deleted.
#[derive(Debug, Clone)]
pub struct Write<'a> {
    /// Its `_id`.
    pub key: &'a str,
    /// Its external version: of two writes of a key, the higher one stays.
    pub version: i64,
    /// One JSON object on one line; `None`: delete it.
    pub document: Option<&'a str>,
    /// The line that goes before the document's.
    action_line: String,
}

impl<'a> Write<'a> {
    /// Not sent yet.
    pub fn new(key: &'a str, version: i64, document: Option<&'a str>) -> Self {
        let name = if document.is_some() { "index" } else { "delete" };
        let id = serde_json::Value::from(key);
        let action_line = format!(r#"{{"{name}":{{"_id":{id},"version":{version},"version_type":"external"}}}}"#);
        Self { key, version, document, action_line }
    }

    fn action(&self) -> Action {
        match self.document {
            Some(_) => Action::Index,
            None => Action::Delete,
        }
    }

    fn bytes(&self) -> usize {
        self.action_line.len() + 1 + self.document.map_or(0, |document| document.len() + 1)
    }
}

/// Whether a write may be sent at all. One with an impossible key or version would have a whole request refused.
///
/// `document` is what would be written; `None`: a delete, or not read yet.
pub fn check(key: &str, version: i64, document: Option<&str>) -> Result<(), Outcome> {
    let permanent = |error_type: &str, text: String| Err(Outcome::Permanent(Reason::new(error_type, text)));
    let key_bytes = key.len();
    if key_bytes == 0 || key_bytes > MAX_KEY_BYTES {
        return permanent("invalid_key", format!("the key has {key_bytes} bytes, and must have 1 to {MAX_KEY_BYTES}"));
    }
    if !(0..VERSION_END).contains(&version) {
        return permanent("invalid_version", format!("the version {version} is not from 0 to below 2^53"));
    }
    if document.is_some_and(|document| !is_one_object(document)) {
        return permanent("invalid_document", "the document is not one JSON object on one line".to_owned());
    }
    if document.is_some_and(is_too_deep) {
        return permanent("invalid_document", format!("the document has more than {MAX_LEVELS} levels"));
    }
    Ok(())
}

/// Anything else would be two lines of a bulk request, or be refused in words that could be about the configuration.
fn is_one_object(document: &str) -> bool {
    document.trim_ascii_start().starts_with('{')
        && !document.contains('\n')
        && serde_json::from_str::<&RawValue>(document).is_ok()
}

/// Whether a document, which is valid JSON, has more levels of objects and lists than any server takes.
fn is_too_deep(document: &str) -> bool {
    // Hardly any has so many brackets, and they are counted by the dozen.
    if memchr2_iter(b'{', b'[', document.as_bytes()).nth(MAX_LEVELS).is_none() {
        return false;
    }
    let (mut level, mut is_in_text, mut bytes) = (0, false, document.bytes());
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => is_in_text = !is_in_text,
            b'\\' => {
                bytes.next();
            }
            b'{' | b'[' if !is_in_text => level += 1,
            b'}' | b']' if !is_in_text => level -= 1,
            _ => {}
        }
        if level > MAX_LEVELS {
            return true;
        }
    }
    false
}

/// Writes to one alias.
#[derive(Debug)]
pub struct Bulk<'a, C> {
    /// Where to.
    pub cluster: &'a C,
    /// It leads to an index of Sluice's.
    pub alias: &'a str,
    /// A request is no larger, unless a single document is.
    pub limit_bytes: usize,
    /// Nothing is sent after it.
    pub deadline: Deadline,
}

impl<C: Cluster> Bulk<'_, C> {
    /// Writes all of them. The outcomes are in the order of the writes.
    ///
    /// A request holds each key once, since answers are matched by it. So the newest write of each key goes first; when
    /// that is done, the older ones are stale without being sent. Only where it can never be written, the next has its
    /// turn.
    pub async fn write(&self, writes: &[Write<'_>]) -> Vec<Outcome> {
        let mut outcomes: Vec<Option<Outcome>> = vec![None; writes.len()];
        let mut waiting = oldest_first_by_key(writes);
        while !waiting.is_empty() {
            let mut round: Vec<usize> = waiting.values_mut().filter_map(Vec::pop).collect();
            round.sort_unstable();
            for request in self.requests(writes, &round) {
                self.send(writes, request, &mut outcomes).await;
            }
            waiting.retain(|_, older| !older.is_empty());
            for newest in round {
                if matches!(outcomes[newest], Some(Outcome::Permanent(_)) | None) {
                    continue;
                }
                for older in waiting.remove(writes[newest].key).unwrap_or_default() {
                    outcomes[older] = match &outcomes[newest] {
                        Some(Outcome::Done(..)) => Some(Outcome::Done(writes[older].action(), Done::Stale)),
                        again => again.clone(),
                    };
                }
            }
        }
        let unanswered = || Outcome::Retry(Reason::new("no_answer", "it was not answered"));
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(unanswered)).collect()
    }

    /// Cuts a round into requests.
    fn requests<'r>(&self, writes: &[Write<'_>], mut round: &'r [usize]) -> Vec<&'r [usize]> {
        let mut requests = Vec::new();
        while !round.is_empty() {
            let mut bytes = 0;
            let fitting = round
                .iter()
                .take_while(|&&index| {
                    bytes += writes[index].bytes();
                    bytes <= self.limit_bytes
                })
                .count();
            let (request, rest) = round.split_at(fitting.max(1));
            requests.push(request);
            round = rest;
        }
        requests
    }

    /// Sends one request, and smaller ones in its place as long as it is refused as a whole.
    async fn send(&self, writes: &[Write<'_>], request: &[usize], outcomes: &mut [Option<Outcome>]) {
        let mut todo = vec![request];
        let mut alone = 0;
        let mut is_any_through = false;
        while let Some(request) = todo.pop() {
            match self.decide(writes, request).await {
                Decision::ByItem(answers) => {
                    is_any_through = true;
                    match_by_key(writes, request, &answers, outcomes);
                }
                Decision::Halve => {
                    let (first, second) = request.split_at(request.len() / 2);
                    todo.extend([second, first]);
                }
                Decision::All(outcome) => {
                    alone += 1;
                    let is_hopeless = matches!(outcome, Outcome::Retry(_) | Outcome::Configuration(_))
                        && !is_any_through
                        && alone >= ALONE_AND_NOTHING_ELSE;
                    let rest = if is_hopeless { std::mem::take(&mut todo) } else { Vec::new() };
                    for &index in rest.into_iter().chain([request]).flatten() {
                        outcomes[index] = Some(outcome.clone());
                    }
                }
            }
        }
    }

    async fn decide(&self, writes: &[Write<'_>], request: &[usize]) -> Decision {
        let lines: Vec<&str> = request
            .iter()
            .flat_map(|&index| [Some(writes[index].action_line.as_str()), writes[index].document])
            .flatten()
            .collect();
        decide_request(self.cluster.bulk(self.alias, &lines, self.deadline).await, request.len())
    }
}

/// The writes of each key, the newest last.
fn oldest_first_by_key<'a>(writes: &[Write<'a>]) -> HashMap<&'a str, Vec<usize>> {
    let mut by_key: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, write) in writes.iter().enumerate() {
        by_key.entry(write.key).or_default().push(index);
    }
    for indexes in by_key.values_mut() {
        indexes.sort_by_key(|&index| writes[index].version);
    }
    by_key
}

/// Gives each write of the request the outcome that its own item tells, wherever in the answer that stands. One without an
/// item, or with two, is retried.
fn match_by_key(writes: &[Write<'_>], request: &[usize], answers: &[ItemAnswer], outcomes: &mut [Option<Outcome>]) {
    let mut by_key: HashMap<&str, Vec<&ItemAnswer>> = HashMap::new();
    for answer in answers {
        by_key.entry(answer.id.as_deref().unwrap_or_default()).or_default().push(answer);
    }
    for &index in request {
        let write = &writes[index];
        outcomes[index] = Some(match by_key.remove(write.key).as_deref() {
            Some([answer]) => decide_item(write.action(), answer),
            Some(_) => Outcome::Retry(Reason::new("malformed_answer", "it was answered more than once")),
            None => Outcome::Retry(Reason::new("malformed_answer", "it was not answered")),
        });
    }
    if !by_key.is_empty() {
        warn!(foreign_items = by_key.len(), "Elasticsearch answered for items that were not sent");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(key: &str, version: i64) -> Write<'_> {
        Write::new(key, version, Some("{}"))
    }

    fn answer(id: &str, status: u16) -> ItemAnswer {
        ItemAnswer { id: Some(id.to_owned()), status, result: None, error: None }
    }

    #[test]
    fn an_action_has_the_key_as_json_and_the_version() {
        assert_eq!(
            write("a\"\\\u{1}é", 5).action_line,
            r#"{"index":{"_id":"a\"\\\u0001é","version":5,"version_type":"external"}}"#
        );
        let delete = Write::new("a", 6, None);
        assert_eq!(delete.action_line, r#"{"delete":{"_id":"a","version":6,"version_type":"external"}}"#);
    }

    #[test]
    fn answers_are_matched_by_key_and_never_by_position() {
        let writes = [write("a", 1), write("b", 1), write("c", 1), write("d", 1)];
        let mut outcomes = vec![None; 4];
        let answers = [answer("d", 500), answer("x", 201), answer("b", 201), answer("c", 201), answer("c", 500)];
        match_by_key(&writes, &[0, 1, 2, 3], &answers, &mut outcomes);
        assert!(matches!(outcomes[0], Some(Outcome::Retry(_))), "a missing item: {outcomes:?}");
        assert_eq!(outcomes[1], Some(Outcome::Done(Action::Index, Done::Written)));
        assert!(matches!(outcomes[2], Some(Outcome::Retry(_))), "a doubled item: {outcomes:?}");
        assert!(matches!(outcomes[3], Some(Outcome::Retry(_))), "a reordered item: {outcomes:?}");
    }

    #[test]
    fn the_newest_write_of_a_key_is_the_last_of_its_list() {
        let writes = [write("a", 2), write("a", 3), write("b", 1), write("a", 1)];
        let by_key = oldest_first_by_key(&writes);
        assert_eq!(by_key["a"], [3, 0, 1]);
        assert_eq!(by_key["b"], [2]);
    }

    #[test]
    fn what_would_spoil_a_request_is_refused_before_it() {
        let refused = |key: &str, version, document| match check(key, version, document) {
            Ok(()) => "sent".to_owned(),
            Err(Outcome::Permanent(reason)) => reason.error_type,
            Err(other) => format!("{other:?}"),
        };
        for (bytes, expected) in
            [(0, "invalid_key"), (1, "sent"), (512, "sent"), (513, "invalid_key"), (5000, "invalid_key")]
        {
            assert_eq!(refused(&"k".repeat(bytes), 1, None), expected, "{bytes} bytes");
        }
        assert_eq!(refused(&"é".repeat(257), 1, None), "invalid_key");
        for (version, expected) in [
            (-5, "invalid_version"),
            (0, "sent"),
            ((1 << 53) - 1, "sent"),
            (1 << 53, "invalid_version"),
            (i64::MAX, "invalid_version"),
        ] {
            assert_eq!(refused("k", version, None), expected, "{version}");
        }
        let deep = |levels: usize| format!("{{\"a\":{}1{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
        let wide = format!("{{\"a\":[{}1],\"b\":\"\\\"{}\"}}", "[{}],".repeat(5000), "[{".repeat(5000));
        let (deepest, deeper, bottomless) = (deep(1000), deep(1001), deep(100_000));
        for document in [r#"{"n": 1.10}"#, "{}", " {\"a\":1} ", r#"{"a":"\ud800"}"#, &wide, &deepest] {
            assert_eq!(refused("k", 1, Some(document)), "sent");
        }
        for document in [&deeper, &bottomless] {
            assert_eq!(refused("k", 1, Some(document)), "invalid_document");
        }
        let brackets = "[".repeat(1 << 20);
        for document in
            ["", "1", "[{}]", "garbage", "{\"a\":1", "{}{}", "{} x", "{\n}", "{\"a\":\u{1}}", brackets.as_str()]
        {
            assert_eq!(refused("k", 1, Some(document)), "invalid_document");
        }
    }
}
