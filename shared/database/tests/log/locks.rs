//! Definitions beside writers: nobody who writes is caught in a deadlock, or waits for longer than a lock is tried for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use tokio_postgres::error::SqlState;

use crate::support::{World, one, refused};

const TABLES: &str = "
    CREATE TABLE demo.a (id bigint PRIMARY KEY, n int); CREATE TABLE demo.b (id bigint PRIMARY KEY, n int);
    INSERT INTO demo.a SELECT n, 0 FROM generate_series(1, 8) AS n; INSERT INTO demo.b SELECT n, 0 FROM generate_series(1, 8) AS n;
    SELECT sluice.define_stream('a', source => 'demo.a', key => 'id', mapping => '{\"properties\": {\"n\": {}}}');
    SELECT sluice.define_stream('b', source => 'demo.b', key => 'id', mapping => '{\"properties\": {\"n\": {}}}')";

/// A transaction that has a table already gives up where a writer has the next one and waits for the first.
fn gives_up_or_is_done(result: Result<(), tokio_postgres::Error>) -> Result<()> {
    match result {
        Err(error)
            if [Some(&SqlState::LOCK_NOT_AVAILABLE), Some(&SqlState::UNDEFINED_OBJECT)].contains(&error.code()) =>
        {
            Ok(())
        }
        result => Ok(result?),
    }
}

/// Defined by two migrations that overlap, beside eight writers that take the tables in both orders.
#[tokio::test]
async fn overlapping_definitions_kill_no_writer() -> Result<()> {
    let world = World::with(TABLES).await?;
    let is_over = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU64::new(0));
    let mut writers = vec![];
    for writer in 1..=8 {
        let client = world.database.app().await?;
        let (is_over, written) = (is_over.clone(), written.clone());
        let (first, second) = if writer % 2 == 0 { ("a", "b") } else { ("b", "a") };
        let write = format!(
            "BEGIN; UPDATE demo.{first} SET n = n + 1 WHERE id = {writer}; UPDATE demo.{second} SET n = n + 1 WHERE id = {writer}; COMMIT"
        );
        writers.push(tokio::spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                client.batch_execute(&write).await?;
                written.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(std::time::Duration::from_millis(1)).await; // an application thinks, too
            }
            Ok::<_, tokio_postgres::Error>(())
        }));
    }
    let one_table = "SELECT sluice.track('demo.b', stream => 'b', key => 'id', columns => $c$$c$)";
    let two_tables = "BEGIN; SELECT sluice.track('demo.b', stream => 'a', key => 'id', columns => $c$$c$); SELECT sluice.track('demo.a', stream => 'b', key => 'id', columns => $c$$c$); COMMIT";
    let ends = "BEGIN; SELECT sluice.untrack('demo.b', 'a'); SELECT sluice.untrack('demo.a', 'b'); COMMIT";
    let dropped = "SELECT sluice.drop_stream('b'); SELECT sluice.define_stream('b', source => 'demo.b', key => 'id', mapping => '{\"properties\": {\"n\": {}}}')";
    for round in 0..6 {
        let columns = if round % 2 == 0 { "'{n}'" } else { "NULL" };
        let (left, right) = (world.database.owner().await?, world.database.owner().await?);
        right.batch_execute("SET lock_timeout = '1s'").await?;
        let (one_table, two_tables) = (one_table.replace("$c$$c$", columns), two_tables.replace("$c$$c$", columns));
        let (left, right) = tokio::join!(left.batch_execute(&one_table), right.batch_execute(&two_tables));
        left.context("one table")?;
        gives_up_or_is_done(right)?;
        let (left, right) = (world.database.owner().await?, world.database.owner().await?);
        right.batch_execute("SET lock_timeout = '1s'").await?;
        let (left, right) = tokio::join!(left.batch_execute(&one_table), right.batch_execute(ends));
        left.context("one table, beside the end of others")?;
        gives_up_or_is_done(right)?;
        world.owner.batch_execute(dropped).await.context("drop_stream")?;
    }
    is_over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await?.context("a writer")?;
    }
    assert!(written.load(Ordering::Relaxed) > 0);
    Ok(())
}

/// Both find that the triggers' functions may not read the table yet.
#[tokio::test]
async fn of_two_that_track_a_table_first_both_are_done() -> Result<()> {
    let world = World::with(TABLES).await?;
    let other = world.database.owner().await?;
    world.owner.batch_execute("BEGIN; SELECT sluice.track('demo.a', stream => 'a', key => 'id')").await?;
    let (tracked, committed) =
        tokio::join!(other.batch_execute("SELECT sluice.track('demo.a', stream => 'b', key => 'id')"), async {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            world.owner.batch_execute("COMMIT").await
        });
    committed?;
    tracked?;
    Ok(())
}

/// A transaction holds a table; the definition gives up, and whoever came behind it writes.
#[tokio::test]
async fn a_definition_that_gets_no_lock_gives_up_and_lets_writers_through() -> Result<()> {
    let world = World::with(TABLES).await?;
    let holder = world.database.app().await?;
    holder.batch_execute("BEGIN; UPDATE demo.a SET n = 1 WHERE id = 1").await?;
    let patient = world.database.owner().await?;
    patient.batch_execute("SET lock_timeout = '2s'").await?;
    world.app.batch_execute("SET statement_timeout = '20s'").await?;
    let (definition, write) =
        tokio::join!(refused(&patient, "SELECT sluice.track('demo.a', stream => 'a', key => 'id')"), async {
            let mut written = 0;
            for _ in 0..20 {
                world.app.batch_execute("UPDATE demo.a SET n = n + 1 WHERE id = 2").await?;
                written += 1;
            }
            Ok::<_, tokio_postgres::Error>(written)
        });
    assert_eq!(definition.code(), &SqlState::LOCK_NOT_AVAILABLE, "{definition:?}");
    assert!(definition.message().contains("demo.a"), "{definition:?}");
    assert_eq!(write?, 20);
    holder.batch_execute("COMMIT").await?;
    patient.batch_execute("SELECT sluice.track('demo.a', stream => 'a', key => 'id')").await?;
    Ok(())
}

/// Of two tables one is held: neither stays locked by the call that gave up, and another definition is told who.
#[tokio::test]
async fn all_tables_of_a_stream_are_locked_or_none() -> Result<()> {
    let world = World::with(TABLES).await?;
    world.owner.batch_execute("SELECT sluice.track('demo.a', stream => 'a', key => 'id'); SELECT sluice.track('demo.b', stream => 'a', key => 'id'); SET lock_timeout = '300ms'").await?;
    world.app.batch_execute("BEGIN; UPDATE demo.b SET n = 1 WHERE id = 1").await?;
    world.owner.batch_execute("BEGIN; SAVEPOINT before").await?;
    refused(&world.owner, "SELECT sluice.drop_stream('a')").await;
    world.owner.batch_execute("ROLLBACK TO before").await?;
    let held = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation IN ('demo.a'::regclass, 'demo.b'::regclass) AND mode = 'AccessExclusiveLock'";
    assert_eq!(one::<i64>(&world.owner, held).await?, 0);
    let other = world.database.owner().await?;
    other.batch_execute("SET lock_timeout = '300ms'").await?;
    world.owner.batch_execute("SELECT sluice.lock_definitions()").await?;
    let error = refused(&other, "SELECT sluice.drop_stream('b')").await;
    assert!(
        error.code() == &SqlState::LOCK_NOT_AVAILABLE && error.message().contains("another transaction"),
        "{error:?}"
    );
    world.owner.batch_execute("ROLLBACK").await?;
    world.app.batch_execute("COMMIT").await?;
    world.owner.batch_execute("SELECT sluice.drop_stream('a')").await?;
    Ok(())
}

/// A migration that defines and tracks, and is not committed yet.
#[tokio::test]
async fn an_open_definition_holds_up_no_fan_out() -> Result<()> {
    let world = World::with(TABLES).await?;
    let keys = "SELECT sluice.track('demo.b', stream => 'a', affects => 'SELECT i.id FROM demo.a AS i WHERE i.id = $1.n', columns => $columns)";
    world.owner.batch_execute(&keys.replace("$columns", "NULL")).await?;
    world.app.batch_execute("UPDATE demo.b SET n = 1 WHERE id = 1").await?;
    let open = world.database.owner().await?;
    open.batch_execute(&format!(
        "BEGIN; SELECT sluice.define_stream('a', source => 'demo.a', key => 'id', mapping => '{{\"properties\": {{\"n\": {{}}, \"id\": {{}}}}}}'); {}",
        keys.replace("$columns", "'{n}'")
    ))
    .await?;
    let client = world.database.functions().await?;
    client.batch_execute("SET lock_timeout = '2s'").await?;
    assert_eq!(crate::support::collect(&client).await?, 1);
    open.batch_execute("COMMIT").await?;
    assert_eq!(crate::support::expand(&client, 100).await?, 1);
    Ok(())
}

/// One that waits for the tables that are locked here would wait for ever, and one of both be killed.
#[tokio::test]
async fn a_definition_does_not_wait_for_a_fan_out_that_is_at_work() -> Result<()> {
    let world = World::with(TABLES).await?;
    let keys = |column: &str| {
        format!(
            "SELECT sluice.track('demo.b', stream => 'a', affects => 'SELECT i.id FROM demo.a AS i WHERE i.id = $1.{column}')"
        )
    };
    world.owner.batch_execute(&keys("n")).await?;
    let at_work = world.database.owner().await?;
    world.owner.batch_execute("SET lock_timeout = '1s'").await?;
    for definition in [&keys("id"), "SELECT sluice.untrack('demo.b', 'a')", "SELECT sluice.drop_stream('a')"] {
        world.owner.batch_execute("SELECT sluice.resync('a')").await?;
        world.app.batch_execute("UPDATE demo.b SET n = n + 1 WHERE id = 1").await?;
        // With a turn of the tracked table, which has failed.
        world.owner.batch_execute("INSERT INTO sluice.expansion_turn (stream, tracked, attempts) SELECT stream, id, 1 FROM sluice.tracked WHERE affects IS NOT NULL ON CONFLICT DO NOTHING").await?;
        crate::support::collect(&world.database.functions().await?).await?;
        let taken = "BEGIN; UPDATE sluice.expansion SET error = 'x'; COMMIT; BEGIN; SELECT sluice.take_expansion(e.id) FROM sluice.expansion AS e";
        at_work.batch_execute(taken).await?;
        world.owner.batch_execute(definition).await.with_context(|| definition.to_owned())?;
        at_work.batch_execute("COMMIT; UPDATE sluice.expansion SET error = NULL").await?;
        world.fan_out(100).await?;
        assert_eq!(one::<i64>(&world.owner, "SELECT count(*) FROM sluice.expansion").await?, 0, "{definition}");
    }
    Ok(())
}

/// Before and after the fan-out has begun with what they end: the others go on, and what is left goes at the end.
#[tokio::test]
async fn an_open_untrack_or_drop_stream_holds_up_no_fan_out() -> Result<()> {
    let world = World::with(TABLES).await?;
    let keys =
        "SELECT sluice.track('demo.b', stream => 'a', affects => 'SELECT i.id FROM demo.a AS i WHERE i.id = $1.n')";
    world.owner.batch_execute(keys).await?;
    let other = "CREATE TABLE demo.c (id bigint PRIMARY KEY); INSERT INTO demo.c VALUES (1);
        SELECT sluice.define_stream('c', source => 'demo.c', key => 'id', mapping => '{\"properties\": {\"id\": {}}}')";
    world.owner.batch_execute(other).await?;
    let open = world.database.owner().await?;
    let client = world.database.functions().await?;
    client.batch_execute("SET lock_timeout = '1ms'").await?;
    let of_c = "SELECT count(*) FROM sluice.outbox WHERE stream = 'c' AND op = 'upsert'";
    for end in ["untrack('demo.b', 'a')", "drop_stream('a')"] {
        for is_begun in [true, false] {
            let before: i64 = one(&world.owner, of_c).await?;
            if is_begun {
                // So that there is a turn of it, too.
                world.app.batch_execute("UPDATE demo.b SET n = 1 WHERE id = 1").await?;
                world.fan_out(100).await?;
                world.app.batch_execute("UPDATE demo.b SET n = 2 WHERE id = 1").await?;
                crate::support::collect(&client).await?;
            }
            open.batch_execute(&format!("BEGIN; SELECT sluice.{end}")).await?;
            world.owner.batch_execute("INSERT INTO sluice.outbox (stream, op) VALUES ('c', 'fan_out')").await?;
            crate::support::collect(&client).await?;
            while crate::support::expand_next(&client, 100).await?.is_some() {}
            assert!(one::<i64>(&world.owner, of_c).await? > before, "{end}");
            open.batch_execute("ROLLBACK").await?;
        }
    }
    world.app.batch_execute("UPDATE demo.b SET n = 1 WHERE id = 1").await?;
    open.batch_execute("BEGIN; SELECT sluice.untrack('demo.b', 'a')").await?;
    crate::support::collect(&client).await?;
    open.batch_execute("COMMIT").await?;
    world.fan_out(100).await?;
    assert_eq!(one::<i64>(&world.owner, "SELECT count(*) FROM sluice.expansion").await?, 0);
    let handed_over = "SELECT count(*) FROM sluice.outbox WHERE stream = 'a' AND op = 'upsert' AND key = '1' AND id > (SELECT max(id) FROM sluice.outbox WHERE tracked IS NOT NULL)";
    assert!(one::<i64>(&world.owner, handed_over).await? > 0, "all of the stream is read anew");
    Ok(())
}

#[tokio::test]
async fn the_logs_own_tables_cannot_be_tracked() -> Result<()> {
    let world = World::with(TABLES).await?;
    let error = refused(&world.owner, "SELECT sluice.track('sluice.outbox', stream => 'a', key => 'id')").await;
    assert!(error.message().contains("not an application's table"), "{error:?}");
    Ok(())
}
