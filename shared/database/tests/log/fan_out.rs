//! Which documents show a changed row is found out by the drain, never in the writer's transaction.

use std::collections::BTreeSet;

use anyhow::Result;
use database::Session as _;
use database::log;
use serde_json::json;

use crate::support::{Index, World, collect, expand, expand_next, keys, one};

const KEYS: &str = "SELECT id FROM demo.project WHERE owner_id = $1.id";
const JOINED: &str = "
    CREATE TABLE demo.person (id bigint PRIMARY KEY, name text, password_hash text);
    CREATE TABLE demo.project (id bigint PRIMARY KEY, owner_id bigint);
    CREATE INDEX ON demo.project (owner_id);
    CREATE VIEW demo.project_document AS
        SELECT p.id, o.name AS owner FROM demo.project AS p JOIN demo.person AS o ON o.id = p.owner_id;
    INSERT INTO demo.person VALUES (1, 'old', 'secret of 1'), (2, 'other', 'secret of 2');
    SELECT sluice.define_stream('projects', source => 'demo.project_document', key => 'id', mapping => '{\"properties\": {\"owner\": {}}}');
    SELECT sluice.track('demo.project', stream => 'projects', key => 'id');
    SELECT sluice.track('demo.person', stream => 'projects', affects => 'SELECT id FROM demo.project WHERE owner_id = $1.id')";

/// Two open transactions: one inserts a project, the other renames its owner. What the renaming one would have found,
/// had it asked for the keys itself, is returned.
async fn race(world: &World, index: &mut Index, rename_commits_first: bool) -> Result<i64> {
    let (insert, rename) = (world.database.app().await?, world.database.app().await?);
    insert.batch_execute("BEGIN; INSERT INTO demo.project VALUES (7, 1)").await?;
    rename.batch_execute("BEGIN; UPDATE demo.person SET name = 'new' WHERE id = 1").await?;
    let found = one(&rename, &format!("SELECT count(*) FROM ({}) AS k", KEYS.replace("$1.id", "1"))).await?;
    let (first, second) = if rename_commits_first { (&rename, &insert) } else { (&insert, &rename) };
    first.batch_execute("COMMIT").await?;
    world.settle(index).await?;
    second.batch_execute("COMMIT").await?;
    world.settle(index).await?;
    Ok(found)
}

#[tokio::test]
async fn a_project_that_commits_before_its_owners_rename_ends_with_the_new_name() -> Result<()> {
    let world = World::with(JOINED).await?;
    let mut index = Index::default();
    let found_by_writer = race(&world, &mut index, false).await?;
    assert_eq!(index.get("projects", "7"), json!({"owner": "new"}));
    assert_eq!(found_by_writer, 0, "resolved inside the writer's transaction, the keys would miss the project");
    Ok(())
}

#[tokio::test]
async fn a_project_that_commits_after_its_owners_rename_ends_with_the_new_name() -> Result<()> {
    let world = World::with(JOINED).await?;
    let mut index = Index::default();
    race(&world, &mut index, true).await?;
    assert_eq!(index.get("projects", "7"), json!({"owner": "new"}));
    Ok(())
}

/// The same race beside a writer's trigger that resolves the keys at once, as one would without a drain.
#[tokio::test]
async fn keys_that_the_writer_resolves_leave_the_old_name_for_ever() -> Result<()> {
    let world = World::with(JOINED).await?;
    world
        .owner
        .batch_execute(
            "SELECT sluice.untrack('demo.person', 'projects');
             CREATE FUNCTION demo.at_once() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
             BEGIN
                 PERFORM sluice.emit('projects', p.id::text) FROM demo.project AS p WHERE p.owner_id = NEW.id;
                 RETURN NULL;
             END $$;
             CREATE TRIGGER at_once AFTER UPDATE ON demo.person FOR EACH ROW EXECUTE FUNCTION demo.at_once()",
        )
        .await?;
    let mut index = Index::default();
    race(&world, &mut index, false).await?;
    assert_eq!(index.get("projects", "7"), json!({"owner": "old"}), "then the fan-out by the drain is not needed");
    Ok(())
}

#[tokio::test]
async fn renaming_the_owner_of_100_000_documents_costs_the_writer_one_row() -> Result<()> {
    let world = World::with(JOINED).await?;
    let superuser = world.database.superuser().await?;
    superuser
        .batch_execute(
            "ALTER TABLE demo.project DISABLE TRIGGER USER; INSERT INTO demo.project SELECT n, 1 FROM generate_series(1, 100000) AS n;
             ALTER TABLE demo.project ENABLE TRIGGER USER; ANALYZE demo.project",
        )
        .await?;
    let before: i64 = one(&world.owner, "SELECT count(*) FROM sluice.outbox").await?;
    world.app.batch_execute("UPDATE demo.person SET name = 'new' WHERE id = 1").await?;
    assert_eq!(one::<i64>(&world.owner, "SELECT count(*) FROM sluice.outbox").await?, before + 1);

    let client = world.database.functions().await?;
    assert_eq!(collect(&client).await?, 1);
    let mut slices = vec![];
    while let Some(rows) = expand_next(&client, 30_000).await? {
        slices.push(rows);
    }
    assert_eq!(slices, [30_000, 30_000, 30_000, 10_000]);
    let mut drainer = world.drainer().await?;
    let mut drained = vec![];
    while client.is_pending("elasticsearch").await? {
        drained.extend(drainer.drain_pages(10_000).await?);
    }
    assert_eq!(drained.iter().map(|row| &row.key).collect::<BTreeSet<_>>().len(), 100_000);
    assert_eq!(drained.len(), 100_000, "each document once");
    Ok(())
}

#[tokio::test]
async fn the_log_holds_no_column_that_the_keys_do_not_need() -> Result<()> {
    let world = World::with(JOINED).await?;
    world
        .app
        .batch_execute(
            "INSERT INTO demo.project VALUES (7, 1); UPDATE demo.person SET name = 'new', password_hash = 'secret';
             DELETE FROM demo.person WHERE id = 2; INSERT INTO demo.person VALUES (3, 'x', 'secret of 3'); TRUNCATE demo.person",
        )
        .await?;
    let text: String = one(&world.owner, "SELECT string_agg(o::text, ' ') FROM sluice.outbox AS o").await?;
    assert!(!text.contains("secret") && text.contains(r#"{""id"" : ""1""}"#), "{text}");
    world.fan_out(10).await?;
    let text: String = one(&world.owner, "SELECT coalesce(string_agg(e::text, ' '), '') || (SELECT string_agg(o::text, ' ') FROM sluice.outbox AS o) FROM sluice.expansion AS e").await?;
    assert!(!text.contains("secret"), "{text}");
    Ok(())
}

#[tokio::test]
async fn rows_of_the_log_that_fan_out_are_not_delivered_themselves() -> Result<()> {
    let world = World::with(JOINED).await?;
    world
        .app
        .batch_execute("INSERT INTO demo.project VALUES (7, 1); UPDATE demo.person SET name = 'new' WHERE id = 1")
        .await?;
    assert_eq!(keys(&world.drain().await?), ["7"]);
    assert_eq!(world.fan_out(10).await?, 1);
    assert_eq!(keys(&world.drain().await?), ["7"]);
    assert_eq!(world.fan_out(10).await?, 0);
    Ok(())
}

#[tokio::test]
async fn old_and_new_parent_both_follow() -> Result<()> {
    let world = World::with(
        "CREATE TABLE demo.country (id bigint PRIMARY KEY);
         CREATE TABLE demo.city (id bigint PRIMARY KEY, country_id bigint);
         CREATE TABLE demo.mayor (id bigint PRIMARY KEY, city_id bigint);
         CREATE VIEW demo.country_document AS SELECT c.id,
             (SELECT count(*) FROM demo.city AS i JOIN demo.mayor AS m ON m.city_id = i.id WHERE i.country_id = c.id) AS mayors FROM demo.country AS c;
         INSERT INTO demo.country VALUES (1), (2); INSERT INTO demo.city VALUES (10, 1), (20, 2);
         SELECT sluice.define_stream('countries', source => 'demo.country_document', key => 'id', mapping => '{\"properties\": {\"mayors\": {}}}');
         SELECT sluice.track('demo.mayor', stream => 'countries', affects => 'SELECT country_id FROM demo.city WHERE id = $1.city_id')",
    )
    .await?;
    let mut index = Index::default();
    world.app.batch_execute("INSERT INTO demo.mayor VALUES (1, 10)").await?;
    world.settle(&mut index).await?;
    assert_eq!(index.get("countries", "1"), json!({"mayors": 1}));
    world.app.batch_execute("UPDATE demo.mayor SET city_id = 20").await?;
    world.settle(&mut index).await?;
    assert_eq!(index.get("countries", "1"), json!({"mayors": 0}));
    assert_eq!(index.get("countries", "2"), json!({"mayors": 1}));
    world.app.batch_execute("DELETE FROM demo.mayor").await?;
    world.settle(&mut index).await?;
    assert_eq!(index.get("countries", "2"), json!({"mayors": 0}));
    Ok(())
}

#[tokio::test]
async fn a_table_of_the_view_that_nobody_tracks_is_named() -> Result<()> {
    let world = World::with(JOINED).await?;
    let query = "SELECT array_to_string(untracked_tables, ', ') FROM sluice.stream_status() WHERE stream = 'projects'";
    let client = world.database.functions().await?;
    assert_eq!(one::<String>(&client, query).await?, "");
    world.owner.batch_execute("SELECT sluice.untrack('demo.person', 'projects')").await?;
    assert_eq!(one::<String>(&client, query).await?, "demo.person");
    Ok(())
}

#[tokio::test]
async fn keys_that_fail_are_parked_with_their_error_and_done_after_mending() -> Result<()> {
    let world = World::with(JOINED).await?;
    let client = world.database.functions().await?;
    world.app.batch_execute("INSERT INTO demo.project VALUES (7, 1)").await?;
    world.drain().await?;
    world.owner.batch_execute("ALTER TABLE demo.project RENAME COLUMN owner_id TO held_by").await?;
    world.app.batch_execute("UPDATE demo.person SET name = 'new' WHERE id = 1").await?;
    world.owner.batch_execute("SELECT sluice.resync('projects')").await?;
    collect(&client).await?;
    let before: String = one(&client, "SELECT clock_timestamp()::text").await?;
    assert_eq!(expand(&client, 10).await?, 1, "the other expansion goes on");
    assert_eq!(keys(&world.drain().await?), ["7"]);
    let error: String = one(&client, "SELECT last_error FROM sluice.stream_status() WHERE stream = 'projects'").await?;
    assert!(error.contains("owner_id"), "{error}");
    let waits = "SELECT bool_and(due_at > $1::text::timestamptz + interval '900 ms') FROM sluice.expansion_turn WHERE attempts > 0";
    let waits: Option<bool> = client.query_one(waits, &[&before]).await?.get(0);
    assert_eq!(waits, Some(true), "it waits before it is tried again");
    world.owner.batch_execute("UPDATE sluice.expansion_turn SET due_at = 'infinity'").await?;
    assert_eq!(client.expand(10, false, false).await?.expansion, None, "it is not tried before that");

    world
        .owner
        .batch_execute(
            "ALTER TABLE demo.project RENAME COLUMN held_by TO owner_id; UPDATE sluice.expansion_turn SET due_at = now()",
        )
        .await?;
    assert_eq!(expand(&client, 10).await?, 1);
    assert_eq!(keys(&world.drain().await?), ["7"]);
    assert_eq!(one::<i64>(&client, "SELECT count(*) FROM sluice.expansion").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_crash_in_a_slice_repeats_it() -> Result<()> {
    let world = World::with(JOINED).await?;
    world.app.batch_execute("INSERT INTO demo.project SELECT n, 1 FROM generate_series(1, 5) AS n").await?;
    world.drain().await?;
    world.app.batch_execute("UPDATE demo.person SET name = 'new' WHERE id = 1").await?;
    let client = world.database.functions().await?;
    client.batch_execute("BEGIN").await?;
    collect(&client).await?;
    drop(client);
    let client = world.database.functions().await?;
    localstack::eventually("the crashed session's lock to be gone", async || match collect(&client).await {
        Ok(1) => Ok(()),
        seen => Err(format!("{seen:?}")),
    })
    .await;
    client.expand(2, false, false).await?;
    client.batch_execute("BEGIN").await?;
    assert_eq!(client.expand(2, false, false).await?.rows, 2);
    client.batch_execute("ROLLBACK").await?;
    expand(&client, 2).await?;
    assert_eq!(keys(&world.drain().await?), ["1", "2", "3", "4", "5"]);
    Ok(())
}

/// A bulk change of a table that many documents show, collected in steps that each end in time, and worked off many at
/// once.
#[tokio::test]
async fn a_bulk_change_is_collected_in_steps_and_asked_for_many_rows_at_once() -> Result<()> {
    let world = World::with(JOINED).await?;
    world
        .owner
        .batch_execute(
            "INSERT INTO demo.person SELECT n FROM generate_series(3, 20002) AS n;
             INSERT INTO demo.project SELECT n, n FROM generate_series(3, 20002) AS n; ANALYZE demo.project",
        )
        .await?;
    let client = world.database.functions().await?;
    let drain_all = async || -> Result<usize> {
        let mut drained = 0;
        while client.is_pending("elasticsearch").await? {
            drained += world.drain().await?.len();
        }
        Ok(drained)
    };
    world.fan_out(5000).await?;
    drain_all().await?;
    world.app.batch_execute("UPDATE demo.person SET name = 'new' WHERE id > 2").await?;
    let first = client.collect().await?;
    assert_eq!((first.begun, first.has_more), (1, true), "a page");
    assert_eq!(client.expand(5000, false, false).await?.rows, 1000, "before the rest is collected");
    assert_eq!(collect(&client).await?, 19);
    assert_eq!(expand(&client, 5000).await?, 19_000);
    assert_eq!(drain_all().await?, 20_000);
    Ok(())
}

/// Whatever SQLSTATE it has.
#[tokio::test]
async fn a_row_whose_keys_fail_waits_alone() -> Result<()> {
    let world = World::with(
        "CREATE FUNCTION demo.checked(id bigint) RETURNS bigint LANGUAGE plpgsql AS $$
         BEGIN IF id = 13 THEN RAISE EXCEPTION 'no such person'; END IF; RETURN id; END $$;
         CREATE TABLE demo.person (id bigint PRIMARY KEY, name text);
         CREATE TABLE demo.project (id bigint PRIMARY KEY, owner_id bigint);
         INSERT INTO demo.person SELECT n FROM generate_series(1, 100) AS n;
         INSERT INTO demo.project SELECT n, n FROM generate_series(1, 100) AS n;
         SELECT sluice.define_stream('projects', source => 'demo.project', key => 'id', mapping => '{\"properties\": {\"id\": {}}}');
         SELECT sluice.track('demo.person', stream => 'projects', affects => 'SELECT id / ($1.id - 7) * 0 + id FROM demo.project WHERE owner_id = demo.checked($1.id)')",
    )
    .await?;
    world.app.batch_execute("UPDATE demo.person SET name = 'new'").await?;
    assert_eq!(world.fan_out(1000).await?, 98);
    let found: BTreeSet<String> = world.drain().await?.into_iter().map(|row| row.key).collect();
    assert!(found.len() == 98 && !found.contains("7") && !found.contains("13"), "{found:?}");
    let errors = "SELECT string_agg(images::text || error, ' ' ORDER BY error) FROM sluice.expansion";
    let errors: String = one(&world.owner, errors).await?;
    assert_eq!(errors, r#"[{"id" : "7"}]division by zero [22012] [{"id" : "13"}]no such person [P0001]"#);
    Ok(())
}

/// A hundred of them, with one page each, beside a rename and a resync: these wait for one time-out at most.
#[tokio::test]
async fn slow_keys_hold_up_neither_another_rename_nor_a_resync() -> Result<()> {
    let world = World::with(
        "CREATE TABLE demo.a (id bigint PRIMARY KEY, n int); CREATE TABLE demo.b (id bigint PRIMARY KEY, n int);
         INSERT INTO demo.a SELECT n FROM generate_series(1, 100) AS n; INSERT INTO demo.b VALUES (7);
         CREATE TABLE demo.doc (id bigint PRIMARY KEY); INSERT INTO demo.doc VALUES (1), (7);
         SELECT sluice.define_stream('docs', source => 'demo.doc', key => 'id', mapping => '{\"properties\": {\"id\": {}}}');
         SELECT sluice.track('demo.a', stream => 'docs', affects => 'SELECT $1.id FROM pg_catalog.pg_sleep(40)');
         SELECT sluice.track('demo.b', stream => 'docs', affects => 'SELECT id FROM demo.doc WHERE id = $1.id')",
    )
    .await?;
    let client = world.database.functions().await?;
    for id in 1..=100 {
        world.app.execute("UPDATE demo.a SET n = 1 WHERE id = $1", &[&i64::from(id)]).await?;
        collect(&client).await?;
    }
    world.app.batch_execute("UPDATE demo.b SET n = 1").await?;
    world.owner.batch_execute("SELECT sluice.resync('docs')").await?;
    assert_eq!(collect(&client).await?, 3);
    client.batch_execute("SET statement_timeout = '300ms'").await?;
    let mut failures = 0;
    while let done @ log::Slice { expansion: Some(_), .. } = client.expand(10, false, false).await? {
        failures += usize::from(done.failure.is_some());
    }
    assert_eq!(failures, 1, "of the slow table one was tried, and the others have all been worked off");
    let found: BTreeSet<String> = world.drain().await?.into_iter().map(|row| row.key).collect();
    assert_eq!(found, ["1", "7"].map(str::to_owned).into());
    assert_eq!(one::<i64>(&client, "SELECT count(*) FROM sluice.expansion").await?, 100, "nothing is dropped");

    // With more patience, once it is its time.
    world.owner.batch_execute("UPDATE sluice.expansion_turn SET due_at = now()").await?;
    assert!(client.expand(10, false, false).await?.slow_waits);
    assert!(client.expand(10, true, false).await?.failure.is_some());
    assert_eq!(client.expand(10, true, false).await?.expansion, None, "the table waits, and not each of its rows");
    Ok(())
}

#[tokio::test]
async fn keys_that_are_written_in_another_way_are_logged_as_the_source_has_them() -> Result<()> {
    let world = World::with(
        "CREATE TABLE demo.doc (id numeric PRIMARY KEY); INSERT INTO demo.doc VALUES (1.50);
         CREATE TABLE demo.line (id bigint PRIMARY KEY, doc text, n int); INSERT INTO demo.line VALUES (1, '1.5'), (2, '2.0'), (3, '01.5');
         SELECT sluice.define_stream('docs', source => 'demo.doc', key => 'id', mapping => '{\"properties\": {\"id\": {}}}');
         SELECT sluice.track('demo.line', stream => 'docs', affects => 'SELECT $1.doc')",
    )
    .await?;
    world.app.batch_execute("UPDATE demo.line SET n = 1").await?;
    world.fan_out(10).await?;
    let found: BTreeSet<String> = world.drain().await?.into_iter().map(|row| row.key).collect();
    assert!(found.contains("1.50") && found.contains("2.0"), "{found:?}");
    Ok(())
}
