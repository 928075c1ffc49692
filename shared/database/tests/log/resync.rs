//! Tables that already hold rows.

use std::collections::BTreeSet;

use anyhow::Result;
use database::log;

use crate::support::{Index, World, expand, keys, one, source};

const SEED: &str = "INSERT INTO demo.item SELECT n, 'before' FROM generate_series(1, 500) AS n";

/// A table with rows from before it was tracked.
async fn world_with_rows() -> Result<World> {
    let world = World::new().await?;
    world.owner.batch_execute("ALTER TABLE demo.item DISABLE TRIGGER USER").await?;
    world.owner.batch_execute(SEED).await?;
    world.owner.batch_execute("ALTER TABLE demo.item ENABLE TRIGGER USER").await?;
    Ok(world)
}

#[tokio::test]
async fn a_resync_logs_every_key_in_slices_and_shows_its_progress() -> Result<()> {
    let world = world_with_rows().await?;
    world.owner.batch_execute("SELECT sluice.resync('items')").await?;
    let client = world.database.functions().await?;
    log::collect(&client).await?;
    let expansion = log::due_expansion(&client).await?.expect("a resync");
    assert_eq!(log::expand(&client, expansion, 200).await?, 200);
    let progress = "SELECT expanded_rows FROM sluice.stream_status() WHERE stream = 'items'";
    assert_eq!(one::<i64>(&client, progress).await?, 200);
    assert_eq!(expand(&client, 200).await?, 300);
    let rows = world.drain().await?;
    assert_eq!(rows.len(), 500);
    assert_eq!(rows.iter().map(|row| row.key.clone()).collect::<BTreeSet<_>>().len(), 500);
    Ok(())
}

#[tokio::test]
async fn a_resync_of_some_keys_logs_those() -> Result<()> {
    let world = World::new().await?;
    world.owner.batch_execute("SELECT sluice.resync('items', '{7,\"a b\"}')").await?;
    assert_eq!(keys(&world.drain().await?), ["7", "a b"]);
    Ok(())
}

#[tokio::test]
async fn a_resync_of_composite_keys_goes_on_where_it_was() -> Result<()> {
    let world = World::with(
        "CREATE TABLE demo.cell (x int, y text, PRIMARY KEY (x, y));
         INSERT INTO demo.cell SELECT x, chr(97 + y) FROM generate_series(1, 7) AS x, generate_series(0, 6) AS y;
         SELECT sluice.define_stream('cells', source => 'demo.cell', key => 'x, y', mapping => '{\"properties\": {\"x\": {}}}');
         SELECT sluice.resync('cells')",
    )
    .await?;
    assert_eq!(world.fan_out(5).await?, 49);
    let rows = world.drain().await?;
    assert_eq!(rows.iter().map(|row| row.key.clone()).collect::<BTreeSet<_>>().len(), 49);
    assert_eq!(rows[0].key, r#"[1, "a"]"#.replace('1', "\"1\""));
    Ok(())
}

/// Eight writers change the table while it is resynced by a session that is lost again and again.
#[tokio::test]
async fn a_resync_beside_eight_writers_interrupted_and_resumed_ends_with_the_source() -> Result<()> {
    let world = world_with_rows().await?;
    let mut writers = vec![];
    for writer in 0..8_i64 {
        let app = world.database.app().await?;
        writers.push(tokio::spawn(async move {
            for round in 0..25_i64 {
                let id = (round * 37 + writer * 61) % 600 + 1;
                let statement = match (round + writer) % 5 {
                    0 => format!("DELETE FROM demo.item WHERE id = {id}"),
                    1 => format!(
                        "BEGIN; INSERT INTO demo.item VALUES ({}, 'new'); SELECT pg_sleep(0.01); COMMIT",
                        1000 + writer * 100 + round
                    ),
                    2 => format!("BEGIN; UPDATE demo.item SET value = 'gone' WHERE id = {id}; ROLLBACK"),
                    _ => format!("UPDATE demo.item SET value = 'w{writer} r{round}' WHERE id = {id}"),
                };
                app.batch_execute(&statement).await?;
            }
            Ok::<_, tokio_postgres::Error>(())
        }));
    }
    world.owner.batch_execute("SELECT sluice.resync('items')").await?;
    let mut index = Index::default();
    let mut interrupted = 0;
    loop {
        let client = world.database.functions().await?;
        client.batch_execute("SET lock_timeout = '5s'").await?;
        log::collect(&client).await?;
        let Some(expansion) = log::due_expansion(&client).await? else {
            if interrupted > 0 {
                break;
            }
            continue;
        };
        if interrupted % 2 == 0 {
            client.batch_execute("BEGIN").await?;
        }
        log::expand(&client, expansion, 60).await?;
        interrupted += 1;
        // Dropped with its slice uncommitted, every other time.
        drop(client);
        let mut drainer = world.drainer().await?;
        drainer.drain_into(&mut index).await?;
        drainer.release().await?;
    }
    for writer in writers {
        writer.await??;
    }
    world.settle(&mut index).await?;
    assert!(interrupted > 9, "{interrupted} slices, half of them lost");
    assert_eq!(index.documents("items"), source(&world.owner, "demo.item", "id").await?);
    Ok(())
}
