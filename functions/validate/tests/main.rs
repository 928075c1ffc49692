//! The validator against a real PostgreSQL and a real Elasticsearch. What drains is the real drain, straight into
//! Elasticsearch: the queue has tests of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper of a test fails the test by its panic")]

#[path = "main/damage.rs"]
mod damage;
#[path = "main/fixture.rs"]
mod fixture;
#[path = "main/moving.rs"]
mod moving;
#[path = "main/rounds.rs"]
mod rounds;
