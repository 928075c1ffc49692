//! The dead letters: an operator sees them, redrives one or many, or throws one away.
//!
//! The [`queue`] is SQS's. Whoever looks into it takes a [`lease`], makes a [`pass`] through all of it, and may [`redrive`]
//! what it finds: one letter at once ([`dead_letters`]), or many by a task ([`tasks`], [`work`]). Those of [`direct`] targets are
//! in PostgreSQL; a list ([`listed`]) has both.

pub mod dead_letters;
pub mod direct;
pub mod lease;
pub mod listed;
pub mod pass;
pub mod queue;
pub mod redrive;
pub mod tasks;
pub mod work;
