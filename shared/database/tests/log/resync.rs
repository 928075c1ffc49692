//! Tables that already hold rows.

use std::collections::BTreeSet;

use anyhow::Result;
use database::Session as _;

use crate::support::{Index, World, collect, expand, expand_next, keys, one, refused, source};

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
    collect(&client).await?;
    assert_eq!(client.expand(200, false, false).await?.rows, 200, "a resync, of the source first");
    let progress = "SELECT expanded_rows FROM sluice.stream_status() WHERE stream = 'items'";
    assert_eq!(one::<i64>(&client, progress).await?, 200);
    assert_eq!(expand(&client, 200).await?, 300);
    let rows = world.drain().await?;
    assert_eq!(rows.len(), 500);
    assert_eq!(rows.iter().map(|row| row.key.clone()).collect::<BTreeSet<_>>().len(), 500);
    Ok(())
}

#[tokio::test]
async fn an_index_beside_the_live_one_is_filled_when_hardly_anything_is_on_its_way() -> Result<()> {
    let world = world_with_rows().await?;
    world.owner.batch_execute("SELECT sluice.begin_generation('items', 2, 'items.g2-1')").await?;
    let client = world.database.functions().await?;
    collect(&client).await?;
    let pause =
        "SELECT extract(epoch FROM due_at - served_at)::float8 FROM sluice.expansion_turn WHERE stream = 'items.g2'";
    // Between its slices of the source there are those of the log, which has none of its keys.
    let slice = async || loop {
        match expand_next(&client, 100).await? {
            Some(0) => {}
            logged => return anyhow::Ok(logged),
        }
    };
    assert_eq!(slice().await?, Some(100));
    assert_eq!(one::<f64>(&client, pause).await?, 0.0, "nothing was on its way");
    // The others have written, too, and nobody takes it.
    world.owner.batch_execute("UPDATE sluice.outbox SET created_at = created_at - interval '1 hour'").await?;
    assert_eq!(slice().await?, Some(100));
    assert_eq!(one::<f64>(&client, pause).await?, 1.0, "it goes on all the same");
    let is_over = "UPDATE sluice.expansion_turn SET due_at = served_at";
    world.owner.batch_execute(is_over).await?;
    world.drain().await?;
    assert_eq!(slice().await?, Some(100));
    assert_eq!(one::<f64>(&client, pause).await?, 0.0, "all of it is there");
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

/// What is drained, and then lost with its queue.
async fn lose(world: &World) -> Result<()> {
    world.fan_out(100).await?;
    world.drain().await.map(drop)
}

/// The keys that a resync logs, and what is in the log by then, in order.
async fn resynced(world: &World, slice: i32) -> Result<Vec<String>> {
    world.owner.batch_execute("SELECT sluice.resync(name) FROM sluice.stream WHERE source IS NOT NULL").await?;
    world.fan_out(slice).await?;
    let mut keys: Vec<String> = world.drain().await?.into_iter().map(|row| row.key).collect();
    keys.sort();
    Ok(keys)
}

#[tokio::test]
async fn a_key_whose_delete_was_lost_is_logged_again() -> Result<()> {
    let world = World::new().await?;
    let mut index = Index::default();
    world.app.batch_execute("INSERT INTO demo.item VALUES (1, 'a'), (2, 'b'), (3, 'c')").await?;
    world.settle(&mut index).await?;
    world
        .app
        .batch_execute("DELETE FROM demo.item WHERE id = 2; UPDATE demo.item SET value = 'd' WHERE id = 3")
        .await?;
    lose(&world).await?;
    world.owner.batch_execute("SELECT sluice.resync('items')").await?;
    world.settle(&mut index).await?;
    assert_eq!(index.documents("items"), source(&world.owner, "demo.item", "id").await?);
    Ok(())
}

/// Its message from before is still on the way, so the index has nothing yet that migrate could find.
#[tokio::test]
async fn a_delete_that_a_rebase_passes_over_is_logged_again() -> Result<()> {
    let world = World::new().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1, 'a'), (2, 'b')").await?;
    lose(&world).await?;
    world.app.batch_execute("DELETE FROM demo.item WHERE id = 2").await?;
    world.owner.batch_execute("SELECT sluice.rebase()").await?;
    world.fan_out(10).await?;
    assert_eq!(keys(&world.drain().await?).into_iter().collect::<BTreeSet<_>>(), ["1", "2"].into());
    Ok(())
}

/// Nobody deletes the row of a document that its view hides from then on.
#[tokio::test]
async fn a_document_that_left_its_view_is_logged_again() -> Result<()> {
    let world = World::with(
        "CREATE TABLE demo.page (site text, path text, is_public boolean, PRIMARY KEY (site, path));
         CREATE VIEW demo.public_page AS SELECT * FROM demo.page WHERE is_public;
         SELECT sluice.define_stream('pages', source => 'demo.public_page', key => 'site, path', mapping => '{\"properties\": {\"path\": {}}}');
         SELECT sluice.track('demo.page', stream => 'pages', key => 'site, path')",
    )
    .await?;
    world.app.batch_execute("INSERT INTO demo.page VALUES ('a', '/', true), ('a', '/b', true)").await?;
    lose(&world).await?;
    world.app.batch_execute("UPDATE demo.page SET is_public = false WHERE path = '/b'").await?;
    lose(&world).await?;
    assert_eq!(resynced(&world, 10).await?, [r#"["a", "/"]"#, r#"["a", "/b"]"#]);
    Ok(())
}

#[tokio::test]
async fn a_resync_logs_a_key_of_the_source_once_however_often_the_log_has_it() -> Result<()> {
    let world = World::new().await?;
    for round in 0..5 {
        world.app.batch_execute(&format!("INSERT INTO demo.item SELECT n, '{round}' FROM generate_series(1, 9) AS n ON CONFLICT (id) DO UPDATE SET value = '{round}'")).await?;
    }
    lose(&world).await?;
    assert_eq!(resynced(&world, 2).await?.len(), 9);
    Ok(())
}

#[tokio::test]
async fn each_resync_logs_as_much_as_the_one_before() -> Result<()> {
    let world = World::new().await?;
    world
        .app
        .batch_execute(
            "INSERT INTO demo.item SELECT n FROM generate_series(1, 40) AS n; DELETE FROM demo.item WHERE id > 20",
        )
        .await?;
    lose(&world).await?;
    let first = resynced(&world, 3).await?;
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 40);
    assert!(first.len() <= 60, "a key that is gone comes once for each page that has it: {}", first.len());
    for _ in 0..4 {
        assert_eq!(resynced(&world, 3).await?, first);
    }
    Ok(())
}

#[tokio::test]
async fn a_resync_of_the_log_goes_on_where_it_was_up_to_its_own_row() -> Result<()> {
    let world = World::new().await?;
    world.app.batch_execute("INSERT INTO demo.item SELECT n FROM generate_series(1, 8) AS n").await?;
    world.drain().await?;
    world.app.batch_execute("DELETE FROM demo.item").await?;
    world.drain().await?;
    world.owner.batch_execute("SELECT sluice.resync('items')").await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (100); DELETE FROM demo.item").await?;
    assert_eq!(keys(&world.drain().await?), ["100", "100"]);
    let client = world.database.functions().await?;
    collect(&client).await?;
    assert_eq!(client.expand(1, false, false).await?.rows, 0, "the source is empty");
    let mut logged = vec![];
    loop {
        // Each page is lost once.
        client.batch_execute("BEGIN").await?;
        client.expand(1, false, false).await?;
        client.batch_execute("ROLLBACK").await?;
        logged.push(client.expand(1, false, false).await?.rows);
        if one::<i64>(&client, "SELECT count(*) FROM sluice.expansion WHERE log_upto IS NOT NULL").await? == 0 {
            break;
        }
        let progress = "SELECT logged FROM sluice.expansion WHERE log_upto IS NOT NULL";
        assert_eq!(one::<i64>(&client, progress).await?, logged.iter().sum::<i64>());
    }
    assert_eq!(logged, [2, 2, 2, 2, 2, 2, 2, 2, 0], "two rows of the log, and each key of them once");
    expand(&client, 100).await?;
    let drained = world.drain().await?;
    assert_eq!(
        drained.iter().map(|row| row.key.as_str()).collect::<BTreeSet<_>>(),
        ["1", "2", "3", "4", "5", "6", "7", "8"].into()
    );
    Ok(())
}

/// Rows in ordinary partitions, in the default one, and in the one that it becomes.
#[tokio::test]
async fn a_resync_finds_the_rows_of_every_partition() -> Result<()> {
    let world = World::new().await?;
    let superuser = world.database.superuser().await?;
    let client = world.database.functions().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1); DELETE FROM demo.item").await?;
    superuser.batch_execute("SELECT setval('sluice.outbox_id_seq', 50000000)").await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (2); DELETE FROM demo.item").await?;
    lose(&world).await?;
    assert_eq!(resynced(&world, 10).await?, ["1", "2"]);

    // Begun before the default partition becomes an ordinary one.
    world.owner.batch_execute("SELECT sluice.resync('items')").await?;
    collect(&client).await?;
    let moved: String = one(&client, "SELECT sluice.maintain()").await?;
    assert!(moved.starts_with("made the default partition an ordinary one"), "{moved}");
    assert_eq!(expand(&client, 10).await?, 2);
    assert_eq!(keys(&world.drain().await?).into_iter().collect::<BTreeSet<_>>(), ["1", "2"].into());
    assert_eq!(resynced(&world, 10).await?, ["1", "2"]);
    Ok(())
}

#[tokio::test]
async fn a_null_among_the_keys_is_refused_with_its_number() -> Result<()> {
    let world = World::new().await?;
    let error = refused(&world.owner, "SELECT sluice.resync('items', '{1,NULL}')").await;
    assert!(error.message().contains("key number 2 is NULL"), "{error:?}");
    assert_eq!(world.drain().await?.len(), 0);
    Ok(())
}

/// The text that was asked for stays: the index may have a document of that name, which is found missing.
#[tokio::test]
async fn a_key_that_is_written_in_another_way_is_logged_as_the_source_has_it_too() -> Result<()> {
    let world = World::with(
        "CREATE TABLE demo.n (id numeric PRIMARY KEY); INSERT INTO demo.n VALUES (7), (1.50);
         CREATE TABLE demo.u (id uuid PRIMARY KEY); INSERT INTO demo.u VALUES ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11');
         CREATE TABLE demo.d (day date, room int, PRIMARY KEY (day, room)); INSERT INTO demo.d VALUES ('2026-01-05', 7);
         SELECT sluice.define_stream('n', source => 'demo.n', key => 'id', mapping => '{\"properties\": {\"id\": {}}}');
         SELECT sluice.define_stream('u', source => 'demo.u', key => 'id', mapping => '{\"properties\": {\"id\": {}}}');
         SELECT sluice.define_stream('d', source => 'demo.d', key => 'day, room', mapping => '{\"properties\": {\"room\": {}}}')",
    )
    .await?;
    let ask = async |stream: &str, keys: &str| {
        world.owner.execute(&format!("SELECT sluice.resync('{stream}', '{keys}')"), &[]).await?;
        world.drain().await
    };
    assert_eq!(keys(&ask("n", "{7,007,1.5,no number,8}").await?), ["7", "007", "7", "1.5", "1.50", "no number", "8"]);
    let upper = "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11";
    assert_eq!(keys(&ask("u", &format!("{{{upper}}}")).await?), [upper, &upper.to_lowercase()]);
    let asked = r#"["2026-1-5","07"]"#;
    let quoted = asked.replace('"', "\\\"");
    assert_eq!(keys(&ask("d", &format!("{{\"{quoted}\"}}")).await?), [asked, r#"["2026-01-05", "7"]"#]);
    Ok(())
}

/// The key's column had another type once, and the log still has keys of then.
#[tokio::test]
async fn a_key_of_another_type_in_the_log_keeps_no_other_key_from_being_compared() -> Result<()> {
    let world = World::new().await?;
    world.app.batch_execute("INSERT INTO demo.item SELECT n FROM generate_series(1, 40) AS n").await?;
    world.owner.batch_execute("SELECT sluice.resync('items', '{no number}')").await?;
    lose(&world).await?;
    let logged = resynced(&world, 100).await?;
    assert_eq!(logged.len(), 41, "the source's keys once, and the one that it cannot have: {logged:?}");
    Ok(())
}

#[tokio::test]
async fn a_key_that_the_source_cannot_have_holds_up_no_resync() -> Result<()> {
    let world = World::new().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1), (2); DELETE FROM demo.item WHERE id = 2").await?;
    world.owner.batch_execute("SELECT sluice.resync('items', '{no number}')").await?;
    lose(&world).await?;
    let logged = resynced(&world, 10).await?;
    assert_eq!(logged.into_iter().collect::<BTreeSet<_>>(), ["1", "2", "no number"].map(str::to_owned).into());
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
        collect(&client).await?;
        client.batch_execute("BEGIN").await?;
        if client.expand(60, false, false).await?.expansion.is_none() {
            if interrupted > 0 {
                break;
            }
            continue;
        }
        if interrupted % 2 == 1 {
            client.batch_execute("COMMIT").await?;
        }
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
