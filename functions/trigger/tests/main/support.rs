use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use aws_config::SdkConfig;
use config::Env;
use drain::Summary;
use localstack::Database;
use message::{Message, Op};
use secrets::Secrets;
use telemetry::Trace;
use trigger::{Config, Trigger};

/// A database of the test's own, without the heartbeat, a queue of its own, and the functions' secret.
pub struct Bench {
    pub database: Database,
    pub sqs: aws_sdk_sqs::Client,
    pub queue_url: String,
    aws: SdkConfig,
    secret_arn: String,
}

/// One change as it arrived, with its document's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    pub stream: String,
    pub key: String,
    pub op: Op,
    pub version: i64,
    pub document: Option<String>,
    /// The trace of its message, and the one that its writer was in.
    pub traces: (Option<String>, Option<String>),
}

impl Bench {
    pub async fn create() -> Result<Self> {
        secrets::install_crypto_provider();
        let aws = secrets::aws().load().await;
        let database = Database::create().await?;
        database.owner().await?.execute("SELECT sluice.drop_stream('sluice_heartbeat')", &[]).await?;
        let sqs = aws_sdk_sqs::Client::new(&aws);
        let queue = sqs.create_queue().queue_name(&database.name).send().await?;
        let secrets = aws_sdk_secretsmanager::Client::new(&aws);
        let secret =
            secrets.create_secret().name(&database.name).secret_string(database.secret("functions")).send().await?;
        Ok(Self {
            database,
            sqs,
            queue_url: queue.queue_url.context("a queue has a URL")?,
            secret_arn: secret.arn.context("a secret has an ARN")?,
            aws,
        })
    }

    /// A trigger that drains what is there and ends, with more variables or other values of them.
    pub fn trigger(&self, variables: &[(&str, &str)]) -> Result<Trigger> {
        self.trigger_with(variables, self.sqs.clone())
    }

    /// The same with another client of SQS.
    pub fn trigger_with(&self, variables: &[(&str, &str)], sqs: aws_sdk_sqs::Client) -> Result<Trigger> {
        let mut all = HashMap::from([
            ("DATABASE_SECRET_ARN", self.secret_arn.as_str()),
            ("DATABASE_SSLMODE", "disable"),
            ("QUEUE_URL", self.queue_url.as_str()),
            ("DRAIN", "once"),
        ]);
        all.extend(variables.iter().copied());
        let secrets = Secrets::new(aws_sdk_secretsmanager::Client::new(&self.aws));
        Ok(trigger::new(Config::from_env(Env::from_pairs(all))?, &secrets, sqs))
    }

    /// Drains until nothing is left.
    pub async fn drain(&self) -> Result<Summary> {
        Ok(self.trigger(&[])?.handle(&Trace::of_invocation(None), a_minute_from_now()).await?)
    }

    /// Takes everything out of the queue, in order of version and key.
    pub async fn receive(&self) -> Result<Vec<Arrived>> {
        let mut arrived = vec![];
        loop {
            let request = self
                .sqs
                .receive_message()
                .queue_url(&self.queue_url)
                .max_number_of_messages(10)
                .message_attribute_names("All");
            let messages = request.send().await?.messages.unwrap_or_default();
            if messages.is_empty() {
                arrived.sort_by(|a: &Arrived, b| (a.version, &a.stream, &a.key).cmp(&(b.version, &b.stream, &b.key)));
                return Ok(arrived);
            }
            for message in messages {
                let body = message.body.as_deref().unwrap_or_default();
                let parsed = Message::parse(body)?;
                let attributes = message.message_attributes.as_ref();
                let trace = attributes.and_then(|all| all.get("traceparent")?.string_value.clone());
                arrived.extend(parsed.entries.iter().map(|entry| Arrived {
                    stream: parsed.stream.to_string(),
                    key: entry.change.key.to_string(),
                    op: entry.change.op,
                    version: entry.change.version,
                    document: entry.document.map(str::to_owned),
                    traces: (trace.clone(), entry.change.trace.as_deref().map(str::to_owned)),
                }));
                let handle = message.receipt_handle.unwrap_or_default();
                self.sqs.delete_message().queue_url(&self.queue_url).receipt_handle(handle).send().await?;
            }
        }
    }

    /// A table `item (id, name)` with a live stream of its name.
    pub async fn item(&self) -> Result<tokio_postgres::Client> {
        let owner = self.database.owner().await?;
        owner
            .batch_execute(
                "CREATE TABLE item (id int PRIMARY KEY, name text);
                 SELECT sluice.define_stream('item', source => 'public.item', key => 'id',
                     mapping => '{\"properties\": {\"id\": {\"type\": \"integer\"}, \"name\": {\"type\": \"text\"}}}');
                 SELECT sluice.track('item', stream => 'item', key => 'id');
                 SELECT sluice.set_live(subscription, stream, 'item-1', mapping) FROM sluice.target WHERE stream = 'item'",
            )
            .await?;
        Ok(owner)
    }
}

pub fn a_minute_from_now() -> SystemTime {
    SystemTime::now() + Duration::from_secs(60)
}
