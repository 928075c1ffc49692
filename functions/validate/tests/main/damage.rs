//! What is damaged is found, told apart, and repaired in one round.

use elasticsearch::http::Method;
use serde_json::json;

use crate::fixture::Fixture;

#[tokio::test]
async fn every_kind_of_damage_is_found_classed_and_repaired_in_one_round() {
    let fixture = Fixture::with_items(1500).await;
    fixture.write("items", "10", Some(r#"{"id":10,"value":"altered"}"#)).await;
    fixture.write("items", "20", None).await;
    fixture.write("items", "orphan", Some(r#"{"id":0,"value":"of nobody"}"#)).await;
    fixture.write("items", "2000", Some(r#"{"id":2000,"value":"of nobody"}"#)).await;
    fixture
        .database
        .superuser()
        .await
        .unwrap()
        .batch_execute(
            "SET session_replication_role = replica;
             UPDATE demo.item SET value = 'unnoticed' WHERE id = 30;
             INSERT INTO demo.item VALUES (1501, 'unnoticed');
             DELETE FROM demo.item WHERE id = 40",
        )
        .await
        .unwrap();
    let future = 1i64 << 52;
    let version = format!(r#","version":{future},"version_type":"external_gte""#);
    fixture.write_as("items", "50", Some(r#"{"id":50,"value":"from the future"}"#), &version).await;

    let found =
        "extra confirmed 2000 40 orphan, missing confirmed 1501 20, stale confirmed 10 30, version_ahead confirmed 50";
    let logged = "SELECT count(*) FROM sluice.outbox";
    let before: i64 = fixture.value(logged).await;
    let row = fixture.validate("items", false).await;
    assert_eq!(fixture.differences("items").await, found);
    assert_eq!((&row["verdict"], &row["checked"]), (&json!("different"), &json!(1500)), "{row}");
    assert_eq!(fixture.value::<i64>(logged).await, before, "nobody asked for more");

    let row = fixture.validate("items", true).await;
    assert_eq!(fixture.differences("items").await.replace("repaired", "confirmed"), found);
    assert_eq!((&row["verdict"], &row["repaired"]), (&json!("equal"), &json!(8)), "{row}");
    assert_eq!(fixture.document("items", "10").await, json!({"id": 10, "value": "value 10"}));
    assert_eq!(fixture.document("items", "50").await, json!({"id": 50, "value": "value 50"}));
    assert!(fixture.document("items", "orphan").await.is_null());
    let audited: i64 = fixture.value("SELECT count(*) FROM sluice.audit WHERE action = 'repair'").await;
    assert_eq!(audited, 8);

    let row = fixture.validate("items", false).await;
    assert_eq!((fixture.differences("items").await.as_str(), &row["verdict"]), ("", &json!("equal")), "{row}");
    fixture.remove().await;
}

#[tokio::test]
async fn a_dry_run_writes_nothing_and_one_document_can_be_repaired_by_itself() {
    let fixture = Fixture::with_items(20).await;
    for key in ["1", "2"] {
        fixture.write("items", key, None).await;
    }
    // What the row prints in another way is not logged anew.
    fixture.write("items", "007", Some(r#"{"id":7,"value":"value 7"}"#)).await;
    let logged = "SELECT count(*) FROM sluice.outbox";
    let before: i64 = fixture.value(logged).await;
    let validator = fixture.validator(&[]);
    let event = json!({"command": "begin", "stream": null, "repair": true, "dry_run": true, "actor": "a test"});
    let begun = fixture.handle(&validator, event, std::time::Duration::from_secs(60)).await.unwrap();
    assert_eq!(begun, json!({"streams": ["items", "sluice_heartbeat"]}));
    let row = fixture.go_on(&validator, "items").await;
    assert_eq!(
        (fixture.differences("items").await.as_str(), &row["verdict"]),
        ("extra confirmed 007, missing confirmed 1 2", &json!("different"))
    );
    assert_eq!(fixture.value::<i64>(logged).await, before);

    let wanted: i64 =
        fixture.value("SELECT sluice.want_repair('elasticsearch', 'items', '{2,3}', 'somebody', NULL)").await;
    assert_eq!(wanted, 1);
    fixture.go_on(&validator, "items").await;
    assert_eq!(fixture.differences("items").await, "extra confirmed 007, missing confirmed 1, missing repaired 2");
    fixture.remove().await;
}

#[tokio::test]
async fn what_explains_a_difference_is_told_and_not_repaired() {
    let fixture = Fixture::with_items(20).await;
    fixture.execute("INSERT INTO sluice.dead_letter (subscription, stream, key, version) VALUES ('elasticsearch', 'items', '5', 9000000000000000), ('elasticsearch', 'items', '6', 1)").await;
    fixture.write("items", "5", Some(r#"{"id":5,"value":"older"}"#)).await;
    fixture.write("items", "6", Some(r#"{"id":6,"value":"since the letter something newer was written"}"#)).await;
    fixture.validate("items", true).await;
    assert_eq!(fixture.differences("items").await, "dead_lettered confirmed 5, stale repaired 6");

    // Whose document cannot be read is no document that is missing.
    fixture
        .execute(
            "CREATE VIEW demo.ratio AS SELECT id, 10 / (id - 3) AS value FROM demo.item;
             SELECT sluice.define_stream('ratios', source => 'demo.ratio', key => 'id', mapping => '{\"properties\": {\"id\": {\"type\": \"long\"}, \"value\": {\"type\": \"long\"}}}');
             SELECT sluice.track('demo.item', stream => 'ratios', key => 'id')",
        )
        .await;
    fixture.migrate().await;
    fixture.validate("ratios", true).await;
    assert!(
        fixture.differences("ratios").await.contains("unreadable confirmed 3"),
        "{}",
        fixture.differences("ratios").await
    );
    fixture.remove().await;
}

#[tokio::test]
async fn a_source_that_changes_without_a_row_of_the_log_is_told_of_once() {
    let fixture = Fixture::with_items(200).await;
    fixture
        .execute(
            "CREATE VIEW demo.clock AS SELECT id, clock_timestamp() AS value FROM demo.item;
             SELECT sluice.define_stream('clocks', source => 'demo.clock', key => 'id', mapping => '{\"properties\": {\"id\": {\"type\": \"long\"}, \"value\": {\"type\": \"date\"}}}');
             SELECT sluice.track('demo.item', stream => 'clocks', key => 'id');
             SELECT sluice.resync('clocks')",
        )
        .await;
    fixture.migrate().await;
    fixture.drain().await;
    let logged = "SELECT count(*) FROM sluice.outbox WHERE stream = 'clocks' AND op = 'upsert'";
    let before: i64 = fixture.value(logged).await;
    let row = fixture.validate("clocks", true).await;
    let differences = fixture.differences("clocks").await;
    assert!(differences.starts_with("untracked confirmed ") && !differences.contains(','), "{differences}");
    assert_eq!((&row["verdict"], &row["repaired"]), (&json!("different"), &json!(0)), "{row}");
    assert_eq!(fixture.value::<i64>(logged).await, before, "that would never end");
    fixture.remove().await;
}

#[tokio::test]
async fn what_cannot_be_compared_is_told_with_the_reason() {
    let fixture = Fixture::with_items(5).await;
    fixture
        .execute(
            "CREATE TABLE demo.later (id bigint PRIMARY KEY);
             SELECT sluice.define_stream('events', mapping => '{\"properties\": {\"n\": {}}}');
             SELECT sluice.define_stream('later', source => 'demo.later', key => 'id', mapping => '{\"properties\": {\"id\": {}}}')",
        )
        .await;
    let row = fixture.validate("later", false).await;
    assert_eq!(
        (&row["verdict"], &row["problem"]),
        (&json!("not compared"), &json!("it has no index yet: run migrate, which makes one"))
    );
    fixture.execute("DELETE FROM sluice.tracked WHERE stream = 'later'; SELECT sluice.drop_stream('later'); SELECT sluice.drop_stream('events');
         SELECT sluice.define_stream('events', mapping => '{\"properties\": {\"n\": {\"type\": \"long\"}}}')").await;
    fixture.migrate().await;
    let row = fixture.validate("events", false).await;
    assert!(row["problem"].as_str().is_some_and(|it| it.contains("sluice.emit")), "{row}");

    let alias = format!("/{}items", fixture.prefix);
    let pipeline = format!("{}pipeline", fixture.prefix);
    fixture.request(Method::Put, &format!("/_ingest/pipeline/{pipeline}"), Some(json!({"processors": []}))).await;
    fixture
        .request(Method::Put, &format!("{alias}/_settings"), Some(json!({"index.default_pipeline": pipeline})))
        .await;
    let row = fixture.validate("items", false).await;
    assert!(row["problem"].as_str().is_some_and(|it| it.contains("a pipeline changes documents")), "{row}");
    fixture.request(Method::Put, &format!("{alias}/_settings"), Some(json!({"index.default_pipeline": null}))).await;
    fixture.request(Method::Delete, &format!("/_ingest/pipeline/{pipeline}"), None).await;
    assert_eq!(fixture.validate("items", false).await["verdict"], "equal");

    fixture.execute("ALTER TABLE demo.item RENAME TO thing").await;
    let row = fixture.validate("items", false).await;
    assert!(row["problem"].as_str().is_some_and(|it| it.contains("demo.item")), "{row}");
    let error = fixture
        .handle(
            &fixture.validator(&[]),
            json!({"command": "begin", "stream": "itmes", "actor": "a test"}),
            std::time::Duration::from_secs(60),
        )
        .await;
    assert!(error.unwrap_err().to_string().starts_with("there is no stream itmes"));
    fixture.remove().await;
}

#[tokio::test]
async fn equal_is_equal_and_different_is_different_whatever_documents_and_keys_look_like() {
    let fixture = Fixture::new().await;
    fixture
        .execute(
            r#"CREATE SCHEMA demo;
             CREATE TABLE demo.odd (a text, b int, n numeric, j json, PRIMARY KEY (a, b));
             SELECT sluice.define_stream('odd', source => 'demo.odd', key => 'a, b', mapping => '{"properties": {"a": {"type": "keyword"}, "b": {"type": "long"}, "n": {"type": "double"}, "j": {"type": "object", "enabled": false}}}');
             SELECT sluice.track('demo.odd', stream => 'odd', key => 'a, b')"#,
        )
        .await;
    fixture.migrate().await;
    fixture
        .execute(
            r#"INSERT INTO demo.odd VALUES
             ('1', 1, 1.10, '{ "x" :  1.0,  "y": 2 }'), ('1,1', 1, 9007199254740993, '[1E2]'), ('1, "1', 1, 12345678901234567890.123456789, 'null'),
             (' ', 1, 0.1, '""'), ('ä/?#', 1, 1e100, '{"a":{"b":[]}}'), ('A', 1, 1, '1'), ('a', 1, 1, '1');
             INSERT INTO demo.odd SELECT 'large', n, n, to_json(repeat('x', 1500000)) FROM generate_series(1, 5) AS n"#,
        )
        .await;
    fixture.drain().await;
    let row = fixture.validate("odd", false).await;
    let told = (&row["verdict"], &row["checked"], &row["walked"], &row["printed_differently"]);
    assert_eq!(
        told,
        (&json!("equal"), &json!(12), &json!(12), &json!(0)),
        "{row} {}",
        fixture.differences("odd").await
    );

    // The same value in other words, and one that differs in the last of its digits.
    fixture.write("odd", r#"["1", "1"]"#, Some(r#"{"j":{"y":2,"x":1.00},"n":1.1,"b":1,"a":"1"}"#)).await;
    fixture.write("odd", r#"["1,1", "1"]"#, Some(r#"{"a":"1,1","b":1,"n":9007199254740992,"j":[1E2]}"#)).await;
    let row = fixture.validate("odd", false).await;
    assert_eq!(fixture.differences("odd").await, r#"stale confirmed ["1,1", "1"]"#);
    assert_eq!(row["printed_differently"], 1, "{row}");
    fixture.remove().await;
}
