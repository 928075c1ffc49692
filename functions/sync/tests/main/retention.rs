//! Deletes are kept for a time, and whoever has not got one of them is told.

use anyhow::Result;

use crate::world::World;

const STATE: &str = "SELECT format('%s items, %s deleted, floor %s', count(*), count(deleted_at), (SELECT max(floor) FROM sluice.bucket))
    FROM sluice.bucket_item";

#[tokio::test]
async fn deletes_go_in_bounded_steps_when_their_time_is_over_and_raise_the_floor() -> Result<()> {
    let world = World::with_buckets().await?;
    world.owner.batch_execute("INSERT INTO note SELECT n, 'a', 'x' FROM generate_series(1, 10) AS n").await?;
    world.drain().await?;
    world.owner.batch_execute("DELETE FROM note WHERE id <= 7").await?;
    world.drain().await?;
    let forget = async |most: i32, after: &str| -> Result<i64> {
        let query = "SELECT sluice.forget_synced($1, clock_timestamp() + $2::text::interval)";
        Ok(world.functions().await?.query_one(query, &[&most, &after]).await?.get(0))
    };
    // The drainers of these tests say a day.
    assert_eq!(forget(3, "23 hours").await?, 0);
    assert_eq!(world.text(STATE).await?, "10 items, 7 deleted, floor 0");
    assert_eq!(forget(3, "25 hours").await?, 3);
    assert_eq!(world.text(STATE).await?, "7 items, 4 deleted, floor 13");
    assert_eq!((forget(5, "25 hours").await?, forget(5, "25 hours").await?), (4, 0));
    assert_eq!(world.text(STATE).await?, "3 items, 0 deleted, floor 17");
    world.is_whole().await?;
    // The chores of any drainer do it.
    world.owner.batch_execute("DELETE FROM note WHERE id = 8").await?;
    world.drain().await?;
    world
        .functions()
        .await?
        .execute("SELECT sluice.forget_old('7 days', clock_timestamp() + interval '25 hours')", &[])
        .await?;
    assert_eq!(world.text(STATE).await?, "2 items, 0 deleted, floor 18");
    world.is_whole().await
}

/// Of somebody who has a right to be forgotten nothing stays in the store, not even a key.
#[tokio::test]
async fn forget_removes_the_delete_of_a_key_at_once() -> Result<()> {
    let world = World::with_buckets().await?;
    world.owner.batch_execute("INSERT INTO note VALUES (1, 'a', 'x'), (2, 'a', 'y')").await?;
    world.drain().await?;
    world.owner.batch_execute("DELETE FROM note").await?;
    world.drain().await?;
    world.owner.batch_execute("SELECT sluice.forget('note', '1')").await?;
    assert_eq!(world.text(STATE).await?, "1 items, 1 deleted, floor 3");
    world.is_whole().await
}

#[tokio::test]
async fn nothing_is_forgotten_while_somebody_writes_and_nobody_waits_for_it() -> Result<()> {
    let world = World::with_buckets().await?;
    world.owner.batch_execute("INSERT INTO note VALUES (1, 'a', 'x'); SELECT").await?;
    world.drain().await?;
    world.owner.batch_execute("DELETE FROM note").await?;
    world.drain().await?;
    let (writer, chores) = (world.functions().await?, world.functions().await?);
    writer.batch_execute("BEGIN; SELECT FROM sluice.sync_head FOR UPDATE").await?;
    let forget = "SELECT sluice.forget_synced(10, clock_timestamp() + interval '25 hours')";
    chores.batch_execute("SET lock_timeout = '10ms'").await?;
    assert_eq!(chores.query_one(forget, &[]).await?.get::<_, i64>(0), 0);
    writer.batch_execute("COMMIT").await?;
    assert_eq!(chores.query_one(forget, &[]).await?.get::<_, i64>(0), 1);
    Ok(())
}
