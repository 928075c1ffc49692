//! The log and the streams on a real PostgreSQL: each invariant of theirs by its name.

mod capture;
mod drainers;
mod log;
mod partitions;
mod retention;
mod support;
mod versions;
