//! When a message that failed is received again.

use std::time::Duration;

use queue::{BATCH_MESSAGES, Queue};
use search::Deadline;
use tokio::time::timeout_at;
use tracing::warn;

/// While Elasticsearch or PostgreSQL is away the trigger keeps the queue short, so that a minute costs little, and all
/// goes on soon after.
const LONGEST_IF_AWAY: Duration = Duration::from_secs(60);
/// What failed while the rest goes on must not take the rest's place.
const LONGEST_IF_ALONE: Duration = Duration::from_secs(15 * 60);

/// Exponential back-off with full jitter, from a second up: a random part of what doubles with each attempt.
///
/// The algorithm is "full jitter" of Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
/// `random` is from 0 to 1.
pub fn delay(attempts: u32, is_general: bool, random: f64) -> Duration {
    let longest = if is_general { LONGEST_IF_AWAY } else { LONGEST_IF_ALONE };
    Duration::from_secs(1 << attempts.saturating_sub(1).min(10)).min(longest).mul_f64(random)
}

/// Lets each of these messages be received after a while of its own. Where SQS does not answer they stay invisible for
/// the queue's visibility timeout, and nothing else follows from it.
pub(crate) async fn apply(queue: &impl Queue, receipts: &[(&str, Duration)], deadline: Deadline) {
    for batch in receipts.chunks(BATCH_MESSAGES) {
        match timeout_at(deadline.instant(), queue.delay(batch)).await {
            Ok(Ok(taken)) => {
                if let Some(code) = taken.refusal {
                    warn!(code, "a message did not take its delay");
                }
            }
            Ok(Err(error)) => warn!(%error, "messages did not take their delay"),
            Err(_) => warn!(messages = batch.len(), "there was no time left to delay messages"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn longest(is_general: bool) -> Vec<u64> {
        [0, 1, 2, 3, 6, 7, 10, 11, 1000].map(|attempts| delay(attempts, is_general, 1.0).as_secs()).into()
    }

    #[test]
    fn the_delay_doubles_up_to_a_minute_while_all_is_away() {
        assert_eq!(longest(true), [1, 1, 2, 4, 32, 60, 60, 60, 60]);
    }

    #[test]
    fn the_delay_doubles_up_to_a_quarter_of_an_hour_for_what_failed_alone() {
        assert_eq!(longest(false), [1, 1, 2, 4, 32, 64, 512, 900, 900]);
    }

    #[test]
    fn the_delay_is_a_random_part_of_that() {
        assert_eq!(delay(7, true, 0.5), Duration::from_secs(30));
        assert_eq!(delay(7, true, 0.0), Duration::ZERO);
    }
}
