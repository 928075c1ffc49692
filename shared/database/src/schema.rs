//! The schema itself: which migrations it has, and its end.

use tokio_postgres::{Client, Error, Transaction};

/// Keeps other runs of migrate out until the session ends.
///
/// # Errors
/// `lock_not_available`: another run has not ended within a minute.
pub async fn lock(client: &Client) -> Result<(), Error> {
    // Two runs at once would make the same things. The number is "sluice" in ASCII.
    client
        .batch_execute("SET lock_timeout = '60s'; SELECT pg_advisory_lock(126909663503205); SET lock_timeout = '5s'")
        .await
}

/// Whether there is a schema, in whatever state.
pub async fn exists(client: &Client) -> Result<bool, Error> {
    Ok(client.query_one("SELECT to_regnamespace('sluice') IS NOT NULL", &[]).await?.get(0))
}

/// Reads the number of the newest migration that the schema has; 0: none.
///
/// # Errors
/// `undefined_table`, `invalid_schema_name`: there is no schema, or none of Sluice's.
pub async fn read_version(client: &Client) -> Result<i32, Error> {
    Ok(client.query_one("SELECT coalesce(max(version), 0) FROM sluice.schema_history", &[]).await?.get(0))
}

/// Makes the schema, and the table of what was applied to it, where they are missing.
pub async fn make_history(transaction: &Transaction<'_>) -> Result<(), Error> {
    transaction
        .batch_execute(
            "SET LOCAL client_min_messages = warning;
             CREATE SCHEMA IF NOT EXISTS sluice;
             CREATE TABLE IF NOT EXISTS sluice.schema_history (
                 version integer PRIMARY KEY,
                 name text NOT NULL,
                 checksum text NOT NULL,
                 applied_on timestamptz NOT NULL DEFAULT clock_timestamp())",
        )
        .await
}

/// Lists what was applied: versions and checksums, in no order. Version 0 is the functions.
pub async fn list_applied(transaction: &Transaction<'_>) -> Result<Vec<(i32, String)>, Error> {
    let rows = transaction.query("SELECT version, checksum::text FROM sluice.schema_history", &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Notes that a file with this text was applied.
pub async fn note_applied(transaction: &Transaction<'_>, version: i32, name: &str, sql: &str) -> Result<(), Error> {
    let statement = "INSERT INTO sluice.schema_history (version, name, checksum)
         VALUES ($1, $2, encode(sha256(convert_to($3, 'UTF8')), 'hex'))
         ON CONFLICT (version) DO UPDATE
         SET checksum = excluded.checksum, applied_on = excluded.applied_on";
    transaction.execute(statement, &[&version, &name, &sql]).await.map(drop)
}

/// Computes the checksum of a text, as [`note_applied`] stores it.
pub async fn compute_checksum(transaction: &Transaction<'_>, sql: &str) -> Result<String, Error> {
    Ok(transaction.query_one("SELECT encode(sha256(convert_to($1, 'UTF8')), 'hex')", &[&sql]).await?.get(0))
}

/// Whether the newest text that was applied under this number is this one; 0 is the functions.
pub async fn is_applied(client: &Client, version: i32, sql: &str) -> Result<bool, Error> {
    let query = "SELECT EXISTS (
             SELECT FROM sluice.schema_history
             WHERE version = $1 AND checksum = encode(sha256(convert_to($2, 'UTF8')), 'hex'))";
    Ok(client.query_one(query, &[&version, &sql]).await?.get(0))
}

/// What may be wrong with the time: the server's clock, in milliseconds since 1970, and for how many milliseconds versions were
/// given that it has not come to.
pub async fn read_clock(client: &Client) -> Result<(i64, i64), Error> {
    let query = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
             (SELECT coalesce(max(reserved), 0) FROM sluice.subscription) / 1000 - (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
    let row = client.query_one(query, &[]).await?;
    Ok((row.get(0), row.get(1)))
}

/// Lists the two roles of this database, quoted.
///
/// # Errors
/// `undefined_table`: it was never migrated.
pub async fn list_roles(client: &Client) -> Result<Vec<String>, Error> {
    let rows = client.query("SELECT unnest(ARRAY[app, capture])::text FROM sluice.roles", &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Takes Sluice off the application's tables: the triggers, then what the two roles were granted.
pub async fn uninstall(transaction: &Transaction<'_>) -> Result<(), Error> {
    transaction.batch_execute("SELECT sluice.uninstall()").await
}

/// Drops the schema with all that is in it.
pub async fn drop_schema(transaction: &Transaction<'_>) -> Result<(), Error> {
    transaction.batch_execute("DROP SCHEMA sluice CASCADE").await
}
