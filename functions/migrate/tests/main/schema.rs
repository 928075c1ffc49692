use migrate::schema::Migration;
use migrate::{Command, Error, Report, schema};

use crate::fixture::Fixture;

fn numbered(version: i32, name: &'static str, sql: &'static str) -> Migration {
    Migration { version, name: name.into(), sql: sql.into() }
}

#[tokio::test]
async fn a_fresh_database_gets_the_schema_and_a_second_run_has_nothing_to_do() {
    let fixture = Fixture::new().await;
    let lines = fixture.run(Command::Migrate).await.unwrap();
    assert!(lines[0].starts_with("schema: applied V1__"), "{lines:?}");
    let version: i32 = fixture.value("SELECT max(version) FROM sluice.schema_history").await;
    assert_eq!(version, schema::migrations().iter().map(|migration| migration.version).max().unwrap());

    let lines = fixture.run(Command::Migrate).await.unwrap();
    assert!(lines.len() == 1 && lines[0].starts_with("nothing to do"), "{lines:?}");
    fixture.remove().await;
}

#[tokio::test]
async fn a_failing_migration_leaves_the_old_schema_as_it_was() {
    let fixture = Fixture::new().await;
    let mut client = fixture.database.owner().await.unwrap();
    let mut migrations = schema::migrations();
    migrations.push(numbered(900, "good", "CREATE TABLE sluice.half_made ()"));
    migrations.push(numbered(901, "bad", "SELECT * FROM sluice.no_such_table"));
    let mut report = Report::new(|_| {});

    // From nothing: nothing is left.
    let error = schema::migrate(&mut client, &migrations, &mut report).await.unwrap_err();
    assert!(matches!(error, Error::Schema { .. }), "{error}");
    let told = error.to_string();
    assert!(told.contains("no_such_table") && told.contains("V901__bad"), "{told}");
    assert!(fixture.value::<bool>("SELECT to_regnamespace('sluice') IS NULL").await);

    // From the version before: that one is left, and works.
    fixture.run(Command::Migrate).await.unwrap();
    let error = schema::migrate(&mut client, &migrations, &mut report).await.unwrap_err();
    assert!(error.to_string().contains("left as it was"), "{error}");
    assert!(fixture.value::<bool>("SELECT to_regclass('sluice.half_made') IS NULL").await);
    assert!(fixture.run(Command::Migrate).await.unwrap()[0].starts_with("nothing to do"));
    fixture.remove().await;
}

#[tokio::test]
async fn a_schema_of_a_newer_release_is_left_alone() {
    let fixture = Fixture::new().await;
    let mut client = fixture.database.owner().await.unwrap();
    let mut migrations = schema::migrations();
    migrations.push(numbered(900, "newer", "CREATE TABLE sluice.newer ()"));
    schema::migrate(&mut client, &migrations, &mut Report::new(|_| {})).await.unwrap();
    fixture.run(Command::Migrate).await.unwrap();
    assert!(fixture.run(Command::Migrate).await.unwrap()[0].starts_with("nothing to do: the schema has version 900"));
    fixture.remove().await;
}

#[tokio::test]
async fn two_runs_at_once_make_everything_once() {
    let fixture = Fixture::new().await;
    let (one, other) = tokio::join!(fixture.run(Command::Migrate), fixture.run(Command::Migrate));
    let mut lines = [one.unwrap(), other.unwrap()].concat();
    lines.sort();
    assert!(lines[0].starts_with("nothing to do") && lines[1].starts_with("schema: applied"), "{lines:?}");
    fixture.remove().await;
}

#[tokio::test]
async fn changed_functions_are_applied_once_and_keep_the_applications_grants() {
    let fixture = Fixture::new().await;
    fixture.run(Command::Migrate).await.unwrap();
    fixture.owner.batch_execute("GRANT EXECUTE ON FUNCTION sluice.emit TO test_app").await.unwrap();
    // As a release before this one left them.
    let before = "CREATE OR REPLACE FUNCTION sluice.log_bytes() RETURNS bigint LANGUAGE sql AS 'SELECT 0::bigint';
                  UPDATE sluice.schema_history SET checksum = 'another' WHERE version = 0";
    fixture.owner.batch_execute(before).await.unwrap();
    assert!(fixture.run(Command::Migrate).await.unwrap()[0].starts_with("schema: applied the functions"));
    assert!(fixture.value::<i64>("SELECT sluice.log_bytes()").await > 0);
    assert!(
        fixture
            .value::<bool>("SELECT has_function_privilege('test_app', 'sluice.emit(text,text,text,json)', 'EXECUTE')")
            .await
    );
    assert!(fixture.run(Command::Migrate).await.unwrap()[0].starts_with("nothing to do"));
    fixture.remove().await;
}

#[tokio::test]
async fn a_schema_that_other_files_made_is_refused_and_left_as_it_was() {
    let fixture = Fixture::new().await;
    let made = "CREATE SCHEMA sluice;
                CREATE TABLE sluice.schema_history (version int4 PRIMARY KEY, name varchar(255), applied_on varchar(255), checksum varchar(255));
                INSERT INTO sluice.schema_history VALUES (1, 'log', '2026-01-01T00:00:00Z', '4711')";
    fixture.owner.batch_execute(made).await.unwrap();
    let told = fixture.run(Command::Migrate).await.unwrap_err().to_string();
    assert!(told.contains("never released") && told.contains("make uninstall"), "{told}");
    assert!(fixture.value::<bool>("SELECT to_regclass('sluice.outbox') IS NULL").await);
    fixture.remove().await;
}

/// A session as a login that may do what the database's owner may, but for making roles.
async fn session_without_createrole(fixture: &Fixture) -> (tokio_postgres::Client, String) {
    let client = fixture.database.superuser().await.unwrap();
    let login = format!("plain_{}", fixture.database.name);
    let make = format!("CREATE ROLE {login}; GRANT test_owner TO {login}; SET SESSION AUTHORIZATION {login}");
    client.batch_execute(&make).await.unwrap();
    (client, login)
}

async fn remove(fixture: Fixture, client: tokio_postgres::Client, login: &str) {
    let remove = format!(
        "RESET SESSION AUTHORIZATION; REASSIGN OWNED BY {login} TO test_owner; DROP OWNED BY {login}; DROP ROLE {login}"
    );
    client.batch_execute(&remove).await.unwrap();
    drop(client);
    fixture.remove().await;
}

#[tokio::test]
async fn a_login_without_createrole_does_all_later_migrates() {
    let fixture = Fixture::new().await;
    fixture.run(Command::Migrate).await.unwrap();
    let (mut client, login) = session_without_createrole(&fixture).await;
    client.batch_execute("DELETE FROM sluice.schema_history WHERE version = 0").await.unwrap();
    let mut migrations = schema::migrations();
    migrations.push(numbered(900, "later", "CREATE TABLE sluice.later (id bigint PRIMARY KEY)"));
    assert!(schema::migrate(&mut client, &migrations, &mut Report::new(|_| {})).await.unwrap());
    let track = "CREATE SCHEMA later; CREATE TABLE later.thing (id bigint PRIMARY KEY);
         SELECT sluice.define_stream('things', source => 'later.thing', key => 'id', mapping => '{\"properties\": {\"id\": {}}}');
         SELECT sluice.track('later.thing', stream => 'things', key => 'id'); INSERT INTO later.thing VALUES (1)";
    client.batch_execute(track).await.unwrap();
    remove(fixture, client, &login).await;
}

#[tokio::test]
async fn an_administrator_may_make_the_roles_beforehand() {
    let fixture = Fixture::new().await;
    let (mut client, login) = session_without_createrole(&fixture).await;
    let error = schema::migrate(&mut client, &schema::migrations(), &mut Report::new(|_| {})).await.unwrap_err();
    let database = &fixture.database.name;
    let told = error.to_string();
    assert!(told.contains(&format!("sluice_app_{database}")) && told.contains("capture"), "{told}");
    let make = format!(
        "CREATE ROLE sluice_app_{database}; CREATE ROLE sluice_capture_{database}; GRANT sluice_app_{database}, sluice_capture_{database} TO test_owner"
    );
    fixture.database.superuser().await.unwrap().batch_execute(&make).await.unwrap();
    schema::migrate(&mut client, &schema::migrations(), &mut Report::new(|_| {})).await.unwrap();
    remove(fixture, client, &login).await;
}
