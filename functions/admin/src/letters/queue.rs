//! The dead-letter queue, as far as SQS lets one look into it.
//!
//! SQS gives no message by its id and no list: whoever looks receives, and so hides what is received from all others for
//! a while. A [`Pass`](crate::letters::pass::Pass) goes through the whole queue once, and in the end releases what was not taken.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, MessageSystemAttributeName, QueueAttributeName};
use message::{Message, Op};
use queue::{BATCH_MESSAGES, Error, Queue as _, Sqs};
use tokio::task::JoinSet;

use crate::letters::listed::{DeadLetter, SHOWN_CHARS, SHOWN_NAME_CHARS, Target, beginning, document};

/// Of a message that cannot be read, which may be anything.
const SHOWN_BYTES: usize = 16 << 10;
/// Requests that release letters, side by side.
const RELEASES: usize = 16;

/// The queue.
#[derive(Clone)]
pub struct Letters {
    sqs: Client,
    url: String,
}

/// How many letters there are; approximate, as SQS says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Depth {
    pub visible: i64,
    /// In somebody's hands.
    pub hidden: i64,
}

impl Depth {
    pub fn all(self) -> i64 {
        self.visible + self.hidden
    }
}

/// One letter, received.
#[derive(Clone, Debug)]
pub struct Letter {
    pub message_id: String,
    pub receipt: String,
    pub body: String,
    /// When it was put into the queue, in milliseconds since 1970.
    pub sent_ms: i64,
    /// What it is about. `None`: it cannot be read, or is a whole message that SQS itself moved here.
    pub facts: Option<Facts>,
    attributes: HashMap<String, String>,
}

/// The one change of a letter that could be read.
#[derive(Clone, Debug)]
pub struct Facts {
    pub stream: String,
    pub key: String,
    pub version: i64,
    pub change_id: i64,
    pub op: Op,
    pub document: Option<String>,
}

impl Letter {
    /// An attribute that the indexer gave it.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }

    /// Its stream, if it can be read.
    pub fn stream(&self) -> Option<&str> {
        self.facts.as_ref().map(|facts| facts.stream.as_str())
    }

    /// Its key, if it can be read.
    pub fn key(&self) -> Option<&str> {
        self.facts.as_ref().map(|facts| facts.key.as_str())
    }

    /// Whether it is of this stream and has this word for its reason, where they are asked for.
    pub fn matches(&self, stream: Option<&str>, error_type: Option<&str>) -> bool {
        (stream.is_none() || self.stream() == stream)
            && (error_type.is_none() || self.attribute("error_type") == error_type)
    }

    /// Whether it has this message id or change id.
    pub fn is_called(&self, id: &str) -> bool {
        self.message_id == id
            || id.parse().is_ok_and(|id: i64| self.facts.as_ref().is_some_and(|facts| facts.change_id == id))
    }

    /// As it is listed. A document of more than `room` bytes is left out.
    pub fn listed(&self, room: usize) -> DeadLetter {
        let facts = self.facts.as_ref();
        let attribute = |name| self.attribute(name).map(|text| beginning(text, SHOWN_CHARS));
        let travelled = facts.and_then(|facts| facts.document.as_deref());
        let body = facts.is_none().then(|| cut(&self.body, room.min(SHOWN_BYTES)));
        DeadLetter {
            message_id: self.message_id.clone(),
            target: Target::Elasticsearch.name().to_owned(),
            version: facts.map(|facts| facts.version),
            change_id: facts.map(|facts| facts.change_id),
            op: facts.map(|facts| facts.op),
            error_type: self
                .attribute("error_type")
                .map_or_else(|| "killed_the_function".to_owned(), |word| beginning(word, SHOWN_NAME_CHARS)),
            reason: Some(attribute("reason").unwrap_or_else(|| {
                "SQS moved it here: it was received as often as the queue allows and never answered for".to_owned()
            })),
            first_seen: attribute("first_seen").filter(|it| it != "-"),
            failed_at: attribute("failed_at").filter(|it| it != "-"),
            attempts: self.attribute("attempts").and_then(|attempts| attempts.parse().ok()),
            document_bytes: travelled.map(str::len),
            document: travelled.filter(|text| text.len() <= room).and_then(document),
            body,
            stream: self.stream().map(|stream| beginning(stream, SHOWN_NAME_CHARS)),
            key: self.key().map(|key| beginning(key, SHOWN_CHARS)),
        }
    }
}

fn cut(text: &str, bytes: usize) -> String {
    text[..text.floor_char_boundary(bytes)].to_owned()
}

impl Facts {
    fn of(body: &str) -> Option<Self> {
        let message = Message::parse(body).ok()?;
        let [entry] = message.entries.as_slice() else { return None };
        Some(Self {
            stream: message.stream.to_string(),
            key: entry.change.key.to_string(),
            version: entry.change.version,
            change_id: entry.change.id,
            op: entry.change.op,
            document: entry.document.map(str::to_owned),
        })
    }
}

impl Letters {
    pub fn new(sqs: Client, url: &str) -> Self {
        Self { sqs, url: url.to_owned() }
    }

    pub async fn depth(&self) -> Result<Depth, Error> {
        let request = self
            .sqs
            .get_queue_attributes()
            .queue_url(&self.url)
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessages)
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessagesNotVisible);
        let answer = request.send().await.map_err(|error| Error::of("GetQueueAttributes", &error))?;
        let counts = answer.attributes.unwrap_or_default();
        let count = |name| counts.get(&name).and_then(|count| count.parse().ok()).unwrap_or(0);
        Ok(Depth {
            visible: count(QueueAttributeName::ApproximateNumberOfMessages),
            hidden: count(QueueAttributeName::ApproximateNumberOfMessagesNotVisible),
        })
    }

    /// Some of the letters that can be seen, up to ten.
    pub async fn receive(&self, hidden_for: Duration, wait_seconds: i32) -> Result<Vec<Letter>, Error> {
        let request = self
            .sqs
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(10)
            .message_attribute_names("All")
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
            .visibility_timeout(i32::try_from(hidden_for.as_secs()).unwrap_or(i32::MAX))
            .wait_time_seconds(wait_seconds);
        let answer = request.send().await.map_err(|error| Error::of("ReceiveMessage", &error))?;
        Ok(answer.messages.unwrap_or_default().into_iter().filter_map(letter).collect())
    }

    /// Takes these out of the queue; how many SQS has confirmed.
    pub async fn delete(&self, receipts: &[&str]) -> Result<usize, Error> {
        let mut deleted = 0;
        for batch in receipts.chunks(BATCH_MESSAGES) {
            let entries = batch.iter().enumerate().filter_map(|(id, receipt)| {
                DeleteMessageBatchRequestEntry::builder().id(id.to_string()).receipt_handle(*receipt).build().ok()
            });
            let request = self.sqs.delete_message_batch().queue_url(&self.url).set_entries(Some(entries.collect()));
            let answer = request.send().await.map_err(|error| Error::of("DeleteMessageBatch", &error))?;
            deleted += answer.successful.len();
        }
        Ok(deleted)
    }

    /// Lets others see these again at once.
    pub async fn release(&self, receipts: &[String]) -> Result<(), Error> {
        let mut releases = JoinSet::new();
        for part in receipts.chunks(receipts.len().div_ceil(RELEASES).max(BATCH_MESSAGES)) {
            let (queue, part) = (Sqs::new(self.sqs.clone(), self.url.as_str()), part.to_vec());
            releases.spawn(async move {
                for batch in part.chunks(BATCH_MESSAGES) {
                    let at_once: Vec<(&str, Duration)> =
                        batch.iter().map(|receipt| (receipt.as_str(), Duration::ZERO)).collect();
                    queue.delay(&at_once).await?;
                }
                Ok(())
            });
        }
        releases.join_all().await.into_iter().collect()
    }
}

fn letter(message: aws_sdk_sqs::types::Message) -> Option<Letter> {
    let sent = message.attributes.as_ref().and_then(|found| found.get(&MessageSystemAttributeName::SentTimestamp));
    let body = message.body.unwrap_or_default();
    Some(Letter {
        facts: Facts::of(&body),
        sent_ms: sent.and_then(|ms| ms.parse().ok()).unwrap_or(0),
        message_id: message.message_id?,
        receipt: message.receipt_handle?,
        body,
        attributes: message
            .message_attributes
            .unwrap_or_default()
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.string_value?)))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(body: &str) -> Letter {
        let attributes =
            [("error_type", "strict"), ("reason", "no such field"), ("attempts", "3"), ("first_seen", "-")];
        Letter {
            message_id: "m-1".to_owned(),
            receipt: "r".to_owned(),
            body: body.to_owned(),
            sent_ms: 1,
            facts: Facts::of(body),
            attributes: attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        }
    }

    const BODY: &str = "{\"v\":1,\"stream\":\"users\",\"changes\":1}\n\
                        {\"id\":7,\"key\":\"42\",\"version\":5,\"op\":\"upsert\",\"at\":1}\n{\"n\": 1.10}\n";

    #[test]
    fn a_letter_is_found_by_its_message_id_and_by_its_change() {
        let letter = letter(BODY);
        assert!(letter.is_called("m-1") && letter.is_called("7"));
        assert!(!letter.is_called("42") && !letter.is_called("") && !letter.is_called("m"));
    }

    #[test]
    fn a_letter_is_listed_with_its_document_digit_by_digit_unless_it_is_too_long() {
        let listed = letter(BODY).listed(100);
        assert_eq!(
            (listed.stream.as_deref(), listed.key.as_deref(), listed.version),
            (Some("users"), Some("42"), Some(5))
        );
        assert_eq!(listed.document.as_ref().map(|document| document.get()), Some("{\"n\": 1.10}"));
        assert_eq!((listed.attempts, listed.first_seen, listed.body), (Some(3), None, None));
        let cut = letter(BODY).listed(5);
        assert_eq!((cut.document.is_none(), cut.document_bytes), (true, Some(11)));
    }

    #[test]
    fn what_cannot_be_read_is_listed_as_it_came() {
        let listed = letter("gar\u{e4}bage").listed(4);
        assert_eq!((listed.stream, listed.body.as_deref()), (None, Some("gar")));
    }
}
