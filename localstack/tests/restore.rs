//! An older dump, restored into another cluster: the index follows it, once it is rebased.
//!
//! The functions run in this process, since the deployed ones have one database.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use aws_config::BehaviorVersion;
use aws_lambda_events::event::sqs::{SqsEvent, SqsMessage};
use aws_sdk_sqs::types::MessageSystemAttributeName;
use config::fake::SecretsManager;
use config::{Env, Secrets};
use elasticsearch::http::Method;
use elasticsearch::http::headers::HeaderMap;
use indexer::{Indexer, Source};
use localstack::{Server, elasticsearch_secret};
use migrate::{Command, Migrate, Report};
use search::Connection;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_postgres::Client;
use trigger::Trigger;

const DATABASE_SECRET: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:database";
const ELASTICSEARCH_SECRET: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:elasticsearch";

/// The three functions, with a queue between them and a prefix for their indexes.
struct Pipeline {
    manager: SecretsManager,
    environment: Vec<(&'static str, String)>,
    sqs: aws_sdk_sqs::Client,
    queue_url: String,
    prefix: String,
}

impl Pipeline {
    async fn create(name: &str) -> Result<Self> {
        config::install_crypto_provider();
        let aws = aws_config::load_defaults(BehaviorVersion::latest()).await;
        let sqs = aws_sdk_sqs::Client::new(&aws);
        let name = format!("{name}-{}", std::process::id());
        let queue = sqs.create_queue().queue_name(&name).send().await?.queue_url.context("a queue has a URL")?;
        let letters = sqs.create_queue().queue_name(format!("{name}-dead")).send().await?;
        let manager = SecretsManager::start().await?;
        manager.put(ELASTICSEARCH_SECRET, &elasticsearch_secret()?.to_string());
        let environment = vec![
            ("DATABASE_SECRET_ARN", DATABASE_SECRET.to_owned()),
            ("DATABASE_SSLMODE", "disable".to_owned()),
            ("ELASTICSEARCH_SECRET_ARN", ELASTICSEARCH_SECRET.to_owned()),
            ("INDEX_PREFIX", format!("{name}-")),
            ("QUEUE_URL", queue.clone()),
            ("DEAD_LETTER_QUEUE_URL", letters.queue_url.context("a queue has a URL")?),
            ("DRAIN", "once".to_owned()),
        ];
        Ok(Self { manager, environment, sqs, queue_url: queue, prefix: format!("{name}-") })
    }

    /// From now on the functions find this server's database behind their secret.
    fn point_to(&self, server: &Server) {
        let port = server.port;
        let secret =
            json!({"username": "postgres", "password": "none", "host": "127.0.0.1", "port": port, "dbname": "app"});
        self.manager.put(DATABASE_SECRET, &secret.to_string());
    }

    fn env(&self) -> Env {
        Env::from_pairs(self.environment.iter().map(|(name, value)| (*name, value.as_str())))
    }

    async fn migrate(&self, command: Command) -> Result<()> {
        let secrets = Secrets::new(self.manager.client());
        let migrate = Migrate::new(migrate::Config::from_env(self.env())?, secrets);
        Ok(Box::pin(migrate.run(command, &mut Report::new(|_| ()))).await?)
    }

    /// Drains the log and indexes what comes, until nothing does.
    async fn run(&self) -> Result<()> {
        let secrets = Secrets::new(self.manager.client());
        let trigger = Trigger::new(trigger::Config::from_env(self.env())?, &secrets, self.sqs.clone());
        let config = indexer::Config::from_env(self.env())?;
        let search = Connection::new(config.search, secrets.clone());
        let source = Source::new(config.database, secrets.clone());
        let indexer = Indexer::new(search, source, self.sqs.clone(), config.settings);
        loop {
            Box::pin(trigger.handle("restore", SystemTime::now() + Duration::from_secs(60))).await?;
            let event = self.receive().await?;
            if event.records.is_empty() {
                return Ok(());
            }
            let answer =
                Box::pin(indexer.handle(&event, SystemTime::now(), Instant::now() + Duration::from_secs(60))).await?;
            assert!(answer.batch_item_failures.is_empty(), "{answer:?}");
            for record in event.records {
                let handle = record.receipt_handle.unwrap_or_default();
                self.sqs.delete_message().queue_url(&self.queue_url).receipt_handle(handle).send().await?;
            }
        }
    }

    async fn receive(&self) -> Result<SqsEvent> {
        let request = self.sqs.receive_message().queue_url(&self.queue_url).max_number_of_messages(10);
        let request = request.message_system_attribute_names(MessageSystemAttributeName::All);
        let mut event = SqsEvent::default();
        for message in request.send().await?.messages.unwrap_or_default() {
            let mut record = SqsMessage::default();
            let attributes = message.attributes.unwrap_or_default();
            record.attributes = attributes.into_iter().map(|(name, value)| (name.as_str().to_owned(), value)).collect();
            record.message_id = message.message_id;
            record.receipt_handle = message.receipt_handle;
            record.body = message.body;
            event.records.push(record);
        }
        Ok(event)
    }

    /// Key to name, of everything in the index.
    async fn indexed(&self) -> Result<BTreeMap<String, String>> {
        let config = indexer::Config::from_env(self.env())?;
        let client = search::connect(&config.search, &Secrets::new(self.manager.client())).await?;
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
    postgres.batch_execute("CREATE ROLE sluice_app").await?;
    postgres.batch_execute("CREATE DATABASE app").await?;
    Ok(server.connect("app").await)
}

#[tokio::test]
async fn an_older_dump_in_another_cluster_is_in_the_index_after_a_rebase() -> Result<()> {
    let pipeline = Pipeline::create("restore").await?;
    let old = Server::create()?;
    let client = create(&old).await?;
    pipeline.point_to(&old);
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
    pipeline.point_to(&new);
    client.batch_execute("INSERT INTO item VALUES (1000, 'before the rebase')").await?;
    let refused = pipeline.run().await.unwrap_err().to_string();
    assert!(refused.contains("another cluster") && refused.contains("rebase"), "{refused}");

    pipeline.migrate(Command::Rebase).await?;
    client.batch_execute("UPDATE item SET name = 'after the rebase' WHERE id = 1").await?;
    pipeline.run().await?;
    let indexed = pipeline.indexed().await?;
    assert_eq!(indexed, source(&client).await?);
    assert_eq!(indexed.len(), 501);
    pipeline.migrate(Command::Uninstall).await
}
