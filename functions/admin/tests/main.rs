//! The admin function's router against a real PostgreSQL, with a queue that is faked at the wire: the real one cannot be
//! made longer than a pass, nor to hold a letter in other hands for as long as a test wants.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper of a test fails the test by its panic")]

#[path = "main/access.rs"]
mod access;
#[path = "main/audit.rs"]
mod audit;
#[path = "main/clients.rs"]
mod clients;
#[path = "main/compared_targets.rs"]
mod compared_targets;
#[path = "main/data_sync.rs"]
mod data_sync;
#[path = "main/direct.rs"]
mod direct;
#[path = "main/fixture.rs"]
mod fixture;
#[path = "main/generations.rs"]
mod generations;
#[path = "main/lists.rs"]
mod lists;
#[path = "main/redrive.rs"]
mod redrive;
#[path = "main/replay.rs"]
mod replay;
#[path = "main/sqs.rs"]
mod sqs;
#[path = "main/streams.rs"]
mod streams;
#[path = "main/validation.rs"]
mod validation;
