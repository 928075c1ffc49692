//! Until migrate has made the index of a stream, its changes wait beside the log.

use std::collections::BTreeSet;

use anyhow::Result;
use database::Session as _;
use database::log::Row;

use crate::support::{Drainer, World, facts, keys, one, set_live};

/// Drains a page, and sets aside what has no index, as the trigger does.
async fn set_aside(drainer: &Drainer) -> Result<()> {
    let mut after = drainer.begin().await?.unwrap_or_default();
    loop {
        let rows = drainer.page(after, 100).await?;
        let Some(last) = rows.last() else { break };
        after = last.id;
        for stream in rows.iter().map(|row| &row.stream).collect::<BTreeSet<_>>() {
            let ids: Vec<i64> = rows.iter().filter(|row| row.stream == *stream).map(|row| row.id).collect();
            drainer.client.wait("elasticsearch", stream, &ids).await?;
        }
    }
    drainer.finish().await
}

async fn waited(drainer: &Drainer) -> Result<Vec<Row>> {
    Ok(drainer.client.waited("elasticsearch", 100).await?.0)
}

async fn world_without_an_index() -> Result<World> {
    let world = World::new().await?;
    world.owner.batch_execute("UPDATE sluice.target SET live_index = NULL, live_mapping = NULL").await?;
    Ok(world)
}

#[tokio::test]
async fn of_each_key_that_waits_the_newest_change_is_given_back_once_in_their_order() -> Result<()> {
    let world = world_without_an_index().await?;
    let mut drainer = world.drainer().await?;
    for sql in ["INSERT INTO demo.item VALUES (2), (1)", "DELETE FROM demo.item WHERE id = 2"] {
        world.app.batch_execute(sql).await?;
        set_aside(&drainer).await?;
        drainer.commit().await?;
    }
    assert!(drainer.drain().await?.is_empty(), "they are out of the others' way");
    assert!(waited(&drainer).await?.is_empty() && !drainer.client.is_pending("elasticsearch").await?);
    let status = "SELECT waiting || ': ' || problem FROM sluice.stream_status() WHERE stream = 'items'";
    assert_eq!(one::<String>(&drainer.client, status).await?, "2: it has no index yet: run migrate");

    set_live(&world.owner).await?;
    assert!(drainer.client.is_pending("elasticsearch").await?, "what waited is to be drained");
    assert_eq!(facts(&waited(&drainer).await?), ["items 1 insert", "items 2 delete"]);
    assert!(waited(&drainer).await?.is_empty() && !drainer.client.is_pending("elasticsearch").await?);
    Ok(())
}

#[tokio::test]
async fn changes_that_a_drain_holds_when_the_stream_becomes_live_are_not_forgotten() -> Result<()> {
    let world = world_without_an_index().await?;
    let drainer = world.drainer().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    set_aside(&drainer).await?;
    // Neither waits for the other.
    set_live(&world.owner).await?;
    drainer.commit().await?;
    assert_eq!(keys(&waited(&drainer).await?), ["1"]);
    Ok(())
}

#[tokio::test]
async fn a_migration_that_is_open_on_a_stream_holds_up_no_drain() -> Result<()> {
    let world = world_without_an_index().await?;
    let drainer = world.drainer().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    for locked in [
        "SELECT sluice.define_stream('items', source => 'demo.item', key => 'id', mapping => '{\"properties\": {\"id\": {}}}')",
        "SELECT sluice.track('demo.item', stream => 'items', key => 'id', columns => '{value}')",
        "SELECT sluice.set_live('elasticsearch', 'items', 'items-1', '{\"properties\": {\"id\": {}}}')",
        "SELECT sluice.drop_stream('items')",
    ] {
        world.owner.batch_execute(&format!("BEGIN; {locked}")).await?;
        drainer.client.batch_execute("SET lock_timeout = '1ms'").await?;
        set_aside(&drainer).await?;
        drainer.rollback().await?;
        waited(&drainer).await?;
        world.owner.batch_execute("ROLLBACK").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_crash_of_the_drain_sets_nothing_aside_and_gives_nothing_back() -> Result<()> {
    let world = world_without_an_index().await?;
    let mut drainer = world.drainer().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    set_aside(&drainer).await?;
    drainer.rollback().await?;
    set_live(&world.owner).await?;
    assert_eq!(keys(&drainer.drain().await?), ["1"]);

    world.owner.batch_execute("UPDATE sluice.target SET live_index = NULL, live_mapping = NULL").await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (2)").await?;
    set_aside(&drainer).await?;
    drainer.commit().await?;
    set_live(&world.owner).await?;
    drainer.client.batch_execute("BEGIN").await?;
    assert_eq!(keys(&waited(&drainer).await?), ["2"]);
    drainer.rollback().await?;
    assert_eq!(keys(&waited(&drainer).await?), ["2"]);
    Ok(())
}

#[tokio::test]
async fn a_retention_that_drops_the_log_keeps_what_waits() -> Result<()> {
    let world = world_without_an_index().await?;
    let drainer = world.drainer().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    set_aside(&drainer).await?;
    drainer.commit().await?;
    world.database.superuser().await?.batch_execute("TRUNCATE sluice.outbox").await?;
    set_live(&world.owner).await?;
    assert_eq!(keys(&waited(&drainer).await?), ["1"]);
    Ok(())
}
