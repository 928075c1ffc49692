//! On the way to the queue that the indexer reads.

use std::time::Duration;

use queue::{BATCH_BYTES, BATCH_MESSAGES, Message, Queue};
use thiserror::Error;
use tokio::task::{JoinError, JoinSet};
use tracing::warn;

/// A batch of which SQS never takes all is given up after this many requests.
const ATTEMPTS: u32 = 5;

/// Why a message was not sent.
#[derive(Debug, Error)]
pub enum SendError {
    /// The request failed.
    #[error(transparent)]
    Request(#[from] queue::Error),
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

/// Collects messages into batches, and sends those while the next are still being read.
///
/// Memory is bounded: `push` waits while `concurrency` batches of up to 1 MiB are under way.
pub struct Sender<Q> {
    queue: Q,
    concurrency: usize,
    batch: Vec<Message>,
    bytes: usize,
    tasks: JoinSet<Result<(), SendError>>,
}

impl<Q: Queue> Sender<Q> {
    /// With so many requests under way at once.
    pub fn new(queue: Q, concurrency: usize) -> Self {
        Self { queue, concurrency, batch: vec![], bytes: 0, tasks: JoinSet::new() }
    }

    /// Takes a message; it is sent when its batch is full.
    pub async fn push(&mut self, message: Message) -> Result<(), SendError> {
        if self.batch.len() == BATCH_MESSAGES || self.bytes + message.bytes() > BATCH_BYTES {
            self.dispatch().await?;
        }
        self.bytes += message.bytes();
        self.batch.push(message);
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
        self.tasks.spawn(async move { send(&queue, batch).await });
        Ok(())
    }
}

/// Sends a batch, and again what SQS took in part, until it has taken all.
async fn send(queue: &impl Queue, mut left: Vec<Message>) -> Result<(), SendError> {
    for attempt in 1.. {
        let taken = queue.send(&left).await?;
        let mut position = 0;
        left.retain(|_| {
            position += 1;
            !taken.positions.contains(&(position - 1))
        });
        if left.is_empty() {
            break;
        }
        let code = taken.refusal.unwrap_or_else(|| "no reason given".to_owned());
        if attempt == ATTEMPTS {
            return Err(SendError::Refused { entries: left.len(), code });
        }
        warn!(entries = left.len(), code, attempt, "SQS took a batch in part");
        tokio::time::sleep(Duration::from_millis(50 << attempt)).await;
    }
    Ok(())
}
