//! The log and the streams on a real PostgreSQL: each invariant of theirs by its name.

mod capture;
mod defects;
mod define;
mod drainers;
mod fan_out;
mod log;
mod partitions;
mod privileges;
mod property;
mod reads;
mod resync;
mod retention;
mod server;
mod support;
mod versions;
mod waiting;
