//! Why a run failed.

use database::describe;

use crate::elastic;

/// Each text is a sentence for the one who ran the command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A parameter is missing or malformed.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// There is no such command.
    #[error("there is no command {0}: use migrate, rebase or uninstall")]
    Command(String),
    /// No session with the database.
    #[error(transparent)]
    Database(#[from] database::ConnectError),
    /// No Elasticsearch to talk to.
    #[error(transparent)]
    Search(#[from] search::ConnectError),
    /// The schema is as it was before.
    #[error("the schema could not be migrated and is left as it was: {reason}")]
    Schema {
        /// Which migrations, and what PostgreSQL said.
        reason: String,
        /// The cause.
        #[source]
        source: refinery::Error,
    },
    /// A statement of migrate's own failed.
    #[error("{doing} failed: {reason}", reason = describe(.source))]
    Query {
        /// What the statement is for.
        doing: &'static str,
        /// The cause.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The documents of a stream cannot be read.
    #[error(transparent)]
    Read(#[from] database::ReadError),
    /// A request that concerns no single stream failed.
    #[error(transparent)]
    Elasticsearch(#[from] elastic::Error),
    /// The other streams are done.
    #[error("{}", .0.join("\n"))]
    Streams(
        /// One sentence for each stream that failed.
        Vec<String>,
    ),
}

/// For `map_err`: what a statement was for.
pub(crate) fn query(doing: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Error {
    move |source| Error::Query { doing, source }
}
