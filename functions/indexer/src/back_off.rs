//! When a message that failed is received again.

use std::time::Duration;

use aws_sdk_sqs::{Client, error::DisplayErrorContext, types::ChangeMessageVisibilityBatchRequestEntry};
use tokio::time::timeout_at;
use tracing::warn;

use crate::{batch::Received, deadline::Deadline};

/// SQS's limit for one request.
const BATCH_MESSAGES: usize = 10;
/// While the target is away the trigger keeps the queue short, so that a minute costs little and loses little.
const LONGEST: Duration = Duration::from_secs(60);

/// The queue that the batch came from.
#[derive(Debug)]
pub(crate) struct BackOff {
    client: Client,
    queue_url: String,
}

impl BackOff {
    pub(crate) fn new(client: Client, queue_url: String) -> Self {
        Self { client, queue_url }
    }

    /// Lets each of these messages be received after a while of its own. Where SQS does not answer they stay invisible for
    /// the queue's visibility timeout, and nothing else follows from it.
    pub(crate) async fn apply(&self, messages: &[&Received<'_>], deadline: Deadline) {
        for batch in messages.chunks(BATCH_MESSAGES) {
            let entries: Vec<_> = batch
                .iter()
                .enumerate()
                .filter_map(|(index, received)| {
                    let seconds = delay(received.receive_count, fastrand::f64()).as_secs_f64().round() as i32;
                    ChangeMessageVisibilityBatchRequestEntry::builder()
                        .id(index.to_string())
                        .receipt_handle(received.receipt_handle?)
                        .visibility_timeout(seconds)
                        .build()
                        .ok()
                })
                .collect();
            if entries.is_empty() {
                continue;
            }
            let request = self.client.change_message_visibility_batch().queue_url(&self.queue_url);
            match timeout_at(deadline.instant(), request.set_entries(Some(entries)).send()).await {
                Ok(Ok(answer)) => {
                    for failed in answer.failed() {
                        warn!(code = failed.code(), error = failed.message(), "a message did not take its delay");
                    }
                }
                Ok(Err(error)) => warn!(error = %DisplayErrorContext(&error), "messages did not take their delay"),
                Err(_) => warn!(messages = batch.len(), "there was no time left to delay messages"),
            }
        }
    }
}

/// Exponential back-off with full jitter, from a second up: a random part of what doubles with each receipt.
///
/// The algorithm is "full jitter" of Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
fn delay(receive_count: u32, random: f64) -> Duration {
    let longest = Duration::from_secs(1 << receive_count.saturating_sub(1).min(6)).min(LONGEST);
    longest.mul_f64(random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_up_to_a_minute_and_is_a_random_part_of_it() {
        let longest: Vec<u64> = [0, 1, 2, 3, 6, 7, 8, 1000].map(|count| delay(count, 1.0).as_secs()).into();
        assert_eq!(longest, [1, 1, 2, 4, 32, 60, 60, 60]);
        assert_eq!(delay(7, 0.5), Duration::from_secs(30));
        assert_eq!(delay(7, 0.0), Duration::ZERO);
    }
}
