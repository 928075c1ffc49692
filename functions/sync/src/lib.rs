//! Live sync: clients keep a copy of what they may read. [`Store`] is a direct target whose tables stand in PostgreSQL: drained straight
//! into, as [`drain`] says. Clients pull from it by [`router`], as `docs/live-sync.md` says.

mod accounts;
mod config;
mod connected;
mod function;
mod hub;
mod live;
mod messages;
mod problem;
mod pull;
mod router;
mod server;
mod sessions;
mod sink;
mod token;
mod writes;

use std::sync::Arc;

use ::accounts::Accounts;
use axum::Router;
use database::Postgres;
use drain::Drainer;
use secrets::Secrets;
use tokio_util::sync::CancellationToken;

pub use crate::config::Config;
pub use crate::connected::Pace;
pub use crate::function::{Answer, Function};
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

/// What answers clients, until `stop` says so to those that stay connected; and what tells operators how many those are, until then, too.
/// It connects to nothing yet.
///
/// # Errors
/// There is no client of HTTP to ask the issuer with.
pub fn serve(
    config: Config,
    secrets: &Secrets,
    stop: CancellationToken,
) -> Result<(Router, impl Future<Output = ()> + Send + use<>), reqwest::Error> {
    let (clients, origins) = (config.clients, config.origins.clone());
    let (server, accounts) = server(config, secrets, Some((clients, stop)))?;
    let telling = server.tell(Pace::default());
    Ok((router(server, origins, accounts), telling))
}

/// Accounts of our own, and how many proxies are in front.
type Own = Option<(Arc<Accounts>, usize)>;

fn server(
    config: Config,
    secrets: &Secrets,
    live: Option<(usize, CancellationToken)>,
) -> Result<(Server, Own), reqwest::Error> {
    let accounts = config.accounts.map(|(secret_arn, proxies)| {
        let token::Settings { issuer, audience } = config.tokens.clone();
        (Arc::new(Accounts::new(::accounts::Settings { secret_arn, issuer, audience }, secrets.clone())), proxies)
    });
    let verifier = match &accounts {
        Some((accounts, _)) => Verifier::of(Arc::clone(accounts), config.tokens, Patience::default()),
        None => Verifier::new(config.tokens, Patience::default())?,
    };
    let database = Postgres::new(config.database, secrets.clone());
    Ok((Server::new(database, verifier, live), accounts))
}
