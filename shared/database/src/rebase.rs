//! Beginning anew after a restore or a copy: positions, versions, and how far each index was walked.

use tokio_postgres::{Client, Error};

/// An index that is to be compared with its source, and how far it was.
#[derive(Clone, Debug)]
pub struct Walk {
    /// Whose index.
    pub stream: String,
    /// Its name.
    pub index: String,
    /// The sequence number from which on its documents are still to be looked at.
    pub position: i64,
    /// Keys found so far that only the index has.
    pub surplus: i64,
}

/// Finds the rebase that is to be gone on with: when it was begun, by RFC 3339; `None`: there is none.
pub async fn resume(client: &Client) -> Result<Option<String>, Error> {
    Ok(client.query_one("SELECT sluice.rfc3339(sluice.resume_rebase())", &[]).await?.get(0))
}

/// Begins a rebase: the position is now, versions go on above `highest`, every stream with a source is read anew, and there
/// is a walk for the index of each.
pub async fn begin(client: &Client, highest: i64) -> Result<(), Error> {
    client.execute("SELECT sluice.rebase($1)", &[&highest]).await.map(drop)
}

/// Lists the walks that are not done, by stream.
pub async fn list_walks(client: &Client) -> Result<Vec<Walk>, Error> {
    let query = "SELECT stream, index, position, surplus FROM sluice.rebase_walk ORDER BY stream";
    let rows = client.query(query, &[]).await?;
    let walk = |row: &tokio_postgres::Row| Walk {
        stream: row.get(0),
        index: row.get(1),
        position: row.get(2),
        surplus: row.get(3),
    };
    Ok(rows.iter().map(walk).collect())
}

/// Stores how far a stream's walk is, and the keys found so far.
pub async fn advance_walk(client: &Client, stream: &str, position: i64, surplus: i64) -> Result<(), Error> {
    let statement = "UPDATE sluice.rebase_walk SET position = $2, surplus = $3 WHERE stream = $1";
    client.execute(statement, &[&stream, &position, &surplus]).await.map(drop)
}

/// Ends a stream's walk.
pub async fn end_walk(client: &Client, stream: &str) -> Result<(), Error> {
    client.execute("DELETE FROM sluice.rebase_walk WHERE stream = $1", &[&stream]).await.map(drop)
}

/// Reads the highest version that any subscription has reserved.
pub async fn read_highest_version(client: &Client) -> Result<i64, Error> {
    Ok(client.query_one("SELECT max(reserved) FROM sluice.subscription", &[]).await?.get(0))
}

/// Raises the versions above `highest`, and has the drain read these keys again, which the index has with higher ones than
/// were reserved.
pub async fn overtake(client: &Client, stream: &str, keys: &[&str], highest: i64) -> Result<(), Error> {
    client.execute("SELECT sluice.overtake($1, $2, $3)", &[&stream, &keys, &highest]).await.map(drop)
}
