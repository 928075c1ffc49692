//! Messages that nobody should send: none makes the indexer panic, loop, or write where it should not, and none
//! disappears.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper of a test fails the test by its panic, and reports"
)]

#[path = "bad_input/account.rs"]
mod account;
#[path = "bad_input/generator.rs"]
mod generator;
mod pipeline;
#[path = "bad_input/property.rs"]
mod property;
#[path = "bad_input/world.rs"]
mod world;
