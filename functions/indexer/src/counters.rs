//! Counters that outlive the function: in PostgreSQL, added to once for each batch.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use database::{Connect, delivery::Counts};
use search::Deadline;
use tokio::time::Instant;

use crate::re_read::Database;

/// An answer takes a millisecond. While PostgreSQL is away, a batch loses no more than this by it, and now and then.
const TIMEOUT: Duration = Duration::from_secs(2);
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// What is still to be added.
///
/// While PostgreSQL is away it is kept, and lost if the function ends before it is back: nobody's document waits for a
/// counter. Where an answer got lost, something may be counted twice.
#[derive(Default)]
pub(crate) struct Counters {
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    counts: Counts,
    not_before: Option<Instant>,
}

impl Counters {
    /// Adds these, and those that could not be added before.
    pub(crate) async fn add(&self, counts: Counts, database: &Database<impl Connect>, deadline: Deadline) {
        let counts = {
            let mut pending = self.lock();
            pending.counts.merge(counts);
            if pending.counts.is_empty() || pending.not_before.is_some_and(|at| Instant::now() < at) {
                return;
            }
            std::mem::take(&mut pending.counts)
        };
        let is_counted = database.count_deliveries(&counts.rows(), deadline.at_most(TIMEOUT)).await;
        let mut pending = self.lock();
        pending.not_before = None;
        if !is_counted {
            pending.not_before = Some(Instant::now() + ASK_AGAIN_AFTER);
            pending.counts.merge(counts);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
