//! The trigger against a real PostgreSQL and a real SQS.

#[path = "main/drains.rs"]
mod drains;
#[path = "main/holds_back.rs"]
mod holds_back;
#[path = "main/support.rs"]
mod support;
