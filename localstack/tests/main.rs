//! End to end: what is written to PostgreSQL is in Elasticsearch, ClickHouse and Kafka, through the functions as the template deploys them, or
//! through the one process in their place: SLUICE_RUN says which.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper of a test fails the test by its panic, and reports"
)]

#[path = "bad_input/account.rs"]
mod account;
#[path = "main/changes.rs"]
mod changes;
#[path = "main/clickhouse.rs"]
mod clickhouse;
#[path = "main/faults.rs"]
mod faults;
#[allow(dead_code, reason = "the handler is given more than a queue can hold")]
#[path = "bad_input/generator.rs"]
mod generator;
#[path = "main/kafka.rs"]
mod kafka;
#[path = "main/queue.rs"]
mod queue;
#[path = "main/refused.rs"]
mod refused;
#[allow(dead_code, reason = "shared with the other end-to-end tests, which use the rest of it")]
#[path = "main/stack.rs"]
mod stack;
#[path = "main/targets.rs"]
mod targets;
#[path = "main/template.rs"]
mod template;
