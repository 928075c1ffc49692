//! What is asked of a client of Kafka.

use std::error::Error as StdError;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

use crate::connection::ConnectError;

/// A way into Kafka for one drainer at a time, by three calls: [`take_over`](Client::take_over), [`send`](Producer::send),
/// [`commit`](Producer::commit).
///
/// # What they promise
/// - After `take_over` all that earlier producers of this drainer, in this process or another, have not committed is refused,
///   for ever; a commit that was under way has come to its end, either way.
/// - What one producer sends of one key stands in its partition in the order in which it was sent. The partition is that of
///   Java's client: murmur2 of the key.
/// - `Ok` of `commit` promises that all of the transaction is there after any crash, acknowledged by all replicas in sync.
///   Consumers of what is committed see it when each partition has been told, milliseconds later.
/// - An error promises nothing. A commit that failed may have been carried out. The producer is done: drop it, and take over
///   anew.
///
/// Without transactions nobody is refused, and what was sent is there before it is committed; the rest holds.
pub trait Client: Send + 'static {
    /// What it sends by.
    type Producer: Producer;

    /// Makes the only producer. `previous` is one that nothing went wrong with: its connections are used again.
    fn take_over(
        &mut self,
        previous: Option<Self::Producer>,
    ) -> impl Future<Output = Result<Self::Producer, Error>> + Send;
}

/// Sends for the drainer that took over last: see [`Client`]. Dropped, it gives up what is not committed.
pub trait Producer: Send + 'static {
    /// Sends messages in a transaction of their own, and waits until Kafka has them. Which of them it does not take, by their
    /// position: if there are any, none of the transaction will be there, and the others are to be sent again.
    fn send(&mut self, messages: &[Message]) -> impl Future<Output = Result<Vec<Rejection>, Error>> + Send;

    /// Commits what was sent.
    fn commit(&mut self) -> impl Future<Output = Result<(), Error>> + Send;
}

/// A message for a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The topic.
    pub topic: Arc<str>,
    /// Names the partition, and what compaction keeps the last value of.
    pub key: Bytes,
    /// `None`: a tombstone.
    pub value: Option<Bytes>,
    /// In this order.
    pub headers: Vec<(&'static str, Bytes)>,
}

/// A message that Kafka does not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Its position among those that were sent.
    pub position: usize,
    /// Why.
    pub reason: Reason,
}

/// Why Kafka does not take a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It, or one that was sent together with it, is too large for the topic.
    TooLarge,
    /// The topic is not there, or takes nothing from us: what to do.
    Topic(String),
}

/// Why a step is to be repeated.
#[derive(Debug, Error)]
pub enum Error {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The database does not tell what its drainers are known by.
    #[error("the database does not tell its name: {0}")]
    Name(#[source] Source),
    /// Nobody took over since the last error.
    #[error("no producer has been made since the last one failed")]
    NotTakenOver,
    /// Another drainer has taken over since.
    #[error("another drainer sends to Kafka now: this one begins anew ({0})")]
    Fenced(#[source] Source),
    /// Anything else that is no fault of a message: it passes, or Kafka's operator ends it.
    #[error("Kafka {doing} failed: {source}; what was to be sent waits in the log")]
    Failed {
        /// The call.
        doing: &'static str,
        /// The client's own words.
        #[source]
        source: Source,
    },
}

/// What the client of Kafka says.
pub type Source = Box<dyn StdError + Send + Sync>;
