//! The indexer behind its queue: what Lambda does for the function, done here. Batches are received, handed to the indexer, and
//! what it does not give back is deleted.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lambda_events::event::sqs::{SqsEvent, SqsMessage, SqsMessageAttribute};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::{Config, timeout::TimeoutConfig};
use aws_sdk_sqs::error::DisplayErrorContext;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName,
};
use indexer::Indexer;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, error, warn};

/// Messages of one request; SQS gives no more.
const BATCH: i32 = 10;
/// How long SQS waits for a message before it answers that there is none, and how long that may take.
const WAIT_SECONDS: i32 = 5;
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// For so long nobody else gets a message. A batch has less time, so none has to be kept hidden for longer; and where a process
/// is killed, another has its messages after this.
const HIDDEN_SECONDS: i32 = 60;
const BATCH_TIME: Duration = Duration::from_secs(50);
/// Where SQS does not answer.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a batch may take that is under way when the process is to end; after it, its messages are given back.
const LAST_TIME: Duration = Duration::from_secs(15);

/// Receives until `stop` says so, in a [`tokio::task::LocalSet`]. Then each batch is finished, or given back.
pub async fn run(indexer: Indexer, sqs: Client, queue_url: String, batches: usize, stop: CancellationToken) {
    let worker = Rc::new(Worker { indexer, sqs, queue_url });
    let room = Arc::new(Semaphore::new(batches));
    let give_back = CancellationToken::new();
    let mut under_way = JoinSet::new();
    while let Some(Ok(place)) = stop.run_until_cancelled(Arc::clone(&room).acquire_owned()).await {
        while under_way.try_join_next().is_some() {}
        let received = worker.receive().await;
        let messages = match received {
            Ok(messages) if !messages.is_empty() => messages,
            Ok(_) => continue,
            Err(problem) => {
                error!(error = problem, "SQS gives no messages");
                stop.run_until_cancelled(sleep(PAUSE)).await;
                continue;
            }
        };
        let (worker, give_back) = (Rc::clone(&worker), give_back.clone());
        let span = tracing::info_span!("batch", messages = messages.len());
        under_way.spawn_local(
            async move {
                let receipts: Vec<String> =
                    messages.iter().filter_map(|message| message.receipt_handle.clone()).collect();
                if give_back.run_until_cancelled(worker.handle(messages)).await.is_none() {
                    worker.give_back(&receipts).await;
                }
                drop(place);
            }
            .instrument(span),
        );
    }
    if tokio::time::timeout(LAST_TIME, async { while under_way.join_next().await.is_some() {} }).await.is_err() {
        give_back.cancel();
        while under_way.join_next().await.is_some() {}
    }
}

struct Worker {
    indexer: Indexer,
    sqs: Client,
    queue_url: String,
}

impl Worker {
    async fn receive(&self) -> Result<Vec<Message>, String> {
        // A request that waits for messages takes longer than others may.
        let patience = TimeoutConfig::builder()
            .operation_attempt_timeout(RECEIVE_TIMEOUT)
            .operation_timeout(2 * RECEIVE_TIMEOUT)
            .build();
        let request = self
            .sqs
            .receive_message()
            .queue_url(&self.queue_url)
            .max_number_of_messages(BATCH)
            .wait_time_seconds(WAIT_SECONDS)
            .visibility_timeout(HIDDEN_SECONDS)
            .message_system_attribute_names(MessageSystemAttributeName::All)
            .message_attribute_names("All")
            .customize()
            .config_override(Config::builder().timeout_config(patience));
        let answer = request.send().await.map_err(|error| DisplayErrorContext(&error).to_string())?;
        Ok(answer.messages.unwrap_or_default())
    }

    async fn handle(&self, messages: Vec<Message>) {
        let event = as_event(messages);
        let answer = self.indexer.handle(&event, SystemTime::now(), Instant::now() + BATCH_TIME).await;
        let failed: Vec<String> = match answer {
            Ok(answer) => answer.batch_item_failures.into_iter().map(|failure| failure.item_identifier).collect(),
            Err(error) => return error!(%error, "a batch is received again"),
        };
        let is_done = |record: &&SqsMessage| record.message_id.as_ref().is_some_and(|id| !failed.contains(id));
        let receipts: Vec<&str> =
            event.records.iter().filter(is_done).filter_map(|record| record.receipt_handle.as_deref()).collect();
        if !receipts.is_empty() {
            self.delete(&receipts).await;
        }
    }

    /// What is not deleted is received again, and does no harm.
    async fn delete(&self, receipts: &[&str]) {
        let entry = |(id, receipt): (usize, &&str)| {
            DeleteMessageBatchRequestEntry::builder().id(id.to_string()).receipt_handle(*receipt).build().ok()
        };
        let entries = receipts.iter().enumerate().filter_map(entry).collect();
        match self.sqs.delete_message_batch().queue_url(&self.queue_url).set_entries(Some(entries)).send().await {
            Ok(answer) if answer.failed.is_empty() => {}
            Ok(answer) => warn!(messages = answer.failed.len(), "messages are not deleted, and received again"),
            Err(error) => {
                warn!(error = %DisplayErrorContext(&error), "messages are not deleted, and received again");
            }
        }
    }

    /// Whoever is next has them at once.
    async fn give_back(&self, receipts: &[String]) {
        let entry = |(id, receipt): (usize, &String)| {
            let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(id.to_string());
            entry.receipt_handle(receipt).visibility_timeout(0).build().ok()
        };
        let entries = receipts.iter().enumerate().filter_map(entry).collect();
        let request = self.sqs.change_message_visibility_batch().queue_url(&self.queue_url);
        if let Err(error) = request.set_entries(Some(entries)).send().await {
            warn!(error = %DisplayErrorContext(&error), "messages stay hidden for a minute");
        }
    }
}

/// As Lambda hands them over.
fn as_event(messages: Vec<Message>) -> SqsEvent {
    let mut event = SqsEvent::default();
    for message in messages {
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
    event
}
