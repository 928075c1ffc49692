//! Documents that are read from PostgreSQL before they are written.

use serde_json::{Value, json};

use crate::{
    batch::{batch, message},
    fixture::Fixture,
};

/// A fixture with a stream `cities` over a table, and its index.
async fn cities() -> (Fixture, tokio_postgres::Client) {
    let fixture = Fixture::with_database().await;
    let owner = fixture.owner().await;
    owner
        .batch_execute(
            r#"CREATE TABLE city (id int PRIMARY KEY, n int, d int NOT NULL DEFAULT 1);
               CREATE VIEW document AS SELECT id, n / d AS n FROM city;
               SELECT sluice.define_stream('cities', source => 'public.document', key => 'id',
                   mapping => '{"properties": {"id": {"type": "long"}, "n": {"type": "long"}}}');
               INSERT INTO city VALUES (1, 10), (2, 20), (3, 30);"#,
        )
        .await
        .unwrap();
    fixture.index("cities", json!({"id": {"type": "long"}, "n": {"type": "long"}})).await;
    (fixture, owner)
}

async fn n_of(fixture: &Fixture, key: &str) -> Option<(i64, i64)> {
    let (version, document) = fixture.document("cities", key).await?;
    let document: Value = serde_json::from_str(&document).unwrap();
    Some((version, document["n"].as_i64().unwrap()))
}

#[tokio::test]
async fn what_is_old_or_came_back_or_did_not_travel_is_read_again() {
    let (fixture, _owner) = cities().await;
    let stale = r#"{"id":0,"n":-1}"#;
    let event = batch([
        message("cities").upsert("1", 5, stale).old(61),
        message("cities").upsert("2", 5, stale).received(2),
        message("cities").read("3", 5),
        message("cities").upsert("4", 5, stale),
    ]);
    assert_eq!(fixture.handle(&event).await, [""; 0]);
    for (key, n) in [("1", 10), ("2", 20), ("3", 30), ("4", -1)] {
        assert_eq!(n_of(&fixture, key).await, Some((5, n)), "{key}");
    }
}

#[tokio::test]
async fn a_document_that_is_gone_is_deleted_with_the_version_of_the_change() {
    let (fixture, _owner) = cities().await;
    let first = batch([message("cities").upsert("9", 5, r#"{"n":1}"#)]);
    assert_eq!(fixture.handle(&first).await, [""; 0]);
    let redelivered = batch([message("cities").upsert("9", 6, r#"{"n":2}"#).received(2)]);
    assert_eq!(fixture.handle(&redelivered).await, [""; 0]);
    assert_eq!(n_of(&fixture, "9").await, None);
    let late = batch([message("cities").upsert("9", 5, r#"{"n":1}"#)]);
    assert_eq!(fixture.handle(&late).await, [""; 0]);
    assert_eq!(n_of(&fixture, "9").await, None, "the delete left its version");
}

#[tokio::test]
async fn a_delete_that_came_back_does_not_undo_what_was_written_since() {
    let (fixture, _owner) = cities().await;
    assert_eq!(fixture.handle(&batch([message("cities").delete("1", 5).received(2)])).await, [""; 0]);
    assert_eq!(n_of(&fixture, "1").await, Some((5, 10)));
}

#[tokio::test]
async fn a_key_whose_row_fails_by_its_data_is_dead_lettered_alone() {
    let (fixture, owner) = cities().await;
    owner.execute("UPDATE city SET d = 0 WHERE id = 2", &[]).await.unwrap();
    // From before the key had a type that has no such value.
    assert_eq!(fixture.handle(&batch([message("cities").upsert("no number", 4, r#"{"n":1}"#)])).await, [""; 0]);
    assert_eq!(n_of(&fixture, "no number").await, Some((4, 1)));
    let event = batch([message("cities").read("1", 5).read("2", 5).read("3", 5).read("no number", 5)]);
    assert_eq!(fixture.handle(&event).await, [""; 0]);
    assert_eq!(fixture.dead_letters.keys(), ["2"]);
    assert_eq!(n_of(&fixture, "no number").await, None, "there is no such row");
    let letters = fixture.dead_letters.letters();
    let division = letters.iter().find(|letter| letter.attribute("key") == "2").unwrap();
    assert_eq!(division.attribute("error_type"), "22012");
    assert_eq!(division.attribute("reason"), "division by zero");
    assert_eq!(n_of(&fixture, "1").await, Some((5, 10)));
    assert_eq!(n_of(&fixture, "3").await, Some((5, 30)));
}

#[tokio::test]
async fn a_broken_source_stops_only_what_is_read_from_it_until_it_is_mended() {
    let (fixture, owner) = cities().await;
    owner.batch_execute("ALTER VIEW document RENAME COLUMN n TO m").await.unwrap();
    let event = || batch([message("cities").read("1", 5), message("cities").upsert("8", 5, r#"{"n":8}"#)]);
    assert_eq!(fixture.handle(&event()).await, ["0"]);
    assert_eq!(n_of(&fixture, "8").await, Some((5, 8)));
    owner.batch_execute("DROP VIEW document").await.unwrap();
    assert_eq!(fixture.handle(&event()).await, ["0"]);
    assert!(fixture.dead_letters.letters().is_empty());
    let fails = "CREATE VIEW document AS SELECT id, n / 0 AS n FROM city; GRANT SELECT ON document TO PUBLIC";
    owner.batch_execute(fails).await.unwrap();
    assert_eq!(fixture.handle(&batch([message("cities").read("1", 5).read("2", 5)])).await, [""; 0], "as data, alone");
    let raises = "CREATE FUNCTION raises() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE 'under repair'; END $$;
        CREATE OR REPLACE VIEW document AS SELECT id, public.raises() AS n FROM city";
    owner.batch_execute(raises).await.unwrap();
    let letters = fixture.dead_letters.letters().len();
    assert_eq!(fixture.handle(&event()).await, ["0"]);
    assert_eq!(fixture.dead_letters.letters().len(), letters);
    assert_eq!(fault(&owner).await.as_deref(), Some("under repair [P0001]"));
    owner.batch_execute("CREATE OR REPLACE VIEW document AS SELECT id, n FROM city").await.unwrap();
    assert_eq!(fixture.handle(&event()).await, [""; 0]);
    assert_eq!(n_of(&fixture, "1").await, Some((5, 10)));
    assert_eq!(fault(&owner).await, None, "a read that went well ends it");
}

async fn fault(owner: &tokio_postgres::Client) -> Option<String> {
    let query = "SELECT problem FROM sluice.stream_fault WHERE stream = 'cities'";
    owner.query_opt(query, &[]).await.unwrap().map(|row| row.get(0))
}

#[tokio::test]
async fn without_postgresql_what_needs_no_re_read_goes_on() {
    let fixture = Fixture::new().await;
    fixture.index("cities", json!({"n": {"type": "long"}})).await;
    let event = batch([
        message("cities").upsert("1", 5, r#"{"n":1}"#).received(2),
        message("cities").upsert("2", 5, r#"{"n":2}"#),
        message("cities").read("3", 5),
    ]);
    assert_eq!(fixture.handle(&event).await, ["0", "2"]);
    assert_eq!(n_of(&fixture, "2").await, Some((5, 2)));
    assert_eq!(n_of(&fixture, "1").await, None);
    assert!(fixture.dead_letters.letters().is_empty());
}

#[tokio::test]
async fn a_stream_that_is_fed_with_payloads_is_written_as_it_travelled() {
    let (fixture, owner) = cities().await;
    let define = r#"SELECT sluice.define_stream('events', mapping => '{"properties": {"n": {"type": "long"}}}')"#;
    owner.batch_execute(define).await.unwrap();
    fixture.index("events", json!({"n": {"type": "long"}})).await;
    let event = batch([
        message("events").upsert("1", 5, r#"{"n":1}"#).received(9).old(3600),
        message("events").delete("2", 5).received(2),
        message("events").read("3", 5),
    ]);
    assert_eq!(fixture.handle(&event).await, [""; 0]);
    assert_eq!(fixture.document("events", "1").await, Some((5, r#"{"n":1}"#.to_owned())));
    let letter = fixture.dead_letters.letter();
    assert_eq!((letter.attribute("key"), letter.attribute("error_type")), ("3", "no_source"));
}

#[tokio::test]
async fn a_connection_that_was_closed_is_made_anew() {
    let (fixture, owner) = cities().await;
    assert_eq!(fixture.handle(&batch([message("cities").read("1", 5)])).await, [""; 0]);
    let superuser = fixture.database.as_ref().unwrap().superuser().await.unwrap();
    let terminated = superuser
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'sluice-indexer'",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(terminated, 1, "the indexer holds one connection");
    drop(owner);
    assert_eq!(fixture.handle(&batch([message("cities").read("2", 5)])).await, [""; 0]);
    assert_eq!(n_of(&fixture, "2").await, Some((5, 20)));
}

#[tokio::test]
async fn documents_are_read_and_written_in_portions() {
    let (fixture, owner) = cities().await;
    owner
        .batch_execute(
            r#"CREATE TABLE long (id int PRIMARY KEY, text text);
               INSERT INTO long SELECT i, repeat('x', 30000) FROM generate_series(1, 100) AS i;
               SELECT sluice.define_stream('long', source => 'public.long', key => 'id',
                   mapping => '{"properties": {"id": {"type": "long"}, "text": {"type": "text"}}}')"#,
        )
        .await
        .unwrap();
    fixture.index("long", json!({"id": {"type": "long"}, "text": {"type": "text"}})).await;
    let all =
        (1..=100).fold(message("long"), |message, id| message.read(&id.to_string(), 5).delete(&id.to_string(), 4));
    assert_eq!(fixture.handle(&batch([all])).await, [""; 0]);
    for key in ["1", "50", "100"] {
        assert_eq!(
            fixture.document("long", key).await.map(|(version, text)| (version, text.len() > 30_000)),
            Some((5, true))
        );
    }
}

#[tokio::test]
async fn a_stream_of_a_name_that_postgresql_cannot_hold_keeps_nobody_from_being_counted() {
    let (fixture, owner) = cities().await;
    let event =
        batch([message("ci\0ties").upsert("1", 5, r#"{"n":1}"#), message("cities").upsert("1", 5, r#"{"n":1}"#)]);
    assert_eq!(fixture.handle(&event).await, [""; 0]);
    let letter = fixture.dead_letters.letter();
    assert_eq!(letter.attribute("error_type"), "unknown_stream");
    let counted = "SELECT string_agg(stream || ' ' || measure, ', ' ORDER BY stream, measure) FROM sluice.delivery_stats WHERE measure IN ('written', 'dead_lettered')";
    let counted: Option<String> = owner.query_one(counted, &[]).await.unwrap().get(0);
    assert_eq!(counted.as_deref(), Some(" dead_lettered, cities written"));
}
