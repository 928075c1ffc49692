//! The application's write never fails, and never waits, for Sluice.

use std::time::Duration;

use anyhow::Result;
use database::Session as _;
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::support::{World, keys, one, refused};

/// What a writer allows itself: twenty times what the partitions' DDL may wait.
const WRITER: &str = "SET lock_timeout = '2s'; SET statement_timeout = '10s'";

/// Puts the sequence of ids far behind the last partition, as months without migrate and trigger do.
async fn months_pass(world: &World, id: i64) -> Result<()> {
    let superuser = world.database.superuser().await?;
    superuser.execute("SELECT setval('sluice.outbox_id_seq', $1)", &[&id]).await?;
    Ok(())
}

/// One step: what was done, `None`: nothing is to be done, `Err`: somebody else has a lock.
async fn maintain(client: &Client) -> Result<Result<Option<String>, ()>> {
    match client.maintain(Duration::from_secs(7 * 24 * 3600)).await {
        Ok(done) => Ok(Ok(done)),
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => Ok(Err(())),
        Err(error) => Err(error.into()),
    }
}

/// All steps that there are to do.
async fn maintain_all(client: &Client) -> Result<Vec<String>> {
    let mut steps = vec![];
    while let Some(step) = client.maintain(Duration::from_secs(7 * 24 * 3600)).await? {
        steps.push(step);
    }
    Ok(steps)
}

/// A writer that goes on while something else happens, and never fails.
fn keep_writing(app: Client, first: i64) -> (tokio::sync::oneshot::Sender<()>, JoinHandle<Result<i64>>) {
    let (stop, mut stopped) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(async move {
        app.batch_execute(WRITER).await?;
        let mut id = first;
        while stopped.try_recv().is_err() {
            app.execute("INSERT INTO demo.item VALUES ($1)", &[&id]).await?;
            id += 1;
        }
        Ok(id - first)
    });
    (stop, task)
}

#[tokio::test]
async fn an_application_without_any_grant_on_the_schema_writes() -> Result<()> {
    let world = World::new().await?;
    let error = refused(&world.app, "SELECT sluice.status()").await;
    assert_eq!(error.code(), &SqlState::INSUFFICIENT_PRIVILEGE);
    world.app.batch_execute("INSERT INTO demo.item VALUES (1), (2); UPDATE demo.item SET value = 'b'; DELETE FROM demo.item WHERE id = 2; TRUNCATE demo.item").await?;
    assert_eq!(keys(&world.drain().await?), ["1", "2", "1", "2", "2", "1"]);
    Ok(())
}

#[tokio::test]
async fn months_without_a_partition_fail_no_write_and_lose_no_row() -> Result<()> {
    let world = World::new().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    months_pass(&world, 50_000_000).await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (2)").await?;
    assert_eq!(one::<i64>(&world.owner, "SELECT count(*) FROM sluice.outbox_default").await?, 1);
    let mut drainer = world.drainer().await?;
    assert_eq!(keys(&drainer.drain().await?), ["1", "2"]);

    world.app.batch_execute("INSERT INTO demo.item VALUES (3)").await?;
    let steps = maintain_all(&drainer.client).await?;
    assert_eq!(steps.len(), 1, "{steps:?}");
    world.app.batch_execute("INSERT INTO demo.item VALUES (4)").await?;
    assert_eq!(one::<i64>(&world.owner, "SELECT count(*) FROM sluice.outbox_default").await?, 0);
    assert_eq!(keys(&drainer.drain().await?), ["3", "4"]);

    // A second time: whatever the first one has named is not in its way.
    months_pass(&world, 1_300_000_000_000).await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (5)").await?;
    maintain_all(&drainer.client).await?;
    assert_eq!(one::<i64>(&world.owner, "SELECT count(*) FROM sluice.outbox_default").await?, 0);
    assert_eq!(keys(&drainer.drain().await?), ["5"]);
    Ok(())
}

#[tokio::test]
async fn a_partition_is_made_when_the_newest_is_half_full() -> Result<()> {
    let world = World::new().await?;
    let client = world.database.functions().await?;
    assert_eq!(maintain_all(&client).await?, Vec::<String>::new());
    months_pass(&world, 500_010).await?;
    assert_eq!(maintain_all(&client).await?.len(), 1);
    let bounds = "SELECT string_agg(first || '-' || upto, ', ' ORDER BY first) FROM sluice.partitions()";
    assert_eq!(one::<String>(&client, bounds).await?, "1-1000001, 1000001-2000001");
    Ok(())
}

/// However many rows it has: nobody reads them, and the drain's interval goes on.
#[tokio::test]
async fn a_full_default_partition_becomes_an_ordinary_one_at_once_and_the_drain_goes_on() -> Result<()> {
    let world = World::new().await?;
    months_pass(&world, 50_000_000).await?;
    world.app.batch_execute("INSERT INTO demo.item SELECT n FROM generate_series(1, 20000) AS n").await?;
    let mut drainer = world.drainer().await?;
    // In the middle of its interval.
    drainer.begin().await?;
    let page = drainer.page(0, 1000).await?;
    drainer.advance(page.last().expect("a page").id).await?;
    drainer.commit().await?;
    let client = world.database.functions().await?;
    let full: u32 = one(&client, "SELECT 'sluice.outbox_default'::regclass::oid").await?;
    client.batch_execute("BEGIN").await?;
    let step: String = one(&client, "SELECT sluice.maintain()").await?;
    assert!(step.starts_with("made the default partition an ordinary one"), "{step}");
    let read: i64 = client.query_one("SELECT pg_stat_get_xact_tuples_returned($1)", &[&full]).await?.get(0);
    assert!(read < 100, "{read} rows were read");
    client.batch_execute("COMMIT").await?;
    assert_eq!(one::<i64>(&world.owner, "SELECT count(*) FROM sluice.outbox_default").await?, 0);
    world.app.batch_execute("INSERT INTO demo.item VALUES (0)").await?;
    assert_eq!(drainer.drain_pages(10_000).await?.len(), 19_000, "the rest of the interval");
    assert_eq!(keys(&drainer.drain().await?), ["0"]);
    Ok(())
}

#[tokio::test]
async fn the_default_partition_is_not_moved_under_a_drainer() -> Result<()> {
    let world = World::new().await?;
    months_pass(&world, 50_000_000).await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    let drainer = world.drainer().await?;
    let client = world.database.functions().await?;
    drainer.begin().await?;
    assert_eq!(maintain(&client).await?, Err(()));
    drainer.rollback().await?;
    assert!(maintain(&client).await?.is_ok());
    Ok(())
}

#[tokio::test]
async fn ids_drawn_before_the_default_partition_was_full_find_their_place() -> Result<()> {
    let world = World::new().await?;
    months_pass(&world, 50_000_000).await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1), (2), (3)").await?;
    let superuser = world.database.superuser().await?;
    superuser.batch_execute("DELETE FROM sluice.outbox WHERE key = '2'").await?;
    let client = world.database.functions().await?;
    maintain_all(&client).await?;
    let late = "INSERT INTO sluice.outbox (id, stream, key, op) OVERRIDING SYSTEM VALUE VALUES (50000002, 'items', 'late', 'upsert')";
    superuser.batch_execute(late).await?;
    assert_eq!(keys(&world.drain().await?), ["1", "late", "3"]);
    assert_eq!(one::<i64>(&world.owner, "SELECT count(*) FROM sluice.outbox_default").await?, 0);
    Ok(())
}

/// While a transaction on the log stays open, each step gives up after its 100 ms, and a writer beside it goes on.
#[tokio::test]
async fn maintenance_beside_an_open_transaction_gives_up_and_no_writer_fails() -> Result<()> {
    let world = World::new().await?;
    months_pass(&world, 50_000_000).await?;
    world.app.batch_execute("BEGIN; INSERT INTO demo.item VALUES (0)").await?;
    world.database.app().await?.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    let client = world.database.functions().await?;
    // As the functions' sessions have it; the DDL's own is shorter.
    client.batch_execute("SET lock_timeout = '5s'").await?;
    let (stop, writer) = keep_writing(world.database.app().await?, 100);
    for _ in 0..10 {
        assert_eq!(maintain(&client).await?, Err(()), "the default partition was taken from under an open transaction");
    }
    let _ = stop.send(());
    let written = writer.await??;
    world.app.batch_execute("COMMIT").await?;
    maintain_all(&client).await?;
    assert_eq!(world.drain().await?.len() as i64, written + 2);
    Ok(())
}

#[tokio::test]
async fn every_step_of_maintenance_lets_a_writer_go_on() -> Result<()> {
    let world = World::new().await?;
    let client = world.database.functions().await?;
    let (stop, writer) = keep_writing(world.database.app().await?, 100);
    let mut steps = vec![];
    for id in [600_000, 50_000_000, 1_300_000_000_000] {
        months_pass(&world, id).await?;
        world.app.execute("INSERT INTO demo.item VALUES ($1)", &[&(-id)]).await?;
        // Retention has nothing to do here: it looks at a row's age.
        for _ in 0..200 {
            match maintain(&client).await? {
                Ok(None) => break,
                Ok(Some(step)) => steps.push(step),
                Err(()) => {}
            }
        }
    }
    let _ = stop.send(());
    let written = writer.await??;
    assert!(steps.len() >= 3, "{steps:?}");
    let mut drained: Vec<String> = world.drain().await?.into_iter().map(|row| row.key).collect();
    drained.sort();
    drained.dedup();
    assert_eq!(drained.len() as i64, written + 3);
    Ok(())
}

#[tokio::test]
async fn partitions_are_the_owners_to_make() -> Result<()> {
    let world = World::new().await?;
    let client = world.database.functions().await?;
    let error = refused(&client, "SELECT sluice.add_partition(5000001, 6000001)").await;
    assert_eq!(error.code(), &SqlState::INSUFFICIENT_PRIVILEGE);
    Ok(())
}
