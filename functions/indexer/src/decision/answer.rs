//! What an answer of Elasticsearch means.

use serde::Deserialize;

use super::{Action, Done, Outcome, Reason};

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

/// An error as Elasticsearch tells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Cause {
    /// `error.type`.
    #[serde(rename = "type")]
    pub error_type: String,
    /// In words.
    pub reason: Option<String>,
    /// The error below it.
    pub caused_by: Option<Box<Cause>>,
}

/// Each `error.type` that is about the document itself, whatever the state of the cluster. `tests/refusals.md` has what
/// Elasticsearch says of which fault, and the tests hold both against it.
///
/// What is not in this list with a status of 400 is about the configuration: `index_closed_exception`,
/// `routing_missing_exception`, and above all `illegal_argument_exception`, which is said of a missing pipeline and of an
/// alias without a write index.
const ABOUT_THE_DOCUMENT: [&str; 4] = [
    // A value that its field does not take, malformed JSON, a metadata field in the document, too deep, too many nested
    // objects, too many fields under a dynamic object, an immense term in a keyword.
    "document_parsing_exception",
    // The same before 8.8.
    "mapper_parsing_exception",
    // A field that the mapping does not have.
    "strict_dynamic_mapping_exception",
    // An immense term that Lucene finds, in a text field. Elasticsearch wraps it into an `illegal_argument_exception`.
    "max_bytes_length_exceeded_exception",
];

/// How the sentence of an `illegal_argument_exception` begins that is about the document: no other type tells it apart.
/// Elasticsearch says so when a dynamic object would have to get a mapping that cannot be.
const ABOUT_THE_DOCUMENT_IN_WORDS: [&str; 3] = [
    // "mapper [free.a] cannot be changed from type [long] to [text]": two types for one new field. Before 9.
    "mapper [",
    // The same of a value and an object.
    "can't merge a non object mapping [",
    // "is longer than the limit of [50] characters".
    "Field name [",
];

/// Each `error.type` of a whole request's 400 that is about one of its items.
const ABOUT_AN_ITEM_OF_THE_REQUEST: [&str; 3] = [
    // An id of more than 512 bytes or none, a version out of range.
    "action_request_validation_exception",
    // An action that is no JSON to Elasticsearch.
    "x_content_parse_exception",
    "x_content_e_o_f_exception",
];

impl Cause {
    /// From the body of a refusal. `None`: it is not from Elasticsearch.
    pub fn of_body(body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Error {
            InWords(String),
            Whole(Cause),
        }
        #[derive(Deserialize)]
        struct Body {
            error: Error,
        }
        match serde_json::from_slice::<Body>(body).ok()?.error {
            Error::Whole(cause) => Some(cause),
            Error::InWords(reason) => {
                Some(Self { error_type: "unknown".to_owned(), reason: Some(reason), caused_by: None })
            }
        }
    }

    fn chain(&self) -> impl Iterator<Item = &Cause> {
        std::iter::successors(Some(self), |cause| cause.caused_by.as_deref())
    }

    fn is_any_of(&self, error_types: &[&str]) -> bool {
        self.chain().any(|cause| error_types.contains(&cause.error_type.as_str()))
    }

    fn is_about_the_document(&self) -> bool {
        let is_told_in_words = || {
            let sentence = self.reason.as_deref().unwrap_or_default();
            self.error_type == "illegal_argument_exception"
                && ABOUT_THE_DOCUMENT_IN_WORDS.iter().any(|beginning| sentence.starts_with(beginning))
        };
        self.is_any_of(&ABOUT_THE_DOCUMENT) || is_told_in_words()
    }

    /// The outermost type, with the outermost and the innermost sentence.
    pub(crate) fn to_reason(&self) -> Reason {
        let outer = self.reason.clone().unwrap_or_default();
        let innermost = self.chain().skip(1).filter_map(|cause| cause.reason.as_deref()).last();
        let text = match innermost {
            Some(inner) if !outer.contains(inner) => format!("{outer}: {inner}"),
            Some(_) | None => outer,
        };
        Reason::new(&self.error_type, text)
    }
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
    let is_about_an_item =
        cause.is_some_and(|cause| cause.is_any_of(&ABOUT_AN_ITEM_OF_THE_REQUEST) || cause.is_about_the_document());
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
        404 if error.error_type == "index_not_found_exception" => Outcome::NoIndex(reason),
        400 | 401 | 403 => Outcome::Configuration(reason),
        // 429, 5xx, and whatever nobody thought of.
        _ => Outcome::Retry(reason),
    }
}
