//! What an answer of Kafka means.
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "the client's errors and Kafka's codes are many, and may become more"
)]

use krafka::KrafkaError;
use krafka::error::ErrorCode;

use crate::client::{Error, Reason};

/// What an error says against a message or its topic; `None`: it is about neither, and passes, or Kafka's operator ends it.
pub(crate) fn reason(error: &KrafkaError, topic: &str) -> Option<Reason> {
    Some(match code(error)? {
        ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge => Reason::TooLarge,
        ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId => {
            Reason::Topic(format!("there is no topic {topic}: run migrate, which makes it"))
        }
        ErrorCode::TopicAuthorizationFailed => Reason::Topic(format!(
            "the topic {topic} may not be written to: allow the user of KAFKA_SECRET_ARN to describe and to write it"
        )),
        code @ (ErrorCode::InvalidRecord | ErrorCode::InvalidTopic | ErrorCode::PolicyViolation) => {
            Reason::Topic(format!("the topic {topic} takes no such messages ({code:?}): look at its settings"))
        }
        _ => return None,
    })
}

/// For `map_err`: what was being done.
pub(crate) fn failed(doing: &'static str) -> impl Fn(KrafkaError) -> Error {
    move |error| match (&error, code(&error)) {
        (KrafkaError::Fenced { .. }, _) | (_, Some(ErrorCode::ProducerFenced | ErrorCode::InvalidProducerEpoch)) => {
            Error::Fenced(error.into())
        }
        _ => Error::Failed { doing, source: error.into() },
    }
}

/// Kafka's word. Within a transaction the client has it at the end of a text alone.
fn code(error: &KrafkaError) -> Option<ErrorCode> {
    match error {
        KrafkaError::Broker { code, .. } => Some(*code),
        KrafkaError::UnknownTopic { .. } => Some(ErrorCode::UnknownTopicOrPartition),
        KrafkaError::TransactionAbortable { message } => {
            let word = message.rsplit_once("failed with ")?.1;
            OF_A_BATCH.into_iter().find(|code| format!("{code:?}") == word)
        }
        _ => None,
    }
}

/// Those that a batch may be answered with, and that are told apart here.
const OF_A_BATCH: [ErrorCode; 7] = [
    ErrorCode::MessageTooLarge,
    ErrorCode::RecordListTooLarge,
    ErrorCode::TopicAuthorizationFailed,
    ErrorCode::InvalidRecord,
    ErrorCode::PolicyViolation,
    ErrorCode::InvalidProducerEpoch,
    ErrorCode::ProducerFenced,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn abortable(code: ErrorCode) -> KrafkaError {
        KrafkaError::transaction_abortable(format!("produce to books-0 failed with {code:?}"))
    }

    #[test]
    fn a_message_or_a_topic_is_blamed_for_what_is_its_own_fault_alone() {
        for error in [KrafkaError::broker(ErrorCode::MessageTooLarge, ""), abortable(ErrorCode::MessageTooLarge)] {
            assert_eq!(reason(&error, "books"), Some(Reason::TooLarge), "{error}");
        }
        for error in [
            KrafkaError::broker(ErrorCode::UnknownTopicOrPartition, ""),
            KrafkaError::broker(ErrorCode::TopicAuthorizationFailed, ""),
            abortable(ErrorCode::TopicAuthorizationFailed),
            abortable(ErrorCode::InvalidRecord),
        ] {
            assert!(matches!(reason(&error, "books"), Some(Reason::Topic(told)) if told.contains("books")), "{error}");
        }
        for error in [
            KrafkaError::timeout("commit"),
            KrafkaError::auth("no"),
            KrafkaError::delivery_timeout(true, "last error: MessageTooLarge"),
            KrafkaError::broker(ErrorCode::NotEnoughReplicas, ""),
            KrafkaError::broker(ErrorCode::ClusterAuthorizationFailed, ""),
            KrafkaError::transaction_abortable(
                "cannot send: a send failed (produce to a-1 failed with MessageTooLarge); abort",
            ),
            abortable(ErrorCode::InvalidProducerEpoch),
        ] {
            assert_eq!(reason(&error, "books"), None, "{error}");
        }
    }

    #[test]
    fn one_that_was_overtaken_is_told_so() {
        for error in [
            KrafkaError::fenced(""),
            KrafkaError::broker(ErrorCode::ProducerFenced, ""),
            abortable(ErrorCode::InvalidProducerEpoch),
        ] {
            assert!(matches!(failed("committing")(error.clone()), Error::Fenced(_)), "{error}");
        }
        assert!(matches!(failed("committing")(KrafkaError::timeout("commit")), Error::Failed { .. }));
    }
}
