//! Three roles: the owner, the functions, the applications; and the way out.

use anyhow::Result;
use tokio_postgres::error::SqlState;

use crate::support::{Index, World, one, refused};

#[tokio::test]
async fn the_functions_may_not_change_what_is_defined() -> Result<()> {
    let world = World::new().await?;
    let client = world.database.functions().await?;
    for statement in [
        "CREATE TABLE sluice.mine ()",
        "CREATE TABLE demo.mine ()",
        "ALTER TABLE sluice.outbox ADD COLUMN mine int",
        "DROP TABLE sluice.outbox_1_1000001",
        "TRUNCATE sluice.outbox",
        "DELETE FROM sluice.outbox",
        "UPDATE sluice.outbox SET key = 'x'",
        "INSERT INTO sluice.subscription SELECT * FROM sluice.subscription",
        "DELETE FROM sluice.subscription",
        "UPDATE sluice.stream SET live_index = 'x'",
        "INSERT INTO demo.item VALUES (1)",
        "SELECT sluice.define_stream('a', mapping => '{}')",
        "SELECT sluice.track('demo.item', stream => 'items', key => 'id')",
        "SELECT sluice.untrack('demo.item', 'items')",
        "SELECT sluice.drop_stream('items')",
        "SELECT sluice.set_live('items', 'x', '{}')",
        "SELECT sluice.rebase()",
        "SELECT sluice.resync('items')",
        "UPDATE sluice.audit SET actor = 'somebody else'",
        "DELETE FROM sluice.audit",
        "SELECT sluice.subscribe('other')",
        "SELECT sluice.uninstall()",
        "SELECT sluice.drop_triggers(1)",
        "SELECT sluice.grant_read('demo.item')",
    ] {
        let error = refused(&client, statement).await;
        assert_eq!(error.code(), &SqlState::INSUFFICIENT_PRIVILEGE, "{statement}: {error:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_application_may_do_nothing_here() -> Result<()> {
    let world = World::new().await?;
    let functions = "SELECT array_agg(p.oid::regprocedure::text) FROM pg_proc AS p WHERE p.pronamespace = 'sluice'::regnamespace AND has_function_privilege('test_app', p.oid, 'EXECUTE')";
    assert_eq!(one::<Option<Vec<String>>>(&world.owner, functions).await?, None);
    let relations = "SELECT array_agg(c.oid::regclass::text) FROM pg_class AS c WHERE c.relnamespace = 'sluice'::regnamespace AND c.relkind IN ('r', 'p') \
                     AND (has_any_column_privilege('test_app', c.oid, 'SELECT, INSERT, UPDATE') OR has_table_privilege('test_app', c.oid, 'DELETE, TRUNCATE, TRIGGER'))";
    assert_eq!(one::<Option<Vec<String>>>(&world.owner, relations).await?, None);
    assert!(!one::<bool>(&world.owner, "SELECT has_schema_privilege('test_app', 'sluice', 'USAGE, CREATE')").await?);
    let error = refused(&world.app, "SELECT * FROM sluice.outbox").await;
    assert_eq!(error.code(), &SqlState::INSUFFICIENT_PRIVILEGE);
    Ok(())
}

#[tokio::test]
async fn an_application_that_is_granted_emit_may_call_it() -> Result<()> {
    let world = World::with("SELECT sluice.define_stream('letters', mapping => '{\"properties\": {}}')").await?;
    let grant = "GRANT USAGE ON SCHEMA sluice TO test_app; GRANT EXECUTE ON FUNCTION sluice.emit TO test_app";
    world.owner.batch_execute(grant).await?;
    world.app.batch_execute("SELECT sluice.emit('letters', 'a', payload => '{}')").await?;
    assert_eq!(world.drain().await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn an_owner_who_is_no_superuser_does_everything() -> Result<()> {
    let world = World::new().await?;
    assert!(!one::<bool>(&world.owner, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user").await?);
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    for statement in [
        "SELECT sluice.pause('elasticsearch')",
        "SELECT sluice.resume('elasticsearch')",
        "SELECT sluice.resync('items')",
        "SELECT sluice.resync('items', '{1}')",
        "SELECT sluice.maintain()",
        "SELECT * FROM sluice.status()",
        "SELECT * FROM sluice.stream_status()",
        "SELECT sluice.rebase()",
        "SELECT sluice.drop_stream('items')",
        "SELECT sluice.uninstall()",
        "DROP SCHEMA sluice CASCADE",
    ] {
        world
            .owner
            .batch_execute(statement)
            .await
            .map_err(|error| anyhow::anyhow!("{statement}: {}", database::describe(&error)))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_function_of_an_application_in_its_search_path_is_not_called() -> Result<()> {
    let world = World::new().await?;
    let trap = "CREATE FUNCTION demo.pg_current_xact_id() RETURNS xid8 LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
                CREATE FUNCTION demo.record_image_ne(record, record) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$";
    world.owner.batch_execute(trap).await?;
    world
        .app
        .batch_execute(
            "SET search_path = demo, pg_catalog; INSERT INTO item VALUES (1); UPDATE item SET id = 2; TRUNCATE item",
        )
        .await?;
    assert_eq!(world.drain().await?.len(), 4);
    Ok(())
}

#[tokio::test]
async fn uninstalling_leaves_no_trigger_of_ours_and_every_other() -> Result<()> {
    let world = World::new().await?;
    world
        .owner
        .batch_execute(
            "CREATE TABLE demo.event (id bigint, at int) PARTITION BY RANGE (at);
             CREATE TABLE demo.event_1 PARTITION OF demo.event FOR VALUES FROM (0) TO (100);
             SELECT sluice.define_stream('events', source => 'demo.event', key => 'id', mapping => '{\"properties\": {\"at\": {}}}');
             SELECT sluice.track('demo.event', stream => 'events', key => 'id');
             CREATE TABLE demo.event_2 PARTITION OF demo.event FOR VALUES FROM (100) TO (200);
             CREATE FUNCTION demo.own() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
             CREATE TRIGGER own BEFORE INSERT ON demo.item FOR EACH ROW EXECUTE FUNCTION demo.own();
             CREATE TRIGGER sluice_of_their_own BEFORE INSERT ON demo.item FOR EACH ROW EXECUTE FUNCTION demo.own()",
        )
        .await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    world.settle(&mut Index::default()).await?;
    world.owner.batch_execute("SELECT sluice.uninstall()").await?;
    let triggers = "SELECT array_agg(tgname::text ORDER BY tgname) FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid WHERE c.relnamespace = 'demo'::regnamespace AND NOT tgisinternal";
    assert_eq!(one::<Vec<String>>(&world.owner, triggers).await?, ["own", "sluice_of_their_own"]);
    assert!(!one::<bool>(&world.owner, "SELECT has_table_privilege('sluice_app', 'demo.item', 'SELECT') OR has_schema_privilege('sluice_app', 'demo', 'USAGE') AND NOT has_schema_privilege('public', 'demo', 'USAGE')").await?);
    world.owner.batch_execute("DROP SCHEMA sluice CASCADE; GRANT ALL ON ALL TABLES IN SCHEMA demo TO test_app").await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (2); UPDATE demo.item SET value = 'b'; TRUNCATE demo.item; INSERT INTO demo.event VALUES (1, 150); TRUNCATE demo.event").await?;
    Ok(())
}
