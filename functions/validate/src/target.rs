//! What a source is compared with.

use database::Stream;
use search::Server;
use sluice_clickhouse::{Connection, compare as table};

use crate::compare::{Comparison, compare};
use crate::error::Error;
use crate::index;

/// As the indexer has it: what is larger is in no index.
const INDEXED_BYTES: i32 = 20 << 20;

/// Where documents go.
pub(crate) enum Target {
    Elasticsearch(Server),
    ClickHouse(Box<Connection>),
}

/// How a target has one document, beside the source's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Beside {
    /// It is there.
    pub(crate) is_there: bool,
    /// Of its last write, which may be a delete; `None`: nobody knows of any.
    pub(crate) version: Option<i64>,
    /// `None`: one of the two is not there.
    pub(crate) comparison: Option<Comparison>,
}

impl Target {
    /// By what the index, or table, is known: one that was made anew is another. Or why nothing can be compared with it.
    pub(crate) async fn identity(&self, name: &str) -> Result<Result<String, String>, Error> {
        match self {
            Self::Elasticsearch(elasticsearch) => index::uuid(elasticsearch, name).await,
            Self::ClickHouse(connection) => {
                let gone = || format!("its table {name} is gone: run migrate, which makes and fills one");
                Ok(table::identity(connection, name).await?.ok_or_else(gone))
            }
        }
    }

    /// What is larger is a dead letter.
    pub(crate) fn document_bytes(&self) -> i32 {
        match self {
            Self::Elasticsearch(_) => INDEXED_BYTES,
            Self::ClickHouse(_) => sluice_clickhouse::DOCUMENT_BYTES,
        }
    }

    /// How it has these documents, each a key with the source's content.
    pub(crate) async fn compare(
        &self,
        stream: &Stream,
        name: &str,
        documents: &[(&str, Option<&str>)],
    ) -> Result<Vec<Beside>, Error> {
        match self {
            Self::Elasticsearch(elasticsearch) => {
                let mut found = Vec::with_capacity(documents.len());
                index::read(elasticsearch, name, documents, |document, version, content| {
                    let comparison = document.zip(content).map(|(document, content)| compare(document, content));
                    found.push(Beside { is_there: version.is_some(), version, comparison });
                })
                .await?;
                Ok(found)
            }
            Self::ClickHouse(connection) => {
                let found = table::compare(connection, stream, documents).await?;
                let beside = |found: table::Found| {
                    let comparison = if found.is_equal { Comparison::Identical } else { Comparison::Different };
                    Beside {
                        is_there: found.is_there,
                        version: found.version,
                        comparison: found.is_there.then_some(comparison),
                    }
                };
                Ok(found.into_iter().map(beside).collect())
            }
        }
    }
}
