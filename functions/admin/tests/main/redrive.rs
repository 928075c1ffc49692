//! Letters that came from anywhere, and queues that are longer than a pass.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fixture::Fixture;
use crate::sqs::Sqs;

async fn redrive_all(fixture: &Fixture, selection: Value) -> Value {
    let (status, task) = fixture.call(Method::POST, "/api/dlq/redrive", Some(selection)).await;
    assert!(status.is_success(), "{status} {task}");
    task
}

#[tokio::test]
async fn a_letter_whose_key_postgresql_cannot_hold_stops_no_other_and_goes_back_as_it_came() {
    let fixture = Fixture::new().await;
    fixture.item().await;
    fixture.letters.put_letter("item", "1", None);
    fixture.letters.put_letter("item", "a\\u0000b", None);
    fixture.letters.put_letter("no\\u0000stream", "\\u0000", Some("{}"));
    fixture.letters.put_letter("item", "2", None);
    let task = redrive_all(&fixture, json!({})).await;
    assert_eq!((&task["state"], &task["redriven"], &task["error"]), (&json!("done"), &json!(4), &json!(null)));
    let keys: Vec<String> =
        fixture.one("SELECT array_agg(key ORDER BY key) FROM sluice.outbox WHERE stream = 'item'").await;
    assert_eq!(keys, ["1", "2"]);
    assert_eq!(fixture.letters.with_queue(|queue| queue.messages.len()), 0);
    let returned =
        fixture.queue.with_queue(|queue| queue.messages.values().map(|it| it.body.clone()).collect::<Vec<_>>());
    assert!(returned.len() == 2 && returned.iter().all(|body| body.contains("\\u0000")), "{returned:?}");
}

#[tokio::test]
async fn a_letter_whose_key_postgresql_cannot_hold_is_redriven_or_discarded_alone() {
    let fixture = Fixture::new().await;
    fixture.item().await;
    let letter = fixture.letters.put_letter("item", "a\\u0000b", None);
    let (status, outcome) = fixture.call(Method::POST, &format!("/api/dlq/{letter}/redrive"), None).await;
    assert_eq!(
        (status, &outcome["result"], &outcome["key"]),
        (StatusCode::OK, &json!("returned"), &json!("a\u{2400}b"))
    );
    // Of one with a key like others it is forgotten, too, that it explains a difference.
    fixture.owner.batch_execute("INSERT INTO sluice.dead_letter (subscription, stream, key, version) SELECT 'elasticsearch', 'item', key, 1 FROM unnest('{7,8}'::text[]) AS key").await.unwrap();
    let letter = fixture.letters.put_letter("item", "7", None);
    let (status, _) =
        fixture.call(Method::DELETE, &format!("/api/dlq/{letter}"), Some(json!({"reason": "a test"}))).await;
    assert_eq!(status, StatusCode::OK);
    let explaining: Vec<String> = fixture.one("SELECT array_agg(key) FROM sluice.dead_letter").await;
    assert_eq!(explaining, ["8"]);
    let letter = fixture.letters.put_letter("item", "a\\u0000b", None);
    let reason = Some(json!({"reason": "it has a \u{0}"}));
    let (status, outcome) = fixture.call(Method::DELETE, &format!("/api/dlq/{letter}"), reason).await;
    assert_eq!((status, &outcome["result"]), (StatusCode::OK, &json!("discarded")));
    let actions: Vec<String> = fixture.one("SELECT array_agg(action ORDER BY id) FROM sluice.audit").await;
    assert_eq!(actions, ["return", "discard", "discard"]);
}

#[tokio::test]
async fn a_letter_that_postgresql_refuses_stops_no_other_and_is_told() {
    let fixture = Fixture::new().await;
    fixture.item().await;
    // Of all that might be wrong with one of them.
    fixture.owner.batch_execute("ALTER TABLE sluice.outbox ADD CONSTRAINT not_this CHECK (key <> '2')").await.unwrap();
    for key in ["1", "2", "3"] {
        fixture.letters.put_letter("item", key, None);
    }
    let task = redrive_all(&fixture, json!({})).await;
    assert_eq!((&task["state"], &task["redriven"]), (&json!("done"), &json!(2)), "{task}");
    assert!(
        task["error"].as_str().is_some_and(|error| error.contains("message-000002") && error.contains("23514")),
        "{task}"
    );
    let left = fixture
        .letters
        .with_queue(|queue| queue.messages.iter().map(|(id, it)| (id.clone(), it.is_hidden)).collect::<Vec<_>>());
    assert_eq!(left, [("message-000002".to_owned(), false)], "it is in the queue, and is released");
}

#[tokio::test]
async fn text_that_postgresql_cannot_hold_is_bad_input() {
    let fixture = Fixture::new().await;
    for path in ["/api/outbox?key=%00", "/api/outbox?stream=a%00", "/api/ingest/rejects?reason=%00"] {
        assert_eq!(fixture.call(Method::GET, path, None).await.0, StatusCode::BAD_REQUEST, "{path}");
    }
    for path in ["/api/dlq/a%00b/redrive", "/api/subscriptions/%00/pause"] {
        let (status, body) = fixture.call(Method::POST, path, None).await;
        assert!([StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND].contains(&status), "{path}: {status} {body}");
    }
    let (status, body) = fixture.call(Method::POST, "/api/dlq/redrive", Some(json!({"key": "a\u{0}"}))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
}

#[tokio::test]
async fn a_redrive_ends_whose_letters_a_queue_longer_than_a_pass_does_not_show() {
    let fixture = Fixture::new().await;
    fixture.item().await;
    fixture.letters.never_ends_with("another");
    let task = redrive_all(&fixture, json!({"stream": "item"})).await;
    assert_eq!((&task["state"], &task["redriven"]), (&json!("done"), &json!(0)), "{task}");
    assert!(task["error"].as_str().is_some_and(|error| error.contains("did not see the whole queue")), "{task}");
    let hidden = fixture.letters.with_queue(|queue| queue.messages.values().filter(|it| it.is_hidden).count());
    assert_eq!(hidden, 0, "what was looked at is released");
}

#[tokio::test]
async fn a_redrive_waits_for_letters_in_other_hands_but_not_for_ever() {
    let fixture = Fixture::new().await;
    fixture.item().await;
    let held = fixture.letters.put_letter("item", "1", None);
    fixture.letters.hide(&held);
    let task = redrive_all(&fixture, json!({})).await;
    assert_eq!(task["state"], "running", "{task}");
    fixture
        .owner
        .batch_execute("UPDATE sluice.redrive_task SET started_at = started_at - interval '11 minutes'")
        .await
        .unwrap();
    assert_eq!(fixture.tick().await.0, StatusCode::OK);
    let path = format!("/api/dlq/redrive/{}", task["task"].as_str().unwrap());
    let task = fixture.get(&path).await;
    assert_eq!(task["state"], "done", "{task}");
    assert!(task["error"].is_string(), "{task}");
}

#[tokio::test]
async fn a_redrive_goes_on_with_letters_that_come_back_after_its_last_look() {
    let fixture = Fixture::new().await;
    fixture.item().await;
    let letter = fixture.letters.put_letter("item", "1", None);
    fixture.letters.hide(&letter);
    let task = redrive_all(&fixture, json!({})).await;
    let path = format!("/api/dlq/redrive/{}", task["task"].as_str().unwrap());
    // The next pass finds nothing, and the letter is visible when it asks what is left.
    fixture.letters.comes_back_before_it_is_counted();
    assert_eq!(fixture.tick().await.0, StatusCode::OK);
    let task = fixture.get(&path).await;
    assert_eq!((&task["state"], &task["redriven"]), (&json!("running"), &json!(0)), "{task}");
    assert_eq!(fixture.tick().await.0, StatusCode::OK);
    let task = fixture.get(&path).await;
    assert_eq!((&task["state"], &task["redriven"]), (&json!("done"), &json!(1)), "{task}");
}

#[tokio::test]
async fn a_redrive_that_is_cancelled_is_not_gone_on_with() {
    let fixture = Fixture::new().await;
    fixture.item().await;
    let held = fixture.letters.put_letter("item", "1", None);
    fixture.letters.hide(&held);
    let task = redrive_all(&fixture, json!({"stream": "item"})).await;
    let path = format!("/api/dlq/redrive/{}", task["task"].as_str().unwrap());
    for _ in 0..2 {
        let (status, task) = fixture.call(Method::DELETE, &path, None).await;
        assert_eq!((status, &task["state"]), (StatusCode::OK, &json!("cancelled")));
    }
    fixture.letters.with_queue(|queue| queue.messages.get_mut(&held).unwrap().is_hidden = false);
    fixture.tick().await;
    fixture.call(Method::POST, &path, None).await;
    assert_eq!(fixture.get(&path).await["state"], "cancelled");
    assert_eq!(fixture.one::<i64>("SELECT count(*) FROM sluice.outbox WHERE stream = 'item'").await, 0);
    assert_eq!(fixture.call(Method::DELETE, "/api/dlq/redrive/999", None).await.0, StatusCode::NOT_FOUND);
    let done = redrive_all(&fixture, json!({})).await;
    let path = format!("/api/dlq/redrive/{}", done["task"].as_str().unwrap());
    assert_eq!(fixture.call(Method::DELETE, &path, None).await.0, StatusCode::CONFLICT);
}

#[tokio::test]
async fn what_a_pass_has_hidden_is_released_side_by_side() {
    let fixture = Fixture::with_letters(Sqs::that_is_released_side_by_side().await).await;
    for key in 0..40 {
        fixture.letters.put_letter("item", &key.to_string(), None);
    }
    let list = fixture.get("/api/dlq").await;
    assert_eq!(list["letters"].as_array().unwrap().len(), 40);
    let hidden = fixture.letters.with_queue(|queue| queue.messages.values().filter(|it| it.is_hidden).count());
    assert_eq!(hidden, 0);
}
