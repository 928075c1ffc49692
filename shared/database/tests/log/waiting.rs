//! Until migrate has made the index of a stream, its changes wait beside the log.

use anyhow::Result;
use database::log;
use localstack::eventually;

use crate::support::{Drainer, World, facts, keys, one, set_live};

/// Drains a page, and sets aside what has no index, as the trigger does.
async fn set_aside(drainer: &Drainer) -> Result<()> {
    let mut after = drainer.begin().await?.unwrap_or_default();
    loop {
        let rows = drainer.page(after, 100).await?;
        let Some(last) = rows.last() else { break };
        after = last.id;
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        assert!(log::wait(&drainer.client, "items", &ids).await?);
    }
    drainer.finish().await
}

async fn world_without_an_index() -> Result<World> {
    let world = World::new().await?;
    world.owner.batch_execute("UPDATE sluice.stream SET live_index = NULL, live_mapping = NULL").await?;
    Ok(world)
}

#[tokio::test]
async fn waiting_changes_go_back_into_the_log_in_their_order() -> Result<()> {
    let world = world_without_an_index().await?;
    let mut drainer = world.drainer().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (2), (1); DELETE FROM demo.item WHERE id = 2").await?;
    set_aside(&drainer).await?;
    drainer.commit().await?;
    assert!(drainer.drain().await?.is_empty(), "they are out of the others' way");
    assert_eq!(
        one::<i64>(&drainer.client, "SELECT waiting FROM sluice.stream_status() WHERE stream = 'items'").await?,
        3
    );
    set_live(&world.owner).await?;
    assert_eq!(facts(&drainer.drain().await?), ["items 2 upsert", "items 1 upsert", "items 2 delete"]);
    assert_eq!(one::<i64>(&drainer.client, "SELECT count(*) FROM sluice.waiting").await?, 0);
    assert!(!log::wait(&drainer.client, "items", &[1]).await?, "it has an index: look again");
    Ok(())
}

#[tokio::test]
async fn changes_that_a_drain_holds_when_the_stream_becomes_live_are_not_forgotten() -> Result<()> {
    let world = world_without_an_index().await?;
    let mut drainer = world.drainer().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    set_aside(&drainer).await?;
    let migrate = world.database.owner().await?;
    let task = tokio::spawn(async move { set_live(&migrate).await });
    let superuser = world.database.superuser().await?;
    eventually("set_live to wait for the drain", async || {
        let query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query ~ 'set_live'";
        match one::<i64>(&superuser, query).await {
            Ok(1) => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })
    .await;
    drainer.commit().await?;
    task.await??;
    assert_eq!(keys(&drainer.drain().await?), ["1"]);
    Ok(())
}

#[tokio::test]
async fn a_crash_of_the_drain_sets_nothing_aside_and_loses_nothing() -> Result<()> {
    let world = world_without_an_index().await?;
    let mut drainer = world.drainer().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    set_aside(&drainer).await?;
    drainer.rollback().await?;
    set_live(&world.owner).await?;
    assert_eq!(keys(&drainer.drain().await?), ["1"]);
    Ok(())
}

#[tokio::test]
async fn a_retention_that_drops_the_log_keeps_what_waits() -> Result<()> {
    let world = world_without_an_index().await?;
    let mut drainer = world.drainer().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    set_aside(&drainer).await?;
    drainer.commit().await?;
    world.database.superuser().await?.batch_execute("TRUNCATE sluice.outbox").await?;
    set_live(&world.owner).await?;
    assert_eq!(keys(&drainer.drain().await?), ["1"]);
    Ok(())
}
