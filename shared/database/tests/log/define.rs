//! Defining, tracking and forgetting; every bad input is refused with a clear error.

use anyhow::Result;
use localstack::APP_ROLE;

use crate::support::{World, facts, keys, one, refused};

const ITEM: &str = "source => 'demo.item', key => 'id', mapping => '{\"properties\": {\"id\": {}}}'";

#[tokio::test]
async fn bad_input_is_refused_with_its_name_and_a_remedy() -> Result<()> {
    let world = World::with(
        "CREATE TABLE demo.item (id bigint PRIMARY KEY, value text); CREATE VIEW demo.v AS SELECT * FROM demo.item",
    )
    .await?;
    world.owner.batch_execute(&format!("SELECT sluice.define_stream('items', {ITEM}); SELECT sluice.define_stream('letters', mapping => '{{\"properties\": {{}}}}')")).await?;
    // The statement, what the message names, what the hint says.
    let cases = [
        (
            "sluice.define_stream('Items', source => 'demo.item', key => 'id', mapping => '{\"properties\": {}}')",
            "'Items'",
            "lower-case",
        ),
        ("sluice.define_stream('a', source => 'demo.item', key => 'id', mapping => '[]')", "mapping", "properties"),
        (
            "sluice.define_stream('a', source => 'demo.item', key => 'id', mapping => '{\"id\": {}}')",
            "mapping",
            "properties",
        ),
        ("sluice.define_stream('a', source => 'demo.item', key => 'id', mapping => '[]')", "mapping", "properties"),
        (
            "sluice.define_stream('a', source => 'demo.item', key => 'id', mapping => '{\"dynamic\": true, \"properties\": {}}')",
            "dynamic",
            "Leave it out",
        ),
        (
            "sluice.define_stream('a', source => 'demo.item', key => 'id', mapping => '{\"properties\": {}}', settings => '[1]')",
            "settings",
            "number_of_replicas",
        ),
        (
            "sluice.define_stream('a', source => 'demo.item', mapping => '{\"properties\": {}}')",
            "key",
            "fed by sluice.emit",
        ),
        ("sluice.define_stream('a', source => 'demo.item', key => '', mapping => '{\"properties\": {}}')", "key", "id"),
        (
            "sluice.define_stream('a', source => 'demo.nothing', key => 'id', mapping => '{\"properties\": {}}')",
            "demo.nothing",
            "schema",
        ),
        (
            "sluice.define_stream('a', source => 'demo.item', key => 'nope', mapping => '{\"properties\": {}}')",
            "nope",
            "id, value",
        ),
        (
            "sluice.define_stream('a', source => 'demo.item', key => 'id', mapping => '{\"properties\": {\"nope\": {}}}')",
            "nope",
            "id, value",
        ),
        (
            "sluice.define_stream('items', source => 'demo.item', key => 'value', mapping => '{\"properties\": {}}')",
            "key",
            "Drop the stream",
        ),
        ("sluice.track('demo.item', stream => 'nobody', key => 'id')", "nobody", "Define it first"),
        ("sluice.track('demo.item', stream => 'letters', key => 'id')", "letters", "source"),
        ("sluice.track('demo.item', stream => 'items')", "key", "keys"),
        ("sluice.track('demo.item', stream => 'items', key => 'id', affects => 'SELECT $1.id')", "key", "keys"),
        ("sluice.track('demo.item', stream => 'items', key => '')", "column", "Its key: id"),
        ("sluice.track('demo.v', stream => 'items', key => 'id')", "demo.v", "tables"),
        ("sluice.track('demo.item', stream => 'items', key => 'nope')", "nope", "id, value"),
        ("sluice.track('demo.item', stream => 'items', key => 'id', columns => '{nope}')", "nope", "id, value"),
        ("sluice.track('demo.item', stream => 'items', key => 'id, value')", "1 column", "Its key: id"),
        ("sluice.track('demo.item', stream => 'items', affects => 'SELECT $1.id, 1')", "1 column", "Its key: id"),
        ("sluice.track('demo.item', stream => 'items', affects => 'SELECT $1.nope')", "nope", "id, value"),
        ("sluice.track('demo.item', stream => 'items', affects => 'SELECT 1')", "no column", "$1.id"),
        ("sluice.emit('nobody', 'a')", "nobody", "Define it first"),
        ("sluice.emit('items', '1', payload => '{}')", "items", "without a payload"),
        ("sluice.emit('letters', '1')", "letters", "payload"),
        ("sluice.emit('letters', '1', 'delete', '{}')", "letters", "payload"),
    ];
    for (statement, named, hint) in cases {
        let error = refused(&world.owner, &format!("SELECT {statement}")).await;
        assert!(error.message().contains(named), "{statement}: {error:?}");
        assert!(error.hint().is_some_and(|text| text.contains(hint)), "{statement}: {error:?}");
    }
    // These name it; there is nothing to add.
    let plain = [
        ("sluice.track('demo.nothing', stream => 'items', key => 'id')", "demo.nothing"),
        (
            "sluice.track('demo.item', stream => 'items', affects => 'SELECT id FROM demo.nothing WHERE id = $1.id')",
            "demo.nothing",
        ),
        ("sluice.emit('items', NULL)", "key"),
        ("sluice.emit('items', '1', 'insert')", "upsert or delete"),
        ("sluice.emit('letters', '1', payload => '[1]')", "JSON object"),
        ("sluice.resync('nobody')", "nobody"),
        ("sluice.resync('nobody', '{1}')", "nobody"),
        ("sluice.resync('letters')", "letters"),
    ];
    for (statement, named) in plain {
        let error = refused(&world.owner, &format!("SELECT {statement}")).await;
        assert!(error.message().contains(named), "{statement}: {error:?}");
    }
    let made: i64 = one(&world.owner, "SELECT count(*) FROM sluice.tracked").await?;
    let streams: i64 = one(&world.owner, "SELECT count(*) FROM sluice.stream").await?;
    let triggers: i64 =
        one(&world.owner, "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'demo.item'::regclass").await?;
    assert_eq!((made, streams, triggers), (0, 2, 0), "nothing is half-made");
    Ok(())
}

#[tokio::test]
async fn a_payload_that_no_message_can_hold_is_refused_in_the_writer() -> Result<()> {
    let world = World::with("SELECT sluice.define_stream('letters', mapping => '{\"properties\": {}}')").await?;
    let emit = |bytes: usize| {
        format!("SELECT sluice.emit('letters', 'a', payload => json_build_object('t', repeat('é', {})))", bytes / 2)
    };
    let error = refused(&world.owner, &emit(900_002)).await;
    assert!(
        error.message().contains("900000") && error.hint().is_some_and(|hint| hint.contains("source")),
        "{error:?}"
    );
    world.owner.batch_execute(&emit(899_000)).await?;
    Ok(())
}

#[tokio::test]
async fn the_same_definition_again_changes_nothing() -> Result<()> {
    let world = World::with("CREATE TABLE demo.item (id bigint PRIMARY KEY, value text)").await?;
    let both = format!(
        "SELECT sluice.define_stream('items', {ITEM}); SELECT sluice.track('demo.item', stream => 'items', key => 'id');
         SELECT sluice.track('demo.item', stream => 'items', affects => 'SELECT $1.id')"
    );
    let state = "SELECT (SELECT json_agg(json_build_array(s.xmin::text, s, t.xmin::text, t)) FROM sluice.stream AS s JOIN sluice.target AS t ON t.stream = s.name)::text \
                 || (SELECT string_agg(t::text, ' ' ORDER BY id) FROM sluice.tracked AS t) \
                 || (SELECT string_agg(tgname, ' ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = 'demo.item'::regclass)";
    world.owner.batch_execute(&both).await?;
    let before: String = one(&world.owner, state).await?;
    world.owner.batch_execute(&both).await?;
    world.owner.batch_execute(&both).await?;
    assert_eq!(one::<String>(&world.owner, state).await?, before);
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    assert_eq!(facts(&world.drain_after_live().await?), ["items 1 insert"]);
    Ok(())
}

#[tokio::test]
async fn other_columns_replace_the_ones_before() -> Result<()> {
    let world = World::new().await?;
    world
        .owner
        .batch_execute("SELECT sluice.track('demo.item', stream => 'items', key => 'id', columns => '{id}')")
        .await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1, 'a')").await?;
    world.drain().await?;
    world.app.batch_execute("UPDATE demo.item SET value = 'b'").await?;
    assert!(world.drain().await?.is_empty());
    world.owner.batch_execute("SELECT sluice.track('demo.item', stream => 'items', key => 'id')").await?;
    world.app.batch_execute("UPDATE demo.item SET value = 'c'").await?;
    assert_eq!(keys(&world.drain().await?), ["1"]);
    Ok(())
}

#[tokio::test]
async fn untrack_and_drop_stream_leave_the_tables_as_they_were() -> Result<()> {
    let world = World::new().await?;
    let count = "SELECT (SELECT count(*) FROM pg_trigger WHERE tgrelid = 'demo.item'::regclass) + (SELECT count(*) FROM pg_proc WHERE proname ~ '^capture_')";
    assert!(one::<i64>(&world.owner, count).await? > 0);
    world.owner.batch_execute("SELECT sluice.untrack('demo.item', 'items')").await?;
    assert_eq!(one::<i64>(&world.owner, count).await?, 0);
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    assert!(world.drain().await?.is_empty());

    world
        .owner
        .batch_execute(
            "SELECT sluice.track('demo.item', stream => 'items', key => 'id'); SELECT sluice.resync('items')",
        )
        .await?;
    world.owner.batch_execute("SELECT sluice.drop_stream('items')").await?;
    assert_eq!(one::<i64>(&world.owner, count).await?, 0);
    world.app.batch_execute("INSERT INTO demo.item VALUES (2)").await?;
    assert_eq!(world.fan_out(10).await?, 0, "what was to be fanned out for it is forgotten");
    Ok(())
}

#[tokio::test]
async fn a_table_that_the_owner_may_not_share_is_named_with_the_grant() -> Result<()> {
    let world = World::new().await?;
    let superuser = world.database.superuser().await?;
    superuser.batch_execute("CREATE SCHEMA other; CREATE TABLE other.thing (id bigint PRIMARY KEY)").await?;
    let define = "SELECT sluice.define_stream('things', source => 'other.thing', key => 'id', mapping => '{\"properties\": {}}')";
    for grant in ["SELECT 1", "GRANT USAGE ON SCHEMA other TO test_owner", "GRANT SELECT ON other.thing TO test_owner"]
    {
        superuser.batch_execute(grant).await?;
        let error = refused(&world.owner, define).await;
        assert_eq!(error.code().code(), "42501", "{error:?}");
    }
    let error = refused(&world.owner, define).await;
    let hint = error.hint().unwrap_or_default();
    assert!(hint.contains(&format!("GRANT SELECT ON other.thing TO {APP_ROLE}")), "{error:?}");
    superuser.batch_execute(hint.trim_start_matches("As the owner: ")).await?;
    world.owner.batch_execute(define).await?;
    Ok(())
}
