use database::{ConnectError, ReadError, describe};
use search::request;
use sluice_clickhouse::Failure;
use tokio::time::error::Elapsed;
use tokio_postgres::error::SqlState;

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
    /// ClickHouse gave none.
    #[error(transparent)]
    ClickHouse(#[from] Failure),
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
            Self::Target(_) | Self::ClickHouse(_) | Self::Late(_) => true,
            Self::Connect(_) | Self::Elasticsearch(_) | Self::Asked(_) => false,
        }
    }

    /// Whether fewer documents at once may be read in time.
    pub fn is_late(&self) -> bool {
        match self {
            Self::Source(error) => error.is_late(),
            Self::Database(error) => error.code() == Some(&SqlState::QUERY_CANCELED),
            Self::Late(_) => true,
            Self::Target(_) | Self::ClickHouse(_) | Self::Connect(_) | Self::Elasticsearch(_) | Self::Asked(_) => false,
        }
    }

    /// Whether the source is gone, or unreadable, whichever key is asked for.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Source(error) => matches!(error, ReadError::NoSource(_) | ReadError::UnreadableSource { .. }),
            Self::Database(error) => {
                [SqlState::UNDEFINED_TABLE, SqlState::UNDEFINED_COLUMN, SqlState::INSUFFICIENT_PRIVILEGE]
                    .iter()
                    .any(|lasting| error.code() == Some(lasting))
            }
            Self::Connect(_)
            | Self::Elasticsearch(_)
            | Self::ClickHouse(_)
            | Self::Target(_)
            | Self::Late(_)
            | Self::Asked(_) => false,
        }
    }

    /// Whether the target may not have found what was asked for.
    pub fn is_unfound(&self) -> bool {
        matches!(self, Self::Target(request::Error::Refused { status: 404, .. }) | Self::ClickHouse(Failure::Table(_)))
    }

    /// Its words as far as they quote none of the data.
    pub fn without_data(&self) -> String {
        if matches!(self, Self::ClickHouse(Failure::Row { .. } | Failure::Table(_))) {
            return "ClickHouse refuses it".to_owned();
        }
        self.to_string()
    }
}
