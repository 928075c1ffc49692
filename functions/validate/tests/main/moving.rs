//! What becomes of a round when its stream, its index, or what explains a difference is another one meanwhile.

use std::time::Duration;

use elasticsearch::http::Method;
use serde_json::{Value, json};
use validate::Validator;

use crate::fixture::Fixture;

const A_MINUTE: Duration = Duration::from_secs(60);

/// Begins a round of the items, and goes on until nothing but what is under way is left to be found out: a change of this row,
/// which is not drained.
async fn hold(fixture: &Fixture, validator: &Validator, id: i64) {
    fixture.execute(&format!("UPDATE demo.item SET value = 'under way' WHERE id = {id}")).await;
    let begin = json!({"command": "begin", "stream": "items", "actor": "a test"});
    fixture.handle(validator, begin, A_MINUTE).await.unwrap();
    loop {
        let go_on = json!({"command": "go_on", "streams": ["items"]});
        let answer = fixture.handle(validator, go_on, Duration::from_secs(6)).await.unwrap();
        assert_eq!(answer["finished"], false, "{answer}");
        if answer["streams"][0]["state"] == "confirming" {
            break;
        }
    }
}

async fn index_of_items(fixture: &Fixture) -> String {
    fixture.value("SELECT live_index FROM sluice.target WHERE stream = 'items'").await
}

#[tokio::test]
async fn an_index_that_is_made_anew_in_the_middle_of_a_round_is_compared_from_the_beginning() {
    let fixture = Fixture::with_items(10).await;
    let validator = fixture.validator(&[]);
    hold(&fixture, &validator, 3).await;
    let index = index_of_items(&fixture).await;
    let path = format!("/{index}");
    let was = fixture.request(Method::Get, &path, None).await[&index].take();
    fixture.request(Method::Delete, &path, None).await;
    let mut settings = json!({});
    fixture.elasticsearch.allow_creation(&mut settings);
    let body = json!({"mappings": was["mappings"], "aliases": was["aliases"], "settings": settings});
    fixture.request(Method::Put, &path, Some(body)).await;
    let row = fixture.go_on(&validator, "items").await;
    assert_eq!(fixture.differences("items").await, "missing confirmed 1 10 2 4 5 6 7 8 9", "{row}");
    fixture.remove().await;
}

#[tokio::test]
async fn a_round_whose_index_or_source_goes_says_so_and_gives_no_verdict_of_it() {
    let fixture = Fixture::with_items(10).await;
    let validator = fixture.validator(&[]);
    hold(&fixture, &validator, 3).await;
    fixture.execute("ALTER TABLE demo.item RENAME TO thing").await;
    // With a candidate that is looked at again.
    fixture.execute("DELETE FROM sluice.outbox; UPDATE sluice.difference SET seen = '1:1:'").await;
    let row = fixture.go_on(&validator, "items").await;
    assert_eq!(row["verdict"], "not compared", "{row}");
    assert!(row["problem"].as_str().is_some_and(|it| it.contains("demo.item")), "{row}");
    fixture.execute("ALTER TABLE demo.thing RENAME TO item").await;

    hold(&fixture, &validator, 4).await;
    let index = index_of_items(&fixture).await;
    fixture.request(Method::Delete, &format!("/{index}"), None).await;
    fixture.execute("DELETE FROM sluice.outbox; UPDATE sluice.difference SET seen = '1:1:'").await;
    let row = fixture.go_on(&validator, "items").await;
    assert_eq!(row["verdict"], "not compared", "{row}");
    assert!(row["problem"].as_str().is_some_and(|it| it.contains("is gone: run migrate")), "{row}");
    fixture.remove().await;
}

#[tokio::test]
async fn a_field_that_comes_in_the_middle_of_a_round_makes_no_difference() {
    let fixture = Fixture::with_items(1000).await;
    let validator = fixture.validator(&[]);
    let rounds = async {
        loop {
            fixture.validate("items", false).await;
            assert_eq!(fixture.differences("items").await, "");
        }
    };
    let fields = async {
        for n in 1..=4 {
            let mapping: Vec<String> = (1..=n).map(|n| format!(r#""f{n}": {{"type": "long"}}"#)).collect();
            let define = format!(
                r#"ALTER TABLE demo.item ADD COLUMN f{n} bigint NOT NULL DEFAULT {n};
                SELECT sluice.define_stream('items', source => 'demo.item', key => 'id', mapping => '{{"properties": {{"id": {{"type": "long"}}, "value": {{"type": "keyword"}}, {}}}}}')"#,
                mapping.join(", ")
            );
            fixture.execute(&define).await;
            fixture.migrate().await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    tokio::select! {
        () = rounds => unreachable!("it does not end"),
        () = fields => {}
    }
    let row = fixture.go_on(&validator, "items").await;
    assert_eq!((fixture.differences("items").await.as_str(), &row["verdict"]), ("", &json!("equal")), "{row}");

    // What was read by an older definition is refused. The rounds that were cut off may have left their lease behind.
    fixture
        .execute(
            "DELETE FROM sluice.lease;
             INSERT INTO sluice.lease VALUES ('validate elasticsearch items', 'me', clock_timestamp() + interval '1 hour')",
        )
        .await;
    let index = index_of_items(&fixture).await;
    let stale = format!(
        "SELECT sluice.note_differences('elasticsearch', 'items', 'me', '{index}', 'an older query', '{{}}', '{{}}', '{{}}', '{{}}')"
    );
    let refused = fixture.owner.batch_execute(&stale).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "SL003");
    fixture.remove().await;
}

#[tokio::test]
async fn a_transaction_of_more_rows_than_are_read_at_once_hides_no_difference() {
    let fixture = Fixture::with_items(12_000).await;
    fixture.write("items", "5", None).await;
    let validator = fixture.validator(&[]);
    hold(&fixture, &validator, 6).await;
    assert_eq!(fixture.differences("items").await, "missing candidate 5, stale candidate 6");
    fixture.execute("UPDATE demo.item SET value = 'changed at once' WHERE id > 6").await;
    let row = fixture.go_on(&validator, "items").await;
    assert_eq!(
        (fixture.differences("items").await.as_str(), &row["verdict"]),
        ("missing confirmed 5", &json!("different")),
        "{row}"
    );
    fixture.remove().await;
}

#[tokio::test]
async fn what_is_repaired_after_a_round_was_given_up_is_followed_by_a_whole_one() {
    let fixture = Fixture::with_items(12_000).await;
    for ids in (1..=12_000).collect::<Vec<i64>>().chunks(2000) {
        fixture.delete_all("items", ids).await;
    }
    let given_up = fixture.validate("items", false).await;
    let found: i64 = fixture.value("SELECT count(*) FROM sluice.difference").await;
    let wanted = "SELECT sluice.want_repair('elasticsearch', 'items', NULL, 'somebody', NULL)";
    assert_eq!(fixture.value::<i64>(wanted).await, found);
    let row = fixture.go_on(&fixture.validator(&[]), "items").await;
    assert_eq!(row["verdict"], "different", "{given_up} {row}");
    let left: i64 = fixture.value("SELECT count(*) FROM sluice.difference WHERE state = 'confirmed'").await;
    assert_eq!(left, 12_000 - found);

    // Now all of it was compared: what is repaired is the rest, and the verdict stays as old as the comparison.
    let verdict_at = "SELECT verdict_at::text FROM sluice.validation";
    let before: String = fixture.value(verdict_at).await;
    assert_eq!(fixture.value::<i64>(wanted).await, left);
    let row = fixture.go_on(&fixture.validator(&[]), "items").await;
    assert_eq!((&row["verdict"], fixture.value::<String>(verdict_at).await), (&json!("equal"), before), "{row}");
    fixture.remove().await;
}

#[tokio::test]
async fn differences_that_no_repair_takes_do_not_keep_a_round_from_its_end() {
    let fixture = Fixture::with_items(11_000).await;
    for ids in (1..=11_000).collect::<Vec<i64>>().chunks(2000) {
        fixture.delete_all("items", ids).await;
    }
    fixture.execute("INSERT INTO sluice.dead_letter (subscription, stream, key, version) SELECT 'elasticsearch', 'items', n::text, 9000000000000000 FROM generate_series(1, 11000) AS n").await;
    let row = fixture.validate("items", true).await;
    assert_eq!((&row["verdict"], &row["repaired"]), (&json!("different"), &json!(0)), "{row}");
    assert!(row["problem"].as_str().is_some_and(|it| it.contains("no more are looked for")), "{row}");
    fixture.remove().await;
}

#[tokio::test]
async fn a_letter_that_was_overtaken_explains_nothing() {
    let fixture = Fixture::with_items(20).await;
    fixture.execute("INSERT INTO sluice.dead_letter (subscription, stream, key, version) VALUES ('elasticsearch', 'items', '5', 1)").await;
    assert_eq!(fixture.validate("items", false).await["verdict"], "equal");
    assert_eq!(fixture.value::<i64>("SELECT count(*) FROM sluice.dead_letter").await, 0);
    fixture.write("items", "5", None).await;
    fixture.validate("items", false).await;
    assert_eq!(fixture.differences("items").await, "missing confirmed 5");
    fixture.remove().await;
}

#[tokio::test]
async fn a_source_that_changes_untracked_hides_no_other_difference() {
    let fixture = Fixture::with_items(20).await;
    fixture
        .execute(
            "CREATE VIEW demo.clock AS SELECT id, CASE WHEN id < 5 THEN clock_timestamp()::text ELSE value END AS value FROM demo.item;
             SELECT sluice.define_stream('clocks', source => 'demo.clock', key => 'id', mapping => '{\"properties\": {\"id\": {\"type\": \"long\"}, \"value\": {\"type\": \"keyword\"}}}');
             SELECT sluice.track('demo.item', stream => 'clocks', key => 'id');
             SELECT sluice.resync('clocks')",
        )
        .await;
    fixture.migrate().await;
    fixture.drain().await;
    fixture.write("clocks", "15", Some(r#"{"id":15,"value":"altered"}"#)).await;
    fixture.validate("clocks", false).await;
    let differences = fixture.differences("clocks").await;
    assert!(differences.starts_with("stale confirmed 15, untracked confirmed "), "{differences}");
    fixture.remove().await;
}

#[tokio::test]
async fn a_page_that_takes_too_long_is_made_smaller_until_it_does_not() {
    let fixture = Fixture::with_items(600).await;
    let superuser = fixture.database.superuser().await.unwrap();
    // Of more than 100 rows in one statement it is as if the time were over.
    superuser
        .batch_execute(
            "CREATE FUNCTION demo.slow(value text) RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
             DECLARE
                 n integer := coalesce(nullif(current_setting('demo.n', true), ''), '0')::integer + 1;
             BEGIN
                 PERFORM set_config('demo.n', n::text, true);
                 IF n > 100 THEN
                     PERFORM pg_cancel_backend(pg_backend_pid());
                 END IF;
                 RETURN value;
             END $$",
        )
        .await
        .unwrap();
    fixture
        .execute(
            "CREATE VIEW demo.slowly AS SELECT id, demo.slow(value) AS value FROM demo.item;
             SELECT sluice.define_stream('slow', source => 'demo.slowly', key => 'id', mapping => '{\"properties\": {\"id\": {\"type\": \"long\"}, \"value\": {\"type\": \"keyword\"}}}');
             SELECT sluice.track('demo.item', stream => 'slow', key => 'id')",
        )
        .await;
    fixture.migrate().await;
    let body: Vec<Value> = (1..=600)
        .flat_map(|id| [json!({"index": {"_id": id.to_string()}}), json!({"id": id, "value": format!("value {id}")})])
        .collect();
    fixture.write_lines("slow", &body).await;
    let row = fixture.validate("slow", false).await;
    assert_eq!(
        (&row["verdict"], &row["checked"], &row["walked"]),
        (&json!("equal"), &json!(600), &json!(600)),
        "{row}"
    );
    fixture.remove().await;
}

#[tokio::test]
async fn documents_that_are_much_larger_in_the_index_than_in_the_source_are_asked_for_in_portions() {
    let fixture = Fixture::with_items(40).await;
    let large = format!(r#"{{"id":0,"value":"{}"}}"#, "x".repeat(30_000));
    let mut found = vec![];
    for id in 21..=60 {
        // Of a field that is not in the mapping, which takes anything.
        fixture.write("items", &id.to_string(), Some(&large)).await;
        found.push(id.to_string());
    }
    fixture.validate("items", false).await;
    assert_eq!(
        fixture.differences("items").await,
        format!("extra confirmed {}, stale confirmed {}", found[20..].join(" "), found[..20].join(" "))
    );
    fixture.remove().await;
}

#[tokio::test]
async fn a_key_that_no_document_can_have_is_missing_and_holds_up_nothing() {
    let fixture = Fixture::new().await;
    fixture
        .execute(
            r#"CREATE SCHEMA demo;
             CREATE TABLE demo.odd (id text PRIMARY KEY);
             SELECT sluice.define_stream('odd', source => 'demo.odd', key => 'id', mapping => '{"properties": {"id": {"type": "keyword"}}}');
             INSERT INTO demo.odd VALUES (''), ('fine'), (repeat('x', 600))"#,
        )
        .await;
    fixture.migrate().await;
    fixture.write("odd", "fine", Some(r#"{"id":"fine"}"#)).await;
    let row = fixture.validate("odd", false).await;
    assert_eq!(fixture.differences("odd").await, format!("missing confirmed  {}", "x".repeat(600)), "{row}");
    fixture.remove().await;
}

#[tokio::test]
async fn what_another_stream_waits_for_holds_up_no_round() {
    let fixture = Fixture::with_items(10).await;
    let flight = "INSERT INTO sluice.flight (subscription, stream, base, parts, first_id, last_id, seen, since, later)
         VALUES ('elasticsearch', $1, 1, 1, 1, 1, '1:1:', clock_timestamp() - interval '1 hour', 1)";
    fixture.owner.execute(flight, &[&"another"]).await.unwrap();
    let row = fixture.validate("items", false).await;
    assert_eq!(row["verdict"], "equal", "{row}");

    fixture.owner.execute(flight, &[&"items"]).await.unwrap();
    let validator = fixture.validator(&[]);
    let begin = json!({"command": "begin", "stream": "items", "actor": "a test"});
    fixture.handle(&validator, begin, A_MINUTE).await.unwrap();
    let waits = "it waits until what is on its way has arrived";
    fixture.go_on_until(&validator, "items", |row| row["problem"] == waits).await;
    fixture.remove().await;
}

#[tokio::test]
async fn a_database_that_was_restored_elsewhere_is_not_compared_before_it_was_rebased() {
    let fixture = Fixture::with_items(10).await;
    fixture.execute("UPDATE sluice.subscription SET system_identifier = 42").await;
    let event = json!({"command": "begin", "stream": "items", "actor": "a test"});
    let validator = fixture.validator(&[]);
    fixture.handle(&validator, event, A_MINUTE).await.unwrap();
    let event = json!({"command": "go_on", "streams": ["items"]});
    let refused = fixture.handle(&validator, event, A_MINUTE).await.unwrap_err().to_string();
    assert!(refused.contains("restored or copied into another cluster"), "{refused}");
    fixture.remove().await;
}

#[tokio::test]
async fn the_scrub_replaces_no_round_that_goes_on() {
    let fixture = Fixture::with_items(10).await;
    fixture
        .execute(
            "SELECT sluice.begin_validation('elasticsearch', 'items', true, false, 'somebody');
             SELECT sluice.begin_validation('elasticsearch', 'items', false, false, 'scrub')",
        )
        .await;
    assert_eq!(fixture.value::<String>("SELECT actor FROM sluice.validation").await, "somebody");
    fixture.remove().await;
}
