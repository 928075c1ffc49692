//! The functions in this process, since the deployed ones have one database: with a queue, a dead-letter queue and a
//! prefix for their indexes that are theirs alone.

use anyhow::{Context, Result};
use aws_config::BehaviorVersion;
use aws_lambda_events::event::sqs::{SqsEvent, SqsMessage, SqsMessageAttribute};
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, MessageSystemAttributeName, QueueAttributeName};
use config::Env;
use elasticsearch::Elasticsearch;
use elasticsearch::http::transport::Transport;
use indexer::{Database, Indexer};
use localstack::{elasticsearch_secret, eventually, variable};
use migrate::{Command, Migrate, Report};
use search::Connection;
use secrets::Secrets;
use secrets::fake::SecretsManager;

const DATABASE_SECRET: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:database";
const ELASTICSEARCH_SECRET: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:elasticsearch";

/// As the template has them.
const VISIBILITY_TIMEOUT_SECONDS: u32 = 360;
const MESSAGE_BYTES: u32 = 1_000_000;
const LETTER_BYTES: u32 = 1 << 20;

pub struct Pipeline {
    manager: SecretsManager,
    environment: Vec<(&'static str, String)>,
    pub sqs: aws_sdk_sqs::Client,
    pub queue_url: String,
    pub dead_letter_queue_url: String,
    pub prefix: String,
}

impl Pipeline {
    pub async fn create(name: &str) -> Result<Self> {
        secrets::install_crypto_provider();
        let aws = aws_config::load_defaults(BehaviorVersion::latest()).await;
        let sqs = aws_sdk_sqs::Client::new(&aws);
        let name = format!("{name}-{}", std::process::id());
        let create = async |name: &str, max_bytes: u32| {
            let request = sqs.create_queue().queue_name(name);
            let request =
                request.attributes(QueueAttributeName::VisibilityTimeout, VISIBILITY_TIMEOUT_SECONDS.to_string());
            let request = request.attributes(QueueAttributeName::MaximumMessageSize, max_bytes.to_string());
            request.send().await?.queue_url.context("a queue has a URL")
        };
        let queue_url = create(&name, MESSAGE_BYTES).await?;
        let dead_letter_queue_url = create(&format!("{name}-dead"), LETTER_BYTES).await?;
        let manager = SecretsManager::start().await?;
        manager.put(ELASTICSEARCH_SECRET, &elasticsearch_secret()?.to_string());
        let environment = vec![
            ("DATABASE_SECRET_ARN", DATABASE_SECRET.to_owned()),
            ("DATABASE_SSLMODE", "disable".to_owned()),
            ("ELASTICSEARCH_SECRET_ARN", ELASTICSEARCH_SECRET.to_owned()),
            ("INDEX_PREFIX", format!("{name}-")),
            ("QUEUE_URL", queue_url.clone()),
            ("DEAD_LETTER_QUEUE_URL", dead_letter_queue_url.clone()),
            ("DRAIN", "once".to_owned()),
        ];
        Ok(Self { manager, environment, sqs, queue_url, dead_letter_queue_url, prefix: format!("{name}-") })
    }

    /// From now on the functions that are made find this database behind their secret.
    pub fn point_to(&self, database_secret: &str) {
        self.manager.put(DATABASE_SECRET, database_secret);
    }

    pub fn env(&self) -> Env {
        Env::from_pairs(self.environment.iter().map(|(name, value)| (*name, value.as_str())))
    }

    pub fn secrets(&self) -> Secrets {
        Secrets::new(self.manager.client())
    }

    pub async fn migrate(&self, command: Command) -> Result<()> {
        let migrate = Migrate::new(migrate::Config::from_env(self.env())?, self.secrets());
        Ok(Box::pin(migrate.run(command, &mut Report::new(|_| ()))).await?)
    }

    pub fn indexer(&self) -> Result<Indexer> {
        let config = indexer::Config::from_env(self.env())?;
        let search = Connection::new(config.search, self.secrets());
        let database = Database::new(config.database, self.secrets());
        Ok(Indexer::new(search, database, self.sqs.clone(), config.settings))
    }

    pub fn elasticsearch(&self) -> Result<Elasticsearch> {
        Ok(Elasticsearch::new(Transport::single_node(&variable("ELASTICSEARCH_URL"))?))
    }

    /// Up to ten messages, as Lambda would hand them over.
    pub async fn receive(&self, queue_url: &str) -> Result<SqsEvent> {
        let request = self.sqs.receive_message().queue_url(queue_url).max_number_of_messages(10);
        let request = request.message_system_attribute_names(MessageSystemAttributeName::All);
        let request = request.message_attribute_names("All");
        let mut event = SqsEvent::default();
        for message in request.send().await?.messages.unwrap_or_default() {
            let mut record = SqsMessage::default();
            let attributes = message.attributes.unwrap_or_default();
            record.attributes = attributes.into_iter().map(|(name, value)| (name.as_str().to_owned(), value)).collect();
            for (name, value) in message.message_attributes.unwrap_or_default() {
                let mut attribute = SqsMessageAttribute::default();
                attribute.data_type = Some(value.data_type);
                attribute.string_value = value.string_value;
                record.message_attributes.insert(name, attribute);
            }
            record.message_id = message.message_id;
            record.receipt_handle = message.receipt_handle;
            record.body = message.body;
            event.records.push(record);
        }
        Ok(event)
    }

    /// What Lambda does with the messages that are done.
    pub async fn delete(&self, queue_url: &str, records: &[SqsMessage]) -> Result<()> {
        for ten in records.chunks(10) {
            let entry = |(id, record): (usize, &SqsMessage)| {
                let entry = DeleteMessageBatchRequestEntry::builder().id(id.to_string());
                entry.set_receipt_handle(record.receipt_handle.clone()).build()
            };
            let entries = ten.iter().enumerate().map(entry).collect::<Result<Vec<_>, _>>()?;
            // LocalStack fails now and then at one that somebody else has just received.
            eventually("SQS to delete messages", async || {
                let request = self.sqs.delete_message_batch().queue_url(queue_url);
                match request.set_entries(Some(entries.clone())).send().await {
                    Ok(answer) if answer.failed.is_empty() => Ok(()),
                    answer => Err(format!("{answer:?}")),
                }
            })
            .await;
        }
        Ok(())
    }
}
