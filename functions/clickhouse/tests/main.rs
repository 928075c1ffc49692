//! The target on real servers: PostgreSQL, and ClickHouse twice, once of 2018 as a server and once of today as a library behind
//! HTTP.

#[path = "main/changes.rs"]
mod changes;
#[path = "main/refusals.rs"]
mod refusals;
#[path = "main/tables.rs"]
mod tables;
#[path = "main/tls.rs"]
mod tls;
#[path = "main/validation.rs"]
mod validation;
#[path = "main/world.rs"]
mod world;
