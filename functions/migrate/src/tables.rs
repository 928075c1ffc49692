//! Tables and streams of a schema beside Sluice's own: the demo's, and the profiles that are pulled from an origin.

use tokio_postgres::Client;

use crate::{
    Report,
    error::{Error, query},
};

/// What is made in a schema.
pub(crate) struct Tables {
    schema: &'static str,
    whose: &'static str,
    sql: &'static str,
    doing: &'static str,
}

pub(crate) const DEMO: Tables =
    Tables { schema: "demo", whose: "demo", sql: include_str!("../demo.sql"), doing: "making the demo's tables" };
pub(crate) const PROFILES: Tables = Tables {
    schema: "profiles",
    whose: "ingest",
    sql: include_str!("../../../examples/profiles/define.sql"),
    doing: "making the table of the ingest's profiles",
};

/// Makes what is missing, in one transaction.
pub(crate) async fn make(client: &mut Client, tables: &Tables, report: &mut Report) -> Result<(), Error> {
    let Tables { schema, whose, sql, doing } = tables;
    let make = async {
        let is_new: bool = client.query_one("SELECT to_regnamespace($1) IS NULL", &[schema]).await?.get(0);
        let transaction = client.transaction().await?;
        transaction.batch_execute(sql).await?;
        transaction.commit().await?;
        Ok(is_new)
    };
    if make.await.map_err(query(doing))? {
        report.say(format!("{whose}: made its tables and streams in the schema {schema}"));
    }
    Ok(())
}
