//! What goes to clients, and what is refused.

use anyhow::Result;

use crate::world::World;

async fn refused(world: &World, arguments: &str) -> String {
    let statement = format!("SELECT sluice.define_bucket({arguments})");
    match world.owner.batch_execute(&statement).await {
        Ok(()) => panic!("{arguments} is taken"),
        Err(error) => database::describe(&error),
    }
}

#[tokio::test]
async fn what_cannot_work_is_refused_by_name_with_what_to_do() -> Result<()> {
    let world = World::create().await?;
    world
        .owner
        .batch_execute(
            "ALTER TABLE note ADD tags text[];
             CREATE TEMPORARY TABLE passing (name text);
             CREATE FUNCTION one(claims jsonb) RETURNS text LANGUAGE sql AS 'SELECT NULL::text';
             CREATE FUNCTION numbers(claims jsonb) RETURNS SETOF int LANGUAGE sql AS 'SELECT 1';
             CREATE FUNCTION of_text(claims text) RETURNS SETOF text LANGUAGE sql AS 'SELECT claims';
             SELECT sluice.define_stream('emitted')",
        )
        .await?;
    for (arguments, words) in [
        ("'nobody', 'tenant', 'public.tenants_of'", "there is no stream nobody"),
        ("'emitted', 'tenant', 'public.tenants_of'", "it is fed by sluice.emit"),
        ("'note', NULL, 'public.tenants_of'", "nothing says which buckets"),
        ("'note', 'owner', 'public.tenants_of'", "public.note has no column owner (stream note: bucket)"),
        ("'note', 'public.note', 'public.tenants_of'", "neither a column nor a query"),
        (
            "'note', 'tags', 'public.tenants_of'",
            "tags is an array, and a bucket has one name (For each of its elements: bucket => 'SELECT unnest($1.tags)'.)",
        ),
        ("'note', 'SELECT $1.owner', 'public.tenants_of'", "public.note has no column owner (stream note: bucket)"),
        ("'note', 'SELECT $1.tenant, $1.id', 'public.tenants_of'", "its query gives 2 columns"),
        (
            "'note', 'SELECT tenant FROM shares WHERE note = $1.id', 'public.tenants_of'",
            "stream note: bucket: relation \"shares\" does not exist (It runs in other sessions than yours",
        ),
        ("'note', 'SELECT name FROM passing', 'public.tenants_of'", "the temporary table passing"),
        ("'note', 'SELECT name FROM pg_temp.passing', 'public.tenants_of'", "the temporary table"),
        ("'note', 'SELECT $1.tenant ORDER', 'public.tenants_of'", "syntax error"),
        ("'note', 'tenant', NULL", "readers NULL is not the name of a function with its schema"),
        ("'note', 'tenant', 'tenants_of'", "readers 'tenants_of' is not the name"),
        ("'note', 'tenant', 'public.nobody'", "there is no function public.nobody(jsonb)"),
        ("'note', 'tenant', 'public.of_text'", "there is no function public.of_text(jsonb)"),
        ("'note', 'tenant', 'public.one'", "does not return SETOF text"),
        ("'note', 'tenant', 'public.numbers'", "does not return SETOF text"),
        ("'note', 'tenant', 'public.tenants_of', '{owner}'", "has no column owner"),
    ] {
        let told = refused(&world, arguments).await;
        assert!(told.contains(words), "{arguments}: {told}");
    }
    let stored = "SELECT count(*)::text FROM sluice.target WHERE subscription = 'sync'";
    assert_eq!(world.text(stored).await?, "0");
    Ok(())
}

#[tokio::test]
async fn what_is_there_is_brought_and_the_same_definition_again_changes_nothing() -> Result<()> {
    let world = World::create().await?;
    world
        .owner
        .batch_execute("INSERT INTO note VALUES (1, 'a', 'one'), (2, 'b', 'two'), (3, NULL, 'nobody''s')")
        .await?;
    let define = "SELECT sluice.define_bucket('note', bucket => 'tenant', readers => 'public.tenants_of')";
    world.owner.batch_execute(define).await?;
    world.drain().await?;
    world.is_whole().await?;
    let logged = "SELECT max(id)::text FROM sluice.outbox";
    let before = world.text(logged).await?;
    world.owner.batch_execute(define).await?;
    assert_eq!(world.text(logged).await?, before);

    // Others who may read it are no reason to read it again; other buckets are.
    world
        .owner
        .batch_execute("CREATE FUNCTION others(claims jsonb) RETURNS SETOF text LANGUAGE sql AS 'SELECT NULL::text'")
        .await?;
    world.owner.batch_execute(&define.replace("tenants_of", "others")).await?;
    assert_eq!(world.text(logged).await?, before);
    let readers = "SELECT live_mapping ->> 'readers' FROM sluice.target WHERE subscription = 'sync'";
    assert_eq!(world.text(readers).await?, "public.others");
    world.owner.batch_execute(&define.replace("'tenant'", "'SELECT ''all'''")).await?;
    world.drain().await?;
    let keys: Vec<_> = world.stored().await?.into_iter().map(|(name, items)| (name, items.len())).collect();
    assert_eq!(keys, [("all".to_owned(), 3)]);
    world.is_sound().await
}

#[tokio::test]
async fn clients_get_the_fields_that_are_named() -> Result<()> {
    let world = World::create().await?;
    let define = "SELECT sluice.define_bucket('note', 'tenant', 'public.tenants_of', '{text}')";
    world.owner.batch_execute(&format!("{define}; INSERT INTO note VALUES (1, 'a', 'one')")).await?;
    world.drain().await?;
    assert_eq!(world.stored().await?["a"]["1"], r#"{"id":1,"text":"one"}"#);
    Ok(())
}

/// Whatever the query calls its own tables and columns, and whatever the source does.
#[tokio::test]
async fn a_query_may_have_any_names() -> Result<()> {
    let world = World::create().await?;
    world
        .owner
        .batch_execute(
            r#"CREATE TABLE odd (s int PRIMARY KEY, f text, k text, d text, b text, image text, "the row" text);
               SELECT sluice.define_stream('odd', source => 'public.odd', key => 's');
               SELECT sluice.track('odd', stream => 'odd', key => 's');
               SELECT sluice.define_bucket('odd', 'SELECT b."the row" || s.image FROM public.odd AS s, public.odd AS b WHERE s.s = $1.s AND b.s = ($1).s -- $1', 'public.tenants_of');
               INSERT INTO odd VALUES (1, 'f', 'k', 'd', 'b', 'image', 'row')"#,
        )
        .await?;
    world.drain().await?;
    let stored = world.stored().await?;
    assert_eq!(stored["rowimage"]["1"], r#"{"b":"b","d":"d","f":"f","k":"k","s":1,"image":"image","the row":"row"}"#);
    Ok(())
}

#[tokio::test]
async fn what_is_withheld_or_dropped_is_gone_and_begins_anew() -> Result<()> {
    let world = World::with_buckets().await?;
    world.owner.batch_execute("INSERT INTO note VALUES (1, 'a', 'one'), (2, 'b', 'two')").await?;
    world.drain().await?;
    let seq = world.text("SELECT seq::text FROM sluice.sync_head").await?;
    world.owner.batch_execute("SELECT sluice.withhold('note', 'sync'); DELETE FROM note WHERE id = 1").await?;
    let rows = "SELECT ((SELECT count(*) FROM sluice.bucket) + (SELECT count(*) FROM sluice.bucket_item))::text";
    assert_eq!(world.text(rows).await?, "0");
    assert_eq!(world.text("SELECT seq::text FROM sluice.sync_head").await?, seq, "a cursor never goes back");
    world.owner.batch_execute("SELECT sluice.define_bucket('note', 'tenant', 'public.tenants_of')").await?;
    world.drain().await?;
    world.is_whole().await?;
    world.owner.batch_execute("SELECT sluice.drop_stream('note')").await?;
    assert_eq!(world.text(rows).await?, "0");
    Ok(())
}

/// With the rights of the stream's reader: it may read the table of the query, and the functions may not.
#[tokio::test]
async fn buckets_are_found_with_the_rights_of_the_streams_reader() -> Result<()> {
    let world = World::create().await?;
    let reader = format!("reader_{}", world.database.name);
    let superuser = world.database.superuser().await?;
    superuser
        .batch_execute(&format!(
            "CREATE ROLE {reader}; GRANT {reader} TO test_owner; CREATE SCHEMA hidden AUTHORIZATION test_owner"
        ))
        .await?;
    world
        .owner
        .batch_execute(&format!(
            "CREATE TABLE hidden.note (id int PRIMARY KEY, tenant text); CREATE TABLE hidden.owner (note int, name text);
             SELECT sluice.define_stream('hidden', source => 'hidden.note', key => 'id', reader => '{reader}');
             SELECT sluice.track('hidden.note', stream => 'hidden', key => 'id');
             SELECT sluice.define_bucket('hidden', 'SELECT name FROM hidden.owner WHERE note = $1.id', 'public.tenants_of');
             INSERT INTO hidden.owner VALUES (1, 'a'); INSERT INTO hidden.note VALUES (1, 'x')"
        ))
        .await?;
    world.drain().await?;
    assert_eq!(world.stored().await?["a"]["1"], r#"{"id":1,"tenant":"x"}"#);
    let may = "SELECT has_table_privilege((SELECT app FROM sluice.roles), 'hidden.owner', 'SELECT')::text";
    assert_eq!(world.text(may).await?, "false");
    Ok(())
}
