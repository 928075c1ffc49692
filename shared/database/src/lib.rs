//! PostgreSQL as the functions see it.

pub mod accounts;
pub mod audit;
pub mod checkpoints;
mod connect;
pub mod delivery;
pub mod generations;
pub mod ingest;
pub mod lease;
pub mod letters;
pub mod log;
pub mod outbox;
pub mod rebase;
pub mod refusals;
pub mod schema;
mod session;
mod source;
pub mod streams;
pub mod subscriptions;
pub mod sync;
mod tls;
pub mod validation;

use std::error::Error as _;

pub use connect::{ConnectError, Settings, connect, connect_unchecked};
pub use session::{Answers, Connect, Connection, Postgres, Session};
pub use source::{Documents, Read, ReadError, Stream, flight_name, of_name, stream, streams};

/// The newest migration that this code relies on. A function that finds an older schema says "run migrate".
pub const REQUIRED_SCHEMA: i32 = 6;

/// What PostgreSQL, or the way to it, said, in one line.
///
/// Without the `DETAIL` of a message, which may quote a row.
pub fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(refusal) = error.as_db_error() {
        let hint = refusal.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
        return format!("{}{hint} [{}]", refusal.message(), refusal.code().code());
    }
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}
