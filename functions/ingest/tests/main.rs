//! The ingest against a real PostgreSQL, and an origin that is faked at the wire.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper of a test fails the test by its panic")]

#[path = "main/conflicts.rs"]
mod conflicts;
#[path = "main/deaths.rs"]
mod deaths;
#[path = "main/definitions.rs"]
mod definitions;
#[path = "main/deletes.rs"]
mod deletes;
#[path = "main/fixture.rs"]
mod fixture;
#[path = "main/general.rs"]
mod general;
#[path = "main/hostile.rs"]
mod hostile;
#[path = "main/idempotent.rs"]
mod idempotent;
#[path = "main/mongo.rs"]
mod mongo;
#[path = "main/position.rs"]
mod position;
#[path = "main/rejects.rs"]
mod rejects;
#[path = "main/shop.rs"]
mod shop;
#[path = "main/wire.rs"]
mod wire;
