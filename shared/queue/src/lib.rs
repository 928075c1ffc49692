//! SQS, as the functions use it: in batches, of which it may take a part.

mod batch;
mod sqs;

use std::{future::Future, time::Duration};

use aws_sdk_sqs::error::DisplayErrorContext;
use telemetry::Trace;

pub use batch::{BATCH_BYTES, BATCH_MESSAGES, send_all};
pub use sqs::Sqs;

/// The longest delay that SQS takes for a message.
pub const LONGEST_DELAY: Duration = Duration::from_secs(15 * 60);

/// A message to be sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Neither empty nor with a character that SQS refuses.
    pub body: String,
    /// Name and value of each attribute; the same holds for the values.
    pub attributes: Vec<(&'static str, String)>,
    /// How long nobody receives it, up to [`LONGEST_DELAY`]; whole seconds.
    pub delay: Duration,
}

/// What SQS did with a batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// The positions that it has confirmed. What is not here was not taken, whatever else was said.
    pub positions: Vec<usize>,
    /// Its word for the first refusal, if there was one.
    pub refusal: Option<String>,
}

/// The request failed, after the client's own retries. It may have been carried out.
#[derive(Debug, Clone, thiserror::Error)]
#[error("SQS did not answer {request}: {reason}")]
pub struct Error {
    /// The API's name.
    pub request: &'static str,
    /// With all its causes.
    pub reason: String,
}

impl Error {
    /// What came of such a request.
    pub fn of(request: &'static str, error: &(impl std::error::Error + 'static)) -> Self {
        Self { request, reason: DisplayErrorContext(error).to_string() }
    }
}

/// One queue. [`Sqs`] is the real one; the simulation has a model of it.
pub trait Queue: Clone + Send + Sync + 'static {
    /// Sends up to [`BATCH_MESSAGES`] messages of [`BATCH_BYTES`] together, at least once each.
    fn send(&self, batch: &[Message]) -> impl Future<Output = Result<Taken, Error>> + Send;

    /// Lets each of these receipts' messages be received again after its delay; up to [`BATCH_MESSAGES`] of them.
    fn delay(&self, receipts: &[(&str, Duration)]) -> impl Future<Output = Result<Taken, Error>> + Send;

    /// Messages that are visible, in flight and delayed, together; approximate, as SQS says.
    fn depth(&self) -> impl Future<Output = Result<i64, Error>> + Send;
}

impl Message {
    /// The value of an attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(other, _)| *other == name).map(|(_, value)| value.as_str())
    }

    /// Without attributes or delay.
    pub fn new(body: impl Into<String>) -> Self {
        Self { body: body.into(), ..Self::default() }
    }

    /// Without delay, in a trace, as W3C names it.
    pub fn traced(body: impl Into<String>, trace: &Trace) -> Self {
        Self { attributes: vec![("traceparent", trace.as_str().to_owned())], ..Self::new(body) }
    }

    /// What counts against [`BATCH_BYTES`].
    pub fn bytes(&self) -> usize {
        let attributes = self.attributes.iter().map(|(name, value)| name.len() + "String".len() + value.len());
        self.body.len() + attributes.sum::<usize>()
    }
}
