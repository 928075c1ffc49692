//! The trigger: drains the log into SQS. What draining is, [`drain`] says; here is where it goes to.

mod config;
mod sender;
mod sink;

use database::Postgres;
use drain::Drainer;
use queue::Sqs;
use secrets::Secrets;

pub use config::Config;
pub use sender::SendError;
pub use sink::{SinkError, SqsSink};

/// The function's value: a drainer into the queue that the indexer reads.
pub type Trigger = Drainer<Postgres, SqsSink<Sqs>>;

/// Connects to nothing yet.
pub fn new(config: Config, secrets: &Secrets, sqs: aws_sdk_sqs::Client) -> Trigger {
    let database = Postgres::new(config.database, secrets.clone());
    let queue = Sqs::new(sqs, config.queue_url.as_str());
    Drainer::new(config.drain, config.metrics, database, SqsSink::new(queue, config.queue))
}
