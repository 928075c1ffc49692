//! The indexer against a real Elasticsearch and a real PostgreSQL, an index and a database of each test's own. SQS and
//! what no real server does on demand are played at the wire.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper of a test fails the test by its panic")]

mod again;
mod batch;
mod dead_letters;
mod faults;
mod fixture;
mod outcomes;
mod re_read;
mod refusals;
mod slow;
#[path = "../../../../shared/search/tests/main/table.rs"]
mod table;
mod wire;
