use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use database::subscriptions::{KAFKA, drainer_name};
use krafka::admin::DescribeTopicsOptions;
use krafka::producer::{DeliveryHandle, Producer as Idempotent, Record, TransactionalProducer};
use krafka::{CloseOptions, Compression, Kafka, KrafkaError};
use secrets::Secrets;
use telemetry::call;
use tokio::runtime::Handle;
use tracing::info;

use crate::answer::{failed, reason};
use crate::client::{Client, Error, Message, Producer, Reason, Rejection};
use crate::connection::{Connection, PEER, REQUEST_TIMEOUT};

/// How long a batch of messages for a partition waits for more; a step's last ones do not.
const LINGER: Duration = Duration::from_millis(5);
/// Of one partition one batch is under way at a time. Far below a topic's `max.message.bytes` (1 MiB): of a batch that is too
/// large nobody knows which message is.
const BATCH_BYTES: usize = 256 * 1024;
/// From when a message is given to it until Kafka has it, with all retries.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(20);
/// For each call that may have to wait for Kafka's coordinator.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// After so long Kafka itself aborts what nobody has ended, and consumers that read what is committed go on.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);
/// For saying that what is open is given up.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// [`Client`] by the crate krafka.
#[derive(Debug)]
pub struct Krafka {
    connection: Connection,
    database: database::Settings,
    secrets: Secrets,
    /// The transactional id, once it is known.
    name: Option<String>,
}

impl Krafka {
    /// Connects to nothing yet. By the database's name it fences other drainers.
    pub fn new(connection: Connection, database: database::Settings, secrets: Secrets) -> Self {
        Self { connection, database, secrets, name: None }
    }

    async fn name(&mut self) -> Result<String, Error> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        let client = database::connect(&self.database, &self.secrets, "sluice kafka")
            .await
            .map_err(|error| Error::Name(error.into()))?;
        let name = drainer_name(&client, KAFKA).await.map_err(|error| Error::Name(error.into()))?;
        Ok(self.name.insert(name).clone())
    }
}

impl Client for Krafka {
    type Producer = KrafkaProducer;

    async fn take_over(&mut self, previous: Option<KrafkaProducer>) -> Result<KrafkaProducer, Error> {
        let kafka = match previous {
            Some(previous) => previous.kafka.clone(),
            None => self.connection.connect().await?,
        };
        let builder = kafka
            .producer()
            .compression(Compression::Lz4)
            .linger(LINGER)
            .batch_size(BATCH_BYTES)
            .delivery_timeout(DELIVERY_TIMEOUT)
            .max_block(CALL_TIMEOUT)
            .metrics_push(false);
        let open = if self.connection.has_transactions() {
            let name = self.name().await?;
            let making = builder.transaction_timeout(TRANSACTION_TIMEOUT).build_transactional(&name);
            let producer = call(PEER, "take_over", making).await.map_err(failed("taking over"))?;
            info!(transactional_id = name, epoch = producer.producer_epoch(), "fenced whoever sent before");
            Open::Transactional(Box::new(producer))
        } else {
            let producer = call(PEER, "take_over", builder.build()).await.map_err(failed("taking over"))?;
            Open::Idempotent(Box::new(producer))
        };
        Ok(KrafkaProducer { kafka, open: Some(open), known_topics: BTreeSet::new() })
    }
}

enum Open {
    Transactional(Box<TransactionalProducer>),
    Idempotent(Box<Idempotent>),
}

/// [`Producer`] by the crate krafka.
pub struct KrafkaProducer {
    kafka: Kafka,
    /// `None`: it is being dropped.
    open: Option<Open>,
    /// Those that were there when they were first sent to.
    known_topics: BTreeSet<Arc<str>>,
}

impl Producer for KrafkaProducer {
    async fn send(&mut self, messages: &[Message]) -> Result<Vec<Rejection>, Error> {
        let missing = self.missing_topics(messages).await?;
        if !missing.is_empty() {
            let reason = |message: &Message| missing.get(&message.topic).cloned();
            return Ok(rejections(messages.iter().map(reason)));
        }
        let Some(open) = &self.open else { return Err(Error::NotTakenOver) };
        call(PEER, "send", open.send(messages)).await
    }

    async fn commit(&mut self) -> Result<(), Error> {
        match &self.open {
            Some(Open::Transactional(producer)) => {
                call(PEER, "commit", producer.commit()).await.map_err(failed("committing"))
            }
            Some(Open::Idempotent(_)) => Ok(()),
            None => Err(Error::NotTakenOver),
        }
    }
}

impl KrafkaProducer {
    /// Topics that cannot be sent to, and why. Asked once for each: a client would wait for a topic that is not there.
    async fn missing_topics(&mut self, messages: &[Message]) -> Result<HashMap<Arc<str>, Reason>, Error> {
        let asked: BTreeSet<Arc<str>> = messages.iter().map(|message| Arc::clone(&message.topic)).collect();
        let asked: BTreeSet<Arc<str>> = asked.difference(&self.known_topics).cloned().collect();
        if asked.is_empty() {
            return Ok(HashMap::new());
        }
        let admin = self.kafka.admin().default_api_timeout(REQUEST_TIMEOUT).metrics_push(false);
        let describing = admin.describe_topics(asked.iter(), DescribeTopicsOptions::default());
        let mut found = call(PEER, "describe_topics", describing).await.map_err(failed("looking for topics"))?;
        let mut missing = HashMap::new();
        for topic in asked {
            let Some(Err(error)) = found.remove(&*topic) else {
                self.known_topics.insert(topic);
                continue;
            };
            match reason(&error, &topic) {
                Some(reason) => drop(missing.insert(topic, reason)),
                None => return Err(failed("looking for topics")(error)),
            }
        }
        Ok(missing)
    }
}

impl Open {
    async fn send(&self, messages: &[Message]) -> Result<Vec<Rejection>, Error> {
        if let Self::Transactional(producer) = self {
            producer.begin().map_err(failed("beginning a transaction"))?;
        }
        let mut handles = Vec::with_capacity(messages.len());
        let mut failure = None;
        for message in messages {
            match self.enqueue(record(message)).await {
                Ok(handle) => handles.push(handle),
                // Mostly because of one before, whose own answer says why.
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        self.flush().await.map_err(failed("sending"))?;
        let mut reasons = Vec::with_capacity(handles.len());
        for (handle, message) in handles.into_iter().zip(messages) {
            reasons.push(match handle.await {
                Ok(_) => None,
                Err(error) => match reason(&error, &message.topic) {
                    Some(reason) => Some(reason),
                    None => return Err(failed("sending")(error)),
                },
            });
        }
        if let Some(error) = failure.filter(|_| reasons.iter().all(Option::is_none)) {
            // Where the coordinator is asked before a topic is written to, it is the one that refuses it.
            match messages.get(reasons.len()).and_then(|message| reason(&error, &message.topic)) {
                Some(reason) => reasons.push(Some(reason)),
                None => return Err(failed("sending")(error)),
            }
        }
        let rejections = rejections(reasons);
        if !rejections.is_empty()
            && let Self::Transactional(producer) = self
        {
            producer.abort().await.map_err(failed("aborting a transaction"))?;
        }
        Ok(rejections)
    }

    async fn enqueue(&self, record: Record) -> Result<DeliveryHandle, KrafkaError> {
        match self {
            Self::Transactional(producer) => producer.enqueue(record).await,
            Self::Idempotent(producer) => producer.enqueue(record).await,
        }
    }

    async fn flush(&self) -> Result<(), KrafkaError> {
        match self {
            Self::Transactional(producer) => producer.flush().await,
            Self::Idempotent(producer) => producer.flush().await,
        }
    }

    async fn close(self) {
        // Without transactions what is not sent yet must not follow later, behind what the next producer sends.
        let outcome = match &self {
            Self::Transactional(producer) => producer.close_with(CloseOptions::new().timeout(CLOSE_TIMEOUT)).await,
            Self::Idempotent(producer) => producer.close_with(CloseOptions::new().timeout(Duration::ZERO)).await,
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "a producer was not closed in time");
        }
    }
}

/// Nobody waits for it: the next producer is told the same by Kafka.
impl Drop for KrafkaProducer {
    fn drop(&mut self) {
        if let (Some(open), Ok(runtime)) = (self.open.take(), Handle::try_current()) {
            drop(runtime.spawn(open.close()));
        }
    }
}

fn record(message: &Message) -> Record {
    let record = match &message.value {
        Some(value) => Record::new(&*message.topic, value.clone()).key(message.key.clone()),
        None => Record::tombstone(&*message.topic, message.key.clone()),
    };
    message.headers.iter().fold(record, |record, (name, value)| record.header(*name, value.clone()))
}

fn rejections(reasons: impl IntoIterator<Item = Option<Reason>>) -> Vec<Rejection> {
    let reasons = reasons.into_iter().enumerate();
    reasons.filter_map(|(position, reason)| Some(Rejection { position, reason: reason? })).collect()
}
