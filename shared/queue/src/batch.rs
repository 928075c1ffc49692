use std::collections::BTreeSet;

use tokio::time::{Instant, timeout_at};
use tracing::warn;

use crate::{Message, Queue};

/// Messages of one request, at most.
pub const BATCH_MESSAGES: usize = 10;
/// Bytes of all of them together, at most: SQS takes 1 MiB.
pub const BATCH_BYTES: usize = 1024 * 1024;

/// Sends them all, each batch once, and tells by position which ones SQS has confirmed. What it did not take, or what
/// there was no time for, is the caller's to keep.
pub async fn send_all<Q: Queue>(queue: &Q, messages: &[Message], deadline: Instant) -> BTreeSet<usize> {
    let mut sent = BTreeSet::new();
    let mut first = 0;
    while first < messages.len() {
        let batch = &messages[first..first + fitting(&messages[first..])];
        match timeout_at(deadline, queue.send(batch)).await {
            Ok(Ok(taken)) => {
                if let Some(code) = &taken.refusal {
                    warn!(code, messages = batch.len(), taken = taken.positions.len(), "SQS took a batch in part");
                }
                let confirmed = taken.positions.iter().filter(|&&position| position < batch.len());
                sent.extend(confirmed.map(|position| first + position));
            }
            Ok(Err(error)) => warn!(%error, messages = batch.len(), "SQS did not take a batch"),
            Err(_) => warn!(messages = batch.len(), "there was no time left to send a batch"),
        }
        first += batch.len();
    }
    sent
}

/// How many of the first messages one request takes; one at least, so that SQS itself refuses what is too large.
fn fitting(messages: &[Message]) -> usize {
    let mut bytes = 0;
    let fitting = messages.iter().take(BATCH_MESSAGES).take_while(|message| {
        bytes += message.bytes();
        bytes <= BATCH_BYTES
    });
    fitting.count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_ten_messages_and_a_limited_size() {
        let message = |bytes: usize| Message::new("x".repeat(bytes));
        let small: Vec<Message> = (0..25).map(|_| message(10)).collect();
        assert_eq!(fitting(&small), 10);
        assert_eq!(fitting(&small[20..]), 5);
        let large = [message(100), message(BATCH_BYTES), message(BATCH_BYTES + 1), message(100), message(100)];
        assert_eq!([0, 1, 2, 3].map(|first| fitting(&large[first..])), [1, 1, 1, 2]);
    }

    #[test]
    fn attributes_count_against_the_size() {
        let message = Message { attributes: vec![("name", "value".to_owned())], ..Message::new("body") };
        assert_eq!(message.bytes(), 4 + 4 + 6 + 5);
    }
}
