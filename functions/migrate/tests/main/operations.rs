use std::time::Instant;

use localstack::Database;
use migrate::{Command, Limits};
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
    let mut documents: Vec<String> = (1000..12_000).map(|id| id.to_string()).collect();
    documents.push("no_number".to_owned());
    fixture.write_all(&alias, &documents, newest).await;

    let lines = fixture.run(Command::Rebase).await.unwrap();
    assert_eq!(lines[0], format!("the position is now, versions go on above {newest}"));
    assert_eq!(lines[1], "stream cities: reads every row again, and 10500 keys that only its index has");
    assert_eq!(fixture.value::<i64>("SELECT min(reserved) FROM sluice.subscription").await, newest);
    let logged: Vec<String> = fixture
        .value("SELECT array_agg(key ORDER BY key) FROM sluice.outbox WHERE stream = 'cities' AND op = 'upsert'")
        .await;
    assert_eq!(logged.len(), 10_500);
    assert!(logged.contains(&"no_number".to_owned()) && logged.contains(&"1501".to_owned()));
    assert!(!logged.contains(&"1500".to_owned()));
    let resyncs: i64 =
        fixture.value("SELECT count(*) FROM sluice.outbox WHERE op = 'fan_out' AND tracked IS NULL").await;
    assert_eq!(resyncs, 3, "one for each stream, the heartbeat's among them");
    fixture.remove().await;
}

/// The streams in the order in which they are walked: cities, countries, sluice_heartbeat.
async fn with_indexes() -> Fixture {
    let fixture = Fixture::with_streams().await;
    fixture.run(Command::Migrate).await.unwrap();
    fixture
}

/// Rebases until the time is up: one chunk. Whether it has finished, and the lines.
async fn rebase_a_little(fixture: &Fixture) -> (bool, Vec<String>) {
    let (result, report) = fixture.run_within(Command::Rebase, Limits { deadline: Some(Instant::now()) }).await;
    result.unwrap();
    (report.is_finished(), report.lines().to_vec())
}

/// How far the walks are.
async fn walks(fixture: &Fixture) -> String {
    let walks = "SELECT coalesce(string_agg(format('%s %s', stream, position), ', ' ORDER BY stream), '') FROM sluice.rebase_walk";
    fixture.value(walks).await
}

fn ids(from: u32, to: u32) -> Vec<String> {
    (from..=to).map(|id| id.to_string()).collect()
}

#[tokio::test]
async fn a_rebase_that_is_interrupted_goes_on_and_misses_nothing_however_the_index_is_written_meanwhile() {
    let fixture = with_indexes().await;
    let alias = fixture.alias("cities");
    fixture.owner.batch_execute("INSERT INTO demo.cities SELECT n FROM generate_series(1, 500) AS n").await.unwrap();
    fixture.write_all(&alias, &ids(1, 3500), 1).await;

    let (is_finished, lines) = rebase_a_little(&fixture).await;
    assert!(!is_finished);
    assert_eq!(lines, ["the position is now, versions go on above 1", "to be continued: call rebase again"]);
    // One shard counts all writes.
    assert_eq!(walks(&fixture).await, "cities 1000, countries 0, sluice_heartbeat 0");
    // What was looked at moves to the end, and what was not, too; and what is deleted leaves a gap.
    fixture.write_all(&alias, &ids(900, 1700), 2).await;
    fixture.merge(&alias).await;
    let mut runs = 1;
    let last = loop {
        let (is_finished, lines) = rebase_a_little(&fixture).await;
        assert!(lines[0].starts_with("goes on with the rebase that was begun at 2"), "{lines:?}");
        runs += 1;
        if is_finished {
            break lines;
        }
    };
    assert!(runs > 3, "{runs}");
    // The others are empty.
    assert_eq!(
        last.last().unwrap(),
        "stream sluice_heartbeat: reads every row again, and 0 keys that only its index has"
    );
    assert_eq!(walks(&fixture).await, "");

    let logged: Vec<String> = fixture
        .value(
            "SELECT array_agg(DISTINCT key ORDER BY key) FROM sluice.outbox WHERE stream = 'cities' AND op = 'upsert'",
        )
        .await;
    let mut surplus = ids(501, 3500);
    surplus.sort_unstable();
    assert_eq!(logged, surplus);
    let resyncs: i64 =
        fixture.value("SELECT count(*) FROM sluice.outbox WHERE op = 'fan_out' AND tracked IS NULL").await;
    assert_eq!(resyncs, 3, "one for each stream, of the first run");
    let lines = fixture.run(Command::Rebase).await.unwrap();
    assert!(lines[0].starts_with("the position is now"), "{lines:?}");
    fixture.remove().await;
}

#[tokio::test]
async fn a_version_that_is_ahead_when_it_is_walked_is_overtaken() {
    let fixture = with_indexes().await;
    fixture.owner.batch_execute("INSERT INTO demo.countries VALUES ('de'), ('fr')").await.unwrap();
    fixture.write_all(&fixture.alias("countries"), &["fr".to_owned()], 1).await;
    rebase_a_little(&fixture).await;
    // What another cluster had sent to the queue.
    let ahead: i64 = 1 << 52;
    fixture.write(&fixture.alias("countries"), "de", ahead, json!({"id": "de"})).await;

    let lines = fixture.run(Command::Rebase).await.unwrap();
    assert_eq!(lines[1], "stream countries: versions go on above 1 that were ahead, and their keys are read again");
    assert_eq!(fixture.value::<i64>("SELECT min(reserved) FROM sluice.subscription").await, ahead);
    let logged: Vec<String> =
        fixture.value("SELECT array_agg(key) FROM sluice.outbox WHERE stream = 'countries' AND op = 'upsert'").await;
    assert_eq!(logged, ["de"]);
    fixture.remove().await;
}

#[tokio::test]
async fn a_version_that_none_can_follow_is_told_with_what_to_do_and_stops_no_other_stream() {
    let fixture = with_indexes().await;
    let beyond: i64 = 9_000_000_000_000_001;
    fixture.write_all(&fixture.alias("countries"), &["fr".to_owned()], 1).await;
    rebase_a_little(&fixture).await;
    fixture.write(&fixture.alias("countries"), "de", beyond, json!({"id": "de"})).await;
    let told = fixture.run(Command::Rebase).await.unwrap_err().to_string();
    assert!(told.starts_with("stream countries: the index ") && told.contains("delete the index"), "{told}");
    assert_eq!(walks(&fixture).await, "countries 0");

    // Before any walk it is found, too, and nothing was begun.
    fixture.owner.batch_execute("DELETE FROM sluice.rebase_walk").await.unwrap();
    let told = fixture.run(Command::Rebase).await.unwrap_err().to_string();
    assert!(told.starts_with("the index ") && told.contains("delete the index"), "{told}");
    assert_eq!(walks(&fixture).await, "");
    fixture.delete_index(&fixture.index_name("countries").await).await;
    let lines = fixture.run(Command::Rebase).await.unwrap();
    assert!(lines[2].contains("is gone: run migrate"), "{lines:?}");
    fixture.run(Command::Migrate).await.unwrap();
    fixture.run(Command::Rebase).await.unwrap();
    fixture.remove().await;
}

#[tokio::test]
async fn a_rebase_of_another_cluster_timeline_or_day_is_begun_anew_and_the_walk_of_another_index_too() {
    let fixture = with_indexes().await;
    fixture.write_all(&fixture.alias("countries"), &["fr".to_owned()], 1).await;
    rebase_a_little(&fixture).await;
    for other in ["system_identifier = 42", "timeline = timeline + 1", "resumed_at = now() - interval '2 days'"] {
        fixture.owner.batch_execute(&format!("UPDATE sluice.rebase_walk SET position = 7, {other}")).await.unwrap();
        let (_, lines) = rebase_a_little(&fixture).await;
        assert!(lines[0].starts_with("the position is now"), "{other}: {lines:?}");
        assert_eq!(walks(&fixture).await, "countries 0, sluice_heartbeat 0", "{other}");
    }
    let other = "UPDATE sluice.rebase_walk SET position = 7, index = 'other' WHERE stream = 'countries'";
    fixture.owner.batch_execute(other).await.unwrap();
    let lines = fixture.run(Command::Rebase).await.unwrap();
    assert!(lines[0].starts_with("goes on"), "{lines:?}");
    assert_eq!(lines[1], "stream countries: reads every row again, and 1 keys that only its index has");
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
    fixture.elasticsearch.put([foreign.as_str()]).send().await.unwrap();
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
        fixture.value::<i64>("SELECT count(*) FROM sluice.outbox WHERE stream = 'profiles' AND op = 'insert'").await,
        1
    );

    fixture.run(Command::Uninstall).await.unwrap();
    assert_eq!(fixture.value::<i64>("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal").await, 0);
    assert_eq!(fixture.value::<i64>("SELECT count(*) FROM profiles.users").await, 1);
    fixture.run(Command::Migrate).await.unwrap();
    assert!(fixture.index(&fixture.alias("profiles")).await.is_some());
    fixture.remove().await;
}
