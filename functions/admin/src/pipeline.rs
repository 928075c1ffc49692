//! The way from the tables to the indexes: the log, who reads it, and the streams.

pub mod checkpoints;
pub mod generations;
pub mod outbox;
pub mod streams;
pub mod subscriptions;
