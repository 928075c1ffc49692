//! What an answer of Elasticsearch means: decided here and nowhere else.
//!
//! Nothing here waits, reads a clock or talks to anybody.

use std::collections::HashMap;

use secrets::SecretError;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::cause::Cause;
use crate::error::ConnectError;
use crate::names;
use crate::outcome::{Action, Done, Outcome, Reason};

/// What came back from Elasticsearch for one request.
#[derive(Debug)]
pub enum Answer {
    /// A success, with its body.
    Success(Vec<u8>),
    /// An error, with what the body says about it, where it says anything.
    Refused {
        /// The status of HTTP.
        status: u16,
        /// From Elasticsearch itself; a proxy in between sends HTML.
        cause: Option<Cause>,
    },
    /// Nothing, or not all of it: the request may have been carried out, or not.
    Lost(Reason),
    /// The request could not be sent as things are configured.
    Misconfigured(Reason),
}

/// What follows from the answer to a bulk request.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Each item has an outcome of its own.
    ByItem(Vec<ItemAnswer>),
    /// Too large, or one of them spoils it: send it again in halves.
    Halve,
    /// The same for all of them.
    All(Outcome),
}

/// One entry of `items` in the answer to a bulk request.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct ItemAnswer {
    /// The key that was sent.
    #[serde(rename = "_id")]
    pub id: Option<String>,
    /// As HTTP counts.
    pub status: u16,
    /// `created`, `updated`, `deleted`, `not_found`.
    pub result: Option<String>,
    /// Where it failed.
    pub error: Option<Cause>,
}

/// What follows from the answer to a bulk request of so many `items`.
pub fn decide_request(answer: Answer, items: usize) -> Decision {
    let (status, cause) = match answer {
        Answer::Success(body) => return decide_success(&body),
        Answer::Lost(reason) => return Decision::All(Outcome::Retry(reason.general())),
        Answer::Misconfigured(reason) => return Decision::All(Outcome::Configuration(reason.general())),
        Answer::Refused { status, cause } => (status, cause),
    };
    let reason = match &cause {
        Some(cause) => cause.to_reason(),
        None => Reason::new(format!("status_{status}"), "the answer does not say why"),
    };
    let is_about_an_item = cause.is_some_and(|cause| cause.is_about_an_item());
    match status {
        400 | 413 if items > 1 => Decision::Halve,
        400 if is_about_an_item => Decision::All(Outcome::Permanent(reason)),
        413 => Decision::All(Outcome::Permanent(Reason::new("document_too_large", reason.text))),
        400 | 404 => Decision::All(Outcome::Configuration(reason)),
        401 | 403 => Decision::All(Outcome::Configuration(reason.general())),
        // 429, 5xx, and whatever nobody thought of.
        _ => Decision::All(Outcome::Retry(reason.general())),
    }
}

fn decide_success(body: &[u8]) -> Decision {
    #[derive(Deserialize)]
    struct Body {
        items: Vec<Item>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Item {
        Index(ItemAnswer),
        Delete(ItemAnswer),
    }
    let Ok(body) = serde_json::from_slice::<Body>(body) else {
        let reason = Reason::new("malformed_answer", "the answer is not that of a bulk request");
        return Decision::All(Outcome::Retry(reason));
    };
    let answers = body.items.into_iter().map(|item| match item {
        Item::Index(answer) | Item::Delete(answer) => answer,
    });
    Decision::ByItem(answers.collect())
}

/// What becomes of the change that this item answers.
pub fn decide_item(action: Action, answer: &ItemAnswer) -> Outcome {
    let Some(error) = &answer.error else {
        return match (answer.status, action, answer.result.as_deref()) {
            (200 | 201, _, _) => Outcome::Done(action, Done::Written),
            (404, Action::Delete, Some("not_found")) => Outcome::Done(action, Done::Gone),
            (status, _, _) => Outcome::Retry(Reason::new(format!("status_{status}"), "the item does not say why")),
        };
    };
    let reason = error.to_reason();
    match answer.status {
        409 if error.error_type == "version_conflict_engine_exception" => Outcome::Done(action, Done::Stale),
        400 if error.is_about_the_document() => Outcome::Permanent(reason),
        400 | 404 if error.is_of_no_index() => Outcome::NoIndex(reason),
        400 | 401 | 403 => Outcome::Configuration(reason),
        // 429, 5xx, and whatever nobody thought of.
        _ => Outcome::Retry(reason),
    }
}

/// What an answer to the question means which indexes bear the write alias of this generation: that it is Sluice's own, or what
/// becomes of changes that were to be written to it.
pub fn decide_alias(alias: &str, generation: i32, answer: Answer) -> Result<(), Outcome> {
    let malformed = || Outcome::Retry(Reason::new("malformed_answer", "the answer is not that of Elasticsearch"));
    let body = match answer {
        Answer::Success(body) => body,
        Answer::Refused { status: 404, .. } => {
            return Err(Outcome::NoIndex(Reason::new("no_index", format!("there is no alias {alias}.g{generation}"))));
        }
        refusal @ (Answer::Refused { .. } | Answer::Lost(_) | Answer::Misconfigured(_)) => {
            return Err(match decide_request(refusal, 1) {
                // Nothing was sent that could be at fault.
                Decision::All(Outcome::Permanent(reason)) => Outcome::Configuration(reason),
                Decision::All(outcome) => outcome,
                Decision::ByItem(_) | Decision::Halve => malformed(),
            });
        }
    };
    let indexes = serde_json::from_slice::<HashMap<String, IgnoredAny>>(&body).map_err(|_| malformed())?;
    if indexes.keys().all(|index| names::is_index_of(alias, generation, index)) {
        return Ok(());
    }
    Err(Outcome::Configuration(Reason::new(
        "foreign_alias",
        format!(
            "the alias {alias}.g{generation} is on an index that Sluice did not make; rename it, or set INDEX_PREFIX"
        ),
    )))
}

/// What it means that nothing could be sent.
pub fn decide_connection(error: &ConnectError) -> Answer {
    let reason = Reason::new("no_connection", error.to_string());
    match error {
        ConnectError::Secret(SecretError::Unreadable { .. } | SecretError::Iam { .. })
        | ConnectError::Unreachable { .. } => Answer::Lost(reason),
        ConnectError::Secret(SecretError::Malformed { .. })
        | ConnectError::Credentials { .. }
        | ConnectError::Authority(_)
        | ConnectError::Certificate { .. }
        | ConnectError::Refused { .. }
        | ConnectError::Unexpected { .. } => Answer::Misconfigured(reason),
    }
}

#[cfg(test)]
#[allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    reason = "the indexer's test against Elasticsearch reads the rest"
)]
#[path = "../tests/main/table.rs"]
mod table;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bulk::check;

    fn cause(error_type: &str) -> Cause {
        Cause { error_type: error_type.to_owned(), reason: None, caused_by: None }
    }

    fn item(status: u16, result: Option<&str>, error: Option<Cause>) -> ItemAnswer {
        ItemAnswer { id: Some("a".to_owned()), status, result: result.map(str::to_owned), error }
    }

    /// An outcome without its reason, to compare.
    fn kind(outcome: &Outcome) -> &'static str {
        match outcome {
            Outcome::Done(_, Done::Written) => "written",
            Outcome::Done(_, Done::Stale) => "stale",
            Outcome::Done(_, Done::Gone) => "gone",
            Outcome::Done(_, Done::PassedOver) => "passed over",
            Outcome::Done(_, Done::Later) => "later",
            Outcome::Retry(_) => "retry",
            Outcome::Unread(_) => "unread",
            Outcome::Configuration(_) => "configuration",
            Outcome::NoIndex(_) => "no index",
            Outcome::NoStream => "no stream",
            Outcome::Permanent(_) => "dead letter",
        }
    }

    #[test]
    fn each_recorded_answer_leads_to_the_recorded_decision() {
        for row in super::table::rows() {
            if let Some(error_type) = &row.outcome.not_sent {
                let (key, version) = (row.key.as_deref().unwrap_or("k"), row.version.unwrap_or(1));
                let refused = check(key, version, row.document.as_deref()).unwrap_err();
                assert!(matches!(&refused, Outcome::Permanent(reason) if reason.error_type == *error_type), "{row:?}");
            }
            let outcome = if row.answer.is_of_item {
                let action = if row.document.is_some() { Action::Index } else { Action::Delete };
                decide_item(action, &serde_json::from_value(row.answer.to_item("a")).unwrap())
            } else {
                let refused = || {
                    let cause = Cause::of_body(row.answer.to_body().as_bytes());
                    Answer::Refused { status: row.answer.status, cause }
                };
                if [400, 413].contains(&row.answer.status) {
                    assert_eq!(decide_request(refused(), 2), Decision::Halve, "{row:?}");
                }
                match decide_request(refused(), 1) {
                    Decision::All(outcome) => outcome,
                    other @ (Decision::ByItem(_) | Decision::Halve) => panic!("{other:?} for {row:?}"),
                }
            };
            assert_eq!(kind(&outcome), row.outcome.decision, "{row:?}");
            if let (Outcome::Permanent(reason), Some(error_type)) = (&outcome, &row.outcome.error_type) {
                assert_eq!(reason.error_type, *error_type, "{row:?}");
            }
        }
    }

    #[test]
    fn an_answer_that_is_none_is_retried() {
        let all = |decision: &Decision| match decision {
            Decision::ByItem(_) => "by item",
            Decision::Halve => "halve",
            Decision::All(outcome) => kind(outcome),
        };
        let reason = || Reason::new("a", "b");
        assert_eq!(all(&decide_request(Answer::Lost(reason()), 2)), "retry");
        assert_eq!(all(&decide_request(Answer::Misconfigured(reason()), 2)), "configuration");
        for malformed in
            ["", "<html>", "{}", r#"{"items":{}}"#, r#"{"items":[{"index":{"_id":"a"}}]}"#, r#"{"items":[{"x":{}}]}"#]
        {
            assert_eq!(all(&decide_request(Answer::Success(malformed.into()), 2)), "retry", "{malformed}");
        }
    }

    #[test]
    fn the_items_of_an_answer_are_read_with_their_errors() {
        let body = r#"{"errors":true,"items":[{"index":{"_index":"i","_id":"a","status":201,"result":"created"}},
            {"delete":{"_id":null,"status":409,"error":{"type":"t","reason":null,"shard":"0"}}}]}"#;
        let error = cause("t");
        assert_eq!(
            decide_request(Answer::Success(body.into()), 2),
            Decision::ByItem(vec![
                item(201, Some("created"), None),
                ItemAnswer { id: None, ..item(409, None, Some(error)) },
            ])
        );
    }

    #[test]
    fn what_hits_everybody_is_told_from_what_hits_one() {
        let is_general = |decision: Decision| {
            let Decision::All(Outcome::Retry(reason) | Outcome::Configuration(reason)) = decision else {
                panic!("{decision:?}")
            };
            reason.is_general
        };
        let refused = |status| decide_request(Answer::Refused { status, cause: None }, 1);
        for status in [401, 403, 429, 500, 502, 503, 504] {
            assert!(is_general(refused(status)), "{status}");
        }
        for status in [400, 404] {
            assert!(!is_general(refused(status)), "{status}");
        }
        assert!(is_general(decide_request(Answer::Lost(Reason::new("a", "b")), 1)));
        assert!(is_general(decide_request(Answer::Misconfigured(Reason::new("a", "b")), 1)));
        let Outcome::Retry(busy) = decide_item(Action::Index, &item(429, None, Some(cause("busy")))) else { panic!() };
        assert!(!busy.is_general);
    }
}
