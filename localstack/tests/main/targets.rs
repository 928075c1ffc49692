//! What direct targets have.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use krafka::Kafka;
use krafka::consumer::{AutoOffsetReset, IsolationLevel};
use localstack::variable;
use reqwest::{Client, Url};
use tokio::time::timeout;

/// What ClickHouse answers.
pub async fn ask(statement: &str) -> Result<String> {
    let url = Url::parse(&variable("CLICKHOUSE_URL"))?;
    let answer = Client::new().post(url).body(statement.to_owned()).send().await?;
    let (status, text) = (answer.status(), answer.text().await?);
    ensure!(status.is_success(), "{statement}: {status} {text}");
    Ok(text)
}

/// What a consumer of committed messages keeps of a topic with one partition, once it has read as far as this key.
pub async fn table(topic: &str, last: &str) -> Result<BTreeMap<String, String>> {
    // A client that began while the broker was away may wait for ever.
    timeout(Duration::from_secs(30), read(topic, last)).await?
}

async fn read(topic: &str, last: &str) -> Result<BTreeMap<String, String>> {
    let kafka = Kafka::builder(variable("KAFKA_BROKERS")).connect().await?;
    let consumer = kafka
        .consumer_without_group()
        .isolation_level(IsolationLevel::ReadCommitted)
        .auto_offset_reset(AutoOffsetReset::Earliest)
        .build()
        .await?;
    consumer.assign(topic, vec![0]).await?;
    let mut found = BTreeMap::new();
    while !found.contains_key(last) {
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
