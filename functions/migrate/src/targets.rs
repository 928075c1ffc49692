//! Direct targets: what each stream that goes there needs.

use database::streams::{self, Definition, list_definitions};
use database::subscriptions::CLICKHOUSE;
use secrets::Secrets;
use sluice_clickhouse::{Connection, Settings, table};
use tokio_postgres::Client;

use crate::Report;
use crate::error::{Error, query};

/// Brings the tables of ClickHouse to what its streams want. Whether anything was done. A stream that fails holds no other up.
pub(crate) async fn make_tables(
    client: &mut Client,
    settings: Option<&Settings>,
    secrets: &Secrets,
    report: &mut Report,
) -> Result<bool, Error> {
    let definitions = list_definitions(client, CLICKHOUSE).await.map_err(query("reading the streams"))?;
    let Some(settings) = settings else {
        if !definitions.is_empty() {
            report.say("streams go to clickhouse, and CLICKHOUSE_SECRET_ARN is missing: their changes wait");
        }
        return Ok(false);
    };
    let connection = Connection::new(settings.clone(), secrets.clone());
    let mut is_anything_done = false;
    let mut failures = vec![];
    for stream in &definitions {
        match make_table(client, &connection, stream).await {
            Ok(None) => {}
            Ok(Some(what)) => {
                is_anything_done = true;
                report.say(format!("stream {}: {what} in ClickHouse", stream.name));
            }
            Err(reason) => failures.push(format!("stream {}: {reason}", stream.name)),
        }
    }
    if failures.is_empty() { Ok(is_anything_done) } else { Err(Error::Streams(failures)) }
}

/// What was done, in words.
async fn make_table(
    client: &mut Client,
    connection: &Connection,
    stream: &Definition,
) -> Result<Option<String>, String> {
    let wanted = table::Definition::of(&stream.mapping).map_err(|error| table::Error::from(error).to_string())?;
    let done = table::bring(connection, &wanted).await.map_err(|error| error.to_string())?;
    let is_live = stream.live.as_ref().is_some_and(|live| live.mapping == stream.mapping);
    if is_live && done.is_none() {
        return Ok(None);
    }
    let name = wanted.rows_table();
    let table::Done { mut what, lacks_rows } =
        done.unwrap_or_else(|| table::Done { what: format!("goes on with the table {name}"), lacks_rows: false });
    // What was written before is missing, or has not all columns. At first somebody asks for it.
    let is_resynced = lacks_rows && stream.live.is_some() && stream.has_source;
    if is_resynced {
        what += ", and is filled from the source";
    }
    set_live(client, CLICKHOUSE, stream, &name, is_resynced).await.map_err(|error| error.to_string())?;
    Ok(Some(what))
}

/// The drain reads and writes by what is wanted from now on.
pub(crate) async fn set_live(
    client: &mut Client,
    subscription: &str,
    stream: &Definition,
    name: &str,
    is_resynced: bool,
) -> Result<(), Error> {
    let set = async {
        let transaction = client.transaction().await?;
        streams::set_live(&transaction, subscription, &stream.name, name, &stream.mapping).await?;
        if is_resynced {
            streams::resync(&transaction, &stream.name, subscription).await?;
        }
        transaction.commit().await
    };
    set.await.map_err(query("making the definition live"))
}
