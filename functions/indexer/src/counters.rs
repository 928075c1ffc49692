//! What outlives the function: counters, and which messages have landed. In PostgreSQL, once for each batch.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use database::Connect;
use database::delivery::{Counts, Landing};
use search::Deadline;
use tokio::time::Instant;

use crate::re_read::Database;

/// An answer takes a millisecond. While PostgreSQL is away, a batch loses no more than this by it, and now and then.
const TIMEOUT: Duration = Duration::from_secs(2);
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// So many landings are kept while PostgreSQL is away, the newest.
const LANDINGS: usize = 10_000;

/// What is still to be added.
///
/// While PostgreSQL is away it is kept, and lost if the function ends before it is back: nobody's document waits for a
/// counter. Where an answer got lost, something may be counted twice. A landing that was lost is found out by whoever
/// watches the flights, and what was in the message travels once more.
#[derive(Default)]
pub(crate) struct Counters {
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    counts: Counts,
    landings: Vec<Landing>,
    not_before: Option<Instant>,
}

impl Counters {
    /// Adds these, and those that could not be added before.
    pub(crate) async fn add(
        &self,
        counts: Counts,
        landings: Vec<Landing>,
        database: &Database<impl Connect>,
        deadline: Deadline,
    ) {
        let (counts, landings) = {
            let mut pending = self.lock();
            pending.keep(counts, landings);
            let is_empty = pending.counts.is_empty() && pending.landings.is_empty();
            if is_empty || pending.not_before.is_some_and(|at| Instant::now() < at) {
                return;
            }
            (std::mem::take(&mut pending.counts), std::mem::take(&mut pending.landings))
        };
        let is_noted = database.land(&counts.rows(), &landings, deadline.at_most(TIMEOUT)).await;
        let mut pending = self.lock();
        pending.not_before = None;
        if !is_noted {
            pending.not_before = Some(Instant::now() + ASK_AGAIN_AFTER);
            pending.keep(counts, landings);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn keep(&mut self, counts: Counts, landings: Vec<Landing>) {
        self.counts.merge(counts);
        self.landings.extend(landings);
        self.landings.drain(..self.landings.len().saturating_sub(LANDINGS));
    }
}
