//! End to end: what is written to PostgreSQL is in Elasticsearch, through the functions as the template deploys them.

#[path = "main/changes.rs"]
mod changes;
#[path = "main/faults.rs"]
mod faults;
#[path = "main/refused.rs"]
mod refused;
#[path = "main/stack.rs"]
mod stack;
#[path = "main/template.rs"]
mod template;
