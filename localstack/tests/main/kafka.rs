//! A stream that goes to Kafka, and nowhere else.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use krafka::Kafka;
use krafka::consumer::{AutoOffsetReset, IsolationLevel};
use localstack::{eventually_within, variable};
use tokio::time::timeout;

use crate::stack::{ARRIVAL, Stack};

/// Each key's document, as the function's session prints it.
const SOURCE: &str = "SELECT id::text, to_json(i)::text FROM item AS i";

#[tokio::test]
async fn a_topic_ends_as_the_source() -> Result<()> {
    let stack = Stack::connect("e2e_kafka").await?;
    // A topic of its own for each run: what was sent stays.
    let topic: String = stack.owner.query_one("SELECT 'e2e-' || gen_random_uuid()", &[]).await?.get(0);
    stack
        .execute(&format!(
            "CREATE TABLE item (id int PRIMARY KEY, name text);
             INSERT INTO item SELECT i, 'before' FROM generate_series(1, 100) AS i;
             SELECT sluice.define_stream('e2e_kafka', source => 'e2e_kafka.item', key => 'id');
             SELECT sluice.track('item', stream => 'e2e_kafka', key => 'id');
             SELECT sluice.deliver('e2e_kafka', target => 'kafka', settings => '{{\"topic\": \"{topic}\", \"partitions\": 1}}')"
        ))
        .await?;
    stack.migrate().await?;
    stack.execute("SELECT sluice.resync('e2e_kafka')").await?;
    stack.execute("INSERT INTO item SELECT i, NULL FROM generate_series(101, 1000) AS i").await?;
    stack.execute("UPDATE item SET name = 'a\u{1F680}' WHERE id % 7 = 0; DELETE FROM item WHERE id % 5 = 0").await?;
    let wanted: BTreeMap<String, String> =
        stack.owner.query(SOURCE, &[]).await?.iter().map(|row| (row.get(0), row.get(1))).collect();
    eventually_within(ARRIVAL, "the last message of each key to be what the source has", async || {
        let read = timeout(Duration::from_secs(60), table(&topic)).await.map_err(|error| error.to_string())?;
        let found = read.map_err(|error| format!("{error:#}"))?;
        if found == wanted { Ok(()) } else { Err(format!("{} keys of {}", found.len(), wanted.len())) }
    })
    .await;
    // The subscription ends with its last stream.
    stack.execute("SELECT sluice.withhold('e2e_kafka', 'kafka')").await
}

/// What a consumer of committed messages keeps, once it has read all of them.
async fn table(topic: &str) -> Result<BTreeMap<String, String>> {
    let kafka = Kafka::builder(variable("KAFKA_BROKERS")).connect().await?;
    let consumer = kafka
        .consumer_without_group()
        .isolation_level(IsolationLevel::ReadCommitted)
        .auto_offset_reset(AutoOffsetReset::Earliest)
        .build()
        .await?;
    consumer.assign(topic, vec![0]).await?;
    let end = consumer.fetch_watermarks(topic, 0).await?.1;
    let mut found = BTreeMap::new();
    while consumer.position(topic, 0).await.unwrap_or(0) < end {
        for record in consumer.poll(Duration::from_millis(200)).await? {
            let key = record.key_str().context("a key")?.to_owned();
            match record.value_str() {
                Some(document) => drop(found.insert(key, document.to_owned())),
                None => drop(found.remove(&key)),
            }
        }
    }
    consumer.close().await?;
    Ok(found)
}
