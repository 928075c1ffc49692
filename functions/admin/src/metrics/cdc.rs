//! What is synchronized, by table, target and operation: the names that dashboards of change data capture ask for.
//!
//! A table is a stream, and a target the subscription that delivers it. All of it is counted in PostgreSQL, where the work is.

use std::collections::BTreeMap;

use database::delivery::{
    CONFIGURATION, DEAD_LETTERED, LATENCY_BUCKETS, LATENCY_SUM_MS, RETRIED, WRITTEN, failed, succeeded,
};
use database::streams::Pending;
use database::subscriptions::{CLICKHOUSE, ELASTICSEARCH, KAFKA, SYNC};
use message::Operation;

use super::stats::Totals;
use super::{Exposition, seconds};

const OPERATIONS: [(&str, Operation); 4] = [
    ("INSERT", Operation::Insert),
    ("UPDATE", Operation::Update),
    ("DELETE", Operation::Delete),
    ("UPSERT", Operation::Upsert),
];

/// Writes them all.
pub(super) fn write(text: &mut Exposition, targets: &BTreeMap<(String, String), Totals>, pending: &[Pending]) {
    text.family(
        "cdc_sync_events_total",
        "counter",
        "Changes that came to their end in a target, each once: written or overtaken (success), or dead-lettered (error).",
    );
    for ((target, table), totals) in targets {
        for (name, operation) in OPERATIONS {
            for (status, measure) in [("success", succeeded(operation)), ("error", failed(operation))] {
                let labels = [&labels(table, target)[..], &[("operation", name), ("status", status)]].concat();
                text.sample("cdc_sync_events_total", &labels, totals.get(measure));
            }
        }
    }
    text.family(
        "cdc_sync_errors_total",
        "counter",
        "Tries that failed: to be retried, waiting for the configuration to be mended, or dead-lettered.",
    );
    for ((target, table), totals) in targets {
        let errors: i64 = [RETRIED, CONFIGURATION, DEAD_LETTERED].iter().map(|measure| totals.get(measure)).sum();
        text.sample("cdc_sync_errors_total", &labels(table, target), errors);
    }
    text.family("cdc_sync_latency_seconds", "histogram", "From the row of the log to the write in the target.");
    for ((target, table), totals) in targets {
        let labels = labels(table, target);
        text.histogram("cdc_sync_latency_seconds", &labels, totals, LATENCY_BUCKETS, LATENCY_SUM_MS);
    }
    text.family(
        "cdc_sync_lag_seconds",
        "gauge",
        "For how long the oldest change that has not landed has been under way; 0 where nothing is.",
    );
    for one in pending {
        text.sample("cdc_sync_lag_seconds", &labels(&one.stream, &one.subscription), seconds(one.lag_ms));
    }
    for (name, of, help) in [
        ("cdc_elasticsearch_writes_total", ELASTICSEARCH, "Documents written to Elasticsearch, or deleted there."),
        ("cdc_clickhouse_writes_total", CLICKHOUSE, "Rows written to ClickHouse, those of deletes among them."),
        ("cdc_kafka_messages_published_total", KAFKA, "Changes published to Kafka, deletes among them."),
        ("cdc_live_sync_writes_total", SYNC, "Documents written to what clients pull, or deleted there."),
    ] {
        text.family(name, "counter", help);
        for ((_, table), totals) in targets.iter().filter(|((target, _), _)| target == of) {
            text.sample(name, &[("table", table)], totals.get(WRITTEN));
        }
    }
}

fn labels<'a>(table: &'a str, target: &'a str) -> [(&'static str, &'a str); 2] {
    [("table", table), ("target", target)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_operation_and_outcome_has_its_sample_and_each_target_its_writes() {
        let counted = json!({"succeeded_insert": 2, "failed_update": 1, "dead_lettered": 1, "retried": 4, "configuration": 3,
            "written": 2, "latency_50": 2, "latency_sum_ms": 60});
        let of = |target: &str| ((target.to_owned(), "books".to_owned()), Totals::of(counted.clone()));
        let pending = Pending {
            stream: "books".to_owned(),
            subscription: "kafka".to_owned(),
            rows: 1,
            oldest_ms: 0,
            lag_ms: 1500,
        };
        let mut text = Exposition::default();
        write(&mut text, &BTreeMap::from([of("elasticsearch"), of("clickhouse"), of("kafka"), of("sync")]), &[pending]);
        for line in [
            r#"cdc_sync_events_total{table="books",target="kafka",operation="INSERT",status="success"} 2"#,
            r#"cdc_sync_events_total{table="books",target="kafka",operation="UPDATE",status="error"} 1"#,
            r#"cdc_sync_events_total{table="books",target="kafka",operation="UPSERT",status="error"} 0"#,
            r#"cdc_sync_errors_total{table="books",target="clickhouse"} 8"#,
            r#"cdc_sync_latency_seconds_bucket{table="books",target="elasticsearch",le="0.050"} 2"#,
            r#"cdc_sync_latency_seconds_sum{table="books",target="elasticsearch"} 0.060"#,
            r#"cdc_sync_lag_seconds{table="books",target="kafka"} 1.500"#,
            r#"cdc_elasticsearch_writes_total{table="books"} 2"#,
            r#"cdc_clickhouse_writes_total{table="books"} 2"#,
            r#"cdc_kafka_messages_published_total{table="books"} 2"#,
            r#"cdc_live_sync_writes_total{table="books"} 2"#,
        ] {
            assert!(text.0.lines().any(|it| it == line), "{line} is not in\n{}", text.0);
        }
        assert_eq!(text.0.matches("cdc_elasticsearch_writes_total{").count(), 1);
    }
}
