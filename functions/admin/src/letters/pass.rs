//! One way through the dead-letter queue.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use queue::Error;
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::letters::queue::{Letter, Letters};

/// Letters that one pass looks at: as many receipts take a few megabytes, and can be released in time.
const LOOKED_AT: usize = 10_000;
/// What is not released by then comes back by itself.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(8);

/// One way through the queue. [`Pass::end`] has to follow, whatever came of it.
pub struct Pass<'a> {
    letters: &'a Letters,
    hidden_for: Duration,
    until: Instant,
    /// The last receipt of each, by its message id.
    held: HashMap<String, String>,
    seen: HashSet<String>,
    is_complete: bool,
}

impl<'a> Pass<'a> {
    /// Nobody else sees what it has seen for as long as `hidden_for`.
    pub fn new(letters: &'a Letters, hidden_for: Duration, until: Instant) -> Self {
        Self { letters, hidden_for, until, held: HashMap::new(), seen: HashSet::new(), is_complete: false }
    }

    /// The next letters, each of which is either kept by [`Pass::hold`], or deleted. `None`: there are no more, or it is
    /// enough.
    pub async fn next(&mut self) -> Result<Option<Vec<Letter>>, Error> {
        if Instant::now() >= self.until || self.seen.len() >= LOOKED_AT {
            return Ok(None);
        }
        let mut letters = self.letters.receive(self.hidden_for, 0).await?;
        if letters.is_empty() {
            // A short look asks some of SQS's servers, a long one all of them.
            letters = self.letters.receive(self.hidden_for, 1).await?;
        }
        let (fresh, again): (Vec<Letter>, Vec<Letter>) =
            letters.into_iter().partition(|letter| self.seen.insert(letter.message_id.clone()));
        // What was hidden has come back, before the end was reached.
        again.iter().for_each(|letter| self.hold(letter));
        self.is_complete = fresh.is_empty();
        Ok((!fresh.is_empty()).then_some(fresh))
    }

    /// Leaves this one in the queue.
    pub fn hold(&mut self, letter: &Letter) {
        self.held.insert(letter.message_id.clone(), letter.receipt.clone());
    }

    /// How many it has seen.
    pub fn seen(&self) -> usize {
        self.seen.len()
    }

    /// Whether it got to the end: neither its time nor anything else stopped it, and the queue has no more letters than it
    /// holds itself. What was in other hands may be visible again since it looked.
    pub async fn has_seen_all(&self) -> Result<bool, Error> {
        let held = i64::try_from(self.held.len()).unwrap_or(i64::MAX);
        Ok(self.is_complete && self.letters.depth().await?.all() <= held)
    }

    /// Whether it found no more, be they in other hands; else it was enough.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Releases what was held. What cannot be released comes back when it was hidden for long enough.
    pub async fn end(self) {
        let held: Vec<String> = self.held.into_values().collect();
        let reason = match timeout(RELEASE_TIMEOUT, self.letters.release(&held)).await {
            Ok(Ok(())) => return,
            Ok(Err(failure)) => failure.to_string(),
            Err(_) => format!("no end within {} s", RELEASE_TIMEOUT.as_secs()),
        };
        warn!(reason, letters = held.len(), "dead letters stay hidden for a while");
    }
}
