//! What the indexer itself puts on the queue: second looks, and messages that are sent anew.

use message::{Message, Op, Operation, Part};
use serde_json::json;

use crate::{
    batch::{batch, message},
    fixture::{Fixture, Letter},
};

const DAY: u64 = 24 * 3600;

/// A fixture with a stream `cities` over a table that has city 1 alone, and its index.
async fn cities() -> Fixture {
    let fixture = Fixture::with_database().await;
    let define = r#"CREATE TABLE city (id int PRIMARY KEY, n int);
        INSERT INTO city VALUES (1, 10);
        SELECT sluice.define_stream('cities', source => 'public.city', key => 'id', mapping => '{"properties": {"id": {}, "n": {}}}')"#;
    fixture.owner().await.batch_execute(define).await.unwrap();
    fixture.index("cities", json!({"id": {"type": "long"}, "n": {"type": "long"}})).await;
    fixture
}

fn looks(letter: &Letter) -> Vec<(String, i64, Op)> {
    let message = Message::parse(&letter.body).unwrap();
    message.entries.iter().map(|entry| (entry.change.key.to_string(), entry.change.version, entry.change.op)).collect()
}

#[tokio::test]
async fn every_delete_travels_once_more_as_a_second_look_with_its_version() {
    let fixture = cities().await;
    let event = batch([
        message("cities").delete("7", 5).upsert("8", 5, r#"{"id":8}"#).delete("9", 5),
        // Read again, since it came back: the row of 2 is gone, that of 1 is there.
        message("cities").upsert("2", 6, r#"{"id":2}"#).delete("1", 6).received(2),
        message("cities").upsert("3", 7, r#"{"id":3}"#),
    ]);
    assert_eq!(fixture.handle(&event).await, [""; 0]);
    let sent = fixture.dead_letters.sent();
    let look = |key: &str, version| (key.to_owned(), version, Op::Look);
    assert_eq!(sent.iter().map(looks).collect::<Vec<_>>(), [vec![look("7", 5), look("9", 5)], vec![look("2", 6)]]);
    assert!(sent.iter().all(|letter| letter.delay_seconds == 900), "{sent:?}");
}

#[tokio::test]
async fn a_delete_that_was_carried_out_before_its_answer_was_lost_is_looked_at_again() {
    let fixture = cities().await;
    let event = batch([message("cities").delete("7", 5)]);
    assert_eq!(fixture.handle(&event).await, [""; 0]);
    assert_eq!(fixture.handle(&event).await, [""; 0], "now it is stale");
    assert_eq!(fixture.dead_letters.sent().len(), 2);
}

#[tokio::test]
async fn each_change_is_counted_once_by_what_was_done_to_its_row() {
    let fixture = cities().await;
    let owner = fixture.owner().await;
    let counted = async || -> Option<String> {
        let query = "SELECT string_agg(measure || ' ' || value, ', ' ORDER BY measure) FROM sluice.delivery_stats
            WHERE measure LIKE 'succeeded%' OR measure LIKE 'failed%'";
        owner.query_one(query, &[]).await.unwrap().get(0)
    };
    let changes = message("cities").upsert("7", 5, r#"{"id":7}"#).of(Operation::Insert);
    let changes = changes.upsert("8", 5, r#"{"n":"no number"}"#).of(Operation::Update);
    let event = batch([changes.delete("9", 5).of(Operation::Delete).upsert("10", 5, r#"{"id":10}"#)]);
    fixture.dead_letters.refuse("no number");
    assert_eq!(fixture.handle(&event).await, ["0"]);
    assert_eq!(counted().await, None, "the message comes once more");
    fixture.dead_letters.refuse("nothing");
    assert_eq!(fixture.handle(&event).await, [""; 0]);
    let once = "failed_update 1, succeeded_delete 1, succeeded_insert 1, succeeded_upsert 1";
    assert_eq!(counted().await.as_deref(), Some(once));

    let look = fixture.dead_letters.sent().pop().unwrap();
    assert_eq!(fixture.handle(&crate::batch::event([(look.body, 1)])).await, [""; 0]);
    assert_eq!(counted().await.as_deref(), Some(once), "a second look is no change");
    let letter = fixture.dead_letters.letter();
    let operation = Message::parse(&letter.body).unwrap().entries[0].change.operation;
    assert_eq!(operation, Operation::Upsert, "its failure is counted");
}

#[tokio::test]
async fn a_second_look_removes_what_came_back_and_no_other_look_follows() {
    let fixture = cities().await;
    // As after a restart: the tombstone is forgotten, and an older write that was under way has arrived.
    let back = batch([message("cities").upsert("7", 4, r#"{"id":7}"#).upsert("1", 9, r#"{"id":1,"n":9}"#)]);
    assert_eq!(fixture.handle(&back).await, [""; 0]);
    assert!(fixture.document("cities", "7").await.is_some());
    let second = batch([message("cities").look("7", 5).look("1", 8)]);
    assert_eq!(fixture.handle(&second).await, [""; 0]);
    assert_eq!(fixture.document("cities", "7").await, None);
    assert_eq!(fixture.document("cities", "1").await, Some((9, r#"{"id":1,"n":9}"#.to_owned())), "newer than the look");
    assert!(fixture.dead_letters.sent().is_empty());
}

#[tokio::test]
async fn a_message_that_is_shortened_carries_the_looks_at_what_was_deleted() {
    let fixture = cities().await;
    let rest = message("cities").upsert("8", 5, r#"{"id":8}"#).look("7", 5).delete("9", 5).part(77, 3);
    assert_eq!(fixture.handle(&batch([rest])).await, [""; 0]);
    let sent = fixture.dead_letters.sent();
    let look = |key: &str| (key.to_owned(), 5, Op::Look);
    assert_eq!(sent.iter().map(looks).collect::<Vec<_>>(), [vec![look("7"), look("9")]], "one look of all of it");
    let part = Message::parse(&sent[0].body).unwrap().part;
    assert_eq!(part, Some(Part { flight: 77, number: 3 }), "and it is of the same flight");
}

#[tokio::test]
async fn what_became_of_each_part_of_a_flight_is_noted() {
    let fixture = cities().await;
    let owner = fixture.owner().await;
    owner.batch_execute("UPDATE sluice.subscription SET reserved = 100").await.unwrap();
    let event = batch([
        message("cities").upsert("1", 5, r#"{"id":1}"#).part(77, 1),
        message("cities").delete("2", 5).upsert("3", 5, r#"{"unknown":3}"#).part(77, 2),
        message("nowhere").read("4", 5).part(78, 1),
        message("cities").look("5", 5).part(79, 1),
        message("cities").upsert("6", 5, r#"{"id":6}"#),
        message("cities").upsert("7", 5, r#"{"id":7}"#).part(101, 1),
    ]);
    assert_eq!(fixture.handle(&event).await, [""; 0]);
    let landed =
        "SELECT string_agg(concat_ws(' ', stream, base, part, is_final), ', ' ORDER BY base, part) FROM sluice.landed";
    let landed: String = owner.query_one(landed, &[]).await.unwrap().get(0);
    assert_eq!(
        landed, "cities 77 1 t, cities 77 2 f, nowhere 78 1 t, cities 79 1 t",
        "what was never sent is not there"
    );

    fixture.dead_letters.refuse("\"unknown\"");
    let refused = message("cities").upsert("3", 6, r#"{"unknown":3}"#).part(80, 1);
    assert_eq!(fixture.handle(&batch([refused])).await, ["0"], "its letter is not taken");
    let count: i64 = owner.query_one("SELECT count(*) FROM sluice.landed WHERE base = 80", &[]).await.unwrap().get(0);
    assert_eq!(count, 0);
}

#[tokio::test]
async fn a_message_comes_back_until_it_is_noted_that_it_landed_and_is_counted_once() {
    let fixture = cities().await;
    let owner = fixture.owner().await;
    owner.batch_execute("UPDATE sluice.subscription SET reserved = 100").await.unwrap();
    let event = batch([
        message("cities").upsert("1", 5, r#"{"id":1}"#).part(77, 1),
        message("cities").upsert("2", 5, r#"{"id":2}"#),
    ]);
    owner.batch_execute("ALTER TABLE sluice.landed RENAME TO away").await.unwrap();
    assert_eq!(fixture.handle(&event).await, ["0"], "nobody waits for what is of no flight");
    assert_eq!(fixture.dead_letters.delayed(), ["receipt 0"]);
    owner.batch_execute("ALTER TABLE sluice.away RENAME TO landed").await.unwrap();
    let again = batch([message("cities").upsert("1", 5, r#"{"id":1}"#).part(77, 1).received(2)]);
    assert_eq!(fixture.handle(&again).await, [""; 0]);
    let noted =
        "SELECT count(*), (SELECT sum(value) FROM sluice.delivery_stats WHERE measure = 'succeeded_upsert')::bigint
        FROM sluice.landed WHERE base = 77 AND part = 1";
    let noted = owner.query_one(noted, &[]).await.unwrap();
    assert_eq!((noted.get::<_, i64>(0), noted.get::<_, i64>(1)), (1, 1));
}

#[tokio::test]
async fn a_second_look_or_a_letter_that_is_not_taken_brings_its_message_back_and_a_look_never_goes_ahead_of_a_letter() {
    let fixture = cities().await;
    let event = batch([
        message("cities").delete("7", 5).upsert("8", 5, r#"{"unknown":8}"#),
        message("cities").upsert("9", 5, r#"{"id":9}"#),
    ]);
    fixture.dead_letters.refuse("\"unknown\"");
    assert_eq!(fixture.handle(&event).await, ["0"]);
    assert!(fixture.dead_letters.sent().is_empty(), "neither the letter nor the look");
    fixture.dead_letters.refuse("\"look\"");
    assert_eq!(fixture.handle(&event).await, ["0"]);
    assert_eq!(fixture.dead_letters.letters().len(), 1);
    let noted = "SELECT string_agg(concat_ws(' ', subscription, stream, key, version), ', ') FROM sluice.dead_letter";
    let noted: String = fixture.owner().await.query_one(noted, &[]).await.unwrap().get(0);
    assert_eq!(noted, "elasticsearch cities 8 5");
}

#[tokio::test]
async fn a_second_look_without_anything_to_read_has_nothing_to_see() {
    let fixture = cities().await;
    let define = r#"SELECT sluice.define_stream('events', mapping => '{"properties": {"n": {}}}')"#;
    fixture.owner().await.batch_execute(define).await.unwrap();
    fixture.index("events", json!({"n": {"type": "long"}})).await;
    let event = batch([message("events").look("1", 5), message("dropped").look("1", 5)]);
    assert_eq!(fixture.handle(&event).await, [""; 0]);
    assert!(fixture.dead_letters.letters().is_empty());
}

#[tokio::test]
async fn a_message_near_its_last_receipt_is_sent_anew_with_its_history() {
    let fixture = Fixture::new().await;
    let event = batch([900, 899].map(|receipts| message("cities").read("1", 5).received(receipts)));
    assert_eq!(fixture.handle(&event).await, ["1"], "the one that was sent anew is acknowledged");
    let sent = fixture.dead_letters.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].body, message("cities").read("1", 5).body());
    let history = ["first_seen", "attempts"].map(|name| sent[0].attribute(name));
    assert_eq!(history, ["2026-09-21T14:13:20Z", "900"]);
    assert!((0..=900).contains(&sent[0].delay_seconds), "{sent:?}");
    assert_eq!(fixture.dead_letters.delayed(), ["receipt 1"]);
}

#[tokio::test]
async fn a_message_of_three_days_is_sent_anew() {
    let fixture = Fixture::new().await;
    let event = batch([message("cities").read("1", 5)]);
    assert_eq!(fixture.handle_after(&event, 3 * DAY).await, ["0"]);
    assert_eq!(fixture.handle_after(&event, 3 * DAY + 1).await, [""; 0]);
    assert_eq!(fixture.dead_letters.sent().len(), 1);
}

#[tokio::test]
async fn a_message_that_cannot_be_sent_anew_is_given_back() {
    let fixture = Fixture::new().await;
    let event = batch([message("cities").read("1", 5).received(1000)]);
    fixture.dead_letters.set_away(true);
    assert_eq!(fixture.handle(&event).await, ["0"]);
}

#[tokio::test]
async fn what_was_sent_anew_keeps_its_history_and_is_read_again() {
    let fixture = cities().await;
    let stale = r#"{"id":1,"n":-1}"#;
    let mut event = batch([message("cities").upsert("1", 5, stale).upsert("", 5, stale)]);
    let history = json!({
        "first_seen": {"stringValue": "2026-09-01T00:00:00Z", "dataType": "String"},
        "attempts": {"stringValue": "900", "dataType": "String"},
    });
    event.records[0].message_attributes = serde_json::from_value(history).unwrap();
    assert_eq!(fixture.handle(&event).await, [""; 0]);
    assert_eq!(fixture.document("cities", "1").await, Some((5, r#"{"n":10,"id":1}"#.to_owned())));
    let letter = fixture.dead_letters.letter();
    let told = ["first_seen", "attempts"].map(|name| letter.attribute(name));
    assert_eq!(told, ["2026-09-01T00:00:00Z", "901"]);
}
