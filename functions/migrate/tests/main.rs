//! migrate against a real PostgreSQL and a real Elasticsearch: a database and a prefix of each test's own.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper of a test fails the test by its panic")]

#[path = "main/fixture.rs"]
mod fixture;
#[path = "main/indexes.rs"]
mod indexes;
#[path = "main/operations.rs"]
mod operations;
#[path = "main/schema.rs"]
mod schema;
#[path = "main/security.rs"]
mod security;
#[path = "main/topics.rs"]
mod topics;
