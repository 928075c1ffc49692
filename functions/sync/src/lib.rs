//! Live sync: clients keep a copy of what they may read. [`Store`] is a direct target whose tables stand in PostgreSQL: drained straight
//! into, as [`drain`] says. Clients pull from it by [`router`], as `docs/live-sync.md` says.

mod config;
mod problem;
mod pull;
mod router;
mod server;
mod sessions;
mod sink;
mod token;

use axum::Router;
use database::Postgres;
use drain::Drainer;
use secrets::Secrets;

pub use crate::config::Config;
pub use crate::router::router;
pub use crate::server::Server;
pub use crate::token::{Claims, Patience, Refusal, Settings, Verifier};
pub use sink::{Error, Store, Storing};

/// The drainer into the store.
pub type Sync = Drainer<Postgres, Store>;

/// Connects to nothing yet.
pub fn new(config: Config, secrets: &Secrets) -> Sync {
    let database = Postgres::new(config.database, secrets.clone());
    let store = Store::new(database.clone(), config.keep);
    Drainer::new(config.drain, config.metrics, database, store)
}

/// What answers clients. It connects to nothing yet.
///
/// # Errors
/// There is no client of HTTP to ask the issuer with.
pub fn serve(config: Config, secrets: &Secrets) -> Result<Router, reqwest::Error> {
    let verifier = Verifier::new(config.tokens, Patience::default())?;
    Ok(router(Server::new(Postgres::new(config.database, secrets.clone()), verifier), config.origins))
}
