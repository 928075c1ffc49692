//! LocalStack is frozen or cut off, and messages are lost.
//!
//! Where there is no queue, this module is left out by its name.

use anyhow::{Result, ensure};
use localstack::{Proxy, Service, variable};

use crate::chaos;
use crate::pipeline::{Pipeline, alone, lasts};
use crate::validation::differences;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_queue_goes_on_where_it_was() -> Result<()> {
    alone("fault_freeze", async |pipeline| {
        let load = pipeline.load().await?;
        Service::LocalStack.signal("STOP")?;
        pipeline.say("LocalStack is frozen");
        load.goes_on(1000).await;
        lasts("FREEZE_SECONDS").await;
        Service::LocalStack.signal("CONT")?;
        pipeline.tick().await?;
        load.goes_on(100).await;
        pipeline.converges(load).await
    })
    .await
}

/// SQS and Secrets Manager: answers get lost, so that messages are sent twice, and then nobody answers at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_that_are_cut_off_from_aws_go_on_when_it_is_back() -> Result<()> {
    alone("fault_aws", async |pipeline| {
        let proxy = aws_by_proxy(pipeline).await?;
        let load = pipeline.load().await?;
        chaos::reign(&proxy, &load, 1000, pipeline.seed).await?;
        proxy.close();
        load.goes_on(500).await;
        proxy.open();
        load.goes_on(100).await;
        pipeline.converges(load).await
    })
    .await
}

async fn aws_by_proxy(pipeline: &mut Pipeline) -> Result<Proxy> {
    let url = url::Url::parse(&variable("AWS_ENDPOINT_URL"))?;
    let proxy = Proxy::start(&format!("127.0.0.1:{}", url.port_or_known_default().unwrap_or(4566))).await?;
    for function in ["TRIGGER_FUNCTION", "INDEXER_FUNCTION"] {
        pipeline.configure(function, "AWS_ENDPOINT_URL", format!("http://{}", proxy.address)).await?;
    }
    pipeline.tick().await?;
    Ok(proxy)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resync_mends_what_a_lost_queue_took_along_deletes_included() -> Result<()> {
    alone("fault_purge", async |pipeline| {
        lose_the_queue(pipeline).await?;
        let resync = "SELECT sluice.resync('fault_purge_item'); SELECT sluice.resync('fault_purge_project')";
        pipeline.stack.execute(resync).await?;
        pipeline.is_converged().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_was_purged_is_whole_again_without_anybodys_help() -> Result<()> {
    alone("fault_lost", async |pipeline| {
        lose_the_queue(pipeline).await?;
        // A round that is begun now waits for what was lost, and takes none of it for a difference.
        pipeline.stack.begin_round("fault_lost_item", "elasticsearch").await?;
        let stack = &pipeline.stack;
        // Half an hour goes by, in which somebody writes and that lands. What is found lost is found in some steps.
        let (mut minutes, mut found, mut quiet) = (0, 0, 0);
        loop {
            minutes += 1;
            ensure!(minutes < 200, "after so many minutes {found} flights were found lost");
            stack.execute(&format!("INSERT INTO item VALUES (2000 + {minutes}, 'a minute')")).await?;
            pipeline.comes_to_rest().await;
            let watch =
                "SELECT count(*) FROM sluice.watch_flights(now => clock_timestamp() + make_interval(mins => $1)) \
                         WHERE stream LIKE 'fault_lost%'";
            let lost: i64 = stack.owner.query_one(watch, &[&minutes]).await?.get(0);
            ensure!(lost == 0 || minutes > 30, "{lost} flights were found lost after {minutes} minutes");
            found += lost;
            quiet = if found > 0 && lost == 0 { quiet + 1 } else { 0 };
            // And what was logged again has arrived.
            let open = "SELECT count(*) FROM sluice.flight WHERE stream LIKE 'fault_lost%' AND logged_to IS NOT NULL";
            if quiet >= 3 && stack.owner.query_one(open, &[]).await?.get::<_, i64>(0) == 0 {
                break;
            }
        }
        pipeline.say(&format!("{found} flights were found lost, after {minutes} minutes"));
        pipeline.is_converged().await?;
        let row = pipeline.stack.finish_round("fault_lost_item", "elasticsearch").await;
        ensure!(row["verdict"] == "equal", "{row} {}", differences(pipeline, "fault_lost_item").await?);
        Ok(())
    })
    .await
}

/// A load, of which much is lost: the queue is purged while Elasticsearch is away.
async fn lose_the_queue(pipeline: &mut Pipeline) -> Result<()> {
    let proxy = pipeline.elasticsearch_by_proxy().await?;
    let stack = &pipeline.stack;
    let item = format!("{}_item", stack.schema);
    stack.execute("INSERT INTO item VALUES (1001, 'to be deleted'), (1002, 'old')").await?;
    stack.converges(&item, "SELECT id::text FROM item").await?;
    let load = pipeline.load().await?;
    proxy.close();
    stack.execute("DELETE FROM item WHERE id = 1001; UPDATE item SET name = 'new' WHERE id = 1002").await?;
    pipeline.is_felt().await;
    let changes = load.stop().await?;
    // Emptied until the log is, so that what was on its way to the queue is lost as well.
    while stack.has_changes_in_the_log().await? {
        stack.sqs.purge_queue().queue_url(variable("QUEUE_URL")).send().await?;
    }
    stack.sqs.purge_queue().queue_url(variable("QUEUE_URL")).send().await?;
    // It may still have some of it in its hands.
    pipeline.kill(Service::Indexer).await?;
    proxy.open();
    pipeline.comes_to_rest().await;
    let indexed = stack.indexed(&item).await?;
    ensure!(indexed.contains_key("1001") && indexed["1002"].contains("old"), "the queue was not lost: {indexed:?}");
    pipeline.say(&format!("{changes} changes, of which many were lost"));
    Ok(())
}
