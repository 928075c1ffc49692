//! The validator, while writers go on: what was damaged is found and put right, and no fault changes
//! a verdict.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use elasticsearch::http::Method;
use fastrand::Rng;
use localstack::{Run, Service, eventually, variable};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::pipeline::{Pipeline, alone};
use crate::stack::superuser;

/// Nobody but the tests changes these rows: the load's ids are smaller.
const QUIET: &str = "INSERT INTO item SELECT n, 'quiet' FROM generate_series(10001, 10020) AS n";
/// A document that is another one each time, and a stream that nobody makes an index for.
const ODD: &str = r#"CREATE TABLE tick (id bigint PRIMARY KEY);
    CREATE VIEW clock AS SELECT id, clock_timestamp() AS at FROM tick;
    SELECT sluice.define_stream('fault_damage_clock', source => 'fault_damage.clock', key => 'id', mapping => '{"properties": {"id": {"type": "long"}, "at": {"type": "date"}}}');
    SELECT sluice.track('tick', stream => 'fault_damage_clock', key => 'id')"#;
const WAITING: &str = r#"CREATE TABLE later (id bigint PRIMARY KEY);
    SELECT sluice.define_stream('fault_damage_later', source => 'fault_damage.later', key => 'id', mapping => '{"properties": {"id": {"type": "long"}}}');
    SELECT sluice.track('later', stream => 'fault_damage_later', key => 'id');
    INSERT INTO later VALUES (1)"#;

/// A round of a stream in Elasticsearch, from its beginning to its end.
pub async fn compare(pipeline: &Pipeline, stream: &str) -> Result<Value> {
    pipeline.stack.begin_round(stream, "elasticsearch").await?;
    Ok(pipeline.stack.finish_round(stream, "elasticsearch").await)
}

/// As `class state keys`.
pub async fn differences(pipeline: &Pipeline, stream: &str) -> Result<String> {
    let query = "SELECT coalesce(string_agg(format('%s %s %s', class, state, keys), ', ' ORDER BY class, state), '') FROM (
         SELECT class, state, string_agg(key, ' ' ORDER BY key) AS keys FROM sluice.difference WHERE stream = $1 GROUP BY 1, 2) AS d";
    Ok(pipeline.stack.owner.query_one(query, &[&stream]).await?.get(0))
}

/// Writes into Elasticsearch behind Sluice's back.
async fn damage(pipeline: &Pipeline, method: Method, path: &str, document: Option<&str>) -> Result<()> {
    let (status, answer) = pipeline.stack.search(method, path, document).await?;
    ensure!(status.is_success(), "{path}: {answer}");
    Ok(())
}

/// The index is as it was before these changes, versions included.
async fn restore_around(pipeline: &Pipeline, stream: &str, changes: &str) -> Result<()> {
    #[derive(serde::Deserialize)]
    struct Hits {
        hits: Vec<Hit>,
    }
    #[derive(serde::Deserialize)]
    struct Hit {
        _id: String,
        _version: i64,
        _source: Box<RawValue>,
    }
    let get = async |path: &str| anyhow::Ok(pipeline.stack.search(Method::Get, path, None).await?.1);
    get(&format!("/{stream}/_refresh")).await?;
    let older: HashMap<String, Box<RawValue>> =
        serde_json::from_str(&get(&format!("/{stream}/_search?size=1000&version=true")).await?)?;
    let older: Hits = serde_json::from_str(older["hits"].get())?;
    let found: Value = serde_json::from_str(&get(&format!("/{stream}")).await?)?;
    pipeline.stack.execute(changes).await?;
    pipeline.stack.converges(stream, "SELECT id::text FROM item").await?;
    let (index, was) = found.as_object().and_then(|found| found.iter().next()).context("there is an index")?;
    // On OpenSearch none is made under the template without it.
    let settings = json!({"index.sort.field": null});
    let body = json!({"mappings": was["mappings"], "aliases": was["aliases"], "settings": settings}).to_string();
    damage(pipeline, Method::Delete, &format!("/{index}"), None).await?;
    damage(pipeline, Method::Put, &format!("/{index}"), Some(&body)).await?;
    let mut lines = String::new();
    for Hit { _id: id, _version: version, _source: source } in older.hits {
        let action = json!({"index": {"_id": id, "version": version, "version_type": "external"}});
        lines.push_str(&format!("{action}\n{source}\n"));
    }
    damage(pipeline, Method::Post, &format!("/{index}/_bulk"), Some(&lines)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn injected_damage_is_found_classed_and_repaired_in_one_round_while_writers_go_on() -> Result<()> {
    alone("fault_damage", async |pipeline| {
        // An orphan is one when no older write can bring back what was deleted.
        pipeline.configure("INDEXER_FUNCTION", "SECOND_LOOK_AFTER", "2s").await?;
        let stream = "fault_damage_item";
        // What other tests have lost lags behind until it is logged again, and nobody waits for it here.
        pipeline.stack.execute("DELETE FROM sluice.flight").await?;
        pipeline.stack.execute(QUIET).await?;
        pipeline.stack.converges(stream, "SELECT id::text FROM item").await?;
        pipeline.stack.execute(ODD).await?;
        pipeline.stack.migrate().await?;
        pipeline.stack.execute("INSERT INTO tick VALUES (1), (2)").await?;
        pipeline.stack.execute(WAITING).await?;
        restore_around(
            pipeline,
            stream,
            "UPDATE item SET name = 'newer' WHERE id IN (10011, 10012); INSERT INTO item VALUES (10030, 'newer')",
        )
        .await?;
        let load = pipeline.load().await?;
        let document = |id: i32| format!(r#"{{"id":{id},"name":"altered","n":0}}"#);
        damage(pipeline, Method::Put, &format!("/{stream}/_doc/10001"), Some(&document(10001))).await?;
        damage(pipeline, Method::Delete, &format!("/{stream}/_doc/10002"), None).await?;
        damage(pipeline, Method::Put, &format!("/{stream}/_doc/20000"), Some(&document(20000))).await?;
        // Eleven days, if the clock gave them.
        let future = "SELECT reserved + 1000000000000 FROM sluice.subscription WHERE name = 'elasticsearch'";
        let future: i64 = pipeline.stack.owner.query_one(future, &[]).await?.get(0);
        let future = format!("/{stream}/_doc/10004?version={future}&version_type=external");
        damage(pipeline, Method::Put, &future, Some(&document(10004))).await?;
        let unnoticed = "SET session_replication_role = replica; SET search_path = fault_damage;
             UPDATE item SET name = 'unnoticed' WHERE id = 10005;
             INSERT INTO item VALUES (10021, 'unnoticed');
             DELETE FROM item WHERE id = 10006";
        superuser().await?.batch_execute(unnoticed).await?;
        // Elasticsearch takes no such keyword.
        pipeline.stack.execute("UPDATE item SET name = repeat('x', 40000) WHERE id = 10008").await?;
        eventually("the letter to be noted", async || {
            let query = "SELECT count(*) FROM sluice.dead_letter WHERE stream = 'fault_damage_item'";
            let row = pipeline.stack.owner.query_one(query, &[]).await.map_err(|error| error.to_string())?;
            if row.get::<_, i64>(0) == 1 { Ok(()) } else { Err("none".to_owned()) }
        })
        .await;

        let row = compare(pipeline, stream).await?;
        assert_eq!(
            differences(pipeline, stream).await?,
            "dead_lettered confirmed 10008, extra repaired 10006 20000, missing repaired 10002 10021 10030, stale repaired 10001 10005 10011 10012, version_ahead repaired 10004",
            "{row}"
        );
        compare(pipeline, "fault_damage_clock").await?;
        let odd = differences(pipeline, "fault_damage_clock").await?;
        ensure!(odd.starts_with("untracked confirmed ") && !odd.contains(','), "{odd}");
        let row = compare(pipeline, "fault_damage_later").await?;
        assert_eq!(row["verdict"], "not compared", "{row}");
        assert_eq!(row["classes"], json!([{"class": "waiting", "state": "confirmed", "count": 1, "keys": ["1"]}]));
        // What differs for good would wake somebody, in the tests of the alarms, too.
        let gone = "SELECT sluice.drop_stream('fault_damage_clock'); SELECT sluice.drop_stream('fault_damage_later')";
        pipeline.stack.execute(gone).await?;
        pipeline.say("all of it was found and repaired");
        pipeline.stack.execute("UPDATE item SET name = 'short' WHERE id = 10008").await?;
        pipeline.discard_letters().await?;
        pipeline.converges(load).await
    })
    .await
}

/// Whatever is away, and whoever is killed, in the middle of a round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outages_and_kills_in_the_middle_of_a_round_delay_it_and_change_no_verdict() -> Result<()> {
    alone("fault_round", async |pipeline| {
        pipeline.configure("INDEXER_FUNCTION", "SECOND_LOOK_AFTER", "2s").await?;
        // Some pages, each of them half a second's.
        pipeline.configure("VALIDATE_FUNCTION", "VALIDATE_RATE", "100").await?;
        let stream = "fault_round_item";
        // What other tests have lost lags behind until it is logged again, and nobody waits for it here.
        pipeline.stack.execute("DELETE FROM sluice.flight").await?;
        pipeline.stack.execute(QUIET).await?;
        pipeline.stack.converges(stream, "SELECT id::text FROM item").await?;
        damage(pipeline, Method::Delete, &format!("/{stream}/_doc/10002"), None).await?;
        let load = pipeline.load().await?;
        pipeline.stack.begin_round(stream, "elasticsearch").await?;
        let mut random = Rng::with_seed(pipeline.seed);
        let faults = ["Elasticsearch", "PostgreSQL", "SQS", "the validator"];
        let has_queue = pipeline.stack.run.has_queue();
        for fault in faults.into_iter().filter(|fault| has_queue || *fault != "SQS") {
            is_under_way(pipeline, stream).await?;
            sleep(Duration::from_millis(random.u64(200..1500))).await;
            match fault {
                "Elasticsearch" => {
                    Service::Elasticsearch.signal("KILL")?;
                    Service::Elasticsearch.start()?;
                }
                "PostgreSQL" => {
                    Service::Postgres.signal("KILL")?;
                    Service::Postgres.start()?;
                    pipeline.reconnect().await?;
                    pipeline.tick().await?;
                }
                "SQS" => {
                    Service::LocalStack.signal("STOP")?;
                    sleep(Duration::from_secs(1)).await;
                    Service::LocalStack.signal("CONT")?;
                }
                _ => pipeline.kill(Service::Validate).await?,
            }
            pipeline.say(&format!("{fault} was away"));
        }
        // A page waits until the load has arrived, which had piled up.
        let (changes, _) = load.stop_after_refusals().await?;
        pipeline.say(&format!("{changes} changes"));
        let row = pipeline.stack.finish_round(stream, "elasticsearch").await;
        assert_eq!(differences(pipeline, stream).await?, "missing repaired 10002", "{row}");
        pipeline.is_converged().await
    })
    .await
    .context("a round among faults")
}

/// Somebody goes on with the round by himself for a while, and nobody waits for his answer.
async fn is_under_way(pipeline: &Pipeline, stream: &str) -> Result<()> {
    if pipeline.stack.run == Run::Functions {
        let go_on = json!({"command": "go_on", "streams": [stream]}).to_string();
        return pipeline.stack.start_with(&variable("VALIDATE_FUNCTION"), &go_on).await;
    }
    eventually("the round to begin", async || {
        let query = "SELECT state FROM sluice.validation WHERE subscription = 'elasticsearch' AND stream = $1";
        let state: String =
            pipeline.stack.owner.query_one(query, &[&stream]).await.map_err(|error| error.to_string())?.get(0);
        if state == "asked" { Err(state) } else { Ok(()) }
    })
    .await;
    Ok(())
}
