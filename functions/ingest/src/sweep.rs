//! Rows whose items are gone, which nothing says but that they were missing when all was read.

use database::ingest::deletes::{self, Swept};
use database::ingest::{DELETED, count};
use futures_util::future::try_join;
use time::OffsetDateTime;
use tokio_postgres::Client;
use tracing::warn;

use crate::Error;
use crate::source::Source;
use crate::store::{ALONE, CHECK, Writer, is_about_an_item};

/// Rows that are deleted in one transaction.
const DELETED_AT_ONCE: i64 = 500;

impl Writer {
    /// Deletes rows that full listings do not have any more, and says how many. One that the table does not let go stays, and is
    /// told of.
    ///
    /// # Errors
    /// Those that are left are deleted the next time.
    pub async fn delete_missing(&mut self, source: &Source) -> Result<u64, Error> {
        let (name, table) = (source.name(), &source.definition.table);
        let mut all = 0;
        let mut limit = DELETED_AT_ONCE;
        loop {
            let delete = async |client: &Client| {
                client.batch_execute(ALONE).await?;
                let deleted =
                    try_join(deletes::delete_missing(client, name, table, limit), client.batch_execute(CHECK)).await;
                let end = match &deleted {
                    Ok(((_, deleted), ())) => {
                        count(client, name, &[(DELETED, *deleted)]).await?;
                        "COMMIT"
                    }
                    Err(_) => "ROLLBACK",
                };
                client.batch_execute(end).await?;
                Ok(deleted.map(|(deleted, ())| deleted))
            };
            match self.run(delete).await? {
                Ok((0, _)) => return Ok(all),
                Ok((_, deleted)) => all += deleted.unsigned_abs(),
                Err(error) if !is_about_an_item(&error) => return Err(error.into()),
                // One of them: each by itself.
                Err(_) if limit > 1 => limit = 1,
                Err(error) => {
                    warn!(
                        source = name,
                        error = database::describe(&error),
                        "a row that its source does not list any more is not let go, and stays"
                    );
                    self.run(async |client| Ok(deletes::pass_over_missing(client, name).await?)).await?;
                }
            }
        }
    }

    /// Deletes rows that a copy of a whole collection did not have, `limit` at most behind this key. One that the table does not let
    /// go stays, and is told of; so does one whose item is a reject.
    ///
    /// # Errors
    /// Those that are left are deleted the next time.
    pub async fn sweep(
        &mut self,
        source: &Source,
        before: OffsetDateTime,
        after: Option<&str>,
        limit: i64,
    ) -> Result<Swept, Error> {
        let (name, table) = (source.name(), &source.definition.table);
        let sweep = async |client: &Client, before: Option<OffsetDateTime>, limit: i64| {
            client.batch_execute(ALONE).await?;
            let swept =
                try_join(deletes::sweep(client, name, table, before, after, limit), client.batch_execute(CHECK));
            let swept = swept.await.map(|(swept, ())| swept);
            if let Ok(swept) = &swept {
                count(client, name, &[(DELETED, swept.deleted.cast_signed())]).await?;
            }
            client.batch_execute(if swept.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
            Ok(swept)
        };
        let error = match self.run(async |client| sweep(client, Some(before), limit).await).await? {
            Ok(swept) => return Ok(swept),
            Err(error) if !is_about_an_item(&error) => return Err(error.into()),
            Err(error) => error,
        };
        // One of them: the next one by itself.
        match self.run(async |client| sweep(client, Some(before), 1).await).await? {
            Ok(swept) => Ok(swept),
            Err(error) if !is_about_an_item(&error) => Err(error.into()),
            Err(_) => {
                warn!(
                    source = name,
                    error = database::describe(&error),
                    "a row that its collection does not have is not let go, and stays"
                );
                Ok(self.run(async |client| sweep(client, None, 1).await).await??)
            }
        }
    }
}
