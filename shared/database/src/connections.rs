//! Who is connected by API Gateway, to be told when to pull: since no process of ours holds those connections, PostgreSQL lists them.

use std::time::{Duration, SystemTime};

use telemetry::call;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row};

use crate::source::PEER;
use crate::sync::{Name, unzipped};

/// A connection that is to be looked at.
#[derive(Clone, Debug)]
pub struct Taken {
    /// API Gateway's.
    pub id: String,
    /// Of its token, JSON.
    pub claims: String,
    /// What it wants to be told of; `None`: of all that it may read.
    pub wanted: Option<Vec<Name>>,
    /// It is to be ended: its token has, or it may live no longer.
    pub has_ended: bool,
}

/// A bucket, and the seq of its last change, of which a connection is to be told.
pub type Poke = (Name, i64);

/// Lists a connection, or what it says anew, until it ends. False: there are `most` already.
pub async fn admit(
    client: &Client,
    id: &str,
    claims: &str,
    wanted: Option<&[Name]>,
    ends_at: SystemTime,
    most: usize,
) -> Result<bool, Error> {
    let query = "SELECT sluice.admit_connection($1, $2, $3, $4, $5, $6)";
    let (streams, buckets) = wanted.map(unzipped).unzip();
    let most = i32::try_from(most).unwrap_or(i32::MAX);
    let parameters: [(&(dyn ToSql + Sync), Type); 6] = [
        (&id, Type::TEXT),
        (&claims, Type::TEXT),
        (&streams, Type::TEXT_ARRAY),
        (&buckets, Type::TEXT_ARRAY),
        (&ends_at, Type::TIMESTAMPTZ),
        (&most, Type::INT4),
    ];
    let rows = call(PEER, "admit_connection", client.query_typed(query, &parameters)).await?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

/// Removes a connection that is gone, if it is listed.
pub async fn remove(client: &Client, id: &str) -> Result<(), Error> {
    let statement = "DELETE FROM sluice.connection AS c WHERE c.id = $1";
    call(PEER, "remove_connection", client.query_typed(statement, &[(&id, Type::TEXT)])).await.map(drop)
}

/// Has those looked at soon who may read one of these buckets, which changed.
pub async fn wake(client: &Client, names: &[Name]) -> Result<(), Error> {
    let query = "SELECT sluice.wake_connections($1, $2)";
    let (streams, buckets) = unzipped(names);
    let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&streams, Type::TEXT_ARRAY), (&buckets, Type::TEXT_ARRAY)];
    call(PEER, "wake_connections", client.query_typed(query, &parameters)).await.map(drop)
}

/// Takes those that are due, `most` at most. Nobody else is given them for so long.
pub async fn take(client: &Client, most: usize, hold: Duration) -> Result<Vec<Taken>, Error> {
    let query =
        "SELECT id, claims, streams, buckets, has_ended FROM sluice.take_connections($1, make_interval(secs => $2))";
    let most = i32::try_from(most).unwrap_or(i32::MAX);
    let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&most, Type::INT4), (&hold.as_secs_f64(), Type::FLOAT8)];
    let rows = call(PEER, "take_connections", client.query_typed(query, &parameters)).await?;
    let taken = |row: &Row| {
        let (streams, buckets): (Option<Vec<String>>, Option<Vec<String>>) = (row.get(2), row.get(3));
        let named = |(streams, buckets): (Vec<String>, Vec<String>)| {
            streams.into_iter().zip(buckets).map(|(stream, bucket)| Name { stream, bucket }).collect()
        };
        Taken { id: row.get(0), claims: row.get(1), wanted: streams.zip(buckets).map(named), has_ended: row.get(4) }
    };
    Ok(rows.iter().map(taken).collect())
}

/// Notes which buckets a connection may read now, and lists those that changed since it was told of them, `most` at most.
pub async fn list_pokes(client: &Client, id: &str, readable: &[Name], most: usize) -> Result<Vec<Poke>, Error> {
    let query = "SELECT stream, bucket, seq FROM sluice.pokes_of($1, $2, $3, $4)";
    let (streams, buckets) = unzipped(readable);
    let most = i32::try_from(most).unwrap_or(i32::MAX);
    let parameters: [(&(dyn ToSql + Sync), Type); 4] =
        [(&id, Type::TEXT), (&streams, Type::TEXT_ARRAY), (&buckets, Type::TEXT_ARRAY), (&most, Type::INT4)];
    let rows = call(PEER, "pokes_of", client.query_typed(query, &parameters)).await?;
    Ok(rows.iter().map(|row| (Name { stream: row.get(0), bucket: row.get(1) }, row.get(2))).collect())
}

/// Notes what a connection was told of, and leaves it alone for a while; `again`: there is more to tell.
pub async fn note_poked(client: &Client, id: &str, told: &[Poke], pause: Duration, again: bool) -> Result<(), Error> {
    let query = "SELECT sluice.note_poked($1, $2, $3, $4, make_interval(secs => $5), $6)";
    let streams: Vec<&str> = told.iter().map(|(name, _)| name.stream.as_str()).collect();
    let buckets: Vec<&str> = told.iter().map(|(name, _)| name.bucket.as_str()).collect();
    let seqs: Vec<i64> = told.iter().map(|(_, seq)| *seq).collect();
    let parameters: [(&(dyn ToSql + Sync), Type); 6] = [
        (&id, Type::TEXT),
        (&streams, Type::TEXT_ARRAY),
        (&buckets, Type::TEXT_ARRAY),
        (&seqs, Type::INT8_ARRAY),
        (&pause.as_secs_f64(), Type::FLOAT8),
        (&again, Type::BOOL),
    ];
    call(PEER, "note_poked", client.query_typed(query, &parameters)).await.map(drop)
}
