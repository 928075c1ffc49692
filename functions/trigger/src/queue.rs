//! The queue that the indexer reads.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::DisplayErrorContext;
use aws_sdk_sqs::types::{QueueAttributeName, SendMessageBatchRequestEntry};
use message::Body;
use thiserror::Error;
use tokio::task::{JoinError, JoinSet};
use tracing::warn;

/// SQS: entries of one SendMessageBatch, and the bytes of all of them together.
const BATCH_ENTRIES: usize = 10;
const BATCH_BYTES: usize = 1024 * 1024;
/// A batch whose `Failed` list is never empty is given up after this many requests.
const ATTEMPTS: u32 = 5;

/// Why a message was not sent, or the queue's depth is not known.
#[derive(Debug, Error)]
pub enum SendError {
    /// The request failed, after the SDK's own retries.
    #[error("SQS did not answer {request}: {reason}")]
    Request {
        /// The API's name.
        request: &'static str,
        /// With all its causes.
        reason: String,
    },
    /// SQS took a part of a batch and refused the rest again and again.
    #[error("SQS refused {entries} of a batch's messages {ATTEMPTS} times: {code}")]
    Refused {
        /// How many.
        entries: usize,
        /// SQS's word for it.
        code: String,
    },
    /// A task was cancelled or panicked.
    #[error("a task that sends ended without an answer")]
    Task(#[from] JoinError),
}

/// An SQS queue, by its URL.
#[derive(Clone)]
pub struct Queue {
    client: Client,
    url: Arc<str>,
}

impl Queue {
    /// Sends nothing yet.
    pub fn new(client: Client, url: impl Into<Arc<str>>) -> Self {
        Self { client, url: url.into() }
    }

    /// Messages that are visible, in flight and delayed, together; approximate, as SQS says.
    pub async fn depth(&self) -> Result<i64, SendError> {
        use QueueAttributeName::{
            ApproximateNumberOfMessages, ApproximateNumberOfMessagesDelayed, ApproximateNumberOfMessagesNotVisible,
        };
        let names =
            [ApproximateNumberOfMessages, ApproximateNumberOfMessagesNotVisible, ApproximateNumberOfMessagesDelayed];
        let request = self.client.get_queue_attributes().queue_url(&*self.url).set_attribute_names(Some(names.into()));
        let answer = request.send().await.map_err(|error| SendError::Request {
            request: "GetQueueAttributes",
            reason: DisplayErrorContext(&error).to_string(),
        })?;
        let counts = answer.attributes.unwrap_or_default();
        Ok(counts.values().filter_map(|count| count.parse::<i64>().ok()).sum())
    }

    /// A sender with so many requests under way at once.
    pub fn sender(&self, concurrency: usize) -> Sender {
        Sender { queue: self.clone(), concurrency, batch: vec![], bytes: 0, tasks: JoinSet::new() }
    }

    /// Sends a batch, and again what SQS took in part, until it has taken all.
    async fn send(&self, batch: Vec<Body>) -> Result<(), SendError> {
        let mut left: Vec<(String, String)> =
            batch.into_iter().enumerate().map(|(index, body)| (index.to_string(), body.text)).collect();
        for attempt in 1.. {
            let mut request = self.client.send_message_batch().queue_url(&*self.url);
            for (id, text) in &left {
                let entry = SendMessageBatchRequestEntry::builder().id(id).message_body(text).build();
                request = request.entries(entry.map_err(|error| request_error(&error))?);
            }
            let answer = request.send().await.map_err(|error| request_error(&error))?;
            // What is not in the list of successes was not taken, whatever the other list says.
            left.retain(|(id, _)| !answer.successful().iter().any(|taken| taken.id() == id));
            if left.is_empty() {
                break;
            }
            let code = answer.failed().first().map_or("no reason given", |failure| failure.code()).to_owned();
            if attempt == ATTEMPTS {
                return Err(SendError::Refused { entries: left.len(), code });
            }
            warn!(entries = left.len(), code, attempt, "SQS took a batch in part");
            tokio::time::sleep(Duration::from_millis(50 << attempt)).await;
        }
        Ok(())
    }
}

fn request_error(error: &(impl std::error::Error + 'static)) -> SendError {
    SendError::Request { request: "SendMessageBatch", reason: DisplayErrorContext(error).to_string() }
}

/// Collects messages into batches, and sends those while the next are still being read.
///
/// Memory is bounded: `push` waits while `concurrency` batches of up to 1 MiB are under way.
pub struct Sender {
    queue: Queue,
    concurrency: usize,
    batch: Vec<Body>,
    bytes: usize,
    tasks: JoinSet<Result<(), SendError>>,
}

impl Sender {
    /// Takes a message; it is sent when its batch is full.
    pub async fn push(&mut self, body: Body) -> Result<(), SendError> {
        if self.batch.len() == BATCH_ENTRIES || self.bytes + body.text.len() > BATCH_BYTES {
            self.dispatch().await?;
        }
        self.bytes += body.text.len();
        self.batch.push(body);
        Ok(())
    }

    /// Sends what is left, and waits until SQS has taken everything.
    pub async fn finish(mut self) -> Result<(), SendError> {
        self.dispatch().await?;
        while let Some(sent) = self.tasks.join_next().await {
            sent??;
        }
        Ok(())
    }

    async fn dispatch(&mut self) -> Result<(), SendError> {
        let batch = std::mem::take(&mut self.batch);
        self.bytes = 0;
        if batch.is_empty() {
            return Ok(());
        }
        while self.tasks.len() >= self.concurrency {
            if let Some(sent) = self.tasks.join_next().await {
                sent??;
            }
        }
        let queue = self.queue.clone();
        self.tasks.spawn(async move { queue.send(batch).await });
        Ok(())
    }
}
