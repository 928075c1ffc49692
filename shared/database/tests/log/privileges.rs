//! Three roles: the owner, the functions, the applications; and the way out.

use anyhow::Result;
use localstack::{APP_ROLE, Database};
use tokio_postgres::error::SqlState;

use crate::support::{Index, World, one, refused};

const CAPTURE_ROLE: &str = "sluice_capture_sluice_unfinished";

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
        "UPDATE sluice.target SET live_index = 'x'",
        "INSERT INTO demo.item VALUES (1)",
        "SELECT sluice.define_stream('a', mapping => '{}')",
        "SELECT sluice.track('demo.item', stream => 'items', key => 'id')",
        "SELECT sluice.untrack('demo.item', 'items')",
        "SELECT sluice.drop_stream('items')",
        "SELECT sluice.set_live('elasticsearch', 'items', 'x', '{}')",
        "SELECT sluice.rebase()",
        "SELECT sluice.resync('items')",
        "UPDATE sluice.audit SET actor = 'somebody else'",
        "DELETE FROM sluice.audit",
        "SELECT sluice.subscribe('other')",
        "SELECT sluice.uninstall()",
        "SELECT sluice.drop_triggers(1)",
        "SELECT sluice.grant_read('demo.item', '{}')",
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
    for role in [APP_ROLE, CAPTURE_ROLE] {
        let is_left = format!("SELECT has_table_privilege('{role}', 'demo.item', 'SELECT')");
        assert!(!one::<bool>(&world.owner, &is_left).await?, "{role}");
    }
    world.owner.batch_execute("DROP SCHEMA sluice CASCADE; GRANT ALL ON ALL TABLES IN SCHEMA demo TO test_app").await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (2); UPDATE demo.item SET value = 'b'; TRUNCATE demo.item; INSERT INTO demo.event VALUES (1, 150); TRUNCATE demo.event").await?;
    Ok(())
}

#[tokio::test]
async fn every_function_has_a_search_path_of_its_own() -> Result<()> {
    let world = World::new().await?;
    let unpinned = "SELECT array_agg(p.oid::regprocedure::text) FROM pg_proc AS p
        WHERE p.pronamespace = 'sluice'::regnamespace AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false)";
    assert_eq!(one::<Option<Vec<String>>>(&world.owner, unpinned).await?, None);
    Ok(())
}

/// In a database that was upgraded from 14, anybody may create in public, and what they make there is more exact than
/// what PostgreSQL has: a `format` of three arguments, an operator of text and name.
#[tokio::test]
async fn who_may_create_in_public_runs_nothing_with_our_rights() -> Result<()> {
    let world = World::new().await?;
    world.database.superuser().await?.batch_execute("GRANT CREATE ON SCHEMA public TO test_app").await?;
    let mut traps = "CREATE TABLE public.loot (who text, what text); GRANT INSERT ON public.loot TO PUBLIC;".to_owned();
    let texts = [
        "text",
        "text, text",
        "text, text, text",
        "text, text, text, text",
        "text, xid8, text",
        "text, name",
        "text, regclass",
        "text, regclass, text",
        "text, integer",
        "text, bigint",
    ];
    for arguments in texts {
        traps += &format!(
            "CREATE FUNCTION public.format({arguments}) RETURNS text LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.loot VALUES (current_user, 'format'); RETURN NULL; END $$;"
        );
    }
    for (name, arguments, returns) in [
        ("quote_ident", "name", "text"),
        ("string_agg", "text, text", "text"),
        ("array_to_string", "text[], text", "text"),
        ("to_regclass", "text", "regclass"),
        ("pg_snapshot_xmax", "pg_snapshot", "xid8"),
        ("has_table_privilege", "regrole, oid, text", "boolean"),
        ("md5", "text", "text"),
        ("coalesce_text", "text", "text"),
    ] {
        traps += &format!(
            "CREATE FUNCTION public.{name}({arguments}) RETURNS {returns} LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.loot VALUES (current_user, '{name}'); RETURN NULL; END $$;"
        );
    }
    for (operator, left, right, returns) in [
        ("||", "text", "regclass", "text"),
        ("||", "text", "name", "text"),
        ("=", "name", "text", "boolean"),
        ("=", "oid", "regclass", "boolean"),
        ("<>", "text", "name", "boolean"),
    ] {
        let name = format!("op_{}_{left}_{right}", operator.len() + returns.len());
        traps += &format!(
            "CREATE FUNCTION public.{name}({left}, {right}) RETURNS {returns} LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.loot VALUES (current_user, '{operator}'); RETURN NULL; END $$;
             CREATE OPERATOR public.{operator} (LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = public.{name});"
        );
    }
    world.app.batch_execute(&traps).await?;
    // Sessions whose path has public, as by psql: each call brings its own.
    world.owner.batch_execute(
        "SET search_path = public, pg_catalog;
         CREATE TABLE demo.other (id bigint PRIMARY KEY, value text); GRANT ALL ON demo.other TO test_app;
         SELECT sluice.define_stream('others', source => 'demo.other', key => 'id', mapping => '{\"properties\": {\"value\": {}}}');
         SELECT sluice.track('demo.other', stream => 'others', key => 'id', columns => '{value}');
         SELECT sluice.track('demo.other', stream => 'items', affects => 'SELECT id FROM demo.item WHERE id = $1.id');
         SELECT sluice.resync('others'); SELECT sluice.untrack('demo.other', 'items'); SELECT sluice.maintain();
         SELECT sluice.set_live('elasticsearch', 'others', 'others-1', '{\"properties\": {\"value\": {}}}')").await?;
    world.app.batch_execute("SET search_path = public, pg_catalog; INSERT INTO demo.item VALUES (1, 'a'); UPDATE demo.item SET id = 2; INSERT INTO demo.other VALUES (1, 'a'); TRUNCATE demo.other").await?;
    let functions = world.database.functions().await?;
    functions.batch_execute(
        "SET search_path = public, pg_catalog;
         SELECT sluice.pending('elasticsearch'), sluice.collect(), sluice.log_bytes(); SELECT * FROM sluice.status(); SELECT * FROM sluice.stream_status();
         SELECT * FROM sluice.page('elasticsearch', 0, 10); SELECT sluice.finish('elasticsearch'); SELECT sluice.read_query(s, sluice.fields_of(t)) FROM sluice.stream AS s JOIN sluice.target AS t ON t.stream = s.name").await?;
    // The functions' own session.
    world.settle(&mut Index::default()).await?;
    world.owner.batch_execute("RESET search_path; SELECT sluice.drop_stream('others')").await?;
    let loot = "SELECT pg_catalog.string_agg(DISTINCT who || ' ' || what, ', ') FROM public.loot";
    assert_eq!(one::<Option<String>>(&world.app, loot).await?, None);
    Ok(())
}

/// A table's owner, who is no member of anything, gives a noted column a type whose casts are functions of their own.
#[tokio::test]
async fn a_cast_of_a_tables_owner_is_never_called() -> Result<()> {
    let world = World::new().await?;
    let superuser = world.database.superuser().await?;
    superuser.batch_execute(
        "CREATE SCHEMA app AUTHORIZATION test_app; SET ROLE test_app; CREATE TABLE app.thing (id bigint PRIMARY KEY, other bigint);
         GRANT ALL ON app.thing TO test_owner WITH GRANT OPTION; GRANT USAGE ON SCHEMA app TO test_owner WITH GRANT OPTION").await?;
    world
        .owner
        .batch_execute(
            "SELECT sluice.track('app.thing', stream => 'items', key => 'id');
         SELECT sluice.track('app.thing', stream => 'items', affects => 'SELECT id FROM demo.item WHERE id = $1.other')",
        )
        .await?;
    world
        .app
        .batch_execute(
            "CREATE TYPE app.mood AS ENUM ('a', 'b'); CREATE TYPE app.pair AS (n int);
         CREATE TABLE app.loot (who text); GRANT INSERT ON app.loot TO PUBLIC; GRANT USAGE ON SCHEMA app TO PUBLIC",
        )
        .await?;
    for kind in ["mood", "pair", "mood[]"] {
        let name = kind.trim_end_matches("[]");
        for target in ["text", "json", "jsonb", "varchar"] {
            let function = format!("app.to_{target}(app.{kind})");
            world.app.batch_execute(&format!("CREATE FUNCTION {function} RETURNS {target} LANGUAGE plpgsql AS $$ BEGIN INSERT INTO app.loot VALUES (current_user); RETURN NULL; END $$")).await?;
            // Nobody owns an array's type but with its element's, and a cast of it is refused by some versions.
            let cast = world
                .app
                .batch_execute(&format!("CREATE CAST (app.{kind} AS {target}) WITH FUNCTION {function} AS IMPLICIT"))
                .await;
            assert!(cast.is_ok() || kind.ends_with(']'), "{name} {target}: {cast:?}");
        }
    }
    // The triggers that name the columns are theirs to drop, with the table.
    world.app.batch_execute(
        "DO $$ DECLARE n name; BEGIN FOR n IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'app.thing'::regclass AND tgname ~ '_(noted|update)$' LOOP
             EXECUTE format('DROP TRIGGER %I ON app.thing', n); END LOOP; END $$;
         ALTER TABLE app.thing DROP CONSTRAINT thing_pkey").await?;
    for (kind, value) in [("mood", "a"), ("pair", "(1)"), ("mood[]", "{a}")] {
        world.app.batch_execute(&format!(
            "TRUNCATE app.thing; ALTER TABLE app.thing ALTER id TYPE app.{kind} USING NULL, ALTER other TYPE app.{kind} USING NULL;
             INSERT INTO app.thing VALUES ('{value}', '{value}'); DELETE FROM app.thing; INSERT INTO app.thing VALUES ('{value}', '{value}')")).await?;
    }
    // Tracked anew, as the owner of the schema would.
    world
        .owner
        .batch_execute("DO $$ BEGIN PERFORM sluice.track('app.thing', stream => 'items', key => 'id'); END $$")
        .await?;
    world.app.batch_execute("INSERT INTO app.thing VALUES ('{a}', '{b}'); TRUNCATE app.thing").await?;
    assert_eq!(one::<Option<String>>(&world.app, "SELECT string_agg(DISTINCT who, ', ') FROM app.loot").await?, None);
    Ok(())
}

#[tokio::test]
async fn the_triggers_functions_may_add_to_the_log_and_read_what_is_tracked() -> Result<()> {
    let world = World::with("CREATE TABLE demo.item (id bigint PRIMARY KEY); CREATE TABLE demo.secret (id bigint);
        SELECT sluice.define_stream('items', source => 'demo.item', key => 'id', mapping => '{\"properties\": {\"id\": {}}}');
        SELECT sluice.track('demo.item', stream => 'items', key => 'id')").await?;
    let owners =
        "SELECT array_agg(DISTINCT pg_get_userbyid(proowner)::text) FROM pg_proc WHERE proname ~ '^capture_[0-9]'";
    assert_eq!(one::<Vec<String>>(&world.owner, owners).await?, [CAPTURE_ROLE]);
    let may = format!("SELECT string_agg(c.oid::regclass || ' ' || p, ', ' ORDER BY c.oid::regclass::text, p) FROM pg_class AS c
        CROSS JOIN unnest('{{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}}'::text[]) AS p
        WHERE c.relkind IN ('r', 'p', 'v') AND c.relnamespace IN ('sluice'::regnamespace, 'demo'::regnamespace) AND has_table_privilege('{CAPTURE_ROLE}', c.oid, p)");
    assert_eq!(
        one::<String>(&world.owner, &may).await?,
        "demo.item SELECT, sluice.heart SELECT, sluice.heartbeat SELECT, sluice.outbox INSERT, sluice.tracked SELECT"
    );
    let role = format!(
        "SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolcanlogin OR rolbypassrls OR rolreplication OR has_schema_privilege(oid, 'sluice', 'CREATE') FROM pg_roles WHERE rolname = '{CAPTURE_ROLE}'"
    );
    assert!(!one::<bool>(&world.owner, &role).await?);
    Ok(())
}

/// A stage's login in the production's database of the same cluster.
#[tokio::test]
async fn the_functions_of_one_database_may_do_nothing_in_another() -> Result<()> {
    let world = World::new().await?;
    let other = Database::create_empty().await?;
    let stranger = world.database.functions().await?;
    let owner = other.owner().await?;
    owner.batch_execute("CREATE SCHEMA sluice").await?;
    owner.batch_execute(include_str!("../../../../migrations/V1__log.sql")).await?;
    let roles = format!("sluice_app_{0}, sluice_capture_{0}", other.name);
    assert_eq!(one::<String>(&owner, "SELECT app || ', ' || capture FROM sluice.roles").await?, roles);
    assert!(!one::<bool>(&owner, "SELECT pg_has_role('test_functions', app, 'MEMBER') FROM sluice.roles").await?);
    drop(stranger);
    Ok(())
}

#[tokio::test]
async fn a_role_of_this_name_whose_members_are_unknown_is_refused() -> Result<()> {
    let database = Database::create_empty().await?;
    let (superuser, owner) = (database.superuser().await?, database.owner().await?);
    superuser.batch_execute(&format!("CREATE ROLE sluice_app_{0}; GRANT sluice_app_{0} TO test_app, test_owner WITH ADMIN OPTION; CREATE SCHEMA sluice AUTHORIZATION test_owner", database.name)).await?;
    let migrate = include_str!("../../../../migrations/V1__log.sql");
    let error = refused(&owner, migrate).await;
    assert!(error.message().contains("test_app"), "{error:?}");
    superuser.batch_execute(error.hint().unwrap_or_default().trim_start_matches("As who granted it: ")).await?;
    owner.batch_execute(migrate).await?;
    Ok(())
}
