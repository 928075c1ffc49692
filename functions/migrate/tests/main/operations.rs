use elasticsearch::indices::IndicesCreateParts;
use localstack::Database;
use migrate::Command;
use serde_json::json;

use crate::fixture::Fixture;

#[tokio::test]
async fn rebase_looks_again_at_every_row_and_at_every_key_that_only_the_index_has() {
    let fixture = Fixture::with_streams().await;
    fixture.run(Command::Migrate).await.unwrap();
    let rows = "INSERT INTO demo.cities SELECT n, 'city', n FROM generate_series(1, 1500) AS n";
    fixture.owner.batch_execute(rows).await.unwrap();
    let alias = fixture.alias("cities");
    // More than one page of the scan; of these, 1 to 1500 are in the source, and no_number is no key of it at all.
    let newest: i64 = 1 << 52;
    let mut documents: Vec<String> = (1000..2200).map(|id| id.to_string()).collect();
    documents.push("no_number".to_owned());
    fixture.write_all(&alias, &documents, newest).await;

    let lines = fixture.run(Command::Rebase).await.unwrap();
    assert_eq!(lines[0], format!("the position is now, versions go on above {newest}"));
    assert_eq!(lines[1], "stream cities: reads every row again, and 700 keys that only its index has");
    assert_eq!(fixture.value::<i64>("SELECT min(reserved) FROM sluice.subscription").await, newest);
    let logged: Vec<String> = fixture
        .value("SELECT array_agg(key ORDER BY key) FROM sluice.outbox WHERE stream = 'cities' AND op = 'upsert'")
        .await;
    assert_eq!(logged.len(), 700);
    assert!(logged.contains(&"no_number".to_owned()) && logged.contains(&"1501".to_owned()));
    assert!(!logged.contains(&"1500".to_owned()));
    let resyncs: i64 = fixture.value("SELECT count(*) FROM sluice.outbox WHERE op = 'fan_out'").await;
    assert_eq!(resyncs, 3, "one for each stream, the heartbeat's among them");
    fixture.remove().await;
}

#[tokio::test]
async fn rebase_without_a_schema_says_run_migrate() {
    let fixture = Fixture::new().await;
    let told = fixture.run(Command::Rebase).await.unwrap_err().to_string();
    assert!(told.contains("run migrate"), "{told}");
    fixture.remove().await;
}

#[tokio::test]
async fn uninstall_removes_what_sluice_made_and_nothing_else() {
    let fixture = Fixture::with_streams().await;
    fixture.owner.batch_execute("SELECT sluice.track('demo.cities', stream => 'cities', key => 'id')").await.unwrap();
    fixture.owner.batch_execute("INSERT INTO demo.cities VALUES (1, 'one')").await.unwrap();
    fixture.run(Command::Migrate).await.unwrap();
    let neighbour = Database::create().await.unwrap();
    let foreign = format!("{}cities-of-somebody-else", fixture.prefix);
    fixture.elasticsearch.indices().create(IndicesCreateParts::Index(&foreign)).send().await.unwrap();
    let other_installation = Fixture::with_streams().await;
    other_installation.run(Command::Migrate).await.unwrap();

    let lines = fixture.run(Command::Uninstall).await.unwrap();
    assert_eq!(lines[0], "removed the triggers and the schema sluice");
    assert!(fixture.value::<bool>("SELECT to_regnamespace('sluice') IS NULL").await);
    assert_eq!(fixture.value::<i64>("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal").await, 0);
    fixture.owner.batch_execute("INSERT INTO demo.cities VALUES (2, 'two')").await.unwrap();
    assert_eq!(fixture.value::<i64>("SELECT count(*) FROM demo.cities").await, 2);
    assert_eq!(fixture.index(&fixture.alias("cities")).await, None);
    assert_eq!(fixture.index(&fixture.alias("countries")).await, None);

    assert!(fixture.index(&foreign).await.is_some());
    let roles =
        format!("SELECT count(*) FROM pg_roles WHERE rolname ~ '^sluice_(app|capture)_{}$'", fixture.database.name);
    assert_eq!(fixture.value::<i64>(&roles).await, 0, "this database's roles, and no other's");
    neighbour.functions().await.unwrap().batch_execute("SELECT * FROM sluice.status()").await.unwrap();
    assert!(other_installation.run(Command::Migrate).await.unwrap()[0].starts_with("nothing to do"));
    // Names are free again: anybody may create an index by writing to it.
    let written = fixture.write(&fixture.alias("cities"), "1", 1, json!({"id": 1})).await;
    assert_eq!(written["index"]["status"], 201, "{written}");

    let lines = fixture.run(Command::Uninstall).await.unwrap();
    assert_eq!(lines, ["nothing to remove"]);
    fixture.remove().await;
    other_installation.remove().await;
}

#[tokio::test]
async fn the_profiles_are_made_once_where_there_is_an_ingest_and_stay_when_sluice_goes() {
    let mut fixture = Fixture::new().await;
    fixture.run(Command::Migrate).await.unwrap();
    assert!(fixture.value::<bool>("SELECT to_regnamespace('profiles') IS NULL").await);
    fixture.config.has_ingest = true;
    let lines = fixture.run(Command::Migrate).await.unwrap();
    assert_eq!(lines[0], "ingest: made its tables and streams in the schema profiles");
    assert!(fixture.run(Command::Migrate).await.unwrap()[0].starts_with("nothing to do"));

    fixture.database.let_functions_in().await.unwrap();
    let functions = fixture.database.functions().await.unwrap();
    let insert = "INSERT INTO profiles.users (id, name, email, mobile, status, last_updated_at) \
                  VALUES (gen_random_uuid(), 'Ada', 'ada@example.com', '+442071838750', 'active', now())";
    functions.batch_execute(insert).await.unwrap();
    assert_eq!(
        fixture.value::<i64>("SELECT count(*) FROM sluice.outbox WHERE stream = 'profiles' AND op = 'upsert'").await,
        1
    );

    fixture.run(Command::Uninstall).await.unwrap();
    assert_eq!(fixture.value::<i64>("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal").await, 0);
    assert_eq!(fixture.value::<i64>("SELECT count(*) FROM profiles.users").await, 1);
    fixture.run(Command::Migrate).await.unwrap();
    assert!(fixture.index(&fixture.alias("profiles")).await.is_some());
    fixture.remove().await;
}
