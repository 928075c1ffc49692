//! Sources that are slow, or hold rows that cannot be read.

use std::time::Duration;

use aws_lambda_events::event::sqs::SqsEvent;
use message::{Message, Op};
use serde_json::json;

use crate::{
    batch::{batch, event, message},
    fixture::Fixture,
};

/// Of which the indexer keeps three and a half seconds for sending and for its answer.
const A_SHORT_INVOCATION: Duration = Duration::from_millis(5500);

/// A fixture with these streams over views of one table, each with its key `id`, and their indexes.
async fn streams(views: &[(&str, &str)]) -> (Fixture, tokio_postgres::Client) {
    let fixture = Fixture::with_database().await;
    let owner = fixture.owner().await;
    // Not volatile: such a view would be computed whole for each query.
    let tables = "CREATE TABLE item (id int PRIMARY KEY, code text);
        CREATE FUNCTION nap(id int) RETURNS text LANGUAGE plpgsql STABLE AS
            $$ BEGIN PERFORM pg_sleep(0.1); RETURN id; END $$";
    owner.batch_execute(tables).await.unwrap();
    for (stream, select) in views {
        let define = format!(
            r#"CREATE VIEW {stream}_document AS SELECT id, {select} AS n FROM item;
               SELECT sluice.define_stream('{stream}', source => 'public.{stream}_document', key => 'id',
                   mapping => '{{"properties": {{"id": {{"type": "long"}}, "n": {{"type": "keyword"}}}}}}')"#
        );
        owner.batch_execute(&define).await.unwrap();
        fixture.index(stream, json!({"id": {"type": "long"}, "n": {"type": "keyword"}})).await;
    }
    (fixture, owner)
}

/// A message that asks for so many keys.
fn reads(stream: &str, keys: i32) -> crate::batch::Message {
    (1..=keys).fold(message(stream), |message, key| message.read(&key.to_string(), 5))
}

async fn is_indexed(fixture: &Fixture, stream: &str, key: i32) -> bool {
    fixture.document(stream, &key.to_string()).await.is_some()
}

#[tokio::test]
async fn a_slow_source_holds_up_no_other_stream_of_its_batch() {
    // In the order of their names, the slow ones are before the others.
    let slow = "pg_sleep(1 + 0 * id)::text";
    let (fixture, owner) = streams(&[("a_slow", slow), ("b_slow", slow), ("cities", "id"), ("people", "id")]).await;
    owner.batch_execute("INSERT INTO item SELECT generate_series(1, 100)").await.unwrap();
    let all = ["a_slow", "b_slow", "cities", "people"].map(|stream| reads(stream, 100));
    assert_eq!(fixture.handle_within(&batch(all), Duration::from_secs(8)).await, ["0", "1"]);
    assert!(is_indexed(&fixture, "cities", 100).await && is_indexed(&fixture, "people", 100).await);
    assert!(fixture.dead_letters.letters().is_empty());
}

#[tokio::test]
async fn what_travelled_waits_for_no_source() {
    let (fixture, owner) = streams(&[("a_slow", "pg_sleep(100 + 0 * id)::text"), ("cities", "id")]).await;
    owner.batch_execute("INSERT INTO item VALUES (1)").await.unwrap();
    let fresh = message("a_slow").upsert("2", 5, r#"{"id":2}"#);
    let event = batch([reads("a_slow", 1), fresh, message("cities").upsert("3", 5, r#"{"id":3}"#)]);
    assert_eq!(fixture.handle_within(&event, A_SHORT_INVOCATION).await, ["0"]);
    assert!(is_indexed(&fixture, "a_slow", 2).await && is_indexed(&fixture, "cities", 3).await);
}

#[tokio::test]
async fn a_source_that_is_too_slow_for_a_message_is_read_in_parts_until_all_is_written() {
    let (fixture, owner) = streams(&[("slow", "nap(id)")]).await;
    owner.batch_execute("INSERT INTO item SELECT generate_series(1, 40)").await.unwrap();
    // More than one invocation reads, which is to be read in a few. The last row is gone.
    let mut left = batch([reads("slow", 41)]);
    for _receipt in 0..12 {
        let given_back = fixture.handle_within(&left, A_SHORT_INVOCATION).await;
        let sent = fixture.dead_letters.take_sent();
        match (given_back.as_slice(), sent.iter().find(|sent| sent.delay_seconds == 0)) {
            ([_], None) => {}
            ([], None) => {
                for key in 1..=40 {
                    assert!(is_indexed(&fixture, "slow", key).await, "{key}");
                }
                assert!(fixture.dead_letters.letters().is_empty());
                assert_eq!(
                    sent.iter().map(|sent| sent.body.matches("look").count()).collect::<Vec<_>>(),
                    [1],
                    "at the last"
                );
                return;
            }
            ([], Some(rest)) => {
                assert_eq!(sent.len(), 1, "the look comes when all is done");
                assert!(changes(&rest.body) < changes_of(&left), "each part has less to be read than the one before");
                assert_eq!(rest.attribute("first_seen"), "2026-09-21T14:13:20Z");
                left = event([(rest.body.clone(), 1)]);
            }
            both => panic!("given back, and sent as well: {both:?}"),
        }
    }
    panic!("{} changes are never written", changes_of(&left));
}

/// Those that are to be read.
fn changes(body: &str) -> usize {
    let message = Message::parse(body).unwrap();
    message.entries.iter().filter(|entry| entry.change.op != Op::Look).count()
}

fn changes_of(event: &SqsEvent) -> usize {
    event.records.iter().map(|record| changes(record.body.as_deref().unwrap())).sum()
}

/// At least one code of each class that the server or an application may raise while a row is read.
const CODES: [&str; 23] = [
    "02000", "0A000", "21000", "22012", "22P02", "23505", "23514", "26000", "2F003", "34000", "38001", "39004",
    "3F000", "40001", "57P01", "42501", "42883", "53400", "54000", "55000", "P0001", "P0002", "XX000",
];

#[tokio::test]
async fn a_row_that_cannot_be_read_is_dead_lettered_alone_with_its_sqlstate_whatever_that_is() {
    let (fixture, owner) = streams(&[]).await;
    let function = "CREATE FUNCTION checked(code text) RETURNS text LANGUAGE plpgsql AS
        $$ BEGIN IF code IS NOT NULL THEN RAISE EXCEPTION 'refused' USING ERRCODE = code; END IF; RETURN 'good'; END $$";
    owner.batch_execute(function).await.unwrap();
    for code in CODES {
        let stream = format!("s{}", code.to_lowercase());
        let define = format!(
            r#"CREATE TABLE {stream} (id int PRIMARY KEY, code text);
               CREATE VIEW {stream}_document AS SELECT id, checked(code) AS n FROM {stream};
               SELECT sluice.define_stream('{stream}', source => 'public.{stream}_document', key => 'id',
                   mapping => '{{"properties": {{"id": {{"type": "long"}}, "n": {{"type": "keyword"}}}}}}');
               INSERT INTO {stream} SELECT id, CASE WHEN id = 17 THEN '{code}' END FROM generate_series(1, 40) AS id"#
        );
        owner.batch_execute(&define).await.unwrap();
        fixture.index(&stream, json!({"id": {"type": "long"}, "n": {"type": "keyword"}})).await;
        assert_eq!(fixture.handle(&batch([reads(&stream, 40)])).await, [""; 0], "{code}");
        for key in (1..=40).filter(|key| *key != 17) {
            assert!(is_indexed(&fixture, &stream, key).await, "{code}: {key}");
        }
        let letters = fixture.dead_letters.letters();
        let letter = letters.last().unwrap();
        let told = ["stream", "key", "error_type", "reason"].map(|name| letter.attribute(name));
        assert_eq!(told, [stream.as_str(), "17", code, "refused"]);
    }
    assert_eq!(fixture.dead_letters.letters().len(), CODES.len());
}

#[tokio::test]
async fn a_key_that_can_never_be_written_is_one_letter_of_a_batch_with_its_newest_version() {
    let (fixture, owner) = streams(&[("cities", "1 / (id - 7)")]).await;
    owner.batch_execute("INSERT INTO item SELECT generate_series(1, 9)").await.unwrap();
    let event = batch((1..=5).map(|version| message("cities").read("7", version).read("8", version)));
    assert_eq!(fixture.handle(&event).await, [""; 0]);
    let letter = fixture.dead_letters.letter();
    assert_eq!(["key", "version", "error_type"].map(|name| letter.attribute(name)), ["7", "5", "22012"]);
    assert_eq!(fixture.document("cities", "8").await.map(|(version, _)| version), Some(5));
}
