//! What cannot work is refused, or warned of, when it is defined; and what the functions need is granted.

use anyhow::Result;
use localstack::APP_ROLE;

use crate::support::{World, one, refused, warnings};

const TABLES: &str = "
    CREATE TABLE demo.item (id bigint PRIMARY KEY, value text, gone_at timestamptz);
    CREATE TABLE demo.kind (id bigint PRIMARY KEY);
    CREATE TABLE demo.document (id json, n int, part int);
    CREATE SEQUENCE demo.number;
    CREATE TYPE demo.pair AS (a int);
    CREATE MATERIALIZED VIEW demo.stale AS SELECT id FROM demo.item;
    CREATE VIEW demo.over_stale AS SELECT id FROM demo.stale;
    CREATE VIEW demo.recent AS SELECT id FROM demo.item WHERE gone_at > now();
    CREATE VIEW demo.living AS SELECT id, value FROM demo.item WHERE gone_at IS NULL;
    CREATE FUNCTION demo.price(n bigint) RETURNS bigint LANGUAGE sql AS 'SELECT n';
    CREATE VIEW demo.priced AS SELECT id, demo.price(id) AS price FROM demo.item";

fn define(source: &str, key: &str) -> String {
    format!(
        "SELECT sluice.define_stream('s', source => '{source}', key => '{key}', mapping => '{{\"properties\": {{\"id\": {{}}}}}}')"
    )
}

#[tokio::test]
async fn a_source_that_cannot_work_is_refused_with_what_to_do() -> Result<()> {
    let world = World::with(TABLES).await?;
    world.owner.batch_execute("CREATE TEMPORARY TABLE passing (id bigint PRIMARY KEY)").await?;
    for (source, key, named, hint) in [
        ("item", "id", "item", "SCHEMA.item"),
        ("passing", "id", "passing", "SCHEMA"),
        ("pg_temp.passing", "id", "temporary", "stays"),
        ("demo.number", "last_value", "demo.number", "table or a view"),
        ("demo.pair", "a", "demo.pair", "table or a view"),
        ("demo.item_pkey", "id", "demo.item_pkey", "table or a view"),
        ("demo.document", "id", "json", "order"),
        ("demo.document", "n, n", "twice", "once"),
    ] {
        let error = refused(&world.owner, &define(source, key)).await;
        assert!(error.message().contains(named), "{source}: {error:?}");
        assert!(error.hint().is_some_and(|text| text.contains(hint)), "{source}: {error:?}");
    }
    assert_eq!(one::<i64>(&world.owner, "SELECT count(*) FROM sluice.stream").await?, 0);
    Ok(())
}

#[tokio::test]
async fn what_changes_without_a_trigger_is_warned_of_with_the_resync() -> Result<()> {
    let world = World::with(TABLES).await?;
    for (source, named) in [
        ("demo.stale", "REFRESH"),
        ("demo.over_stale", "demo.stale"),
        ("demo.recent", "time passes"),
        ("demo.priced", "demo.price(bigint)"),
    ] {
        let told = warnings(&world, &define(source, "id")).await?;
        assert!(told.len() == 1 && told[0].contains(named), "{source}: {told:?}");
        world.owner.batch_execute("SELECT sluice.drop_stream('s')").await?;
    }
    assert_eq!(warnings(&world, &define("demo.living", "id")).await?, [""; 0]);
    // What the view filters by.
    let track =
        |columns: &str| format!("SELECT sluice.track('demo.item', stream => 's', key => 'id', columns => '{columns}')");
    let told = warnings(&world, &track("{value}")).await?;
    assert!(told.len() == 1 && told[0].contains("gone_at") && !told[0].contains("value"), "{told:?}");
    assert_eq!(warnings(&world, &track("{value, gone_at}")).await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn keys_with_names_that_only_a_search_path_finds_are_refused() -> Result<()> {
    let world = World::with(TABLES).await?;
    world.owner.batch_execute(&define("demo.living", "id")).await?;
    world.owner.batch_execute("CREATE TABLE public.kind AS SELECT 1::bigint AS id; CREATE TEMPORARY TABLE mine (id bigint); SET search_path = demo, public").await?;
    for keys in [
        "SELECT id FROM kind WHERE id = $1.id",
        "SELECT price($1.id)",
        "SELECT id FROM mine WHERE id = $1.id",
        "SELECT id FROM demo.nothing WHERE id = $1.id",
    ] {
        let error =
            refused(&world.owner, &format!("SELECT sluice.track('demo.item', stream => 's', affects => '{keys}')"))
                .await;
        assert!(error.hint().is_some_and(|hint| hint.contains("with their schema")), "{keys}: {error:?}");
    }
    world
        .owner
        .batch_execute(
            "SELECT sluice.track('item', stream => 's', affects => 'SELECT id FROM demo.item WHERE id = $1.id')",
        )
        .await?;
    Ok(())
}

#[tokio::test]
async fn what_a_view_reads_and_calls_with_its_readers_rights_is_granted_or_named() -> Result<()> {
    let world = World::with(TABLES).await?;
    world.owner.batch_execute(
        "REVOKE EXECUTE ON FUNCTION demo.price FROM PUBLIC;
         CREATE SCHEMA types; CREATE DOMAIN types.code AS bigint;
         CREATE VIEW demo.invoker WITH (security_invoker = true) AS SELECT i.id::types.code AS id, demo.price(i.id) AS price FROM demo.item AS i JOIN demo.kind AS k USING (id);
         INSERT INTO demo.item VALUES (1); INSERT INTO demo.kind VALUES (1)").await?;
    world.owner.batch_execute(&define("demo.invoker", "id")).await?;
    world
        .owner
        .batch_execute("SELECT sluice.track('demo.item', stream => 's', key => 'id'); SELECT sluice.resync('s', '{1}')")
        .await?;
    let mut index = crate::support::Index::default();
    crate::support::set_live(&world.owner).await?;
    world.settle(&mut index).await?;
    assert_eq!(index.get("s", "1"), serde_json::json!({"id": 1}));

    let superuser = world.database.superuser().await?;
    superuser.batch_execute("CREATE SCHEMA other; GRANT USAGE ON SCHEMA other TO test_owner; CREATE FUNCTION other.f(bigint) RETURNS bigint LANGUAGE sql AS 'SELECT $1' SET search_path = pg_catalog;
        REVOKE EXECUTE ON FUNCTION other.f FROM PUBLIC; GRANT EXECUTE ON FUNCTION other.f TO test_owner").await?;
    world.owner.batch_execute("CREATE VIEW demo.foreign_call AS SELECT other.f(id) AS id FROM demo.item").await?;
    let error = refused(&world.owner, &define("demo.foreign_call", "id").replace("'s'", "'t'")).await;
    assert_eq!(
        error.hint(),
        Some(format!("As the owner: GRANT EXECUTE ON FUNCTION other.f(bigint) TO {APP_ROLE};").as_str()),
        "{error:?}"
    );
    Ok(())
}

#[tokio::test]
async fn who_may_make_no_trigger_is_told_the_grant() -> Result<()> {
    let world = World::with(TABLES).await?;
    world.owner.batch_execute(&define("demo.living", "id")).await?;
    let superuser = world.database.superuser().await?;
    superuser.batch_execute("CREATE SCHEMA other; GRANT USAGE ON SCHEMA other TO test_owner WITH GRANT OPTION; CREATE TABLE other.t (id bigint); GRANT SELECT ON other.t TO test_owner WITH GRANT OPTION").await?;
    let track = "SELECT sluice.track('other.t', stream => 's', key => 'id')";
    let error = refused(&world.owner, track).await;
    assert_eq!(error.hint(), Some("As the owner: GRANT TRIGGER ON other.t TO test_owner;"), "{error:?}");
    superuser.batch_execute("GRANT TRIGGER ON other.t TO test_owner").await?;
    world.owner.batch_execute(track).await?;
    superuser.batch_execute("CREATE SCHEMA closed; CREATE TABLE closed.t (id bigint)").await?;
    let error = refused(&world.owner, &define("closed.t", "id")).await;
    assert_eq!(error.hint(), Some("As the schema's owner: GRANT USAGE ON SCHEMA closed TO test_owner;"), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_misspelt_name_is_told() -> Result<()> {
    let world = World::with(TABLES).await?;
    world.owner.batch_execute(&define("demo.living", "id")).await?;
    for statement in [
        "SELECT sluice.untrack('demo.item', 's')",
        "SELECT sluice.untrack('demo.item', 'nobody')",
        "SELECT sluice.drop_stream('nobody')",
    ] {
        let error = refused(&world.owner, statement).await;
        assert!(error.code().code() == "42704" && error.hint().is_some(), "{statement}: {error:?}");
    }
    Ok(())
}
