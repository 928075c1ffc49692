//! Numbers that agree with what happened.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use localstack::eventually;
use openmetrics_parser::prometheus::parse_prometheus;
use serde_json::json;

use crate::client::{Admin, days};

const LETTERS: i64 = 1000;

/// Each series by its name and labels.
async fn scrape(admin: &Admin) -> Result<BTreeMap<String, f64>> {
    let text = admin.get("/metrics").await?;
    let text = text.as_str().context("metrics are text")?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
            Ok((name.to_owned(), value.parse()?))
        })
        .collect()
}

#[tokio::test]
async fn a_thousand_letters_are_listed_redriven_and_counted() -> Result<()> {
    let admin = Admin::alone().await?;
    let stack = days("admin_thousand").await?;
    let before = scrape(&admin).await?;
    stack.execute(&format!("INSERT INTO item SELECT i, 'no day' FROM generate_series(1, {LETTERS}) AS i")).await?;
    admin.has_depth(LETTERS).await;
    // Fewer where SQS gives fewer in the time that a list takes.
    eventually("a list of a hundred letters", async || {
        let started = Instant::now();
        let list = admin.get("/api/dlq").await.map_err(|error| format!("{error:#}"))?;
        println!("a list of a hundred of a thousand letters: {:?}", started.elapsed());
        let listed = list["letters"].as_array().map_or(0, Vec::len);
        let is_whole = listed == 100 && list["is_sample"] == true;
        if is_whole { Ok(()) } else { Err(format!("{listed} letters, is_sample: {}", list["is_sample"])) }
    })
    .await;
    let dry = admin.post("/api/dlq/redrive", json!({"stream": "admin_thousand", "dry_run": true})).await?;
    assert_eq!((&dry["matched"], &dry["is_sample"]), (&json!(LETTERS), &json!(false)));
    let none = admin.post("/api/dlq/redrive", json!({"stream": "admin_thousand", "key": "0", "dry_run": true})).await?;
    assert_eq!(none["matched"], 0);

    // Mended where no trigger sees it, so that the redrive alone brings them.
    stack.execute("ALTER TABLE item DISABLE TRIGGER USER; UPDATE item SET day = '2026-01-01'; ALTER TABLE item ENABLE TRIGGER USER").await?;
    let started = Instant::now();
    assert_eq!(admin.redrive_all(json!({})).await?, LETTERS.unsigned_abs());
    println!("redrive of a thousand letters: {:?}", started.elapsed());
    let keys = "SELECT id::text FROM item";
    assert_eq!(stack.converges("admin_thousand", keys).await?, usize::try_from(LETTERS)?);
    assert_eq!(admin.get("/api/dlq").await?["depth"], 0);

    eventually("the counters to be written", async || {
        let now = scrape(&admin).await.map_err(|error| format!("{error:#}"))?;
        let wanted = [
            (r#"sync_dlq_total{subscription="elasticsearch",stream="admin_thousand"}"#, LETTERS),
            (
                r#"sync_failed_total{subscription="elasticsearch",stream="admin_thousand",outcome="dead_lettered"}"#,
                LETTERS,
            ),
            (
                r#"sync_processed_total{subscription="elasticsearch",stream="admin_thousand",outcome="written"}"#,
                LETTERS,
            ),
            (
                r#"sluice_commit_to_indexed_seconds_count{subscription="elasticsearch",stream="admin_thousand"}"#,
                LETTERS,
            ),
            (r#"sync_failed_total{subscription="elasticsearch",stream="admin_thousand",outcome="configuration"}"#, 0),
            // Each insert has failed once, and each redrive is a change of its own.
            (
                r#"cdc_sync_events_total{table="admin_thousand",target="elasticsearch",operation="INSERT",status="error"}"#,
                LETTERS,
            ),
            (
                r#"cdc_sync_events_total{table="admin_thousand",target="elasticsearch",operation="UPSERT",status="success"}"#,
                LETTERS,
            ),
            (r#"cdc_elasticsearch_writes_total{table="admin_thousand"}"#, LETTERS),
        ];
        let added = |name: &str| now.get(name).copied().unwrap_or(0.0) - before.get(name).copied().unwrap_or(0.0);
        #[expect(clippy::cast_precision_loss, reason = "a thousand")]
        let wrong = wanted.iter().find(|(name, count)| added(name) != *count as f64);
        wrong.map_or(Ok(()), |(name, count)| Err(format!("{name}: {} instead of {count}", added(name))))
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn the_metrics_are_prometheus_text() -> Result<()> {
    let admin = Admin::alone().await?;
    let text = admin.get("/metrics").await?;
    let parsed = parse_prometheus(text.as_str().unwrap_or_default()).map_err(|error| anyhow::anyhow!("{error}"))?;
    for family in [
        "sync_processed_total",
        "sync_failed_total",
        "sync_dlq_total",
        "sluice_commit_to_indexed_seconds",
        "sluice_dead_letters",
        "profiles_rejected_total",
        "sync_batch_duration_seconds",
    ] {
        ensure!(parsed.families.contains_key(family), "{family} is not in {:?}", parsed.families.keys());
    }
    for (name, family) in &parsed.families {
        ensure!(!family.help.is_empty(), "{name} says nothing of itself");
    }
    Ok(())
}
