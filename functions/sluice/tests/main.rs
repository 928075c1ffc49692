//! The binary as it is started: real processes, with a real PostgreSQL and a real Elasticsearch.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test by its panic")]

#[path = "main/check.rs"]
mod check;
#[path = "main/direct.rs"]
mod direct;
#[path = "main/generations.rs"]
mod generations;
#[path = "main/hand_over.rs"]
mod hand_over;
#[path = "main/letters.rs"]
mod letters;
#[path = "main/load.rs"]
mod load;
#[path = "main/mappings.rs"]
mod mappings;
#[path = "main/replay.rs"]
mod replay;
#[path = "main/traces.rs"]
mod traces;
#[path = "main/world.rs"]
mod world;
