//! Rows leave the log when every subscription has passed them, and not before.

use anyhow::Result;
use fastrand::Rng;
use localstack::eventually;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::defects::{Defect, Violated};
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

#[tokio::test]
async fn a_row_that_commits_while_the_drop_waits_is_kept() -> Result<()> {
    drops_beside_a_commit(1, &Defect::default()).await
}

/// The drop waits for its lock, for as long as it takes; meanwhile transactions that wrote to the partition end, one
/// after the other. At the end everything that was committed must have been delivered.
pub async fn drops_beside_a_commit(seed: u64, defect: &Defect) -> Result<()> {
    let mut random = Rng::with_seed(seed);
    let world = World::new().await?;
    let client = world.database.functions().await?;
    let mut drainer = world.drainer().await?;
    let superuser = world.database.superuser().await?;
    defect.apply(&world.owner).await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (0)").await?;
    fill_first_partition(&world).await?;
    while one::<Option<String>>(&client, "SELECT sluice.maintain()").await?.is_some() {}
    // All other steps are done. Where the drop gives up, the next one finds the rows: only one that waits can lose them.
    world
        .owner
        .batch_execute("ALTER FUNCTION sluice.maintain(bigint, interval, timestamptz) SET lock_timeout = '1min'")
        .await?;
    let last: i64 = one(&superuser, "SELECT last_value FROM sluice.outbox_id_seq").await?;
    let mut late = vec![];
    for id in 1..=random.i64(1..4) {
        let app = world.database.app().await?;
        superuser.execute("SELECT setval('sluice.outbox_id_seq', $1)", &[&(1000 + id)]).await?;
        app.batch_execute(&format!("BEGIN; INSERT INTO demo.item VALUES ({id})")).await?;
        late.push((app, id, id == 1 || random.bool()));
    }
    superuser.execute("SELECT setval('sluice.outbox_id_seq', $1)", &[&last]).await?;
    // Everything that is committed was passed.
    assert_eq!(drainer.drain().await?.len(), 2);
    world.fan_out(10).await?;

    let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock' AND relation = 'sluice.outbox_1_1000001'::regclass)";
    let ends = async {
        eventually("the drop to wait for its lock", async || match one::<bool>(&superuser, waits).await {
            Ok(true) => Ok(()),
            seen => Err(format!("{seen:?}")),
        })
        .await;
        for (app, _, commits) in &late {
            app.batch_execute(if *commits { "COMMIT" } else { "ROLLBACK" }).await?;
        }
        Ok::<_, tokio_postgres::Error>(())
    };
    let (outcome, ended) = tokio::join!(a_month_later(&client), ends);
    ended?;
    let rows = drainer.drain().await?;
    let committed: Vec<String> =
        late.iter().filter(|(.., commits)| *commits).map(|(_, id, _)| id.to_string()).collect();
    if keys(&rows) != committed {
        return Err(Violated(format!("{outcome:?}: of the keys {committed:?} {:?} were delivered", keys(&rows))).into());
    }
    Ok(())
}
