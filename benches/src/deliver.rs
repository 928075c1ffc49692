//! What SQS and its event source mapping do with messages: keep, count, deliver in batches.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use axum::body::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::runtime::Function;

/// Messages of a batch, and the bytes of an event, as Lambda has them.
const BATCH: usize = 10;
const EVENT_BYTES: usize = 6_000_000;

/// A queue in memory.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    has_more: Notify,
}

#[derive(Default)]
struct State {
    messages: VecDeque<Arc<str>>,
    /// Kept after they were counted, or dropped.
    keeps: bool,
    counted: Counted,
}

/// What was sent since the last reset.
#[derive(Clone, Copy, Default, Serialize)]
pub struct Counted {
    /// By their headers.
    pub changes: u64,
    /// Of their bodies, escaped as they travel.
    pub bytes: u64,
}

impl Queue {
    /// Begins anew, with nothing.
    pub fn reset(&self, keeps: bool) {
        *self.state() = State { keeps, ..State::default() };
    }

    /// Takes a message: a string of JSON.
    pub fn push(&self, body: &RawValue) {
        let changes = changes(body.get());
        let mut state = self.state();
        state.counted.changes += changes;
        state.counted.bytes += body.get().len() as u64;
        if state.keeps {
            let body: String = serde_json::from_str(body.get()).unwrap_or_default();
            state.messages.push_back(body.into());
            self.has_more.notify_one();
        }
    }

    /// What was sent.
    pub fn counted(&self) -> Counted {
        self.state().counted
    }

    /// How many wait.
    pub fn depth(&self) -> usize {
        self.state().messages.len()
    }

    /// Delivers to a function until it is stopped, or, where `until_empty`, until nothing is left. What the function gives
    /// back is delivered again, but `until_empty` takes it for a failure.
    pub async fn deliver(&self, function: &Function, until_empty: bool) -> Result<()> {
        loop {
            let batch = self.take();
            if batch.is_empty() {
                if until_empty {
                    return Ok(());
                }
                self.has_more.notified().await;
                continue;
            }
            let answer = function.invoke(event(&batch)).await?;
            let answer: Value = serde_json::from_slice(&answer).context("the function's answer")?;
            let failures = answer["batchItemFailures"].as_array().map_or(&[][..], Vec::as_slice);
            ensure!(!until_empty || failures.is_empty(), "the function gives {} messages back", failures.len());
            for failure in failures {
                let position = failure["itemIdentifier"].as_str().and_then(|id| id.parse::<usize>().ok());
                if let Some(body) = position.and_then(|position| batch.get(position)) {
                    self.state().messages.push_back(body.clone());
                }
            }
        }
    }

    /// Gives a batch to whoever asks for one, as SQS answers; none when none came in `patience`. A message is given once, and whoever
    /// loses it has lost it.
    pub async fn receive(&self, patience: Duration) -> Value {
        let deadline = Instant::now() + patience;
        let mut batch = self.take();
        while batch.is_empty() && timeout_at(deadline, self.has_more.notified()).await.is_ok() {
            batch = self.take();
        }
        let messages = batch.iter().enumerate().map(|(position, body)| {
            json!({
                "MessageId": position.to_string(), "ReceiptHandle": "r", "Body": &**body, "MD5OfBody": "",
                "Attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": now()},
            })
        });
        json!({ "Messages": messages.collect::<Vec<_>>() })
    }

    fn take(&self) -> Vec<Arc<str>> {
        let mut state = self.state();
        let (mut batch, mut bytes) = (vec![], 0);
        while batch.len() < BATCH
            && let Some(next) = state.messages.front()
            && (batch.is_empty() || bytes + next.len() * 9 / 8 < EVENT_BYTES)
        {
            bytes += next.len() * 9 / 8; // escaped
            batch.extend(state.messages.pop_front());
        }
        if !state.messages.is_empty() {
            self.has_more.notify_one();
        }
        batch
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// By the header of our messages, in a string of JSON; another's counts as one.
fn changes(body: &str) -> u64 {
    let number =
        body.split_once(r"\n").and_then(|(header, _)| header.split_once(r#"\"changes\":"#)).map(|(_, rest)| rest);
    number.and_then(|rest| rest.split([',', '}']).next()?.parse().ok()).unwrap_or(1)
}

fn now() -> String {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis().to_string()
}

fn event(batch: &[Arc<str>]) -> Bytes {
    let records: Vec<Value> = batch
        .iter()
        .enumerate()
        .map(|(position, body)| {
            json!({
                "messageId": position.to_string(), "receiptHandle": "r", "body": &**body, "md5OfBody": "",
                "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": now()},
                "messageAttributes": {}, "eventSource": "aws:sqs", "awsRegion": "us-east-1",
                "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:bench",
            })
        })
        .collect();
    json!({ "Records": records }).to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_as_many_changes_as_its_header_says() {
        let body = |text: &str| serde_json::to_string(text).unwrap_or_default();
        assert_eq!(changes(&body("{\"v\":1,\"stream\":\"a\",\"changes\":17,\"trace\":\"t\"}\n{}\n")), 17);
        assert_eq!(changes(&body("{\"id\":1}")), 1);
    }
}
