//! The target on real servers: PostgreSQL and Kafka, whose address is KAFKA_BROKERS.

#[path = "main/changes.rs"]
mod changes;
#[path = "main/faulty.rs"]
mod faulty;
#[path = "main/fences.rs"]
mod fences;
#[path = "main/logins.rs"]
mod logins;
#[path = "main/refusals.rs"]
mod refusals;
#[path = "main/rights.rs"]
mod rights;
#[path = "main/topics.rs"]
mod topics;
#[path = "main/world.rs"]
mod world;
