//! The SQL migrations: forward only, all of those that are pending in one transaction.

use refinery::{Migration, Runner};
use tokio_postgres::{Client, error::SqlState};

use crate::{
    Report,
    error::{Error, query},
};

mod embedded {
    #![allow(clippy::unwrap_used, reason = "generated code, over file names that were checked when it was generated")]
    refinery::embed_migrations!("../../migrations");
}

/// Two runs at once would make the same things. The number is "sluice" in ASCII; the lock ends with the session.
const LOCK: &str = "SET lock_timeout = '60s'; SELECT pg_advisory_lock(126909663503205); SET lock_timeout = '5s'";
const HISTORY: &str = "sluice.schema_history";

/// The migrations of this release.
pub fn migrations() -> Vec<Migration> {
    embedded::migrations::runner().get_migrations().clone()
}

/// Keeps other runs of migrate out until the session ends.
pub(crate) async fn lock(client: &Client) -> Result<(), Error> {
    client.batch_execute(LOCK).await.map_err(query("waiting for another run of migrate"))
}

/// Brings the schema to the newest of these migrations. Whether it did anything.
///
/// A failure leaves the schema as it was: the old version, or none.
pub async fn migrate(client: &mut Client, migrations: &[Migration], report: &mut Report) -> Result<bool, Error> {
    let is_new = !exists(client).await?;
    if is_new {
        client.batch_execute("CREATE SCHEMA sluice").await.map_err(query("creating the schema sluice"))?;
    }
    let mut runner = Runner::new(migrations)
        .set_grouped(true)
        // A schema that is newer than this code serves it as well: that is how a release is taken back.
        .set_abort_missing(false);
    runner.set_migration_table_name(HISTORY);
    match runner.run_async(client).await {
        Ok(done) => {
            let done: Vec<String> = done.applied_migrations().iter().map(ToString::to_string).collect();
            if !done.is_empty() {
                report.say(format!("schema: applied {}", done.join(", ")));
            }
            Ok(!done.is_empty())
        }
        Err(source) => {
            let reason = reason(&source, client, migrations).await;
            if is_new {
                client.batch_execute("DROP SCHEMA sluice CASCADE").await.map_err(query("dropping the empty schema"))?;
            }
            Err(Error::Schema { reason, source })
        }
    }
}

/// Whether there is a schema, in whatever state.
pub(crate) async fn exists(client: &Client) -> Result<bool, Error> {
    let row = client.query_one("SELECT to_regnamespace('sluice') IS NOT NULL", &[]).await;
    Ok(row.map_err(query("looking for the schema"))?.get(0))
}

/// The schema's version, 0 where there is none.
pub(crate) async fn version(client: &Client) -> Result<i32, Error> {
    let row = client.query_one("SELECT coalesce(max(version), 0) FROM sluice.schema_history", &[]).await;
    match row {
        Ok(row) => Ok(row.get(0)),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(0),
        Err(error) => Err(query("reading the schema's version")(error)),
    }
}

/// refinery tells neither which migration failed in a group nor what the server said.
async fn reason(error: &refinery::Error, client: &Client, migrations: &[Migration]) -> String {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<tokio_postgres::Error>());
    let Some(cause) = cause else { return error.to_string() };
    let current = version(client).await.unwrap_or_default();
    let pending: Vec<String> =
        migrations.iter().filter(|migration| migration.version() > current).map(ToString::to_string).collect();
    format!("{} (in {})", database::describe(cause), pending.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_functions_need_no_schema_that_this_release_does_not_make() {
        let newest = migrations().iter().map(Migration::version).max();
        assert!(newest >= Some(database::REQUIRED_SCHEMA), "{newest:?}");
    }
}
