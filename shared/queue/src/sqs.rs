use std::{sync::Arc, time::Duration};

use aws_sdk_sqs::{
    Client,
    error::BuildError,
    types::{
        BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, MessageAttributeValue, QueueAttributeName,
        SendMessageBatchRequestEntry,
    },
};
use telemetry::call;

use crate::{Error, Message, Queue, Taken};

/// An SQS queue, by its URL.
#[derive(Debug, Clone)]
pub struct Sqs {
    client: Client,
    url: Arc<str>,
}

impl Sqs {
    /// Sends nothing yet.
    pub fn new(client: Client, url: impl Into<Arc<str>>) -> Self {
        Self { client, url: url.into() }
    }
}

impl Queue for Sqs {
    async fn send(&self, batch: &[Message]) -> Result<Taken, Error> {
        const REQUEST: &str = "SendMessageBatch";
        let entries: Result<Vec<_>, BuildError> =
            batch.iter().enumerate().map(|(position, message)| entry(position, message)).collect();
        let entries = entries.map_err(|error| Error::of(REQUEST, &error))?;
        let request = self.client.send_message_batch().queue_url(&*self.url).set_entries(Some(entries));
        let answer = call("sqs", REQUEST, request.send()).await.map_err(|error| Error::of(REQUEST, &error))?;
        Ok(taken(answer.successful().iter().map(|taken| taken.id()), answer.failed()))
    }

    async fn delay(&self, receipts: &[(&str, Duration)]) -> Result<Taken, Error> {
        const REQUEST: &str = "ChangeMessageVisibilityBatch";
        let entries: Result<Vec<_>, BuildError> = receipts
            .iter()
            .enumerate()
            .map(|(position, (receipt, delay))| {
                ChangeMessageVisibilityBatchRequestEntry::builder()
                    .id(position.to_string())
                    .receipt_handle(*receipt)
                    .visibility_timeout(whole_seconds(*delay))
                    .build()
            })
            .collect();
        let entries = entries.map_err(|error| Error::of(REQUEST, &error))?;
        let request = self.client.change_message_visibility_batch().queue_url(&*self.url).set_entries(Some(entries));
        let answer = call("sqs", REQUEST, request.send()).await.map_err(|error| Error::of(REQUEST, &error))?;
        Ok(taken(answer.successful().iter().map(|taken| taken.id()), answer.failed()))
    }

    async fn depth(&self) -> Result<i64, Error> {
        use QueueAttributeName::{
            ApproximateNumberOfMessages, ApproximateNumberOfMessagesDelayed, ApproximateNumberOfMessagesNotVisible,
        };
        const REQUEST: &str = "GetQueueAttributes";
        let names =
            [ApproximateNumberOfMessages, ApproximateNumberOfMessagesNotVisible, ApproximateNumberOfMessagesDelayed];
        let request = self.client.get_queue_attributes().queue_url(&*self.url).set_attribute_names(Some(names.into()));
        let answer = call("sqs", REQUEST, request.send()).await.map_err(|error| Error::of(REQUEST, &error))?;
        let counts = answer.attributes.unwrap_or_default();
        Ok(counts.values().filter_map(|count| count.parse::<i64>().ok()).sum())
    }
}

fn entry(position: usize, message: &Message) -> Result<SendMessageBatchRequestEntry, BuildError> {
    let mut entry = SendMessageBatchRequestEntry::builder().id(position.to_string()).message_body(&message.body);
    if !message.delay.is_zero() {
        entry = entry.delay_seconds(whole_seconds(message.delay));
    }
    for (name, value) in &message.attributes {
        let value = MessageAttributeValue::builder().data_type("String").string_value(value).build()?;
        entry = entry.message_attributes(*name, value);
    }
    entry.build()
}

fn whole_seconds(delay: Duration) -> i32 {
    i32::try_from((delay.as_millis() + 500) / 1000).unwrap_or(i32::MAX)
}

fn taken<'a>(confirmed: impl Iterator<Item = &'a str>, refused: &[BatchResultErrorEntry]) -> Taken {
    Taken {
        positions: confirmed.filter_map(|id| id.parse().ok()).collect(),
        refusal: refused.first().map(|refusal| refusal.code().to_owned()),
    }
}
