//! PostgreSQL as the functions see it.

pub mod accounts;
pub mod audit;
pub mod checkpoints;
pub mod clients;
mod connect;
pub mod connections;
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

use tokio_postgres::error::SqlState;

pub use connect::{ConnectError, Settings, connect, connect_unchecked};
pub use session::{Answers, Connect, Connection, Postgres, Session};
pub use source::{Documents, Read, ReadError, Stream, flight_name, of_name, stream, streams};

/// The newest migration that this code relies on. A function that finds an older schema says "run migrate".
pub const REQUIRED_SCHEMA: i32 = 7;

/// Whether a text of the statement, or of JSON in it, has the character that PostgreSQL cannot hold: U+0000.
pub fn is_unheld(error: &tokio_postgres::Error) -> bool {
    let codes = [SqlState::CHARACTER_NOT_IN_REPERTOIRE, SqlState::UNTRANSLATABLE_CHARACTER];
    error.code().is_some_and(|code| codes.contains(code))
}

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
