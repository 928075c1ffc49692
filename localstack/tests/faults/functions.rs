//! The functions, or the one process, are killed, and what they hear from Elasticsearch gets lost.

use std::time::Duration;

use anyhow::Result;
use fastrand::Rng;
use localstack::{Service, parameter};
use tokio::time::sleep;

use crate::chaos;
use crate::pipeline::alone;

/// At least: on a busy machine the load may be done before some functions were killed.
const KILLS: u32 = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_that_are_killed_at_any_moment_lose_nothing() -> Result<()> {
    alone("fault_kill", async |pipeline| {
        let wanted = parameter("KILL_CHANGES").unwrap_or(2000);
        let mut random = Rng::with_seed(pipeline.seed);
        let load = pipeline.load().await?;
        let mut kills = 0;
        while load.changes() < wanted || kills < KILLS {
            sleep(Duration::from_millis(random.u64(50..1500))).await;
            pipeline.kill(if random.bool() { Service::Indexer } else { Service::Trigger }).await?;
            kills += 1;
            if kills % 20 == 0 {
                pipeline.say(&format!("{kills} kills, {} of {wanted} changes", load.changes()));
            }
        }
        pipeline.converges(load).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_answers_and_late_requests_to_elasticsearch_change_nothing() -> Result<()> {
    alone("fault_cut", async |pipeline| {
        let proxy = pipeline.elasticsearch_by_proxy().await?;
        let load = pipeline.load().await?;
        chaos::reign(&proxy, &load, parameter("KILL_CHANGES").unwrap_or(2000), pipeline.seed).await?;
        pipeline.converges(load).await
    })
    .await
}
