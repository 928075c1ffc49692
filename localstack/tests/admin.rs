//! The admin function through its deployed URL.
//!
//! The dead-letter queue is everybody's, and these tests go through all of it: one after the other, in a binary of their
//! own, which cargo runs alone.

#[path = "admin/client.rs"]
mod client;
#[path = "admin/endpoints.rs"]
mod endpoints;
#[path = "admin/ingest.rs"]
mod ingest;
#[path = "admin/letters.rs"]
mod letters;
#[path = "admin/metrics.rs"]
mod metrics;
#[path = "admin/redrive.rs"]
mod redrive;
#[allow(dead_code, reason = "shared with the other end-to-end tests, which use the rest of it")]
#[path = "main/stack.rs"]
mod stack;
