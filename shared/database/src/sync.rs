//! The store of the direct target `sync`: which documents are in which buckets.

use std::time::Duration;

use telemetry::call;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error};

use crate::source::PEER;

/// What [`store`] fails with where another drainer has taken over.
pub const OVERTAKEN: &str = "SL003";

/// Documents of one stream, as a step of the drain has read them. Of each key one.
#[derive(Debug, Default)]
pub struct Documents {
    /// The keys.
    pub keys: Vec<String>,
    /// Under which version each was read.
    pub versions: Vec<i64>,
    /// `{"buckets": […], "document": …}`; `None`: there is no such row.
    pub documents: Vec<Option<String>>,
}

/// Makes the caller the only one that writes to the store, and says how long deletes are kept: the epoch of its writes.
pub async fn take_over(client: &Client, keep: Duration) -> Result<i64, Error> {
    let query = "SELECT sluice.take_store_over(make_interval(secs => $1))";
    Ok(call(PEER, "take_store_over", client.query_one(query, &[&keep.as_secs_f64()])).await?.get(0))
}

/// Brings keys of a stream to what was read. It holds the store until the transaction ends.
///
/// # Errors
/// [`OVERTAKEN`]: another drainer writes, and this one must not.
pub async fn store(client: &Client, epoch: i64, stream: &str, documents: &Documents) -> Result<(), Error> {
    let Documents { keys, versions, documents } = documents;
    let statement = "SELECT sluice.store_documents($1, $2, $3, $4, $5)";
    let parameters: [&(dyn ToSql + Sync); 5] = [&epoch, &stream, keys, versions, documents];
    call(PEER, "store_documents", client.execute(statement, &parameters)).await.map(drop)
}
