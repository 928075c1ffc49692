//! A queue of generated messages, through the indexer's handler in this process. SEED=<n> repeats a run,
//! MESSAGES=<n> makes it longer.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use aws_lambda_events::event::sqs::{SqsEvent, SqsMessage};
use aws_sdk_sqs::types::{QueueAttributeName, SendMessageBatchRequestEntry};
use indexer::Indexer;
use localstack::{eventually, parameter};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::account::Account;
use crate::generator::{Fate, Generator, Message};
use crate::world::World;

/// What Lambda gives a batch.
const TIMEOUT: Duration = Duration::from_secs(60);
/// So many requests for messages make one batch.
const RECEIVES: usize = 3;

struct Run {
    world: World,
    indexer: Indexer,
    account: Mutex<Account>,
    /// What SQS took, by its id.
    queued: Mutex<HashMap<String, Message>>,
    /// Those of them that were given back. They may come once more before they are deleted.
    given_back: Mutex<HashSet<String>>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_message_is_written_or_refused_with_a_reason_or_given_back_whatever_is_in_it() -> Result<()> {
    let seed = parameter("SEED").unwrap_or_else(|| fastrand::u64(..));
    let messages = parameter("MESSAGES").unwrap_or(3000);
    println!("SEED={seed} MESSAGES={messages}");
    let world = World::create().await?;
    let run = Run {
        indexer: world.pipeline.indexer()?,
        account: Mutex::new(Account::new(world.streams.clone())),
        queued: Mutex::default(),
        given_back: Mutex::default(),
        world,
    };
    Box::pin(run.all(seed, messages)).await.with_context(|| format!("repeat with SEED={seed} MESSAGES={messages}"))
}

impl Run {
    async fn all(self, seed: u64, messages: usize) -> Result<()> {
        let elsewhere = self.world.writes_elsewhere().await?;
        let mut generator = Generator::new(seed, &self.world.pipeline.prefix, self.world.streams.clone());
        let messages: Vec<Message> = (0..messages).map(|_| generator.message()).collect();
        let refused_by_sqs = self.put_on_the_queue(messages).await?;
        println!("{} messages are refused by SQS itself", refused_by_sqs.len());

        tokio::try_join!(self.work(), self.work(), self.work())?;
        ensure!(self.queued.lock().await.is_empty(), "the queue has lost messages");
        for few in refused_by_sqs.chunks(20) {
            self.handle_directly(few).await?;
        }
        self.handle_odd_records(&mut generator).await?;

        self.compare_dead_letters().await?;
        let account = self.account.into_inner();
        let source = self.world.source().await?;
        for stream in [&self.world.streams.sourced, &self.world.streams.payloads] {
            let (expected, indexed) = (account.documents(stream, &source), self.world.indexed(stream).await?);
            let keys: BTreeSet<&String> = expected.keys().chain(indexed.keys()).collect();
            for key in keys {
                let (expected, indexed) = (expected.get(key), indexed.get(key));
                ensure!(expected == indexed, "{stream} {key:?}: {indexed:?} instead of {expected:?}");
            }
            println!("{stream}: {} documents are as they should be", indexed.len());
        }
        let now = self.world.writes_elsewhere().await?;
        ensure!(now == elsewhere, "an index was written to, or made: {now:?} instead of {elsewhere:?}");
        let strays = self.world.strays(generator.keys()).await?;
        ensure!(strays.is_empty(), "documents in indexes of others: {strays:?}");
        account.print();
        self.world.remove().await
    }

    /// Gives what SQS does not take.
    async fn put_on_the_queue(&self, messages: Vec<Message>) -> Result<Vec<Message>> {
        let (sqs, queue_url) = (&self.world.pipeline.sqs, &self.world.pipeline.queue_url);
        let mut refused = vec![];
        let mut batch = vec![];
        for message in messages {
            if is_plain(&message.body) {
                batch.push(message);
                if batch.len() == 10 {
                    self.send(std::mem::take(&mut batch)).await?;
                }
                continue;
            }
            match sqs.send_message().queue_url(queue_url).message_body(&message.body).send().await {
                Ok(sent) => {
                    self.queued.lock().await.insert(sent.message_id.context("an id")?, message);
                }
                Err(error) => {
                    let error = error.into_service_error();
                    ensure!(!error.meta().code().unwrap_or_default().is_empty(), "{error:?}");
                    refused.push(message);
                }
            }
        }
        self.send(batch).await?;
        Ok(refused)
    }

    async fn send(&self, batch: Vec<Message>) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut request = self.world.pipeline.sqs.send_message_batch().queue_url(&self.world.pipeline.queue_url);
        for (id, message) in batch.iter().enumerate() {
            let entry = SendMessageBatchRequestEntry::builder().id(id.to_string()).message_body(&message.body);
            request = request.entries(entry.build()?);
        }
        let sent = request.send().await?;
        ensure!(sent.failed.is_empty(), "{:?}", sent.failed);
        let mut batch: HashMap<String, Message> =
            batch.into_iter().enumerate().map(|(id, message)| (id.to_string(), message)).collect();
        for entry in sent.successful {
            let message = batch.remove(&entry.id).context("a message that was sent")?;
            self.queued.lock().await.insert(entry.message_id, message);
        }
        Ok(())
    }

    /// Handles the queue until it is empty.
    async fn work(&self) -> Result<()> {
        let pipeline = &self.world.pipeline;
        loop {
            let mut event = SqsEvent::default();
            for _ in 0..RECEIVES {
                event.records.extend(pipeline.receive(&pipeline.queue_url).await?.records);
            }
            if event.records.is_empty() {
                return Ok(());
            }
            let mut given_back = HashSet::new();
            for record in &event.records {
                let id = record.message_id.clone().context("an id")?;
                if self.given_back.lock().await.contains(&id) {
                    given_back.insert(id);
                    continue;
                }
                let message = self.queued.lock().await.remove(&id).with_context(|| format!("{id} came twice"))?;
                ensure!(record.body.as_ref() == Some(&message.body), "{id} was changed on its way");
                if self.account.lock().await.expect(&message) {
                    self.given_back.lock().await.insert(id.clone());
                    given_back.insert(id);
                }
            }
            self.handle(&event, &given_back).await?;
            pipeline.delete(&pipeline.queue_url, &event.records).await?;
        }
    }

    /// As Lambda and SQS do together: what is given back comes again. For a server that was slow that is right, and over at
    /// last; `given_back` is what has no other end.
    async fn handle(&self, event: &SqsEvent, given_back: &HashSet<String>) -> Result<()> {
        let mut left = event.clone();
        eventually("messages that nothing is wrong with to be done", async || {
            let handled = self.handle_once(&left, given_back).await;
            match handled {
                Ok(again) if again.is_empty() => Ok(Ok(())),
                Ok(again) => {
                    left.records = again;
                    let body = left.records[0].body.as_deref().unwrap_or_default();
                    Err(format!("{} were given back: {body:.300}", left.records.len()))
                }
                Err(error) => Ok(Err(error)),
            }
        })
        .await
    }

    /// Those that were given back, but for those that must be.
    async fn handle_once(&self, event: &SqsEvent, given_back: &HashSet<String>) -> Result<Vec<SqsMessage>> {
        let deadline = Instant::now() + TIMEOUT;
        let answer = timeout_at(deadline, Box::pin(self.indexer.handle(event, SystemTime::now(), deadline))).await;
        let answer = answer.context("it did not answer before its deadline")??;
        let failures = answer.batch_item_failures.into_iter().map(|failure| failure.item_identifier);
        let failures: HashSet<String> = failures.collect();
        let mut again = vec![];
        for record in &event.records {
            let id = record.message_id.as_ref().context("an id")?;
            let body = record.body.as_deref().unwrap_or_default();
            match (failures.contains(id), given_back.contains(id)) {
                (false, true) => bail!("it was not given back: {body:.1000}"),
                (true, false) => again.push(record.clone()),
                _ => {}
            }
        }
        Ok(again)
    }

    async fn handle_directly(&self, messages: &[Message]) -> Result<()> {
        let mut given_back = HashSet::new();
        let mut records = vec![];
        for (position, message) in messages.iter().enumerate() {
            if self.account.lock().await.expect(message) {
                given_back.insert(position.to_string());
            }
            records.push(record(&position.to_string(), Some(&message.body)));
        }
        self.handle(&event(&records)?, &given_back).await
    }

    /// Records as SQS would not make them, and a batch that cannot be given back in part.
    async fn handle_odd_records(&self, generator: &mut Generator) -> Result<()> {
        let counts =
            ["", "x", "-1", "1.0", "99999999999999999999"].map(|count| json!({"ApproximateReceiveCount": count}));
        let no_count = [json!(null), json!({})].into_iter().chain(counts);
        let mut messages = vec![];
        let mut records = vec![];
        for attributes in no_count {
            // Without a count it counts as received before.
            let message = generator.upsert_as("odd attributes", Fate::ReadAnew);
            let mut record = record(&records.len().to_string(), Some(&message.body));
            record["attributes"] = attributes;
            messages.push(message);
            records.push(record);
        }
        let told = ["x", "9223372036854775807", "-9223372036854775808"]
            .map(|sent| (json!({"SentTimestamp": sent}), json!({})));
        let told = told.into_iter().chain(
            [
                json!({"dataType": "Number", "stringValue": "12"}),
                json!({"dataType": "Binary", "binaryValue": "AAE="}),
                json!({"dataType": "String.x", "stringValue": "\u{0}".repeat(5000)}),
                json!({"dataType": "String"}),
                json!({}),
            ]
            .map(|first_seen| (json!({}), json!({"first_seen": first_seen, "other": first_seen}))),
        );
        for (mut attributes, message_attributes) in told {
            let message = generator.upsert_as("odd times", Fate::Refused("invalid_document"));
            let mut record = record(&records.len().to_string(), Some(&message.body));
            attributes["ApproximateReceiveCount"] = json!("1");
            (record["attributes"], record["messageAttributes"]) = (attributes, message_attributes);
            record["receiptHandle"] = Value::Null;
            messages.push(message);
            records.push(record);
        }
        for message in &messages {
            ensure!(!self.account.lock().await.expect(message));
        }
        self.handle(&event(&records)?, &HashSet::new()).await?;

        let empty = Message::without_a_body();
        ensure!(!self.account.lock().await.expect(&empty));
        self.handle(&event(&[record("0", None)])?, &HashSet::new()).await?;

        let message = generator.upsert_as("beside one without an id", Fate::Done);
        for nameless in [json!({}), json!({"messageId": ""}), json!({"messageId": null, "body": "x"})] {
            let event = event(&[record("0", Some(&message.body)), nameless])?;
            ensure!(
                self.indexer.handle(&event, SystemTime::now(), Instant::now() + TIMEOUT).await.is_err(),
                "it cannot be given back"
            );
        }
        self.handle_directly(&[message]).await
    }

    /// Takes all of them out of the queue.
    async fn compare_dead_letters(&self) -> Result<()> {
        let pipeline = &self.world.pipeline;
        let queue_url = &pipeline.dead_letter_queue_url;
        let take = async || -> Result<usize> {
            let event = pipeline.receive(queue_url).await?;
            for record in &event.records {
                let attribute = |name: &str| {
                    let value = record.message_attributes.get(name).and_then(|value| value.string_value.clone());
                    value.unwrap_or_default()
                };
                let body = record.body.as_deref().unwrap_or_default();
                self.account.lock().await.strike_off(body, attribute).map_err(anyhow::Error::msg)?;
            }
            pipeline.delete(queue_url, &event.records).await?;
            Ok(event.records.len())
        };
        let (expected, _) = self.account.lock().await.missing_letters();
        println!("{expected} dead letters are expected");
        eventually("the dead letters", async || {
            let taken = tokio::try_join!(take(), take(), take()).map_err(|error| format!("{error:?}"));
            let missing = self.account.lock().await.missing_letters();
            match taken {
                Ok((0, 0, 0)) if missing.0 == 0 => Ok(Ok(())),
                Ok(_) => Err(missing),
                Err(error) => Ok(Err(anyhow::Error::msg(error))),
            }
        })
        .await?;
        let request = pipeline.sqs.get_queue_attributes().queue_url(queue_url).attribute_names(QueueAttributeName::All);
        let attributes = request.send().await?.attributes.unwrap_or_default();
        for name in
            [QueueAttributeName::ApproximateNumberOfMessages, QueueAttributeName::ApproximateNumberOfMessagesNotVisible]
        {
            ensure!(attributes.get(&name).map(String::as_str) == Some("0"), "{name}: {attributes:?}");
        }
        Ok(())
    }
}

/// Surely taken by SQS, ten at once.
fn is_plain(body: &str) -> bool {
    (1..20_000).contains(&body.len()) && body.chars().all(|c| c == '\n' || (' '..='\u{d7ff}').contains(&c))
}

fn record(id: &str, body: Option<&str>) -> Value {
    json!({"messageId": id, "receiptHandle": "none", "body": body, "attributes": {"ApproximateReceiveCount": "1"}})
}

fn event(records: &[Value]) -> Result<SqsEvent> {
    Ok(serde_json::from_value(json!({ "Records": records }))?)
}
