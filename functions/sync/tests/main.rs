//! The store that clients pull from, on a real PostgreSQL.

#[path = "main/definition.rs"]
mod definition;
#[path = "main/retention.rs"]
mod retention;
#[path = "main/store.rs"]
mod store;
#[path = "main/world.rs"]
mod world;
