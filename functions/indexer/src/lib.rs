//! SQS → Elasticsearch.
//!
//! A batch of messages comes in; each of its changes ends as written, stale, gone or in the dead-letter queue, or its
//! message goes back to the queue. What leads where is decided in [`decision`] and nowhere else. How a document is
//! written, [`search`] knows.

pub mod decision;

mod again;
mod back_off;
mod batch;
mod config;
mod dead_letter;
mod handler;
mod indexer;
mod pace;
mod re_read;
mod settle;
mod streams;
mod tally;

pub use crate::{
    batch::Unidentified,
    config::{Config, Settings},
    indexer::Indexer,
    re_read::Database,
};
