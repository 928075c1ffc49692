//! The demo's tables and streams, in the schema `demo`.

use tokio_postgres::Client;

use crate::{
    Report,
    error::{Error, query},
};

const SQL: &str = include_str!("../demo.sql");

/// Makes what is missing, in one transaction.
pub(crate) async fn make(client: &mut Client, report: &mut Report) -> Result<(), Error> {
    let make = async {
        let is_new: bool = client.query_one("SELECT to_regnamespace('demo') IS NULL", &[]).await?.get(0);
        let transaction = client.transaction().await?;
        transaction.batch_execute(SQL).await?;
        transaction.commit().await?;
        Ok(is_new)
    };
    if make.await.map_err(query("making the demo's tables"))? {
        report.say("demo: made its tables and streams in the schema demo");
    }
    Ok(())
}
