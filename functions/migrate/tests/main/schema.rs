use migrate::{Command, Error, Report, schema};
use refinery::Migration;
use serde_json::json;

use crate::fixture::{ELASTICSEARCH_SECRET, Fixture};

#[tokio::test]
async fn a_fresh_database_gets_the_schema_and_a_second_run_has_nothing_to_do() {
    let fixture = Fixture::new().await;
    let lines = fixture.run(Command::Migrate).await.unwrap();
    assert!(lines[0].starts_with("schema: applied V1__"), "{lines:?}");
    let version: i32 = fixture.value("SELECT max(version) FROM sluice.schema_history").await;
    assert_eq!(version, schema::migrations().iter().map(Migration::version).max().unwrap());

    let lines = fixture.run(Command::Migrate).await.unwrap();
    assert!(lines.len() == 1 && lines[0].starts_with("nothing to do"), "{lines:?}");
    fixture.remove().await;
}

#[tokio::test]
async fn a_failing_migration_leaves_the_old_schema_as_it_was() {
    let fixture = Fixture::new().await;
    let mut client = fixture.database.owner().await.unwrap();
    let mut migrations = schema::migrations();
    migrations.push(Migration::unapplied("V900__good", "CREATE TABLE sluice.half_made ()").unwrap());
    migrations.push(Migration::unapplied("V901__bad", "SELECT * FROM sluice.no_such_table").unwrap());
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
    migrations.push(Migration::unapplied("V900__newer", "CREATE TABLE sluice.newer ()").unwrap());
    schema::migrate(&mut client, &migrations, &mut Report::new(|_| {})).await.unwrap();
    fixture.run(Command::Migrate).await.unwrap();
    assert!(fixture.run(Command::Migrate).await.unwrap()[0].starts_with("nothing to do: the schema has version 900"));
    fixture.remove().await;
}

#[tokio::test]
async fn a_wrong_password_of_elasticsearch_is_told_before_anything_is_made() {
    let fixture = Fixture::new().await;
    let url = localstack::variable("ELASTICSEARCH_URL");
    let url = format!("http://{}", url.rsplit('@').next().unwrap().trim_start_matches("http://"));
    let wrong = json!({"url": url, "username": "elastic", "password": "hunter2"});
    fixture.manager.put(ELASTICSEARCH_SECRET, &wrong);
    let told = fixture.run(Command::Migrate).await.unwrap_err().to_string();
    assert!(told.contains("refuses the credentials") && told.contains(ELASTICSEARCH_SECRET), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
    assert!(fixture.value::<bool>("SELECT to_regnamespace('sluice') IS NULL").await);
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
async fn the_log_gets_a_column_when_open_writers_are_done_and_others_go_on_meanwhile() {
    let fixture = Fixture::new().await;
    let mut client = fixture.database.owner().await.unwrap();
    let before: Vec<Migration> = schema::migrations().into_iter().filter(|it| it.version() < 8).collect();
    schema::migrate(&mut client, &before, &mut Report::new(|_| {})).await.unwrap();
    let (open, other) = (fixture.database.owner().await.unwrap(), fixture.database.owner().await.unwrap());
    other
        .batch_execute(
            r#"CREATE TABLE item (id int PRIMARY KEY);
               SELECT sluice.define_stream('item', source => 'public.item', key => 'id', mapping => '{"properties": {"id": {}}}');
               SELECT sluice.track('item', stream => 'item', key => 'id');
               SET statement_timeout = '2s'"#,
        )
        .await
        .unwrap();
    open.batch_execute("BEGIN; INSERT INTO item VALUES (0)").await.unwrap();

    let is_waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep')";
    let row = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap();
    let pid: i32 = row.get(0);
    let (migrated, ()) = tokio::join!(
        async { schema::migrate(&mut client, &schema::migrations(), &mut Report::new(|_| {})).await },
        async {
            while !other.query_one(is_waiting, &[&pid]).await.unwrap().get::<_, bool>(0) {}
            for id in 1..=20 {
                other.execute("INSERT INTO item VALUES ($1)", &[&id]).await.unwrap();
            }
            open.batch_execute("COMMIT").await.unwrap();
        }
    );
    assert!(migrated.unwrap());
    other.batch_execute("SET sluice.traceparent = 'mine'; INSERT INTO item VALUES (21)").await.unwrap();
    let seen: String = fixture
        .value("SELECT string_agg(coalesce(traceparent, '-'), '' ORDER BY id) FROM sluice.outbox WHERE stream = 'item'")
        .await;
    assert_eq!(seen, format!("{}mine", "-".repeat(21)));
    fixture.remove().await;
}
