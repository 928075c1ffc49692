//! Every committed row is delivered, whatever transactions are open.

use anyhow::Result;
use database::Session as _;
use database::log::Row;
use localstack::{Database, eventually};

use crate::support::{Drainer, World, facts, keys, one, refused};

#[tokio::test]
async fn every_row_is_delivered_once_whatever_transactions_are_open() -> Result<()> {
    let world = World::new().await?;
    let mut drainer = world.drainer().await?;
    let mut open = vec![];
    let mut delivered = vec![];
    for id in 0..30 {
        let app = world.database.app().await?;
        app.batch_execute(&format!("BEGIN; INSERT INTO demo.item VALUES ({id}, 'a')")).await?;
        open.push(app);
        // Ended in another order than begun, with a few always open.
        if id % 3 == 2 {
            open.remove(0).batch_execute("COMMIT").await?;
            delivered.extend(drainer.drain_pages(2).await?);
        }
    }
    for app in open.into_iter().rev() {
        app.batch_execute("COMMIT").await?;
        delivered.extend(drainer.drain_pages(2).await?);
    }
    let mut ids: Vec<i64> = keys(&delivered).iter().map(|key| key.parse()).collect::<Result<_, _>>()?;
    ids.sort_unstable();
    assert_eq!(ids, (0..30).collect::<Vec<i64>>());
    Ok(())
}

#[tokio::test]
async fn a_row_with_a_lower_id_that_commits_later_is_delivered() -> Result<()> {
    let world = World::new().await?;
    let mut drainer = world.drainer().await?;
    let late = world.database.app().await?;
    late.batch_execute("BEGIN; INSERT INTO demo.item VALUES (1, 'late')").await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (2, 'early')").await?;
    let early = drainer.drain().await?;
    late.batch_execute("COMMIT").await?;
    let after = drainer.drain().await?;
    assert_eq!((keys(&early), keys(&after)), (vec!["2"], vec!["1"]));
    assert!(after[0].id < early[0].id);
    Ok(())
}

#[tokio::test]
async fn a_row_that_commits_in_the_middle_of_an_interval_is_delivered_by_the_next() -> Result<()> {
    let world = World::new().await?;
    let mut drainer = world.drainer().await?;
    let late = world.database.app().await?;
    late.batch_execute("BEGIN; INSERT INTO demo.item VALUES (1, 'late')").await?;
    world.app.batch_execute("INSERT INTO demo.item SELECT n FROM generate_series(2, 9) AS n").await?;
    drainer.begin().await?;
    let page = drainer.page(0, 3).await?;
    assert_eq!(keys(&page), ["2", "3", "4"]);
    drainer.advance(page[2].id).await?;
    drainer.commit().await?;
    late.batch_execute("COMMIT").await?;
    assert_eq!(keys(&drainer.drain().await?), ["5", "6", "7", "8", "9"]);
    assert_eq!(keys(&drainer.drain().await?), ["1"]);
    Ok(())
}

#[tokio::test]
async fn rollbacks_and_savepoints_leave_nothing() -> Result<()> {
    let world = World::new().await?;
    world.app.batch_execute("BEGIN; INSERT INTO demo.item VALUES (1, 'gone'); ROLLBACK").await?;
    world
        .app
        .batch_execute(
            "BEGIN; INSERT INTO demo.item VALUES (2, 'kept'); SAVEPOINT a; INSERT INTO demo.item VALUES (3, 'gone');
             SAVEPOINT b; INSERT INTO demo.item VALUES (4, 'gone'); RELEASE b; ROLLBACK TO a;
             SAVEPOINT c; INSERT INTO demo.item VALUES (5, 'kept'); RELEASE c; COMMIT",
        )
        .await?;
    assert_eq!(facts(&world.drain().await?), ["items 2 insert", "items 5 insert"]);
    Ok(())
}

#[tokio::test]
async fn rows_of_one_key_come_in_the_order_of_their_commits() -> Result<()> {
    let world = World::new().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1, 'first')").await?;
    let mut drainer = world.drainer().await?;
    drainer.drain().await?;
    // The first to begin is the last to have the row's lock.
    let (one_app, other) = (world.database.app().await?, world.database.app().await?);
    one_app.batch_execute("BEGIN; SELECT pg_current_xact_id()").await?;
    other.batch_execute("BEGIN; DELETE FROM demo.item WHERE id = 1").await?;
    let superuser = world.database.superuser().await?;
    let insert = tokio::spawn(async move {
        one_app.batch_execute("INSERT INTO demo.item VALUES (1, 'again')").await?;
        one_app.batch_execute("COMMIT").await
    });
    eventually("the insert to wait for the delete", async || {
        let query =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        match one::<i64>(&superuser, query).await {
            Ok(1) => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })
    .await;
    other.batch_execute("COMMIT").await?;
    insert.await??;
    assert_eq!(facts(&drainer.drain().await?), ["items 1 delete", "items 1 insert"]);
    Ok(())
}

#[tokio::test]
async fn the_sequence_of_ids_keeps_none_in_stock() -> Result<()> {
    let world = World::new().await?;
    let query = "SELECT cache_size FROM pg_sequences WHERE schemaname = 'sluice' AND sequencename = 'outbox_id_seq'";
    assert_eq!(one::<i64>(&world.owner, query).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_crash_between_sending_and_advancing_repeats_the_page_and_skips_none() -> Result<()> {
    let world = World::new().await?;
    world.app.batch_execute("INSERT INTO demo.item SELECT n FROM generate_series(1, 5) AS n").await?;
    let drainer = world.drainer().await?;
    drainer.begin().await?;
    let sent = drainer.page(0, 2).await?;
    drop(drainer);

    let mut drainer = world.drainer().await?;
    drainer.begin().await?;
    let again = drainer.page(0, 2).await?;
    assert_eq!(facts(&sent), facts(&again));
    drainer.advance(again[1].id).await?;
    // Crashed after it advanced, and before it committed.
    drainer.rollback().await?;
    assert_eq!(keys(&drainer.drain().await?), ["1", "2", "3", "4", "5"]);
    assert!(drainer.drain().await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_crash_of_the_drain_goes_on_in_the_middle_of_its_interval() -> Result<()> {
    let world = World::new().await?;
    world.app.batch_execute("INSERT INTO demo.item SELECT n FROM generate_series(1, 5) AS n").await?;
    let drainer = world.drainer().await?;
    drainer.begin().await?;
    let page = drainer.page(0, 2).await?;
    drainer.advance(page[1].id).await?;
    drainer.commit().await?;
    drop(drainer);
    world.app.batch_execute("INSERT INTO demo.item VALUES (6)").await?;

    let mut drainer = world.drainer().await?;
    let after = drainer.begin().await?;
    assert_eq!(after, Some(page[1].id));
    drainer.rollback().await?;
    assert_eq!(keys(&drainer.drain().await?), ["3", "4", "5"]);
    assert_eq!(keys(&drainer.drain().await?), ["6"]);
    Ok(())
}

/// Few transactions have written many rows, as the statistics say; a join with those that were running would read them all.
#[tokio::test]
async fn a_large_log_is_not_read_for_a_transaction_that_was_running() -> Result<()> {
    let world = World::new().await?;
    let superuser = world.database.superuser().await?;
    let long: String = superuser.query_one("SELECT pg_current_xact_id()::text", &[]).await?.get(0);
    for _ in 0..10 {
        let rows = "INSERT INTO sluice.outbox (stream, key, op) SELECT 'items', n::text, 'upsert' FROM generate_series(1, 5000) AS n";
        superuser.batch_execute(rows).await?;
    }
    superuser.batch_execute("ANALYZE").await?;
    let seen = format!(
        "UPDATE sluice.subscription SET seen = ('{long}:' || pg_snapshot_xmax(pg_current_snapshot()) || ':{long}')::pg_snapshot"
    );
    superuser.batch_execute(&seen).await?;
    let read = "
        SELECT coalesce(sum(pg_stat_get_xact_tuples_returned(r.oid)), 0)::bigint
        FROM pg_partition_tree('sluice.outbox') AS p
        CROSS JOIN LATERAL (SELECT p.relid::oid AS oid UNION ALL SELECT i.indexrelid FROM pg_index AS i WHERE i.indrelid = p.relid) AS r";
    for call in [
        "SELECT sluice.pending('fan_out')",
        "SELECT sluice.pending('elasticsearch')",
        "SELECT sluice.page('elasticsearch', 0, 1000)",
        "SELECT sluice.has_passed('elasticsearch', pg_current_snapshot())",
        "SELECT sluice.is_passed(p.relid) FROM pg_partition_tree('sluice.outbox') AS p WHERE p.isleaf",
    ] {
        superuser.batch_execute(&format!("BEGIN; {call}")).await?;
        let read: i64 = one(&superuser, read).await?;
        superuser.batch_execute("ROLLBACK").await?;
        assert!(read < 100, "{call} read {read} rows");
    }
    Ok(())
}

#[tokio::test]
async fn a_transaction_that_stays_open_delays_only_itself() -> Result<()> {
    let world = World::new().await?;
    let long = world.database.app().await?;
    long.batch_execute("BEGIN; INSERT INTO demo.item VALUES (0, 'long')").await?;
    let mut drainer = world.drainer().await?;
    for id in 1..=20 {
        world.app.batch_execute(&format!("INSERT INTO demo.item VALUES ({id})")).await?;
        assert_eq!(keys(&drainer.drain().await?), [id.to_string()]);
        assert!(!drainer.client.is_pending("elasticsearch").await?);
    }
    long.batch_execute("COMMIT").await?;
    assert!(drainer.client.is_pending("elasticsearch").await?);
    assert_eq!(keys(&drainer.drain().await?), ["0"]);
    Ok(())
}

#[tokio::test]
async fn rows_that_the_drain_inserts_are_found_by_a_later_interval() -> Result<()> {
    let world = World::new().await?;
    let drainer = world.drainer().await?;
    let mut found: Vec<Row> = vec![];
    for round in 0..5 {
        world.app.batch_execute(&format!("INSERT INTO demo.item VALUES ({round})")).await?;
        let mut after = drainer.begin().await?.unwrap_or_default();
        world.app.batch_execute("SELECT pg_current_xact_id()").await?;
        loop {
            let rows = drainer.page(after, 2).await?;
            let Some(last) = rows.last() else { break };
            after = last.id;
            for row in rows.iter().filter(|row| !row.key.starts_with("own")) {
                let insert = "INSERT INTO sluice.outbox (stream, key, op) VALUES ('items', 'own' || $1, 'upsert')";
                drainer.client.execute(insert, &[&row.key]).await?;
                // Others begin and end meanwhile, so that the snapshots' xmax goes past the drain's own xid.
                world
                    .app
                    .batch_execute(&format!(
                        "UPDATE demo.item SET value = 'b{round}' WHERE id = -1; SELECT pg_current_xact_id()"
                    ))
                    .await?;
            }
            drainer.advance(after).await?;
            found.extend(rows);
        }
        drainer.finish().await?;
        world.app.batch_execute("SELECT pg_current_xact_id()").await?;
        drainer.commit().await?;
    }
    let mut drainer = drainer;
    found.extend(drainer.drain().await?);
    let own: Vec<&str> = keys(&found).into_iter().filter(|key| key.starts_with("own")).collect();
    assert_eq!(own, ["own0", "own1", "own2", "own3", "own4"]);
    Ok(())
}

#[tokio::test]
async fn a_new_subscription_begins_now_and_misses_nothing_that_is_open() -> Result<()> {
    let world = World::new().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    let open = world.database.app().await?;
    open.batch_execute("BEGIN; INSERT INTO demo.item VALUES (2)").await?;
    world.owner.batch_execute("BEGIN; SELECT pg_current_xact_id()").await?;
    // A younger transaction that has ended: the snapshot's xmax is beyond the owner's own xid.
    world.app.batch_execute("SELECT pg_current_xact_id()").await?;
    world.owner.batch_execute("SELECT sluice.subscribe('other'); INSERT INTO demo.item VALUES (3); COMMIT").await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (4)").await?;
    open.batch_execute("COMMIT").await?;
    let mut other = Drainer::take_over(world.database.functions().await?, "other").await;
    assert_eq!(keys(&other.drain().await?), ["2", "3", "4"]);
    // Each has a position of its own.
    assert_eq!(keys(&world.drain().await?), ["1", "2", "3", "4"]);
    world.owner.batch_execute("SELECT sluice.subscribe('other')").await?;
    assert!(other.drain().await?.is_empty(), "subscribing again moved the position");
    Ok(())
}

#[tokio::test]
async fn an_idle_poll_takes_no_lock_and_no_transaction_id() -> Result<()> {
    let world = World::new().await?;
    let client = world.database.functions().await?;
    let open = world.database.app().await?;
    open.batch_execute("BEGIN; INSERT INTO demo.item VALUES (1)").await?;
    world.drain().await?;
    client.batch_execute("BEGIN").await?;
    assert!(!client.is_pending("elasticsearch").await?);
    assert_eq!(one::<Option<String>>(&client, "SELECT pg_current_xact_id_if_assigned()::text").await?, None);
    let query = "SELECT string_agg(DISTINCT mode, ', ') FROM pg_locks WHERE pid = pg_backend_pid() AND locktype <> 'virtualxid'";
    assert_eq!(one::<Option<String>>(&client, query).await?.as_deref(), Some("AccessShareLock"));
    // It may be asked on a read-only session.
    client.batch_execute("COMMIT; SET default_transaction_read_only = on").await?;
    assert!(!client.is_pending("elasticsearch").await?);
    Ok(())
}

#[tokio::test]
async fn a_page_is_bounded_by_its_bytes_and_never_empty_for_it() -> Result<()> {
    let world =
        World::with("SELECT sluice.define_stream('letters', mapping => '{\"properties\": {\"text\": {}}}')").await?;
    world
        .owner
        .batch_execute("SELECT sluice.emit('letters', n::text, payload => json_build_object('text', repeat('x', 890000))) FROM generate_series(1, 20) AS n")
        .await?;
    let mut drainer = world.drainer().await?;
    drainer.begin().await?;
    let page = drainer.page(0, 1000).await?;
    assert_eq!(page.len(), 9, "8 MiB hold nine letters of 890 kB");
    drainer.rollback().await?;
    assert_eq!(drainer.drain().await?.len(), 20);
    Ok(())
}

#[tokio::test]
async fn a_page_is_refused_outside_read_committed() -> Result<()> {
    let world = World::new().await?;
    let client = world.database.functions().await?;
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
    let error = refused(&client, "SELECT * FROM sluice.page('elasticsearch', 0, 1)").await;
    assert!(error.message().contains("READ COMMITTED"), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_subscription_that_is_not_there_is_named() -> Result<()> {
    let world = World::new().await?;
    for call in ["pending('nobody')", "pause('nobody')", "resume('nobody')"] {
        let error = refused(&world.owner, &format!("SELECT sluice.{call}")).await;
        assert!(error.message().contains("nobody"), "{call}: {error:?}");
    }
    Ok(())
}

#[tokio::test]
async fn status_tells_how_many_rows_wait_and_for_how_long() -> Result<()> {
    let world = World::new().await?;
    let client = world.database.functions().await?;
    let query = "SELECT pending_rows || coalesce(' ' || (oldest_pending_age >= '1 hour'), '') FROM sluice.status() WHERE subscription = 'elasticsearch'";
    assert_eq!(one::<String>(&client, query).await?, "0");
    let late = world.database.app().await?;
    late.batch_execute("BEGIN; INSERT INTO demo.item VALUES (0)").await?;
    world.app.batch_execute("INSERT INTO demo.item SELECT n FROM generate_series(1, 5) AS n").await?;
    let superuser = world.database.superuser().await?;
    superuser.batch_execute("UPDATE sluice.outbox SET created_at = now() - interval '1 hour' WHERE key = '1'").await?;
    assert_eq!(one::<String>(&client, query).await?, "5 true");
    let mut drainer = world.drainer().await?;
    drainer.begin().await?;
    let page = drainer.page(0, 2).await?;
    drainer.advance(page[1].id).await?;
    drainer.commit().await?;
    assert_eq!(one::<String>(&client, query).await?, "3 false");
    late.batch_execute("COMMIT").await?;
    drainer.drain().await?;
    assert_eq!(one::<String>(&client, query).await?, "1 false", "the late row");
    drainer.drain().await?;
    assert_eq!(one::<String>(&client, query).await?, "0");
    Ok(())
}

#[tokio::test]
async fn a_heartbeat_is_logged_when_the_last_is_a_minute_old() -> Result<()> {
    let database = Database::create().await?;
    let (owner, functions) = (database.owner().await?, database.functions().await?);
    let beats = "SELECT count(*) FROM sluice.outbox WHERE stream = 'sluice_heartbeat'";
    owner.execute("UPDATE sluice.heartbeat SET at = clock_timestamp()", &[]).await?;
    let first: i64 = one(&owner, beats).await?;
    functions.beat().await?;
    assert_eq!(one::<i64>(&owner, beats).await?, first, "the last one is seconds old");
    owner.execute("UPDATE sluice.heartbeat SET at = at - interval '1 minute'", &[]).await?;
    for _ in 0..2 {
        functions.beat().await?;
        assert_eq!(one::<i64>(&owner, beats).await?, first + 2, "that update, and one heartbeat");
    }
    Ok(())
}

#[tokio::test]
async fn an_interval_takes_in_so_many_rows_and_a_whole_transaction_more_and_skips_none() -> Result<()> {
    let world = World::new().await?;
    world
        .owner
        .batch_execute("CREATE OR REPLACE FUNCTION sluice.interval_rows() RETURNS integer LANGUAGE sql AS 'SELECT 5'")
        .await?;
    let open = world.database.app().await?;
    open.batch_execute("BEGIN; INSERT INTO demo.item VALUES (0)").await?;
    for first in [1, 4, 7, 30] {
        let insert = format!("INSERT INTO demo.item SELECT n FROM generate_series({first}, {}) AS n", first + 2);
        world.app.batch_execute(&insert).await?;
    }
    world.app.batch_execute("INSERT INTO demo.item SELECT n FROM generate_series(10, 29) AS n").await?;
    let mut drainer = world.drainer().await?;
    let sizes = [6, 6, 20, 0].map(|rows| rows);
    for rows in sizes {
        assert_eq!(drainer.drain_pages(4).await?.len(), rows);
        assert_eq!(
            one::<i64>(&world.owner, "SELECT pending_rows FROM sluice.status() WHERE subscription = 'elasticsearch'")
                .await?
                == 0,
            rows == 20 || rows == 0
        );
    }
    open.batch_execute("COMMIT").await?;
    assert_eq!(keys(&drainer.drain().await?), ["0"]);
    Ok(())
}

#[tokio::test]
async fn a_row_without_a_key_or_with_a_huge_one_stops_no_other() -> Result<()> {
    let world = World::new().await?;
    let mut drainer = world.drainer().await?;
    world
        .owner
        .batch_execute(
            "INSERT INTO sluice.outbox (stream, key, op) VALUES ('items', NULL, 'upsert');
             INSERT INTO sluice.outbox (stream, key, op) SELECT 'items', n || repeat('b', 200000), 'upsert' FROM generate_series(1, 300) AS n;
             INSERT INTO sluice.outbox (stream, key, op, created_at) VALUES ('items', '1', 'upsert', 'infinity')",
        )
        .await?;
    let rows = drainer.drain().await?;
    assert_eq!(rows.len(), 302);
    assert_eq!((rows[0].key.as_str(), rows[301].stream.as_str()), ("", "items"));
    assert!(rows.iter().all(|row| row.key.len() <= 2048));
    Ok(())
}

#[tokio::test]
async fn a_heartbeat_goes_by_way_of_the_fan_out() -> Result<()> {
    let database = Database::create().await?;
    let (owner, functions) = (database.owner().await?, database.functions().await?);
    owner.execute("UPDATE sluice.heartbeat SET at = at - interval '1 minute'", &[]).await?;
    functions.beat().await?;
    let logged = "SELECT string_agg(DISTINCT op || ' ' || coalesce(key, payload ->> 'name'), ', ') FROM sluice.outbox WHERE op <> 'upsert' OR key IS NOT NULL";
    assert_eq!(one::<String>(&owner, logged).await?, "fan_out heartbeat");
    while functions.collect().await?.has_more {}
    assert_eq!(functions.expand(10, false, false).await?.rows, 1);
    let logged = "SELECT string_agg(key, ', ') FROM sluice.outbox WHERE op = 'upsert'";
    assert_eq!(one::<String>(&owner, logged).await?, "heartbeat");
    Ok(())
}
