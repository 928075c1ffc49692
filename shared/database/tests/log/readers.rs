//! Streams that are read with the rights of a role of their own: a database that several teams share.

use anyhow::Result;
use tokio_postgres::error::SqlState;

use crate::support::{Index, World, one, refused, source};

/// A team with a schema and a login of its own, and a view that tells with whose rights it is read. Nobody else may read any
/// of it. The log's owner may define streams for the team.
async fn world() -> Result<(World, String)> {
    let world = World::new().await?;
    let team = format!("team_{}", world.database.name);
    let superuser = world.database.superuser().await?;
    superuser
        .batch_execute(&format!(
            "CREATE ROLE {team}; GRANT {team} TO test_owner; CREATE SCHEMA team AUTHORIZATION {team};
             SET ROLE {team};
             CREATE TABLE team.person (id bigint PRIMARY KEY, name text);
             CREATE TABLE team.note (id bigint PRIMARY KEY, person_id bigint, text text);
             CREATE FUNCTION team.who() RETURNS text LANGUAGE sql AS 'SELECT current_user::text';
             CREATE VIEW team.shown AS
                 SELECT p.id, p.name, (SELECT max(n.text) FROM team.note AS n WHERE n.person_id = p.id) AS note, team.who() FROM team.person AS p;
             INSERT INTO team.person SELECT n, 'name ' || n FROM generate_series(1, 30) AS n",
        ))
        .await?;
    world.owner.batch_execute(&define(&team)).await?;
    crate::support::set_live(&world.owner).await?;
    Ok((world, team))
}

fn define(team: &str) -> String {
    format!(
        "SELECT sluice.define_stream('people', source => 'team.shown', key => 'id', reader => '{team}',
             mapping => '{{\"properties\": {{\"id\": {{}}, \"name\": {{}}, \"note\": {{}}, \"who\": {{}}}}}}');
         SELECT sluice.track('team.person', stream => 'people', key => 'id');
         SELECT sluice.track('team.note', stream => 'people', affects => 'SELECT $1.person_id WHERE team.who() = ''{team}''')"
    )
}

#[tokio::test]
async fn a_stream_is_read_with_the_rights_of_its_reader_and_no_others() -> Result<()> {
    let (world, team) = world().await?;
    let writer = world.database.superuser().await?;
    writer
        .batch_execute(
            "INSERT INTO team.note VALUES (1, 7, 'seven'); UPDATE team.person SET name = 'eight' WHERE id = 8",
        )
        .await?;
    world.owner.batch_execute("SELECT sluice.resync('people'); SELECT sluice.resync('people', '{007, 99}')").await?;
    let mut index = Index::default();
    world.settle(&mut index).await?;
    assert_eq!(index.documents("people").len(), 30);
    for (key, document) in source(&writer, "team.shown", "id").await? {
        let mut document: serde_json::Value = serde_json::from_str(&document)?;
        document["who"] = team.as_str().into();
        assert_eq!(index.get("people", &key), document);
    }
    assert_eq!(index.get("people", "7")["note"], "seven");
    let may = "SELECT bool_or(has_table_privilege('test_functions', c.oid, 'SELECT')) OR has_schema_privilege('test_functions', 'team', 'USAGE')
               FROM pg_class AS c WHERE c.relnamespace = 'team'::regnamespace AND c.relkind IN ('r', 'v')";
    assert!(!one::<bool>(&world.owner, may).await?, "the functions themselves may not read it");
    assert!(!one::<bool>(&world.owner, &format!("SELECT has_schema_privilege('{team}', 'sluice', 'CREATE')")).await?);
    assert_eq!(
        one::<Option<String>>(&world.owner, "SELECT problem FROM sluice.stream_status() WHERE stream = 'people'")
            .await?,
        None
    );

    // Without a reader it is the functions who need the rights; with the same one again nothing changes.
    world.owner.batch_execute(&define(&team)).await?;
    world
        .owner
        .batch_execute(&define(&team).replace(&format!("reader => '{team}',"), "").replace(&team, "test_functions"))
        .await?;
    writer
        .batch_execute("UPDATE team.person SET name = 'nine' WHERE id = 9; INSERT INTO team.note VALUES (2, 10, 'ten')")
        .await?;
    world.settle(&mut index).await?;
    assert_eq!(
        (&index.get("people", "9")["who"], &index.get("people", "10")["note"]),
        (&"test_functions".into(), &"ten".into())
    );
    Ok(())
}

/// Whatever the team's own functions try while they are run for the index.
#[tokio::test]
async fn a_source_with_a_reader_gets_at_nothing_and_leaves_nothing_behind() -> Result<()> {
    let (world, team) = world().await?;
    let superuser = world.database.superuser().await?;
    superuser
        .batch_execute(&format!(
            "CREATE SCHEMA evil AUTHORIZATION {team}; GRANT USAGE ON SCHEMA evil TO PUBLIC;
             CREATE TABLE team.loot (found text); ALTER TABLE team.loot OWNER TO {team}; SET ROLE {team};
             CREATE FUNCTION evil.eq(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO team.loot VALUES ('eq by ' || current_user); RETURN true; END $$;
             CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eq);
             CREATE FUNCTION team.tries(statement text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN EXECUTE statement; RETURN 'done: ' || current_user; EXCEPTION WHEN OTHERS THEN RETURN SQLERRM; END $$;
             CREATE OR REPLACE FUNCTION team.who() RETURNS text LANGUAGE sql AS $$ SELECT string_agg(team.tries(s), '; ') FROM unnest(ARRAY[
                 'RESET ROLE', 'SET ROLE NONE', 'SET LOCAL ROLE test_functions', 'SET SESSION AUTHORIZATION test_functions',
                 'INSERT INTO team.loot SELECT value FROM demo.item', 'INSERT INTO team.loot SELECT key FROM sluice.outbox',
                 'DELETE FROM sluice.waiting', 'SELECT sluice.advance(''elasticsearch'', 1000000)',
                 'SELECT sluice.\"read as {team}\"(''SELECT * FROM demo.item'', NULL, 0)']) AS s $$;
             CREATE FUNCTION team.sets() RETURNS text LANGUAGE plpgsql AS $$ BEGIN
                 PERFORM set_config('search_path', 'evil, pg_catalog', false), set_config('DateStyle', 'German', false), set_config('TimeZone', 'Asia/Tokyo', false),
                     set_config('extra_float_digits', '-5', false), set_config('statement_timeout', '1', false);
                 RETURN 'set'; END $$;
             CREATE OR REPLACE VIEW team.shown AS
                 SELECT p.id, p.name, team.sets() AS note, team.who() FROM team.person AS p"
        ))
        .await?;
    superuser.batch_execute("RESET ROLE; INSERT INTO demo.item VALUES (1, 'of another team'); UPDATE team.person SET name = 'x' WHERE id = 5; INSERT INTO team.note VALUES (1, 6, 'y')").await?;
    let client = world.database.functions().await?;
    let settings = "SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings WHERE name IN ('search_path', 'DateStyle', 'TimeZone', 'extra_float_digits', 'statement_timeout') \
                    OR source = 'session'";
    let before: String = one(&client, settings).await?;
    crate::support::collect(&client).await?;
    crate::support::expand(&client, 100).await?;
    assert_eq!(one::<String>(&client, settings).await?, before, "after the keys were found");
    let streams = database::streams(&client, "elasticsearch").await?;
    for in_transaction in [None, Some(std::time::Duration::from_secs(60))] {
        client.batch_execute(if in_transaction.is_some() { "BEGIN" } else { "" }).await?;
        let mut documents =
            streams["people"].read(&client, vec!["5".to_owned(), "99".to_owned()], 1 << 20, in_transaction);
        let mut read = vec![];
        while let Some((_, document)) = documents.next().await? {
            read.push(document);
        }
        let read = format!("{read:?}");
        assert!(
            read.contains("permission denied for table outbox") || read.contains("permission denied for schema sluice"),
            "{read}"
        );
        assert!(
            read.contains("permission denied for table item") || read.contains("permission denied for schema demo"),
            "{read}"
        );
        assert!(!read.contains("done"), "{read}");
        assert_eq!(one::<String>(&client, settings).await?, before, "after documents were read");
        client.batch_execute(if in_transaction.is_some() { "COMMIT" } else { "" }).await?;
    }
    assert_eq!(one::<Option<String>>(&superuser, "SELECT string_agg(found, ', ') FROM team.loot").await?, None);
    Ok(())
}

#[tokio::test]
async fn a_reader_is_refused_of_whom_the_caller_is_no_member_and_told_when_it_is_gone() -> Result<()> {
    let (world, team) = world().await?;
    let superuser = world.database.superuser().await?;
    let other = format!("other_{}", world.database.name);
    superuser
        .batch_execute(&format!(
            "CREATE ROLE {other}; GRANT ALL ON SCHEMA team TO {other}; GRANT SELECT ON team.shown TO {other}"
        ))
        .await?;
    let error = refused(&world.owner, &define(&other)).await;
    assert_eq!(error.code(), &SqlState::INSUFFICIENT_PRIVILEGE, "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains(&format!("GRANT {other} TO test_owner"))), "{error:?}");
    let error = refused(
        &world.owner,
        &format!("SELECT sluice.define_stream('letters', mapping => '{{\"properties\": {{}}}}', reader => '{team}')"),
    )
    .await;
    assert!(error.message().contains("nothing that"), "{error:?}");
    let dropped = refused(
        &superuser,
        &format!("REASSIGN OWNED BY {team} TO test_owner; DROP OWNED BY {team}; DROP ROLE {team}; SELECT 1/0"),
    )
    .await;
    assert_eq!(dropped.code(), &SqlState::DIVISION_BY_ZERO, "{dropped:?}");
    superuser.batch_execute(&format!("DROP FUNCTION sluice.\"read as {team}\"")).await?;
    let problem: String =
        one(&world.owner, "SELECT problem FROM sluice.stream_status() WHERE stream = 'people'").await?;
    assert!(problem.contains(&team) && problem.contains("define the stream anew"), "{problem}");
    world.owner.batch_execute(&define(&team)).await?;
    assert_eq!(
        one::<Option<String>>(&world.owner, "SELECT problem FROM sluice.stream_status() WHERE stream = 'people'")
            .await?,
        None
    );
    Ok(())
}
