//! What a tracking is, and what becomes of it when it changes.

use anyhow::Result;
use database::Session as _;
use serde_json::json;

use crate::support::{Index, World, facts, keys, one, refused};

/// A book shows its authors' names.
const BOOKS: &str = "
    CREATE TABLE demo.book (id bigint PRIMARY KEY, title text);
    CREATE TABLE demo.author (id int PRIMARY KEY, name text);
    CREATE TABLE demo.authorship (book_id bigint, author_id int);
    CREATE VIEW demo.books AS SELECT b.id, ARRAY(SELECT a.name FROM demo.authorship AS s JOIN demo.author AS a ON a.id = s.author_id
        WHERE s.book_id = b.id ORDER BY 1) AS authors FROM demo.book AS b;
    SELECT sluice.define_stream('books', source => 'demo.books', key => 'id', mapping => '{\"properties\": {\"authors\": {}}}');
    SELECT sluice.track('demo.book', stream => 'books', key => 'id');
    SELECT sluice.track('demo.authorship', stream => 'books', key => 'book_id');
    SELECT sluice.track('demo.author', stream => 'books', columns => '{name}', affects => 'SELECT book_id FROM demo.authorship WHERE author_id = $1.id');
    INSERT INTO demo.book VALUES (1, 'a'); INSERT INTO demo.author VALUES (1, 'old'); INSERT INTO demo.authorship VALUES (1, 1)";

async fn shows(world: &World, index: &mut Index, name: &str) -> Result<()> {
    world.settle(index).await?;
    assert_eq!(index.get("books", "1"), json!({"authors": [name]}));
    assert_eq!(one::<i64>(&world.owner, "SELECT count(*) FROM sluice.expansion").await?, 0);
    Ok(())
}

#[tokio::test]
async fn other_keys_replace_those_before_and_do_what_was_left() -> Result<()> {
    let world = World::with(BOOKS).await?;
    let mut index = Index::default();
    shows(&world, &mut index, "old").await?;
    world.owner.batch_execute("ALTER TABLE demo.authorship RENAME author_id TO writer_id").await?;
    world.app.batch_execute("UPDATE demo.author SET name = 'new'").await?;
    world.settle(&mut index).await?;
    assert_eq!(one::<i64>(&world.owner, "SELECT count(*) FROM sluice.expansion WHERE error IS NOT NULL").await?, 1);
    world.owner.batch_execute("SELECT sluice.track('demo.author', stream => 'books', columns => '{name}', affects => 'SELECT book_id FROM demo.authorship WHERE writer_id = $1.id')").await?;
    assert_eq!(
        one::<i64>(&world.owner, "SELECT count(*) FROM sluice.tracked WHERE relation = 'demo.author'::regclass")
            .await?,
        1
    );
    shows(&world, &mut index, "new").await?;
    world.app.batch_execute("UPDATE demo.author SET name = 'newer'").await?;
    shows(&world, &mut index, "newer").await
}

#[tokio::test]
async fn affects_is_sql_as_people_write_it() -> Result<()> {
    let world = World::with(BOOKS).await?;
    let mut index = Index::default();
    world.owner.batch_execute("ALTER TABLE demo.author RENAME id TO Ärger").await?;
    for (name, affects) in [
        ("unquoted", "SELECT book_id FROM demo.authorship WHERE author_id = $1.Ärger"),
        ("closed", "SELECT book_id FROM demo.authorship WHERE author_id = $1.Ärger;\n"),
        (
            "with comments",
            "-- an author''s books\nSELECT book_id /* $1''s */ FROM demo.authorship WHERE author_id - 0 = ($1).Ärger / 1 -- all",
        ),
    ] {
        let track = format!(
            "SELECT sluice.track('demo.author', stream => 'books', columns => '{{name}}', affects => '{affects}')"
        );
        world.owner.batch_execute(&track).await?;
        world.app.batch_execute(&format!("UPDATE demo.author SET name = '{name}'")).await?;
        shows(&world, &mut index, name).await?;
    }
    Ok(())
}

#[tokio::test]
async fn keys_that_need_other_columns_do_what_was_left() -> Result<()> {
    let world = World::with(BOOKS).await?;
    let mut index = Index::default();
    shows(&world, &mut index, "old").await?;
    world.app.batch_execute("UPDATE demo.author SET name = 'new'").await?;
    // Its image has the column under the name that it had.
    world.owner.batch_execute("ALTER TABLE demo.author RENAME id TO number;
        SELECT sluice.track('demo.author', stream => 'books', columns => '{name}', affects => 'SELECT book_id FROM demo.authorship WHERE author_id = $1.number')").await?;
    shows(&world, &mut index, "new").await
}

#[tokio::test]
async fn untracking_and_tracking_again_loses_nothing_that_was_noted() -> Result<()> {
    let again = "BEGIN; SELECT sluice.untrack('demo.author', 'books');
        DROP VIEW demo.books; ALTER TABLE demo.author ALTER id TYPE bigint;
        CREATE VIEW demo.books AS SELECT b.id, ARRAY(SELECT a.name FROM demo.authorship AS s JOIN demo.author AS a ON a.id = s.author_id
            WHERE s.book_id = b.id ORDER BY 1) AS authors FROM demo.book AS b;
        SELECT sluice.define_stream('books', source => 'demo.books', key => 'id', mapping => '{\"properties\": {\"authors\": {}}}');
        SELECT sluice.track('demo.author', stream => 'books', columns => '{name}', affects => 'SELECT book_id FROM demo.authorship WHERE author_id = $1.id'); COMMIT";
    // In the log, and as an expansion that is not worked off.
    for collected in [false, true] {
        let world = World::with(BOOKS).await?;
        let mut index = Index::default();
        shows(&world, &mut index, "old").await?;
        world.app.batch_execute("UPDATE demo.author SET name = 'new'").await?;
        if collected {
            world.database.functions().await?.collect().await?;
        }
        world.owner.batch_execute(again).await?;
        shows(&world, &mut index, "new").await?;
        // Nothing is left over, nothing is resynced.
        world.owner.batch_execute(again).await?;
        assert_eq!(world.fan_out(1000).await?, 0);
    }
    Ok(())
}

#[tokio::test]
async fn the_same_again_locks_nothing_and_writes_nothing() -> Result<()> {
    let world = World::with(BOOKS).await?;
    let again = BOOKS[BOOKS.find("SELECT sluice.define").unwrap_or_default()..BOOKS.find("INSERT").unwrap_or_default()]
        .to_owned();
    let state = "SELECT (SELECT string_agg(xmin::text || tgname || tgenabled::text, ' ' ORDER BY oid) FROM pg_trigger)
        || (SELECT string_agg(xmin::text || proname, ' ' ORDER BY oid) FROM pg_proc WHERE pronamespace = 'sluice'::regnamespace)
        || (SELECT string_agg(xmin::text || t::text, ' ' ORDER BY id) FROM sluice.tracked AS t)
        || (SELECT string_agg(s.xmin::text || s::text || t.xmin::text || t::text, ' ' ORDER BY name) FROM sluice.stream AS s JOIN sluice.target AS t ON t.stream = s.name)
        || (SELECT string_agg(xmin::text || relname, ' ' ORDER BY oid) FROM pg_class WHERE relnamespace = 'demo'::regnamespace)";
    let before: String = one(&world.owner, state).await?;
    world.owner.batch_execute(&format!("BEGIN; {again}")).await?;
    let locks = "SELECT coalesce(string_agg(DISTINCT relation::regclass || ' ' || mode, ', '), '') FROM pg_locks
        WHERE pid = pg_backend_pid() AND locktype = 'relation' AND mode NOT IN ('AccessShareLock') AND relation IN (SELECT oid FROM pg_class WHERE relpersistence <> 't' AND relnamespace <> 'pg_catalog'::regnamespace)";
    assert_eq!(one::<String>(&world.owner, locks).await?, "");
    assert_eq!(
        one::<i64>(
            &world.owner,
            "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'"
        )
        .await?,
        0
    );
    world.owner.batch_execute("COMMIT").await?;
    assert_eq!(one::<String>(&world.owner, state).await?, before);
    Ok(())
}

#[tokio::test]
async fn a_trigger_that_was_lost_is_made_again() -> Result<()> {
    let world = World::new().await?;
    world.owner.batch_execute("DO $$ BEGIN EXECUTE (SELECT format('DROP TRIGGER %I ON demo.item', tgname) FROM pg_trigger WHERE tgname ~ '^sluice_[0-9]+$' AND tgrelid = 'demo.item'::regclass); END $$;
        SELECT sluice.track('demo.item', stream => 'items', key => 'id')").await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    assert_eq!(keys(&world.drain().await?), ["1"]);
    Ok(())
}

#[tokio::test]
async fn a_trigger_that_fires_always_or_never_stays_so() -> Result<()> {
    let world = World::with(
        "CREATE TABLE demo.event (id bigint, at int, value text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
         CREATE TABLE demo.event_1 PARTITION OF demo.event FOR VALUES FROM (0) TO (100);
         SELECT sluice.define_stream('events', source => 'demo.event', key => 'id', mapping => '{\"properties\": {\"at\": {}}}');
         SELECT sluice.track('demo.event', stream => 'events', key => 'id')",
    )
    .await?;
    let states = "SELECT string_agg(tgrelid::regclass::text || ' ' || tgname || ' ' || tgenabled::text, ', ' ORDER BY tgrelid, tgname) FROM pg_trigger
        WHERE tgname ~ '^sluice_' AND tgrelid IN ('demo.event'::regclass, 'demo.event_1'::regclass)";
    world
        .owner
        .batch_execute(
            "DO $$ DECLARE n name; BEGIN
        FOR n IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'demo.event'::regclass AND tgname ~ '^sluice_' LOOP
            EXECUTE format('ALTER TABLE demo.event ENABLE ALWAYS TRIGGER %I', n);
        END LOOP;
        FOR n IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'demo.event'::regclass AND tgname ~ '_update$' LOOP
            EXECUTE format('ALTER TABLE demo.event DISABLE TRIGGER %I', n);
        END LOOP; END $$",
        )
        .await?;
    let before: String = one(&world.owner, states).await?;
    for columns in ["", ", columns => '{value}'", ""] {
        world
            .owner
            .batch_execute(&format!("SELECT sluice.track('demo.event', stream => 'events', key => 'id'{columns})"))
            .await?;
        assert_eq!(one::<String>(&world.owner, states).await?, before, "{columns}");
    }
    let superuser = world.database.superuser().await?;
    superuser.batch_execute("SET session_replication_role = replica; INSERT INTO demo.event VALUES (1, 1)").await?;
    assert_eq!(keys(&world.drain().await?), ["1"]);
    Ok(())
}

#[tokio::test]
async fn children_of_a_table_are_tracked_with_it_and_later_ones_are_named() -> Result<()> {
    let world = World::with(
        "CREATE TABLE demo.payment (id bigint PRIMARY KEY, amount int);
         CREATE TABLE demo.card (card text) INHERITS (demo.payment);
         CREATE VIEW demo.payments AS SELECT id, amount FROM demo.payment;
         SELECT sluice.define_stream('payments', source => 'demo.payments', key => 'id', mapping => '{\"properties\": {\"amount\": {}}}');
         SELECT sluice.track('demo.payment', stream => 'payments', key => 'id')",
    )
    .await?;
    world.app.batch_execute("INSERT INTO demo.payment VALUES (1, 1); INSERT INTO demo.card VALUES (2, 1, 'v'); UPDATE demo.payment SET amount = 2; DELETE FROM demo.payment WHERE id = 2; TRUNCATE demo.payment").await?;
    assert_eq!(
        facts(&world.drain().await?),
        [
            "payments 1 insert",
            "payments 2 insert",
            "payments 1 update",
            "payments 2 update",
            "payments 2 delete",
            "payments 1 delete"
        ]
    );
    world.owner.batch_execute("CREATE TABLE demo.cash () INHERITS (demo.payment)").await?;
    let untracked = "SELECT untracked_tables::text FROM sluice.stream_status() WHERE stream = 'payments'";
    assert_eq!(one::<String>(&world.owner, untracked).await?, "{demo.cash}");
    world.owner.batch_execute("SELECT sluice.track('demo.payment', stream => 'payments', key => 'id')").await?;
    assert_eq!(one::<String>(&world.owner, untracked).await?, "{}");
    world.owner.batch_execute("SELECT sluice.untrack('demo.payment', 'payments')").await?;
    assert_eq!(one::<i64>(&world.owner, "SELECT count(*) FROM sluice.tracked").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_column_that_took_the_keys_name_is_the_key_also_of_a_truncate() -> Result<()> {
    let world = World::new().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1, 'a'), (2, 'b')").await?;
    world.drain().await?;
    world
        .owner
        .batch_execute(
            "ALTER TABLE demo.item DROP CONSTRAINT item_pkey; ALTER TABLE demo.item ALTER id DROP NOT NULL;
        ALTER TABLE demo.item ADD COLUMN id_big numeric; UPDATE demo.item SET id_big = id;
        ALTER TABLE demo.item RENAME id TO id_old; ALTER TABLE demo.item RENAME id_big TO id",
        )
        .await?;
    world.drain().await?;
    world.app.batch_execute("INSERT INTO demo.item (id) VALUES (3000000000); TRUNCATE demo.item").await?;
    assert_eq!(
        facts(&world.drain().await?),
        ["items 3000000000 insert", "items 1 delete", "items 2 delete", "items 3000000000 delete"]
    );
    refused(&world.owner, "ALTER TABLE demo.item DROP COLUMN id_old").await;
    world.owner.batch_execute("SELECT sluice.track('demo.item', stream => 'items', key => 'id'); ALTER TABLE demo.item DROP COLUMN id_old").await?;
    assert_eq!(one::<i64>(&world.owner, "SELECT count(*) FROM sluice.tracked").await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_truncate_goes_through_whatever_policies_a_table_has() -> Result<()> {
    for force in ["ENABLE", "FORCE"] {
        let world = World::with(
            "CREATE TABLE demo.base (id bigint PRIMARY KEY, value text);
             CREATE VIEW demo.shown AS SELECT id, value FROM demo.base;
             SELECT sluice.define_stream('shown', source => 'demo.shown', key => 'id', mapping => '{\"properties\": {\"value\": {}}}');
             SELECT sluice.track('demo.base', stream => 'shown', key => 'id')",
        )
        .await?;
        let mut index = Index::default();
        world.app.batch_execute("INSERT INTO demo.base VALUES (1, 'a'), (2, 'b')").await?;
        world.settle(&mut index).await?;
        assert_eq!(index.documents("shown").len(), 2);
        let policy = format!(
            "ALTER TABLE demo.base ENABLE ROW LEVEL SECURITY; ALTER TABLE demo.base {force} ROW LEVEL SECURITY; CREATE POLICY none ON demo.base USING (false)"
        );
        world.owner.batch_execute(&policy).await?;
        world.app.batch_execute("TRUNCATE demo.base").await?;
        world.owner.batch_execute("ALTER TABLE demo.base NO FORCE ROW LEVEL SECURITY").await?;
        for _ in 0..3 {
            world.settle(&mut index).await?;
        }
        assert!(index.documents("shown").is_empty(), "{force}");
    }
    Ok(())
}

#[tokio::test]
async fn a_table_that_was_made_anew_is_tracked_and_the_old_one_forgotten() -> Result<()> {
    let world = World::with(BOOKS).await?;
    let mut index = Index::default();
    shows(&world, &mut index, "old").await?;
    world.app.batch_execute("UPDATE demo.author SET name = 'new'").await?;
    world.owner.batch_execute("DROP VIEW demo.books; CREATE TABLE demo.again AS SELECT * FROM demo.author; DROP TABLE demo.author; ALTER TABLE demo.again RENAME TO author;
        CREATE VIEW demo.books AS SELECT b.id, ARRAY(SELECT a.name FROM demo.authorship AS s JOIN demo.author AS a ON a.id = s.author_id
            WHERE s.book_id = b.id ORDER BY 1) AS authors FROM demo.book AS b").await?;
    let untracked = "SELECT untracked_tables::text FROM sluice.stream_status()";
    assert_eq!(one::<String>(&world.owner, untracked).await?, "{demo.author}");
    world.owner.batch_execute("SELECT sluice.define_stream('books', source => 'demo.books', key => 'id', mapping => '{\"properties\": {\"authors\": {}}}');
        SELECT sluice.track('demo.author', stream => 'books', columns => '{name}', affects => 'SELECT book_id FROM demo.authorship WHERE author_id = $1.id')").await?;
    shows(&world, &mut index, "new").await?;
    assert_eq!(one::<i64>(&world.owner, "SELECT count(*) FROM sluice.tracked").await?, 3);
    Ok(())
}

#[tokio::test]
async fn a_virtual_generated_column_is_refused_where_a_trigger_would_need_it() -> Result<()> {
    let world = World::new().await?;
    if one::<String>(&world.owner, "SHOW server_version_num").await?.parse::<u32>()? < 180_000 {
        return Ok(()); // there is no such column
    }
    world.owner.batch_execute("CREATE TABLE demo.person (id bigint, half bigint GENERATED ALWAYS AS (id / 2) VIRTUAL, whole bigint GENERATED ALWAYS AS (id * 2) STORED)").await?;
    for call in ["key => 'half'", "affects => 'SELECT id FROM demo.item WHERE id = $1.half'"] {
        let error =
            refused(&world.owner, &format!("SELECT sluice.track('demo.person', stream => 'items', {call})")).await;
        assert!(
            error.message().contains("half") && error.hint().is_some_and(|hint| hint.contains("STORED")),
            "{error:?}"
        );
    }
    world.owner.batch_execute("SELECT sluice.track('demo.person', stream => 'items', key => 'whole', columns => '{half}'); INSERT INTO demo.person VALUES (4); UPDATE demo.person SET id = 5").await?;
    assert_eq!(facts(&world.drain().await?), ["items 8 insert", "items 8 delete", "items 10 update"]);
    Ok(())
}
