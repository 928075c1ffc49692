//! Rows leave the log when every subscription has passed them, and not before.

use std::cell::Cell;

use anyhow::Result;
use localstack::eventually;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::support::{Drainer, World, keys, one};

/// The log's first partition is full, and a month has passed.
async fn fill_first_partition(world: &World) -> Result<()> {
    let superuser = world.database.superuser().await?;
    superuser.batch_execute("SELECT setval('sluice.outbox_id_seq', 1000000)").await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1000)").await?;
    Ok(())
}

/// One step, a month later: `Err`: somebody else has a lock.
async fn a_month_later(client: &Client) -> Result<Result<Option<String>, ()>> {
    let query = "SELECT sluice.maintain(now => clock_timestamp() + interval '1 month')";
    match client.query_one(query, &[]).await {
        Ok(row) => Ok(Ok(row.get(0))),
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => Ok(Err(())),
        Err(error) => Err(error.into()),
    }
}

/// What retention says, when all other steps are done.
async fn retain(client: &Client) -> Result<Option<String>> {
    loop {
        match a_month_later(client).await? {
            Ok(Some(step)) if !step.starts_with("dropped") => {}
            Ok(outcome) => return Ok(outcome),
            Err(()) => {}
        }
    }
}

async fn first_partition_is_there(client: &Client) -> Result<bool> {
    one(client, "SELECT to_regclass('sluice.outbox_1_1000001') IS NOT NULL").await
}

#[tokio::test]
async fn retention_drops_only_what_every_subscription_has_passed() -> Result<()> {
    let world = World::new().await?;
    world.owner.batch_execute("SELECT sluice.subscribe('other'); SELECT sluice.resync('items')").await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    fill_first_partition(&world).await?;
    let client = world.database.functions().await?;
    assert_eq!(retain(&client).await?, None, "nobody has passed anything");
    world.drain().await?;
    assert_eq!(retain(&client).await?, None, "the other subscription has not");
    let mut other = Drainer::take_over(world.database.functions().await?, "other").await;
    assert_eq!(keys(&other.drain().await?), ["1", "1000"]);
    assert_eq!(retain(&client).await?, None, "the fan-out has not");
    world.fan_out(10).await?;
    assert_eq!(retain(&client).await?.as_deref(), Some("dropped partition sluice.outbox_1_1000001"));
    while retain(&client).await?.is_some() {}
    assert_eq!(keys(&world.drain().await?), ["1", "1000"], "what the fan-out has logged");
    Ok(())
}

#[tokio::test]
async fn rows_that_were_passed_stay_for_as_long_as_they_are_to_be_kept() -> Result<()> {
    let world = World::new().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    fill_first_partition(&world).await?;
    world.drain().await?;
    world.fan_out(10).await?;
    let client = world.database.functions().await?;
    while one::<Option<String>>(&client, "SELECT sluice.maintain()").await?.is_some() {}
    let kept: Option<String> =
        one(&client, "SELECT sluice.maintain(keep => '40 days', now => clock_timestamp() + interval '1 month')")
            .await?;
    assert_eq!(kept, None);
    assert!(first_partition_is_there(&client).await?);
    assert!(retain(&client).await?.is_some());
    Ok(())
}

#[tokio::test]
async fn an_interval_that_is_open_keeps_its_rows() -> Result<()> {
    let world = World::new().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    fill_first_partition(&world).await?;
    world.fan_out(10).await?;
    let client = world.database.functions().await?;
    let drainer = world.drainer().await?;
    drainer.begin().await?;
    let page = drainer.page(0, 1).await?;
    drainer.advance(page[0].id).await?;
    drainer.commit().await?;
    assert_eq!(retain(&client).await?, None);
    Ok(())
}

#[tokio::test]
async fn a_paused_subscription_keeps_its_rows() -> Result<()> {
    let world = World::new().await?;
    world.owner.batch_execute("SELECT sluice.pause('elasticsearch')").await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    fill_first_partition(&world).await?;
    world.fan_out(10).await?;
    assert_eq!(retain(&world.database.functions().await?).await?, None);
    world.owner.batch_execute("SELECT sluice.resume('elasticsearch')").await?;
    assert_eq!(keys(&world.drain().await?), ["1", "1000"]);
    Ok(())
}

/// A transaction that was running when the position was taken, and has ended since.
#[tokio::test]
async fn a_late_commit_keeps_its_partition() -> Result<()> {
    let world = World::new().await?;
    world.app.batch_execute("BEGIN; INSERT INTO demo.item VALUES (1)").await?;
    let superuser = world.database.superuser().await?;
    superuser.batch_execute("SELECT setval('sluice.outbox_id_seq', 1000000)").await?;
    world.database.app().await?.batch_execute("INSERT INTO demo.item VALUES (1000)").await?;
    let mut drainer = world.drainer().await?;
    assert_eq!(keys(&drainer.drain().await?), ["1000"]);
    world.fan_out(10).await?;
    world.app.batch_execute("COMMIT").await?;
    assert_eq!(retain(&drainer.client).await?, None);
    assert_eq!(keys(&drainer.drain().await?), ["1"]);
    world.fan_out(10).await?;
    assert!(retain(&drainer.client).await?.is_some());
    Ok(())
}

/// The drop waits for the lock; in that moment a row of the partition commits. Tried until the commit was in time.
#[tokio::test]
async fn a_row_that_commits_while_the_drop_waits_is_kept() -> Result<()> {
    let world = World::new().await?;
    let superuser = world.database.superuser().await?;
    let mut drainer = world.drainer().await?;
    let client = world.database.functions().await?;
    let pid: i32 = one(&client, "SELECT pg_backend_pid()").await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (0)").await?;
    fill_first_partition(&world).await?;
    assert_eq!(drainer.drain().await?.len(), 2);
    // All other steps are done, and what waits below is the drop.
    while one::<Option<String>>(&client, "SELECT sluice.maintain()").await?.is_some() {}
    let last: i64 = one(&superuser, "SELECT last_value FROM sluice.outbox_id_seq").await?;

    for attempt in 1..=50_i64 {
        superuser.execute("SELECT setval('sluice.outbox_id_seq', $1)", &[&(1000 + attempt)]).await?;
        world.app.batch_execute(&format!("BEGIN; INSERT INTO demo.item VALUES ({attempt})")).await?;
        superuser.execute("SELECT setval('sluice.outbox_id_seq', $1)", &[&last]).await?;
        // Everything that is committed was passed.
        assert!(drainer.drain().await?.is_empty());
        world.fan_out(10).await?;
        let has_ended = Cell::new(false);
        let drop = async {
            let outcome = a_month_later(&client).await;
            has_ended.set(true);
            outcome
        };
        let commit = async {
            let query =
                format!("SELECT coalesce(wait_event_type = 'Lock', false) FROM pg_stat_activity WHERE pid = {pid}");
            let was_waiting = eventually("the drop to wait for its lock, or to have given up", async || {
                match one::<bool>(&superuser, &query).await {
                    Ok(true) => Ok(true),
                    Ok(false) if has_ended.get() => Ok(false),
                    seen => Err(format!("{seen:?}")),
                }
            })
            .await;
            world.app.batch_execute("COMMIT").await?;
            Ok::<_, tokio_postgres::Error>(was_waiting)
        };
        let (outcome, was_waiting) = tokio::join!(drop, commit);
        assert_eq!(keys(&drainer.drain().await?), [attempt.to_string()], "its partition was dropped: {outcome:?}");
        if was_waiting? && outcome? == Ok(None) {
            return Ok(());
        }
    }
    panic!("in 50 attempts no commit came within the 100 ms for which the drop waits");
}
