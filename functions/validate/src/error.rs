use database::{ConnectError, ReadError, describe};
use search::request;
use tokio::time::error::Elapsed;

/// Why a stream cannot be compared now.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no way to PostgreSQL.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// PostgreSQL refused something.
    #[error("{}", describe(.0))]
    Database(#[from] tokio_postgres::Error),
    /// The source cannot be read.
    #[error("{}", .0.reason())]
    Source(#[from] ReadError),
    /// There is no way to Elasticsearch.
    #[error(transparent)]
    Elasticsearch(#[from] search::ConnectError),
    /// Elasticsearch gave no answer of use.
    #[error(transparent)]
    Target(#[from] request::Error),
    /// The invocation's time is over.
    #[error("there was no time for it")]
    Late(#[from] Elapsed),
    /// What was asked for makes no sense; in words.
    #[error("{0}")]
    Asked(String),
}

impl Error {
    /// Whether it has to do with one stream alone.
    pub fn is_of_the_stream(&self) -> bool {
        match self {
            Self::Source(error) => !error.is_connection_lost(),
            Self::Database(error) => error.as_db_error().is_some(),
            Self::Target(_) => true,
            Self::Connect(_) | Self::Elasticsearch(_) | Self::Late(_) | Self::Asked(_) => false,
        }
    }
}
