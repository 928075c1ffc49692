//! An older dump, restored into another cluster: the index follows it, once it is rebased.

mod pipeline;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use elasticsearch::http::Method;
use elasticsearch::http::headers::HeaderMap;
use localstack::Server;
use migrate::Command;
use serde_json::{Value, json};
use telemetry::Trace;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::pipeline::Pipeline;

impl Pipeline {
    /// From now on the functions find this server's database behind their secret.
    fn point_to_server(&self, server: &Server) {
        let port = server.port;
        let secret =
            json!({"username": "postgres", "password": "none", "host": "127.0.0.1", "port": port, "dbname": "app"});
        self.point_to(&secret.to_string());
    }

    /// Drains the log and indexes what comes, until nothing does.
    async fn run(&self) -> Result<()> {
        let trigger = trigger::new(trigger::Config::from_env(self.env())?, &self.secrets(), self.sqs.clone());
        let indexer = self.indexer()?;
        loop {
            Box::pin(trigger.handle(&Trace::of_invocation(None), SystemTime::now() + Duration::from_secs(60))).await?;
            let event = self.receive(&self.queue_url).await?;
            if event.records.is_empty() {
                return Ok(());
            }
            let answer =
                Box::pin(indexer.handle(&event, SystemTime::now(), Instant::now() + Duration::from_secs(60))).await?;
            assert!(answer.batch_item_failures.is_empty(), "{answer:?}");
            self.delete(&self.queue_url, &event.records).await?;
        }
    }

    /// Key to name, of everything in the index.
    async fn indexed(&self) -> Result<BTreeMap<String, String>> {
        let client = self.elasticsearch()?;
        let path = |rest: &str| format!("/{}item/{rest}", self.prefix);
        client.send(Method::Post, &path("_refresh"), HeaderMap::new(), None::<&()>, None::<&str>, None).await?;
        let search = path("_search?size=10000");
        let answer = client.send(Method::Get, &search, HeaderMap::new(), None::<&()>, None::<&str>, None).await?;
        let found: Value = answer.error_for_status_code()?.json().await?;
        let hits = found["hits"]["hits"].as_array().context("hits")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(hits.iter().map(|hit| (text(&hit["_id"]), text(&hit["_source"]["name"]))).collect())
    }
}

async fn source(client: &Client) -> Result<BTreeMap<String, String>> {
    let rows = client.query("SELECT id::text, name FROM item", &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn create(server: &Server) -> Result<Client> {
    let postgres = server.connect("postgres").await;
    // A dump has grants for the two roles, and no roles.
    postgres.batch_execute("CREATE ROLE sluice_app_app; CREATE ROLE sluice_capture_app").await?;
    postgres.batch_execute("CREATE DATABASE app").await?;
    Ok(server.connect("app").await)
}

#[tokio::test]
async fn an_older_dump_in_another_cluster_is_in_the_index_after_a_rebase() -> Result<()> {
    let pipeline = Pipeline::create("restore").await?;
    let old = Server::create()?;
    let client = create(&old).await?;
    pipeline.point_to_server(&old);
    pipeline.migrate(Command::Migrate).await?;
    client
        .batch_execute(
            "CREATE TABLE item (id int PRIMARY KEY, name text);
             SELECT sluice.define_stream('item', source => 'public.item', key => 'id',
                 mapping => '{\"properties\": {\"id\": {\"type\": \"integer\"}, \"name\": {\"type\": \"keyword\"}}}');
             SELECT sluice.track('item', stream => 'item', key => 'id')",
        )
        .await?;
    pipeline.migrate(Command::Migrate).await?;
    client.batch_execute("INSERT INTO item SELECT i, 'before the dump' FROM generate_series(1, 500) AS i").await?;
    pipeline.run().await?;
    assert_eq!(pipeline.indexed().await?, source(&client).await?);

    let dump = old.dump("app")?;
    client
        .batch_execute(
            "UPDATE item SET name = 'after the dump' WHERE id <= 100; DELETE FROM item WHERE id > 400;
             INSERT INTO item SELECT i, 'only the index will know' FROM generate_series(501, 600) AS i",
        )
        .await?;
    pipeline.run().await?;
    assert_eq!(pipeline.indexed().await?, source(&client).await?);

    let new = Server::create()?;
    let client = create(&new).await?;
    new.restore(&dump, "app")?;
    drop(old);
    pipeline.point_to_server(&new);
    client.batch_execute("INSERT INTO item VALUES (1000, 'before the rebase')").await?;
    let refused = pipeline.run().await.unwrap_err().to_string();
    assert!(refused.contains("another cluster") && refused.contains("rebase"), "{refused}");

    pipeline.migrate(Command::Rebase).await?;
    client.batch_execute("UPDATE item SET name = 'after the rebase' WHERE id = 1").await?;
    pipeline.run().await?;
    let indexed = pipeline.indexed().await?;
    assert_eq!(indexed, source(&client).await?);
    assert_eq!(indexed.len(), 501);
    assert!(pipeline.receive(&pipeline.dead_letter_queue_url).await?.records.is_empty(), "nothing is refused");
    pipeline.migrate(Command::Uninstall).await
}
