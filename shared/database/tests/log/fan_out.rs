//! Which documents show a changed row is found out by the drain, never in the writer's transaction.

use std::collections::BTreeSet;

use anyhow::Result;
use database::log;
use serde_json::json;

use crate::support::{Index, World, expand, keys, one};

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
    SELECT sluice.track('demo.person', stream => 'projects', keys => 'SELECT id FROM demo.project WHERE owner_id = $1.id')";

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
    assert_eq!(log::collect(&client).await?, 1);
    let mut slices = vec![];
    while let Some(expansion) = log::due_expansion(&client).await? {
        slices.push(log::expand(&client, expansion, 30_000).await?);
    }
    assert_eq!(slices, [30_000, 30_000, 30_000, 10_000]);
    let mut drainer = world.drainer().await?;
    let mut drained = vec![];
    while log::is_pending(&client, "elasticsearch").await? {
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
         SELECT sluice.track('demo.mayor', stream => 'countries', keys => 'SELECT country_id FROM demo.city WHERE id = $1.city_id')",
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
    log::collect(&client).await?;
    assert_eq!(expand(&client, 10).await?, 1, "the other expansion goes on");
    assert_eq!(keys(&world.drain().await?), ["7"]);
    let error: String = one(&client, "SELECT last_error FROM sluice.stream_status() WHERE stream = 'projects'").await?;
    assert!(error.contains("owner_id"), "{error}");
    assert_eq!(log::due_expansion(&client).await?, None, "it waits before it is tried again");

    world
        .owner
        .batch_execute(
            "ALTER TABLE demo.project RENAME COLUMN held_by TO owner_id; UPDATE sluice.expansion SET due_at = now()",
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
    log::collect(&client).await?;
    drop(client);
    let client = world.database.functions().await?;
    localstack::eventually("the crashed session's lock to be gone", async || match log::collect(&client).await {
        Ok(1) => Ok(()),
        seen => Err(format!("{seen:?}")),
    })
    .await;
    let expansion = log::due_expansion(&client).await?.expect("it was collected");
    log::expand(&client, expansion, 2).await?;
    client.batch_execute("BEGIN").await?;
    log::expand(&client, expansion, 2).await?;
    client.batch_execute("ROLLBACK").await?;
    expand(&client, 2).await?;
    assert_eq!(keys(&world.drain().await?), ["1", "2", "3", "4", "5"]);
    Ok(())
}
