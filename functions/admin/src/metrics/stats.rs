//! Counters of deliveries and of the ingest, for the charts and for Prometheus.

use std::collections::BTreeMap;

use database::delivery::LATENCY_BUCKETS;
use serde_json::Value;

/// Each measure's value.
#[derive(Clone, Debug, Default)]
pub struct Totals(BTreeMap<String, i64>);

impl Totals {
    /// As the database has them.
    pub fn new(measures: BTreeMap<String, i64>) -> Self {
        Self(measures)
    }

    /// Together with others.
    pub fn and(mut self, others: &Self) -> Self {
        for (measure, value) in &others.0 {
            *self.0.entry(measure.clone()).or_default() += value;
        }
        self
    }

    /// From a JSON object of numbers.
    pub fn of(json: Value) -> Self {
        Self(serde_json::from_value(json).unwrap_or_default())
    }

    /// One of them; 0 if it was never counted.
    pub fn get(&self, measure: &str) -> i64 {
        self.0.get(measure).copied().unwrap_or(0)
    }

    /// What was added since `earlier`. Counters begin anew where their table did.
    pub fn since(&self, earlier: &Self) -> Self {
        Self(self.0.iter().map(|(measure, value)| (measure.clone(), (value - earlier.get(measure)).max(0))).collect())
    }

    /// How many times fell into a bucket or one before it, for each.
    pub fn cumulated<const N: usize>(&self, buckets: [(i64, &str); N]) -> [i64; N] {
        let mut sum = 0;
        buckets.map(|(_, measure)| {
            sum += self.get(measure);
            sum
        })
    }

    /// The time in milliseconds within which such a share of the changes was written, as far as the buckets tell: found
    /// by straight lines between their bounds, as Prometheus does it.
    pub fn quantile_ms(&self, share: f64) -> Option<i64> {
        let cumulated = self.cumulated(LATENCY_BUCKETS);
        let all = *cumulated.last().filter(|all| **all > 0)?;
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "it is an estimate")]
        let found = {
            let rank = share * all as f64;
            let at = cumulated.iter().position(|count| *count as f64 >= rank).unwrap_or(0);
            let (low, below) = if at == 0 { (0, 0) } else { (LATENCY_BUCKETS[at - 1].0, cumulated[at - 1]) };
            match LATENCY_BUCKETS[at].0 {
                i64::MAX => low,
                high => {
                    low + ((high - low) as f64 * (rank - below as f64) / (cumulated[at] - below).max(1) as f64) as i64
                }
            }
        };
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_quantile_lies_in_its_bucket() {
        let totals = Totals::of(json!({"latency_50": 10, "latency_100": 10, "latency_inf": 1}));
        assert_eq!(totals.quantile_ms(0.25), Some(26));
        assert_eq!(totals.quantile_ms(0.5), Some(52));
        assert_eq!(totals.quantile_ms(1.0), Some(300_000), "no bound is known beyond the last");
        assert_eq!(Totals::default().quantile_ms(0.5), None);
    }

    #[test]
    fn what_was_added_is_never_negative() {
        let (before, after) = (Totals::of(json!({"written": 5, "stale": 9})), Totals::of(json!({"written": 7})));
        assert_eq!((after.since(&before).get("written"), after.since(&before).get("stale")), (2, 0));
        assert_eq!(before.since(&after).get("written"), 0);
    }
}
