//! The changes of a batch, stream by stream: what travelled is written, the rest is read first.

use std::collections::BTreeMap;

use database::Connect;
use message::Op;
use queue::Queue;
use search::{Action, Bulk, Cluster, Deadline, Done, Outcome, Reason, Write, check};

use crate::{
    batch::{Received, Work},
    decision::{is_carried, needs_re_read, older_of_a_key, without_index, without_source, without_stream},
    indexer::Indexer,
    re_read::Reading,
    tally::Tally,
};

/// The changes of one generation of a stream, and what has become of them so far.
pub(crate) struct Changes<'a> {
    pub(crate) stream: &'a str,
    /// Which one of its indexes they are for.
    generation: i32,
    pub(crate) works: Vec<Work<'a>>,
    /// In the order of the works.
    outcomes: Vec<Option<Outcome>>,
    /// Where they are written to, and which of them are read first.
    to_read: Option<(String, Vec<usize>)>,
}

impl<'a> Changes<'a> {
    /// All that can be read of a batch. Those of a message are in its order.
    pub(crate) fn of(batch: &'a [Received<'_>]) -> Vec<Self> {
        let mut by_stream: BTreeMap<(&str, i32), Vec<Work<'_>>> = BTreeMap::new();
        for (position, received) in batch.iter().enumerate() {
            let Ok(message) = &received.message else { continue };
            let works =
                message.entries.iter().map(|entry| Work { message: position, entry, attempts: received.attempts });
            by_stream.entry((message.stream.as_ref(), message.generation)).or_default().extend(works);
        }
        let changes = |((stream, generation), works): ((&'a str, i32), Vec<Work<'a>>)| {
            let decided = |work: &Work<'_>| {
                let Ok(message) = &batch[work.message].message else { return None };
                if is_carried(work.entry.change.op, message) {
                    return Some(Outcome::Done(Action::Delete, Done::Later));
                }
                check(&work.entry.change.key, work.entry.change.version, work.entry.document).err()
            };
            Self { stream, generation, outcomes: works.iter().map(decided).collect(), works, to_read: None }
        };
        by_stream.into_iter().map(changes).collect()
    }

    /// With what has become of each of them.
    pub(crate) fn into_outcomes(self) -> impl Iterator<Item = (Work<'a>, Outcome)> {
        let unhandled = || Outcome::Retry(Reason::new("no_answer", "it was not handled"));
        self.works.into_iter().zip(self.outcomes).map(move |(work, outcome)| match outcome {
            Some(Outcome::NoStream) => (work, without_stream(work.entry.document)),
            outcome => (work, outcome.unwrap_or_else(unhandled)),
        })
    }

    fn fill(&mut self, which: &[usize], outcome: &Outcome) {
        for &index in which {
            self.outcomes[index] = Some(outcome.clone());
        }
    }

    /// The newest of the changes of a key ended so.
    fn end_key(&mut self, indexes: &[usize], newest: usize, outcome: Outcome) {
        self.fill(indexes, &older_of_a_key(&outcome));
        self.outcomes[newest] = Some(outcome);
    }

    fn newest(&self, indexes: &[usize]) -> Option<usize> {
        indexes.iter().copied().max_by_key(|&index| self.works[index].entry.change.version)
    }
}

impl<C: Cluster, D: Connect, Q: Queue> Indexer<C, D, Q> {
    /// Writes what can be written of all streams.
    ///
    /// What travelled goes first, so that it waits for nobody's source. Then each stream is read in its share of the time
    /// that is left; those that took too long before are the last.
    pub(crate) async fn write(&self, all: &mut [Changes<'_>], now_ms: i64, deadline: Deadline, tally: &mut Tally) {
        for changes in &mut *all {
            self.write_fresh(changes, now_ms, deadline).await;
        }
        let mut reading: Vec<&mut Changes<'_>> = all.iter_mut().filter(|changes| changes.to_read.is_some()).collect();
        reading.sort_by_key(|changes| self.database.is_slow(changes.stream));
        let mut waiting = reading.len();
        for changes in reading {
            self.write_re_read(changes, deadline.share(waiting), deadline, tally).await;
            waiting -= 1;
        }
        for changes in all {
            self.look_for_the_stream(changes, deadline).await;
        }
    }

    /// Finds out where a stream's changes are written to, and writes those that need not be read first.
    async fn write_fresh(&self, changes: &mut Changes<'_>, now_ms: i64, deadline: Deadline) {
        let outcomes = &changes.outcomes;
        let possible: Vec<usize> = (0..outcomes.len()).filter(|&index| outcomes[index].is_none()).collect();
        if possible.is_empty() {
            return;
        }
        let alias = match self.aliases.of(changes.stream, changes.generation, &self.cluster, deadline).await {
            Ok(alias) => alias,
            Err(outcome) => return changes.fill(&possible, &outcome),
        };
        let re_read_after = self.settings.re_read_after;
        let (old, fresh): (Vec<usize>, Vec<usize>) = possible.into_iter().partition(|&index| {
            let work = &changes.works[index];
            needs_re_read(&work.entry.change, work.attempts, now_ms, re_read_after)
        });
        self.write_travelled(changes, &alias, &fresh, deadline).await;
        if !old.is_empty() {
            changes.to_read = Some((alias, old));
        }
    }

    /// Writes these changes with the documents that travelled.
    async fn write_travelled(&self, changes: &mut Changes<'_>, alias: &str, which: &[usize], deadline: Deadline) {
        let writes: Vec<Write<'_>> = which
            .iter()
            .map(|&index| {
                let entry = changes.works[index].entry;
                Write::new(&entry.change.key, entry.change.version, entry.document)
            })
            .collect();
        for (&index, outcome) in which.iter().zip(self.bulk(alias, deadline).write(&writes).await) {
            changes.outcomes[index] = Some(outcome);
        }
    }

    /// Reads documents from PostgreSQL until its share of the time is over, and writes them with the changes' own versions.
    async fn write_re_read(&self, changes: &mut Changes<'_>, share: Deadline, deadline: Deadline, tally: &mut Tally) {
        let Some((alias, old)) = changes.to_read.take() else { return };
        tally.count_re_read(changes.stream, old.len());
        let definition = match self.database.stream(changes.stream, changes.generation, share).await {
            Ok(definition) => Some(definition),
            // What travelled is all there is, and its index is still there.
            Err(Outcome::NoStream) => None,
            Err(outcome) => return changes.fill(&old, &outcome),
        };
        let Some(definition) = definition.as_ref().filter(|definition| definition.source.is_some()) else {
            let is_defined = definition.is_some();
            let mut with = vec![];
            for index in old {
                changes.outcomes[index] = match changes.works[index].entry.change.op {
                    Op::Upsert | Op::Delete => {
                        with.push(index);
                        continue;
                    }
                    // A second look at what was never anywhere else has nothing to see.
                    Op::Look if is_defined => Some(Outcome::Done(Action::Delete, Done::Gone)),
                    Op::Read if is_defined => Some(without_source()),
                    Op::Look | Op::Read => Some(Outcome::NoStream),
                };
            }
            return self.write_travelled(changes, &alias, &with, deadline).await;
        };

        let mut by_key: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for &index in &old {
            by_key.entry(changes.works[index].entry.change.key.as_ref()).or_default().push(index);
        }
        let keys: Vec<&str> = by_key.keys().copied().collect();
        let bulk = self.bulk(&alias, deadline);
        self.database
            .read(definition, &keys, bulk.limit_bytes, share.to_read(), async |portion| {
                let mut asking = Vec::new();
                let mut writes = Vec::new();
                for (key, reading) in &portion {
                    let indexes = &by_key[keys[*key]];
                    let Some(newest) = changes.newest(indexes) else { continue };
                    let change = &changes.works[newest].entry.change;
                    let refused = match reading {
                        Reading::Unread(outcome) => Err(outcome.clone()),
                        Reading::Current(document) => {
                            check(&change.key, change.version, document.as_deref()).map(|()| document.as_deref())
                        }
                    };
                    match refused {
                        Err(outcome) => changes.end_key(indexes, newest, outcome),
                        Ok(document) => {
                            writes.push(Write::new(&change.key, change.version, document));
                            asking.push((indexes, newest));
                        }
                    }
                }
                for ((indexes, newest), outcome) in asking.into_iter().zip(bulk.write(&writes).await) {
                    changes.end_key(indexes, newest, outcome);
                }
            })
            .await;
    }

    fn bulk<'b>(&'b self, alias: &'b str, deadline: Deadline) -> Bulk<'b, C> {
        Bulk { cluster: &self.cluster, alias, limit_bytes: self.settings.bulk_bytes, deadline }
    }

    /// Elasticsearch had no such index: now it matters whether there is such a stream.
    async fn look_for_the_stream(&self, changes: &mut Changes<'_>, deadline: Deadline) {
        if !changes.outcomes.iter().any(|outcome| matches!(outcome, Some(Outcome::NoIndex(_)))) {
            return;
        }
        self.aliases.forget(changes.stream, changes.generation).await;
        let looked = match self.database.stream(changes.stream, changes.generation, deadline).await {
            Ok(_) => without_index(changes.stream),
            Err(outcome) => outcome,
        };
        for outcome in changes.outcomes.iter_mut().filter(|outcome| matches!(outcome, Some(Outcome::NoIndex(_)))) {
            *outcome = Some(looked.clone());
        }
    }
}
