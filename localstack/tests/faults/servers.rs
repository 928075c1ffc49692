//! Elasticsearch and PostgreSQL are away for a while, or have forgotten something.

use anyhow::{Result, ensure};
use elasticsearch::http::Method;
use localstack::{Fate, Service, eventually};

use crate::pipeline::{alone, lasts};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_elasticsearch_under_load_loses_nothing() -> Result<()> {
    alone("fault_outage", async |pipeline| {
        let load = pipeline.load().await?;
        Service::Elasticsearch.signal("KILL")?;
        pipeline.say("Elasticsearch is away");
        pipeline.is_felt().await;
        lasts("OUTAGE_SECONDS").await;
        Service::Elasticsearch.start()?;
        pipeline.say("it is back");
        load.goes_on(100).await;
        pipeline.converges(load).await
    })
    .await
}

/// Both are on the way, the delete arrives first; then nobody remembers that there was one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_came_back_after_its_tombstone_was_forgotten_is_removed() -> Result<()> {
    alone("fault_tombstone", async |pipeline| {
        pipeline.configure("INDEXER_FUNCTION", "SECOND_LOOK_AFTER", "10s").await?;
        let proxy = pipeline.elasticsearch_by_proxy().await?;
        let (stack, stream) = (&pipeline.stack, "fault_tombstone_item");
        stack.execute("INSERT INTO item VALUES (1, 'first'), (2, 'stays')").await?;
        let keys = "SELECT id::text FROM item";
        assert_eq!(stack.converges(stream, keys).await?, 2);

        let (mut is_held, mut is_deleted) = (false, false);
        proxy.decide(move |request| {
            if !is_held && request.contains("held back") {
                is_held = true;
                return Fate::Hold;
            }
            // After the delete nothing arrives until the upsert does: the second look is not before it.
            if is_deleted {
                return Fate::Refuse;
            }
            is_deleted = request.contains(r#"{"delete":{"#);
            Fate::Pass
        });
        stack.execute("UPDATE item SET name = 'held back' WHERE id = 1").await?;
        eventually("the upsert to be held back", async || match proxy.held() {
            0 => Err("nothing"),
            _ => Ok(()),
        })
        .await;
        stack.execute("DELETE FROM item WHERE id = 1").await?;
        assert_eq!(stack.converges(stream, keys).await?, 1);

        Service::Elasticsearch.signal("TERM")?;
        Service::Elasticsearch.start()?;
        let answers = proxy.release().await?;
        ensure!(stack.indexed(stream).await?.contains_key("1"), "it did not come back: {answers:?}");
        proxy.decide(|_| Fate::Pass);
        assert_eq!(stack.converges(stream, keys).await?, 1);
        pipeline.is_converged().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_is_blocked_for_a_while_is_complete_afterwards() -> Result<()> {
    alone("fault_block", async |pipeline| {
        let load = pipeline.load().await?;
        for is_blocked in [true, false, true, false] {
            for stream in ["fault_block_item", "fault_block_project"] {
                let settings = format!(r#"{{"index.blocks.read_only_allow_delete": {is_blocked}}}"#);
                let (status, text) =
                    pipeline.stack.search(Method::Put, &format!("/{stream}/_settings"), Some(&settings)).await?;
                ensure!(status.is_success(), "{text}");
            }
            if is_blocked {
                pipeline.is_felt().await;
            }
        }
        pipeline.converges(load).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_that_stops_under_load_loses_nothing() -> Result<()> {
    alone("fault_postgres", async |pipeline| {
        let load = pipeline.load().await?;
        // A fast stop, and one without a shutdown.
        for signal in ["INT", "QUIT"] {
            Service::Postgres.signal(signal)?;
            Service::Postgres.start()?;
            load.goes_on(300).await;
        }
        let (changes, refused) = load.stop_after_refusals().await?;
        ensure!(refused > 0, "of {changes} changes none met the restart");
        pipeline.reconnect().await?;
        pipeline.is_converged().await
    })
    .await
}
