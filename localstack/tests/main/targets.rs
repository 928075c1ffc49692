//! What direct targets have.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use krafka::Kafka;
use krafka::consumer::{AutoOffsetReset, IsolationLevel};
use localstack::variable;
use reqwest::{Client, Url};

/// What ClickHouse answers.
pub async fn ask(statement: &str) -> Result<String> {
    let url = Url::parse(&variable("CLICKHOUSE_URL"))?;
    let answer = Client::new().post(url).body(statement.to_owned()).send().await?;
    let (status, text) = (answer.status(), answer.text().await?);
    ensure!(status.is_success(), "{statement}: {status} {text}");
    Ok(text)
}

/// What a consumer of committed messages keeps of a topic with one partition, once it has read all of them.
pub async fn table(topic: &str) -> Result<BTreeMap<String, String>> {
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
