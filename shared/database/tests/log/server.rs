//! A server of the test's own, stopped in the middle.

use anyhow::{Context as _, Result};
use database::Session as _;
use localstack::Server;

/// With all migrations in its database `postgres`.
pub async fn migrated_server() -> Result<Server> {
    let server = Server::create()?;
    let client = server.connect("postgres").await;
    client.batch_execute("CREATE SCHEMA sluice; CREATE TABLE sluice.schema_history (version int4)").await?;
    for (_, file, sql) in localstack::migrations()? {
        client.batch_execute(&format!("BEGIN; {sql}; COMMIT")).await.context(file)?;
    }
    Ok(server)
}

#[tokio::test]
async fn versions_and_rows_survive_an_immediate_stop_of_the_server() -> Result<()> {
    let mut server = migrated_server().await?;
    let client = server.connect("postgres").await;
    let emit = |key: &str| format!("SELECT sluice.emit('letters', '{key}', payload => '{{}}')");
    client.batch_execute("SELECT sluice.define_stream('letters', mapping => '{\"properties\": {}}')").await?;
    let mut drawn = vec![];
    let mut delivered = vec![];
    for round in 0..3 {
        let client = server.connect("postgres").await;
        let open = server.connect("postgres").await;
        client.batch_execute(&emit(&format!("committed {round}"))).await?;
        open.batch_execute(&format!("BEGIN; {}", emit(&format!("open {round}")))).await?;
        let mut versions = client.take_over("elasticsearch", 1_000_000).await?.context("nobody holds it")?;
        client.batch_execute("BEGIN").await?;
        let mut after = client.hold("elasticsearch", &versions).await?.context("it is held")?;
        while let Some(row) = client.page("elasticsearch", after, 1).await?.0.pop() {
            drawn.extend(versions.draw());
            after = row.id;
            if row.stream == "letters" {
                delivered.push(row.key);
            }
            client.advance("elasticsearch", after).await?;
        }
        client.finish("elasticsearch").await?;
        if round != 1 {
            client.batch_execute("COMMIT").await?;
        }
        server.stop_immediately()?;
        server.start()?;
    }
    let client = server.connect("postgres").await;
    let mut versions = client.take_over("elasticsearch", 1_000_000).await?.context("nobody holds it")?;
    drawn.extend(versions.draw());
    assert!(drawn.is_sorted_by(|a, b| a < b), "{drawn:?}");
    // The second round's drain was not committed, and is repeated.
    assert_eq!(delivered, ["committed 0", "committed 1", "committed 1", "committed 2"]);
    assert!(!client.is_pending("elasticsearch").await?);
    Ok(())
}
