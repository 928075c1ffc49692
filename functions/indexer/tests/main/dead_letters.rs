//! The dead-letter queue, and when a message counts as done.

use serde_json::json;

use crate::{
    batch::{batch, event, message},
    fixture::Fixture,
};

#[tokio::test]
async fn a_message_that_cannot_be_parsed_is_dead_lettered_as_it_came() {
    let fixture = Fixture::new().await;
    fixture.index("cities", json!({"n": {"type": "long"}})).await;
    let good = message("cities").upsert("a", 1, r#"{"n":1}"#).body();
    let later = good.replace("\"v\":1", "\"v\":2");
    let bodies = ["garbage", "", later.as_str(), good.as_str()].map(|body| (body.to_owned(), 3));
    // The good one was received before, and nobody is there to read it again from.
    assert_eq!(fixture.handle(&event(bodies)).await, ["3"]);
    let letters = fixture.dead_letters.letters();
    assert_eq!(letters.iter().map(|letter| letter.body.as_str()).collect::<Vec<_>>(), ["garbage", "-", later.as_str()]);
    let reasons: Vec<&str> = letters.iter().map(|letter| letter.attribute("reason")).collect();
    assert_eq!(
        reasons,
        [
            "line 1 is not the header of a message: expected value at line 1 column 1",
            "line 1 is missing",
            "the envelope has version 2, and this code reads 1"
        ]
    );
    for letter in letters {
        assert_eq!(letter.attribute("error_type"), "malformed_message");
        assert_eq!(letter.attribute("attempts"), "3");
        assert_eq!(letter.attribute("first_seen"), "2026-09-21T14:13:20Z");
        assert!(letter.attribute("failed_at").ends_with('Z'));
    }
}

#[tokio::test]
async fn a_dead_letter_is_a_message_of_one_change() {
    let fixture = Fixture::new().await;
    fixture.index("cities", json!({"n": {"type": "long"}})).await;
    let event = batch([message("cities").upsert("a", 1, r#"{"n":1}"#).upsert("b", 2, r#"{"n": "x", "d": 1.10}"#)]);
    assert_eq!(fixture.handle(&event).await, [""; 0]);
    let letter = fixture.dead_letters.letter();
    let message = message::Message::parse(&letter.body).unwrap();
    assert_eq!(message.entries.len(), 1);
    assert_eq!(message.entries[0].document, Some(r#"{"n": "x", "d": 1.10}"#));
    for (name, value) in [("stream", "cities"), ("key", "b"), ("version", "2"), ("attempts", "1")] {
        assert_eq!(letter.attribute(name), value);
    }
}

#[tokio::test]
async fn a_letter_that_is_not_taken_brings_its_message_back_and_no_other() {
    let fixture = Fixture::new().await;
    fixture.index("cities", json!({"n": {"type": "long"}})).await;
    fixture.dead_letters.refuse("\"key\":\"b\"");
    let bad = |key| message("cities").upsert(key, 1, r#"{"x":1}"#);
    let many = (0..25).fold(message("cities"), |message, n| message.upsert(&format!("many{n}"), 1, r#"{"x":1}"#));
    assert_eq!(fixture.handle(&batch([bad("a"), bad("b"), bad("c"), many])).await, ["1"]);
    assert_eq!(fixture.dead_letters.letters().len(), 27);
}

#[tokio::test]
async fn without_a_dead_letter_queue_nothing_is_acknowledged_that_belongs_there() {
    let fixture = Fixture::new().await;
    fixture.index("cities", json!({"n": {"type": "long"}})).await;
    fixture.dead_letters.set_away(true);
    let event =
        || batch([message("cities").upsert("good", 1, r#"{"n":1}"#), message("cities").upsert("bad", 1, r#"{"x":1}"#)]);
    assert_eq!(fixture.handle(&event()).await, ["1"]);
    fixture.dead_letters.set_away(false);
    assert_eq!(fixture.handle(&event()).await, [""; 0]);
    assert_eq!(fixture.dead_letters.keys(), ["bad"]);
}

#[tokio::test]
async fn what_is_given_back_is_delayed_and_nothing_else() {
    let fixture = Fixture::new().await;
    fixture.index("cities", json!({"n": {"type": "long"}})).await;
    let event = batch([
        message("cities").upsert("a", 1, r#"{"n":1}"#),
        // There is no PostgreSQL to read it from.
        message("cities").read("b", 1),
        message("cities").upsert("c", 1, r#"{"x":1}"#),
    ]);
    assert_eq!(fixture.handle(&event).await, ["1"]);
    assert_eq!(fixture.dead_letters.delayed(), ["receipt 1"]);
}
