//! The log and the streams on a real PostgreSQL: each invariant of theirs by its name.

mod bounds;
mod capture;
mod changing;
mod defects;
mod define;
mod drainers;
mod fan_out;
mod forget;
mod frontier;
mod locks;
mod log;
mod names;
mod partitions;
mod privileges;
mod property;
mod readers;
mod reads;
mod resync;
mod retention;
mod server;
mod sources;
mod support;
mod targets;
mod track;
mod versions;
mod waiting;
