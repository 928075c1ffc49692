//! What is counted of deliveries: the measures of `sluice.delivery_stats`.

/// Documents written or deleted in the index.
pub const WRITTEN: &str = "written";
/// Changes that found a newer version in the index.
pub const STALE: &str = "stale";
/// Deletes of what was not there.
pub const GONE: &str = "gone";
/// Changes that are to be tried again.
pub const RETRIED: &str = "retried";
/// Changes that wait until somebody mends the configuration; counted at each try.
pub const CONFIGURATION: &str = "configuration";
/// Letters in the dead-letter queue.
pub const DEAD_LETTERED: &str = "dead_lettered";
/// Milliseconds from log to index, added up over all written changes.
pub const LATENCY_SUM_MS: &str = "latency_sum_ms";
/// A histogram of the time from log to index: the longest time of each bucket in milliseconds, and its measure.
pub const LATENCY_BUCKETS: [(i64, &str); 12] = [
    (50, "latency_50"),
    (100, "latency_100"),
    (250, "latency_250"),
    (500, "latency_500"),
    (1000, "latency_1000"),
    (2500, "latency_2500"),
    (5000, "latency_5000"),
    (10_000, "latency_10000"),
    (30_000, "latency_30000"),
    (60_000, "latency_60000"),
    (300_000, "latency_300000"),
    (i64::MAX, "latency_inf"),
];

/// The bucket that such a time falls into.
pub fn latency_bucket(ms: i64) -> &'static str {
    let (_, measure) = LATENCY_BUCKETS[LATENCY_BUCKETS.partition_point(|(longest, _)| *longest < ms)];
    measure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_falls_into_the_first_bucket_that_is_not_shorter() {
        for (ms, measure) in [
            (-5, "latency_50"),
            (50, "latency_50"),
            (51, "latency_100"),
            (300_000, "latency_300000"),
            (i64::MAX, "latency_inf"),
        ] {
            assert_eq!(latency_bucket(ms), measure, "{ms}");
        }
    }
}
