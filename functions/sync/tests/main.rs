//! The store that clients pull from, on a real PostgreSQL.

#[path = "main/accounts.rs"]
mod accounts;
#[path = "main/definition.rs"]
mod definition;
#[path = "main/events.rs"]
mod events;
#[path = "main/issuer.rs"]
mod issuer;
#[path = "main/pokes.rs"]
mod pokes;
#[path = "main/pulls.rs"]
mod pulls;
#[path = "main/retention.rs"]
mod retention;
#[path = "main/site.rs"]
mod site;
#[path = "main/store.rs"]
mod store;
#[path = "main/tokens.rs"]
mod tokens;
#[path = "main/world.rs"]
mod world;
#[path = "main/writes.rs"]
mod writes;
