//! The servers of direct targets are away for a while, under a steady load. A binary of its own, since it stops servers that the
//! others use. OUTAGE_SECONDS makes it longer, as `make soak` does; SEED repeats what is random.

#![allow(clippy::print_stderr, reason = "the long runs tell how far they are")]

#[allow(dead_code, reason = "shared with the faults, which use the rest of it")]
#[path = "faults/load.rs"]
mod load;
#[allow(dead_code, reason = "shared with the faults, which use the rest of it")]
#[path = "faults/pipeline.rs"]
mod pipeline;
#[allow(dead_code, reason = "shared with the other end-to-end tests, which use the rest of it")]
#[path = "main/stack.rs"]
mod stack;
#[path = "main/targets.rs"]
mod targets;

use anyhow::{Result, ensure};
use localstack::{Service, eventually, eventually_within};

use crate::pipeline::{Pipeline, alone, lasts};
use crate::stack::ARRIVAL;
use crate::targets::ask;

/// Each stream: its view in ClickHouse, and the same of the source.
const VIEWS: [(&str, &str); 2] = [
    (
        "SELECT id, ifNull(name, '-'), n FROM fault_targets_item ORDER BY id FORMAT TabSeparated",
        "SELECT coalesce(string_agg(concat_ws(E'\\t', id, coalesce(name, '-'), n) || E'\\n', '' ORDER BY id), '') FROM item",
    ),
    (
        "SELECT id, ifNull(title, '-'), ifNull(owner, '-') FROM fault_targets_project ORDER BY id FORMAT TabSeparated",
        "SELECT coalesce(string_agg(concat_ws(E'\\t', id, coalesce(title, '-'), coalesce(owner, '-')) || E'\\n', '' ORDER BY id), '') FROM project_document",
    ),
];

/// That a topic ends as its source, though its broker is killed, is for the function's own tests: here its log is passed, and there is
/// no letter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_clickhouse_and_kafka_under_load_delays_no_other_and_loses_nothing() -> Result<()> {
    alone("fault_targets", async |pipeline| {
        // What was sent to a topic stays: one of its own for each run.
        let topic: String = pipeline.stack.owner.query_one("SELECT 'fault-' || gen_random_uuid()", &[]).await?.get(0);
        for name in ["fault_targets_item", "fault_targets_project"] {
            ask(&format!("DROP TABLE IF EXISTS {name}")).await?;
            ask(&format!("DROP TABLE IF EXISTS _sluice_{name}")).await?;
        }
        let deliver = format!(
            "SELECT sluice.deliver('fault_targets_item', 'clickhouse'), sluice.deliver('fault_targets_project', 'clickhouse'),
                 sluice.deliver('fault_targets_item', 'kafka', '{{\"topic\": \"{topic}\", \"partitions\": 1}}')"
        );
        pipeline.stack.execute(&deliver).await?;
        pipeline.stack.migrate().await?;
        let load = pipeline.load().await?;
        Service::Clickhouse.signal("KILL")?;
        Service::Kafka.signal("KILL")?;
        pipeline.say("ClickHouse and Kafka are away");
        load.goes_on(300).await;
        arrives(pipeline, 1_000_001).await?;
        lasts("OUTAGE_SECONDS").await;
        arrives(pipeline, 1_000_002).await?;
        // Elasticsearch has the load's last rows to do, and goes on, as has just been seen.
        let waits = "SELECT array_agg(DISTINCT subscription ORDER BY subscription) FROM sluice.status() WHERE pending_rows > 300 AND subscription <> 'elasticsearch'";
        let waiting: Vec<String> = pipeline.stack.owner.query_one(waits, &[]).await?.get(0);
        ensure!(waiting == ["clickhouse", "kafka"], "what waits: {waiting:?}");
        Service::Clickhouse.start()?;
        Service::Kafka.start()?;
        pipeline.say("they are back");
        load.goes_on(100).await;
        pipeline.converges(load).await?;
        has_all(pipeline).await?;
        let letters = "SELECT count(*) FROM sluice.dead_letter WHERE stream LIKE 'fault\\_targets\\_%'";
        ensure!(pipeline.stack.owner.query_one(letters, &[]).await?.get::<_, i64>(0) == 0, "there are letters");
        let withhold = "SELECT sluice.withhold(stream, subscription) FROM sluice.target
             WHERE stream LIKE 'fault\\_targets\\_%' AND subscription <> 'elasticsearch'";
        pipeline.stack.execute(withhold).await
    })
    .await
}

/// A change of now arrives in Elasticsearch.
async fn arrives(pipeline: &Pipeline, id: i32) -> Result<()> {
    pipeline.stack.execute(&format!("INSERT INTO item VALUES ({id}, 'while they are away')")).await?;
    eventually("a change to arrive in Elasticsearch", async || {
        let indexed = pipeline.stack.indexed("fault_targets_item").await.map_err(|error| format!("{error:#}"))?;
        if indexed.contains_key(&id.to_string()) { Ok(()) } else { Err(format!("{} documents", indexed.len())) }
    })
    .await;
    Ok(())
}

async fn has_all(pipeline: &Pipeline) -> Result<()> {
    let owner = &pipeline.stack.owner;
    for (view, source) in VIEWS {
        let wanted: String = owner.query_one(source, &[]).await?.get(0);
        eventually_within(ARRIVAL, "a view in ClickHouse to equal its source", async || {
            let found = ask(view).await.map_err(|error| format!("{error:#}"))?;
            let (rows, all) = (found.lines().count(), wanted.lines().count());
            if found == wanted { Ok(()) } else { Err(format!("{rows} rows, {all} in the source")) }
        })
        .await;
    }
    Ok(())
}
