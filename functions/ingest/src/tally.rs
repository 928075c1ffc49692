//! What became of items, added up.

use std::time::Duration;

use database::ingest as measure;
use database::ingest::position::Counts;
use serde::Serialize;

/// What became of items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Given by the source.
    pub fetched: u64,
    /// Stored.
    pub synced: u64,
    /// Older than what is stored.
    pub outdated: u64,
    /// Stored, or turned away, already.
    pub duplicate: u64,
    /// They break a rule.
    pub invalid: u64,
    /// They may be stored when something else has changed: another has what must be unique, say.
    pub conflicts: u64,
    /// Rows deleted, since their items are gone.
    pub deleted: u64,
    /// Rejects that had to make room for newer ones.
    pub dropped: u64,
}

impl Tally {
    /// Those that are not stored, though they are news.
    pub fn rejected(&self) -> u64 {
        self.invalid + self.conflicts
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.fetched += other.fetched;
        self.synced += other.synced;
        self.outdated += other.outdated;
        self.duplicate += other.duplicate;
        self.invalid += other.invalid;
        self.conflicts += other.conflicts;
        self.deleted += other.deleted;
        self.dropped += other.dropped;
    }

    /// As the position keeps it of a round.
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            fetched: signed(self.fetched),
            synced: signed(self.synced),
            outdated: signed(self.outdated),
            duplicate: signed(self.duplicate),
            rejected: signed(self.rejected()),
        }
    }

    /// As it is counted of a batch, which took so long.
    pub(crate) fn measures(&self, took: Duration) -> Vec<(&'static str, i64)> {
        let took_ms = ms(took);
        let all = [
            (measure::FETCHED, signed(self.fetched)),
            (measure::SYNCED, signed(self.synced)),
            (measure::SKIPPED_OUTDATED, signed(self.outdated)),
            (measure::SKIPPED_DUPLICATE, signed(self.duplicate)),
            (measure::REJECTED_INVALID, signed(self.invalid)),
            (measure::REJECTED_CONFLICT, signed(self.conflicts)),
            (measure::DELETED, signed(self.deleted)),
            (measure::DURATION_SUM_MS, took_ms),
            (measure::duration_bucket(took_ms), 1),
        ];
        all.into_iter().filter(|(_, count)| *count > 0).collect()
    }
}

/// In whole milliseconds.
pub(crate) fn ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
