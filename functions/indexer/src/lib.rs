//! SQS → Elasticsearch.
//!
//! A batch of messages comes in; each of its changes ends as written, stale, gone or in the dead-letter queue, or its
//! message goes back to the queue. What leads where is decided in [`decision`] and nowhere else.

pub mod decision;

mod again;
mod alias;
mod back_off;
mod batch;
mod bulk;
mod cluster;
mod config;
mod counters;
mod dead_letter;
mod deadline;
mod handler;
mod pace;
mod re_read;
mod settle;
mod streams;
mod tally;

pub use crate::{
    cluster::{Cluster, Elastic},
    config::{Config, Settings},
    deadline::Deadline,
    handler::{Indexer, Unidentified},
    re_read::Source,
};
