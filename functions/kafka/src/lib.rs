//! Kafka as a direct target: drains the log straight into topics, one for each stream. What draining is, [`drain`] says.
//!
//! A change is a message by the document's key: of each key the last message is what the source has. What a consumer of
//! committed messages sees of a key never goes back, whatever is killed or frozen: see [`client`].

mod answer;
pub mod client;
mod config;
mod connection;
mod credentials;
mod envelope;
mod producer;
mod sink;
pub mod topics;

use database::Postgres;
use drain::Drainer;
use secrets::Secrets;

pub use crate::config::Config;
pub use connection::{ConnectError, Connection, Settings};
pub use producer::{Krafka, KrafkaProducer};
pub use sink::{KafkaSink, Writing};

/// The function's value: a drainer into Kafka.
pub type Kafka = Drainer<Postgres, KafkaSink<Krafka>>;

/// Connects to nothing yet.
pub fn new(config: Config, secrets: &Secrets) -> Kafka {
    let connection = Connection::new(config.kafka, secrets.clone());
    let client = Krafka::new(connection, config.database.clone(), secrets.clone());
    let database = Postgres::new(config.database, secrets.clone());
    Drainer::new(config.drain, config.metrics, database, KafkaSink::new(client))
}
