//! The log and the streams on a real PostgreSQL: each invariant of theirs by its name.

mod log;
mod support;
