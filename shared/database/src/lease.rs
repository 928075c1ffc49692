//! Whose turn it is, where one at a time may do something: `sluice.lease`.

use std::time::Duration;

use tokio_postgres::{Client, Error};

/// Takes a lease for `term` from now on, or keeps it for so long; `false`: another holder has it.
pub async fn take(client: &Client, name: &str, holder: &str, term: Duration) -> Result<bool, Error> {
    let statement = "INSERT INTO sluice.lease AS l (name, holder, expires_at)
         VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
         ON CONFLICT (name) DO UPDATE
         SET holder = excluded.holder, expires_at = excluded.expires_at
         WHERE l.holder = excluded.holder OR l.expires_at < clock_timestamp()";
    Ok(client.execute(statement, &[&name, &holder, &term.as_secs_f64()]).await? == 1)
}

/// Gives a lease back, if this holder has it.
pub async fn release(client: &Client, name: &str, holder: &str) -> Result<(), Error> {
    let statement = "DELETE FROM sluice.lease WHERE name = $1 AND holder = $2";
    client.execute(statement, &[&name, &holder]).await.map(drop)
}
