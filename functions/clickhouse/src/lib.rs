//! ClickHouse as a direct target: each stream is a table of rows with versions, and a view of what is there now. What draining
//! is, [`drain`] says; here is where it goes to.

pub mod compare;
mod config;
mod connection;
mod failure;
mod quote;
mod rows;
mod sink;
pub mod table;

use database::Postgres;
use drain::Drainer;
use secrets::Secrets;

pub use config::Config;
pub use connection::{Connection, Settings};
pub use failure::{ConnectError, Failure};
pub use sink::{ClickHouse, DOCUMENT_BYTES};

/// The function's value: a drainer straight into ClickHouse.
pub type Target = Drainer<Postgres, ClickHouse>;

/// Connects to nothing yet.
pub fn new(config: Config, secrets: &Secrets) -> Target {
    let database = Postgres::new(config.database, secrets.clone());
    let clickhouse = ClickHouse::new(Connection::new(config.clickhouse, secrets.clone()));
    Drainer::new(config.drain, config.metrics, database, clickhouse)
}
