//! Why a run failed.

use database::describe;

use search::request;

/// Each text is a sentence for the one who ran the command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A parameter is missing or malformed.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// There is no such command.
    #[error("there is no command {0}: use migrate, rebase, reindex, replay or uninstall")]
    Command(String),
    /// What is to be replayed is not said as it should be.
    #[error("what is to be replayed? {0}")]
    Replay(String),
    /// What is to be done with the generations of which stream cannot be done.
    #[error("{0}")]
    Reindex(String),
    /// No session with the database.
    #[error(transparent)]
    Database(#[from] database::ConnectError),
    /// No Elasticsearch to talk to.
    #[error(transparent)]
    Search(#[from] search::ConnectError),
    /// The schema is as it was before.
    #[error("the schema could not be migrated and is left as it was: {reason} (in {file})", reason = describe(.source))]
    Schema {
        /// Which file of the migrations.
        file: String,
        /// What PostgreSQL said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The schema was made by other files than those of this release.
    #[error(
        "the schema sluice was made by files that were never released (migration {version} differs): it cannot be \
         migrated. Remove it (make uninstall, with the release that made it; or DROP SCHEMA sluice CASCADE), migrate \
         anew, then define and resync the streams"
    )]
    OtherSchema {
        /// The migration that differs.
        version: i32,
    },
    /// Keys and documents travel as UTF-8.
    #[error(
        "the database is in the encoding {0}, and Sluice needs UTF8: what is no UTF-8 could not be read. Make a database \
         with ENCODING 'UTF8' TEMPLATE template0, and bring the data there"
    )]
    Encoding(String),
    /// A statement of migrate's own failed.
    #[error("{doing} failed: {reason}", reason = describe(.source))]
    Query {
        /// What the statement is for.
        doing: &'static str,
        /// The cause.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The generations of indexes do not go on.
    #[error(transparent)]
    Generations(#[from] generations::Error),
    /// The documents of a stream cannot be read.
    #[error(transparent)]
    Read(#[from] database::ReadError),
    /// A request that concerns no single stream failed.
    #[error(transparent)]
    Elasticsearch(#[from] request::Error),
    /// An index has what somebody else gave it.
    #[error(
        "the index {index} has a document with the version {version}, and Sluice has none above that: delete the index and \
         run migrate, which makes a new one (of a source it is filled; searches find nothing until then), then run rebase"
    )]
    Version {
        /// The index.
        index: String,
        /// The highest version that was found.
        version: i64,
    },
    /// The other streams are done.
    #[error("{}", .0.join("\n"))]
    Streams(
        /// One sentence for each stream that failed.
        Vec<String>,
    ),
}

impl Error {
    pub(crate) fn schema(file: &str, source: tokio_postgres::Error) -> Self {
        Self::Schema { file: file.to_owned(), source }
    }
}

/// For `map_err`: what a statement was for.
pub(crate) fn query(doing: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Error {
    move |source| Error::Query { doing, source }
}
