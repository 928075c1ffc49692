//! Metrics as Prometheus reads them: text, version 0.0.4.
//!
//! They are counted where the work is, in `sluice.delivery_stats` and `sluice.ingest_stats`, so they are the same from every
//! sandbox and after every restart.

mod cdc;
pub mod history;
pub mod stats;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use database::delivery::{
    self, CONFIGURATION, CONFLICT, DEAD_LETTERED, DRAINED, GONE, LATENCY_BUCKETS, LATENCY_SUM_MS, LOST, PUBLISHED,
    PUBLISHED_BYTES, RE_READ, REPAIRED, RETRIED, STALE, VALIDATED, WRITTEN,
};
use database::ingest::{
    self, DELETED, DURATION_BUCKETS, DURATION_SUM_MS, FETCHED, REJECTED_CONFLICT, REJECTED_INVALID, SKIPPED_DUPLICATE,
    SKIPPED_OUTDATED, SYNCED,
};
use database::subscriptions::{self, ELASTICSEARCH, SYNC, Subscription};
use database::validation::{self, Status};
use database::{clients, outbox, refusals, streams};
use queue::Queue as _;

use crate::metrics::stats::Totals;
use crate::problem::Problem;
use crate::services::Admin;
use crate::validation::classes;

/// The text, as it grows.
#[derive(Default)]
struct Exposition(String);

impl Exposition {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String does not fail.
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}").ok();
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        writeln!(self.0, "{name}{labels} {value}").ok();
    }

    fn histogram<const N: usize>(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        totals: &Totals,
        buckets: [(i64, &str); N],
        sum_ms: &str,
    ) {
        let cumulated = totals.cumulated(buckets);
        for ((longest, _), count) in buckets.iter().zip(cumulated) {
            let bound = if *longest == i64::MAX { "+Inf".to_owned() } else { seconds(*longest) };
            self.sample(&format!("{name}_bucket"), &[labels, &[("le", &bound)]].concat(), count);
        }
        self.sample(&format!("{name}_sum"), labels, seconds(totals.get(sum_ms)));
        self.sample(&format!("{name}_count"), labels, cumulated.last().unwrap_or(&0));
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn seconds(ms: i64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

/// What was delivered, what waits, and for how long.
#[utoipa::path(get, path = "/metrics", tag = "metrics",
    responses((status = OK, body = String, content_type = "text/plain; version=0.0.4")))]
pub async fn metrics(State(admin): State<Admin>) -> Result<impl IntoResponse, Problem> {
    let database = admin.database().await?;
    let targets = delivery::read_totals(&database).await?;
    let targets = targets.into_iter().map(|(target, measures)| (target, Totals::new(measures))).collect();
    let subscriptions = subscriptions::list(&database).await?;
    let pending = streams::list_pending(&database).await?;
    let problems = streams::list_problems(&database).await?;
    let validations = validation::list(&database).await?;
    let log_bytes = outbox::bytes(&database).await?;
    let connected = clients::count_connected(&database).await?;
    let sources =
        ingest::read_totals(&database).await?.into_iter().map(|(name, all)| (name, Totals::new(all))).collect();
    let mut letters = refusals::count(&database).await?;
    let mut queued = None;
    if let Some(queues) = &admin.services().await.queues {
        queued = Some(queues.queue.depth().await?);
        *letters.entry(ELASTICSEARCH.to_owned()).or_default() += queues.letters.depth().await?.all();
    }

    let mut text = Exposition::default();
    deliveries(&mut text, &targets);
    cdc::write(&mut text, &targets, &pending);
    ingested(&mut text, &sources);
    positions(&mut text, &subscriptions);
    text.family("sluice_stream_pending_rows", "gauge", "Rows of the log of one stream that wait.");
    for one in &pending {
        text.sample("sluice_stream_pending_rows", &labels(&one.subscription, &one.stream), one.rows);
    }
    text.family("sluice_stream_lag_seconds", "gauge", "For how long the oldest row of one stream has waited.");
    for one in &pending {
        text.sample("sluice_stream_lag_seconds", &labels(&one.subscription, &one.stream), seconds(one.oldest_ms));
    }
    text.family("sluice_stream_problem", "gauge", "1: the stream does not keep up; /health and /api/streams say why.");
    for one in &pending {
        let has_problem =
            problems.iter().any(|problem| problem.stream == one.stream && problem.subscription == one.subscription);
        text.sample("sluice_stream_problem", &labels(&one.subscription, &one.stream), u8::from(has_problem));
    }
    text.family("sluice_log_bytes", "gauge", "What the log takes on disk, with its indexes.");
    text.sample("sluice_log_bytes", &[], log_bytes);
    differences(&mut text, &validations);
    live_sync(&mut text, &targets, connected);
    if let Some(queued) = queued {
        text.family("sluice_queue_messages", "gauge", "Messages in the queue: visible, delayed and in flight.");
        text.sample("sluice_queue_messages", &[], queued);
    }
    text.family(
        "sluice_dead_letters",
        "gauge",
        "Letters of a target that nobody redrove or discarded; of a direct one 50000 at most.",
    );
    for (subscription, count) in &letters {
        text.sample("sluice_dead_letters", &[("subscription", subscription)], count);
    }
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text.0))
}

/// How far each reader of the log is, and what it has sent.
fn positions(text: &mut Exposition, subscriptions: &[Subscription]) {
    let mut gauge = |name: &str, help: &str, value: fn(&Subscription) -> String| {
        text.family(name, "gauge", help);
        for subscription in subscriptions {
            text.sample(name, &[("subscription", &subscription.name)], value(subscription));
        }
    };
    gauge("sluice_pending_rows", "Rows of the log that a subscription has not passed.", |it| {
        it.pending_rows.to_string()
    });
    gauge("sluice_oldest_pending_age_seconds", "For how long the oldest of these rows has waited.", |it| {
        seconds(it.oldest_pending_ms.unwrap_or(0))
    });
    gauge("sluice_flights", "Steps, of each stream one, that were sent and have not all landed; 5000 at most.", |it| {
        it.flights.to_string()
    });
    gauge("sluice_oldest_flight_age_seconds", "For how long the oldest change in these has been in the log.", |it| {
        seconds(it.oldest_flight_ms.unwrap_or(0))
    });
    gauge(
        "sluice_lag_seconds",
        "For how long the oldest change that has not landed has been in the log, sent or not.",
        |it| seconds(it.lag_ms),
    );
}

/// What was found to differ from its source, and how long ago all of a stream was compared.
fn differences(text: &mut Exposition, validations: &[Status]) {
    text.family("sluice_differences", "gauge", "Documents that differ from their source, by class and state.");
    for one in validations {
        for class in classes(one) {
            let of = [("class", class.class.as_str()), ("state", class.state.as_str())];
            let labels = [&labels(&one.subscription, &one.stream)[..], &of].concat();
            text.sample("sluice_differences", &labels, class.count);
        }
    }
    text.family(
        "sluice_verdict_age_seconds",
        "gauge",
        "How long ago the last round ended, or for how long a stream has waited for the end of its first.",
    );
    for one in validations {
        if let Some(age_ms) = one.verdict_age_ms {
            text.sample("sluice_verdict_age_seconds", &labels(&one.subscription, &one.stream), seconds(age_ms.max(0)));
        }
    }
}

/// Who is connected, and of each stream that goes to clients how often these had another document than there was.
fn live_sync(text: &mut Exposition, targets: &BTreeMap<(String, String), Totals>, connected: i64) {
    text.family("sync_clients", "gauge", "Clients that are connected by a WebSocket, of all processes.");
    text.sample("sync_clients", &[], connected);
    text.family("sync_conflicts_total", "counter", "Changes of clients that had another document than there was.");
    for ((_, stream), totals) in targets.iter().filter(|((subscription, _), _)| subscription == SYNC) {
        text.sample("sync_conflicts_total", &[("stream", stream)], totals.get(CONFLICT));
    }
}

/// Of what one subscription does for one stream.
fn labels<'a>(subscription: &'a str, stream: &'a str) -> [(&'static str, &'a str); 2] {
    [("subscription", subscription), ("stream", stream)]
}

fn deliveries(text: &mut Exposition, targets: &BTreeMap<(String, String), Totals>) {
    let mut counters = |name: &str, help: &str, outcomes: &[&str]| {
        text.family(name, "counter", help);
        for ((subscription, stream), totals) in targets {
            for outcome in outcomes {
                let labels = [&labels(subscription, stream)[..], &[("outcome", outcome)]].concat();
                text.sample(name, &labels, totals.get(outcome));
            }
        }
    };
    counters(
        "sync_processed_total",
        "Changes that came to their end in the target: written, overtaken by a newer write, or gone already.",
        &[WRITTEN, STALE, GONE],
    );
    counters(
        "sync_failed_total",
        "Tries that failed: to be retried, waiting for the configuration to be mended, or dead-lettered.",
        &[RETRIED, CONFIGURATION, DEAD_LETTERED],
    );
    for (name, measure, help) in [
        ("sync_dlq_total", DEAD_LETTERED, "Changes that became dead letters."),
        ("sluice_drained_rows_total", DRAINED, "Rows of the log that were drained."),
        (
            "sluice_published_changes_total",
            PUBLISHED,
            "Changes sent to the queue, or to a direct target; many rows of one document become one.",
        ),
        ("sluice_published_bytes_total", PUBLISHED_BYTES, "Bytes of their messages."),
        (
            "sluice_lost_flights_total",
            LOST,
            "Flights of which nothing was heard any more; what has a source was logged again.",
        ),
        ("sluice_re_read_changes_total", RE_READ, "Changes whose document was read anew, since they were old."),
        ("sluice_validation_checked_total", VALIDATED, "Documents of the source that were compared with the target."),
        ("sluice_validation_repaired_total", REPAIRED, "Documents that differed, and were put right."),
    ] {
        text.family(name, "counter", help);
        for ((subscription, stream), totals) in targets {
            text.sample(name, &labels(subscription, stream), totals.get(measure));
        }
    }
    let name = "sluice_commit_to_indexed_seconds";
    text.family(name, "histogram", "From the row of the log to the write in the target.");
    for ((subscription, stream), totals) in targets {
        text.histogram(name, &labels(subscription, stream), totals, LATENCY_BUCKETS, LATENCY_SUM_MS);
    }
}

/// A reason, and the measure that counts it.
type Reason = (&'static str, &'static str);

/// What became of items: what it is called, what it is, and its reasons.
const INGESTED: [(&str, &str, &[Reason]); 5] = [
    ("fetched", "Items that the source gave.", &[("", FETCHED)]),
    ("synced", "Items that were stored.", &[("", SYNCED)]),
    ("deleted", "Rows that were deleted, since their items are gone.", &[("", DELETED)]),
    (
        "skipped",
        "Items that are older than the stored ones, or stored already.",
        &[("outdated", SKIPPED_OUTDATED), ("duplicate", SKIPPED_DUPLICATE)],
    ),
    (
        "rejected",
        "Items that break a rule, or want what belongs to another.",
        &[("invalid", REJECTED_INVALID), ("conflict", REJECTED_CONFLICT)],
    ),
];

fn ingested(text: &mut Exposition, sources: &BTreeMap<String, Totals>) {
    let profiles = sources.get("profiles").cloned().unwrap_or_default();
    let profiles = BTreeMap::from([(String::new(), profiles)]);
    for (prefix, sources) in [("profiles", &profiles), ("ingest", sources)] {
        for (what, help, measures) in INGESTED {
            let name = format!("{prefix}_{what}_total");
            text.family(&name, "counter", help);
            for (source, totals) in sources {
                for (reason, measure) in measures {
                    let mut labels = vec![("source", source.as_str()), ("reason", *reason)];
                    labels.retain(|(_, value)| !value.is_empty());
                    text.sample(&name, &labels, totals.get(measure));
                }
            }
        }
    }
    let name = "sync_batch_duration_seconds";
    text.family(name, "histogram", "The time that it took to store a batch of items.");
    let all = sources.values().fold(Totals::default(), Totals::and);
    text.histogram(name, &[], &all, DURATION_BUCKETS, DURATION_SUM_MS);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_label_is_escaped_and_a_histogram_cumulates() {
        let mut text = Exposition::default();
        let totals = Totals::of(json!({"latency_50": 2, "latency_inf": 1, "latency_sum_ms": 1234, "written": 3}));
        deliveries(&mut text, &BTreeMap::from([(("elasticsearch".to_owned(), "a\"\\\n".to_owned()), totals)]));
        for line in [
            r#"sync_processed_total{subscription="elasticsearch",stream="a\"\\\n",outcome="written"} 3"#,
            r#"sluice_commit_to_indexed_seconds_bucket{subscription="elasticsearch",stream="a\"\\\n",le="0.050"} 2"#,
            r#"sluice_commit_to_indexed_seconds_bucket{subscription="elasticsearch",stream="a\"\\\n",le="300.000"} 2"#,
            r#"sluice_commit_to_indexed_seconds_bucket{subscription="elasticsearch",stream="a\"\\\n",le="+Inf"} 3"#,
            r#"sluice_commit_to_indexed_seconds_sum{subscription="elasticsearch",stream="a\"\\\n"} 1.234"#,
            r#"sluice_commit_to_indexed_seconds_count{subscription="elasticsearch",stream="a\"\\\n"} 3"#,
        ] {
            assert!(text.0.lines().any(|it| it == line), "{line} is not in\n{}", text.0);
        }
    }

    #[test]
    fn each_class_and_state_of_a_streams_differences_has_its_sample() {
        let mut text = Exposition::default();
        let classes = json!([
            {"class": "missing", "state": "confirmed", "count": 3, "keys": ["1", "2", "3"]},
            {"class": "waiting", "state": "confirmed", "count": 1, "keys": ["4"]},
        ]);
        let compared = Status {
            subscription: "elasticsearch".to_owned(),
            stream: "books".to_owned(),
            state: "done".to_owned(),
            repair: false,
            dry_run: false,
            actor: None,
            checked: 10,
            walked: 9,
            printed_differently: 0,
            repaired: 0,
            verdict: Some("different".to_owned()),
            problem: None,
            begun_at: None,
            updated_at: None,
            verdict_at: None,
            verdict_age_ms: Some(61_500),
            classes,
        };
        let never = Status { stream: "new".to_owned(), verdict_age_ms: None, classes: json!([]), ..compared.clone() };
        differences(&mut text, &[compared, never]);
        for line in [
            r#"sluice_differences{subscription="elasticsearch",stream="books",class="missing",state="confirmed"} 3"#,
            r#"sluice_differences{subscription="elasticsearch",stream="books",class="waiting",state="confirmed"} 1"#,
            r#"sluice_verdict_age_seconds{subscription="elasticsearch",stream="books"} 61.500"#,
        ] {
            assert!(text.0.lines().any(|it| it == line), "{line} is not in\n{}", text.0);
        }
        assert!(!text.0.contains("new"), "{}", text.0);
    }

    #[test]
    fn what_was_never_ingested_is_zero_and_each_reason_has_its_sample() {
        let mut text = Exposition::default();
        let counted = json!({"fetched": 7, "skipped_duplicate": 2, "rejected_conflict": 1, "duration_25": 3, "duration_sum_ms": 60});
        let others = json!({"fetched": 3, "duration_25": 1, "duration_sum_ms": 20});
        let sources =
            [("profiles", counted), ("products", others)].map(|(name, counted)| (name.to_owned(), Totals::of(counted)));
        ingested(&mut text, &sources.into());
        for line in [
            "profiles_fetched_total 7",
            r#"ingest_fetched_total{source="profiles"} 7"#,
            r#"ingest_fetched_total{source="products"} 3"#,
            r#"ingest_rejected_total{source="products",reason="conflict"} 0"#,
            "profiles_synced_total 0",
            r#"profiles_skipped_total{reason="outdated"} 0"#,
            r#"profiles_skipped_total{reason="duplicate"} 2"#,
            r#"profiles_rejected_total{reason="conflict"} 1"#,
            r#"profiles_rejected_total{reason="invalid"} 0"#,
            r#"sync_batch_duration_seconds_bucket{le="0.010"} 0"#,
            r#"sync_batch_duration_seconds_bucket{le="0.025"} 4"#,
            r#"sync_batch_duration_seconds_bucket{le="+Inf"} 4"#,
            "sync_batch_duration_seconds_sum 0.080",
            "sync_batch_duration_seconds_count 4",
        ] {
            assert!(text.0.lines().any(|it| it == line), "{line} is not in\n{}", text.0);
        }
    }
}
