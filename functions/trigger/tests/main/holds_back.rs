//! What is not sent, and stays in the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;
use axum::Router;
use axum::body::Bytes;
use axum::http::HeaderMap;
use serde_json::{Value, json};
use telemetry::Trace;
use tokio::net::TcpListener;

use crate::support::{Bench, a_minute_from_now};

#[tokio::test]
async fn a_full_queue_keeps_changes_in_the_log() -> Result<()> {
    let bench = Bench::create().await?;
    let owner = bench.item().await?;
    bench.sqs.send_message().queue_url(&bench.queue_url).message_body("x").send().await?;
    bench.sqs.send_message().queue_url(&bench.queue_url).message_body("x").delay_seconds(900).send().await?;
    owner.batch_execute("INSERT INTO item VALUES (1, 'a')").await?;
    let trigger = bench.trigger(&[("MAX_QUEUE_DEPTH", "2")])?;
    assert_eq!(trigger.handle(&Trace::of_invocation(None), a_minute_from_now()).await?.drained.changes, 0);
    let trigger = bench.trigger(&[("MAX_QUEUE_DEPTH", "3")])?;
    assert_eq!(trigger.handle(&Trace::of_invocation(None), a_minute_from_now()).await?.drained.changes, 1);
    Ok(())
}

#[tokio::test]
async fn a_paused_subscription_keeps_changes_in_the_log() -> Result<()> {
    let bench = Bench::create().await?;
    let owner = bench.item().await?;
    owner.batch_execute("SELECT sluice.pause('elasticsearch'); INSERT INTO item VALUES (1, 'a')").await?;
    assert_eq!(bench.drain().await?.drained.changes, 0);
    owner.batch_execute("SELECT sluice.resume('elasticsearch')").await?;
    assert_eq!(bench.drain().await?.drained.changes, 1);
    Ok(())
}

#[tokio::test]
async fn changes_of_a_dropped_stream_are_passed_over() -> Result<()> {
    let bench = Bench::create().await?;
    let owner = bench.item().await?;
    owner.batch_execute("INSERT INTO item VALUES (1, 'a'); SELECT sluice.drop_stream('item')").await?;
    let drained = bench.drain().await?.drained;
    assert_eq!((drained.unknown, drained.messages), (1, 0));
    Ok(())
}

#[tokio::test]
async fn what_sqs_took_in_part_is_sent_again_and_only_that() -> Result<()> {
    let bench = Bench::create().await?;
    let owner = bench.item().await?;
    owner.batch_execute("INSERT INTO item SELECT i, repeat('x', 200000) FROM generate_series(1, 4) AS i").await?;
    // The first of each batch is refused, until there is only one.
    let sqs = Sqs::start(|entries| (entries > 1).then_some(0)).await?;
    let trigger = bench.trigger_with(&[], sqs.client().await)?;
    let summary = trigger.handle(&Trace::of_invocation(None), a_minute_from_now()).await?;
    assert_eq!(summary.drained.messages, 4);
    assert_eq!(sqs.taken.load(Ordering::SeqCst), 4, "each was taken once");
    assert_eq!(bench.drain().await?.drained.changes, 0);
    Ok(())
}

#[tokio::test]
async fn what_sqs_never_takes_is_not_passed() -> Result<()> {
    let bench = Bench::create().await?;
    let owner = bench.item().await?;
    owner.batch_execute("INSERT INTO item VALUES (1, 'a'), (2, 'b')").await?;
    let sqs = Sqs::start(|_| Some(0)).await?;
    let trigger = bench.trigger_with(&[], sqs.client().await)?;
    let error = trigger.handle(&Trace::of_invocation(None), a_minute_from_now()).await.unwrap_err();
    assert!(error.to_string().contains("SQS refused"), "{error}");
    assert_eq!(bench.drain().await?.drained.changes, 2, "they are still in the log");
    Ok(())
}

/// SQS at the wire, since the real one cannot be made to take a batch in part.
struct Sqs {
    endpoint: String,
    taken: Arc<AtomicU32>,
}

impl Sqs {
    /// `refuses` says, from the number of a batch's entries, which of them is refused.
    async fn start(refuses: fn(usize) -> Option<usize>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let taken = Arc::new(AtomicU32::new(0));
        let count = taken.clone();
        let answer = async move |headers: HeaderMap, body: Bytes| {
            answer(refuses, &count, headers["x-amz-target"].to_str().unwrap_or_default(), &body)
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
        Ok(Self { endpoint, taken })
    }

    async fn client(&self) -> aws_sdk_sqs::Client {
        let aws = secrets::aws().endpoint_url(&self.endpoint).load().await;
        aws_sdk_sqs::Client::new(&aws)
    }
}

fn answer(refuses: fn(usize) -> Option<usize>, taken: &AtomicU32, action: &str, body: &[u8]) -> String {
    if !action.ends_with("SendMessageBatch") {
        return json!({"Attributes": {"ApproximateNumberOfMessages": "0"}}).to_string();
    }
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    let ids: Vec<&str> =
        request["Entries"].as_array().into_iter().flatten().filter_map(|entry| entry["Id"].as_str()).collect();
    let refused = refuses(ids.len());
    let successful: Vec<_> = ids
        .iter()
        .enumerate()
        .filter(|(index, _)| Some(*index) != refused)
        .map(|(_, id)| json!({"Id": id, "MessageId": id, "MD5OfMessageBody": ""}))
        .collect();
    let failed: Vec<_> = refused
        .map(|index| json!({"Id": ids[index], "Code": "InternalError", "SenderFault": false}))
        .into_iter()
        .collect();
    taken.fetch_add(successful.len() as u32, Ordering::SeqCst);
    json!({"Successful": successful, "Failed": failed}).to_string()
}
