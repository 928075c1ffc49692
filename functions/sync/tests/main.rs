//! The store that clients pull from, on a real PostgreSQL.

#[path = "main/accounts.rs"]
mod accounts;
#[path = "main/api_gateway.rs"]
mod api_gateway;
#[path = "main/connected.rs"]
mod connected;
#[path = "main/definition.rs"]
mod definition;
#[path = "main/events.rs"]
mod events;
#[path = "main/function.rs"]
mod function;
#[path = "main/function_http.rs"]
mod function_http;
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
