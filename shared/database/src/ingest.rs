//! The ingest: what it pulls, how far it is, what it could not store, and what is counted of it, the measures of
//! `sluice.ingest_stats`.

use std::collections::BTreeMap;

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error};

pub mod definition;
pub mod deletes;
pub mod position;
pub mod rejects;

/// Items that the source gave.
pub const FETCHED: &str = "fetched";
/// Items stored.
pub const SYNCED: &str = "synced";
/// Items older than the stored ones, or than others of their batch.
pub const SKIPPED_OUTDATED: &str = "skipped_outdated";
/// Items that are stored already.
pub const SKIPPED_DUPLICATE: &str = "skipped_duplicate";
/// Items that break a rule.
pub const REJECTED_INVALID: &str = "rejected_invalid";
/// Items that want what belongs to another.
pub const REJECTED_CONFLICT: &str = "rejected_conflict";
/// Rows deleted, since their items are gone.
pub const DELETED: &str = "deleted";
/// Rejects that had to make room for newer ones.
pub const REJECTS_DROPPED: &str = "rejects_dropped";
/// Rounds that failed.
pub const ROUNDS_FAILED: &str = "rounds_failed";
/// Milliseconds that it took to store batches, added up.
pub const DURATION_SUM_MS: &str = "duration_sum_ms";
/// A histogram of the time to store a batch: the longest time of each bucket in milliseconds, and its measure.
pub const DURATION_BUCKETS: [(i64, &str); 9] = [
    (10, "duration_10"),
    (25, "duration_25"),
    (50, "duration_50"),
    (100, "duration_100"),
    (250, "duration_250"),
    (500, "duration_500"),
    (1000, "duration_1000"),
    (5000, "duration_5000"),
    (i64::MAX, "duration_inf"),
];

/// Adds to the counters of a source: measures and what is added.
pub async fn count(client: &Client, source: &str, counts: &[(&str, i64)]) -> Result<(), Error> {
    let (measures, values): (Vec<&str>, Vec<i64>) = counts.iter().copied().unzip();
    let parameters: [(&(dyn ToSql + Sync), Type); 3] =
        [(&source, Type::TEXT), (&measures, Type::TEXT_ARRAY), (&values, Type::INT8_ARRAY)];
    client.execute_typed("SELECT sluice.count_ingest($1, $2, $3)", &parameters).await.map(drop)
}

/// Reads what was counted of each source and measure, ever. A source that was defined and has counted nothing yet is there,
/// too.
pub async fn read_totals(client: &Client) -> Result<BTreeMap<String, BTreeMap<String, i64>>, Error> {
    const READ: &str = "
        SELECT i.name, s.measure, s.value
        FROM sluice.ingest AS i
        LEFT JOIN sluice.ingest_stats AS s ON s.source = i.name";
    let mut totals: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
    for row in client.query(READ, &[]).await? {
        let measures = totals.entry(row.get(0)).or_default();
        if let (Some(measure), Some(value)) = (row.get(1), row.get(2)) {
            measures.insert(measure, value);
        }
    }
    Ok(totals)
}

/// The bucket that such a time falls into.
pub fn duration_bucket(ms: i64) -> &'static str {
    let (_, measure) = DURATION_BUCKETS[DURATION_BUCKETS.partition_point(|(longest, _)| *longest < ms)];
    measure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_falls_into_the_first_bucket_that_is_not_shorter() {
        for (ms, measure) in [(0, "duration_10"), (10, "duration_10"), (11, "duration_25"), (i64::MAX, "duration_inf")]
        {
            assert_eq!(duration_bucket(ms), measure, "{ms}");
        }
    }
}
