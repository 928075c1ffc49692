//! Live sync: clients keep a copy of what they may read. [`Store`] is a direct target whose tables stand in PostgreSQL: drained straight
//! into, as [`drain`] says, and pulled from by clients, as `docs/live-sync.md` says.

mod config;
mod sink;

use database::Postgres;
use drain::Drainer;
use secrets::Secrets;

pub use crate::config::Config;
pub use sink::{Error, Store, Storing};

/// The drainer into the store.
pub type Sync = Drainer<Postgres, Store>;

/// Connects to nothing yet.
pub fn new(config: Config, secrets: &Secrets) -> Sync {
    let database = Postgres::new(config.database, secrets.clone());
    let store = Store::new(database.clone(), config.keep);
    Drainer::new(config.drain, config.metrics, database, store)
}
