//! What Elasticsearch says of an error, and whose fault that is.

use serde::Deserialize;

use crate::engine::is_of_forbidden_creation;
use crate::outcome::Reason;

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
    // The same before 8.8, and on OpenSearch.
    "mapper_parsing_exception",
    // A field that the mapping does not have.
    "strict_dynamic_mapping_exception",
    // An immense term that Lucene finds, in a text field. Elasticsearch wraps it into an `illegal_argument_exception`.
    "max_bytes_length_exceeded_exception",
];

/// How the sentence of an `illegal_argument_exception` begins that is about the document: no other type tells it apart.
/// Elasticsearch says so when a dynamic object would have to get a mapping that cannot be.
const ABOUT_THE_DOCUMENT_IN_WORDS: [&str; 5] = [
    // "mapper [free.a] cannot be changed from type [long] to [text]": two types for one new field. Before 9, and on OpenSearch.
    "mapper [",
    // The same of a value and an object.
    "can't merge a non object mapping [",
    // "is longer than the limit of [50] characters".
    "Field name [",
    // An immense term of a keyword that is not searched; too many fields under a dynamic object. Both on OpenSearch.
    "DocValuesField ",
    "Limit of total fields [",
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

    pub(crate) fn is_about_the_document(&self) -> bool {
        let is_told_in_words = || {
            let sentence = self.reason.as_deref().unwrap_or_default();
            self.error_type == "illegal_argument_exception"
                && ABOUT_THE_DOCUMENT_IN_WORDS.iter().any(|beginning| sentence.starts_with(beginning))
        };
        self.is_any_of(&ABOUT_THE_DOCUMENT) || is_told_in_words()
    }

    /// There is no index, and it was forbidden to make one by writing.
    pub(crate) fn is_of_no_index(&self) -> bool {
        self.error_type == "index_not_found_exception" || self.reason.as_deref().is_some_and(is_of_forbidden_creation)
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

    /// Of the answer to a whole request: one of its items is at fault.
    pub(crate) fn is_about_an_item(&self) -> bool {
        self.is_any_of(&ABOUT_AN_ITEM_OF_THE_REQUEST) || self.is_about_the_document()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_the_innermost_cause() {
        let body = br#"{"error":{"type":"a","reason":"outer","caused_by":{"type":"b","reason":"middle","caused_by":
            {"type":"c","reason":"innermost"}}},"status":400}"#;
        assert_eq!(Cause::of_body(body).unwrap().to_reason(), Reason::new("a", "outer: innermost"));
        assert_eq!(
            Cause::of_body(br#"{"error":"in words","status":400}"#).unwrap().to_reason(),
            Reason::new("unknown", "in words")
        );
        for foreign in [&b"<html>"[..], b"", b"[]", b"{}", br#"{"error":5}"#] {
            assert_eq!(Cause::of_body(foreign), None);
        }
    }
}
