use database::{ConnectError, ReadError};
use thiserror::Error;

/// What keeps a drainer from its work.
#[derive(Debug, Error)]
pub enum Error {
    /// The database cannot be reached, or its schema is older than this code.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The log cannot be read.
    #[error("the log cannot be read: {}", database::describe(.0))]
    Log(#[source] tokio_postgres::Error),
    /// The connection was lost while documents were read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A source went on after its time-out, and with it the session, or the connection was lost without a word.
    #[error("the source of stream {stream} did not answer in time: the session is given up")]
    Unanswered {
        /// The stream.
        stream: String,
    },
    /// An expansion likewise.
    #[error("an expansion did not answer in time: the session is given up")]
    UnansweredExpansion,
    /// Where a step goes does not take it.
    #[error(transparent)]
    Sink(Box<dyn std::error::Error + Send + Sync>),
    /// The invocation's time was over in the middle of a step.
    #[error("a step was not done when the time of the invocation was over; the next one does it again")]
    Late,
    /// A broken invariant; what it was about is in the message.
    #[error("a defect of this program: {0}")]
    Panic(String),
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Log(error)
    }
}

impl Error {
    /// A sink's.
    pub(crate) fn of_sink(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Sink(Box::new(error))
    }
}
