//! Answers that no healthy Elasticsearch gives, and answers that are lost.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    batch::{batch, message},
    fixture::{Fixture, elasticsearch_address},
    wire::{Reply, Request},
};

fn json_reply(status: u16, body: &Value) -> Reply {
    Reply::Whole(status, "application/json", body.to_string())
}

fn written(key: &str) -> Value {
    json!({"index": {"_id": key, "status": 201, "result": "created"}})
}

fn all_written(request: &Request) -> Reply {
    let items: Vec<Value> = request.keys().iter().map(|key| written(key)).collect();
    json_reply(200, &json!({ "items": items }))
}

fn messages(keys: &[&str]) -> aws_lambda_events::event::sqs::SqsEvent {
    batch(keys.iter().map(|key| message("cities").upsert(key, 1, r#"{"n":1}"#)))
}

#[tokio::test]
async fn an_answer_that_is_none_means_retry() {
    type Fault = fn() -> Reply;
    let faults: [(&str, Fault); 4] = [
        ("a success that is a page", || Reply::Whole(200, "text/html", "<html>Welcome</html>".to_owned())),
        ("an answer cut in the middle", || Reply::Cut),
        ("no items", || json_reply(200, &json!({"took": 1}))),
        ("unavailable", || json_reply(503, &json!({"error": "in words"}))),
    ];
    for (name, fault) in faults {
        let fixture = Fixture::with_wire(move |_| fault()).await;
        assert_eq!(fixture.handle(&messages(&["a", "b"])).await, ["0", "1"], "{name}");
        assert!(fixture.dead_letters.letters().is_empty(), "{name}");
    }
}

#[tokio::test]
async fn items_are_matched_by_key_where_they_are_reordered_missing_or_foreign() {
    let fixture = Fixture::with_wire(|_| {
        let refused = json!({"index": {"_id": "refused", "status": 400,
            "error": {"type": "document_parsing_exception", "reason": "r", "caused_by": {"type": "x", "reason": "inner"}}}});
        let busy = json!({"index": {"_id": "busy", "status": 429, "error": {"type": "es_rejected_execution_exception"}}});
        let twice = written("twice");
        let items = json!([written("foreign"), busy, twice, refused, written("good"), twice, {"index": {"_id": null, "status": 201}}]);
        json_reply(200, &json!({ "items": items }))
    })
    .await;
    let event = messages(&["good", "missing", "refused", "busy", "twice"]);
    assert_eq!(fixture.handle(&event).await, ["1", "3", "4"]);
    assert_eq!(fixture.dead_letters.letter().attribute("key"), "refused");
    assert_eq!(fixture.dead_letters.letter().attribute("reason"), "r: inner");
}

#[tokio::test]
async fn a_change_is_not_dead_lettered_while_another_of_its_message_is_to_be_retried() {
    let is_busy = Arc::new(AtomicBool::new(true));
    let busy = Arc::clone(&is_busy);
    let fixture = Fixture::with_wire(move |_| {
        let refused = json!({"index": {"_id": "bad", "status": 400, "error": {"type": "document_parsing_exception"}}});
        let status = if busy.load(Ordering::Relaxed) { 503 } else { 201 };
        json_reply(200, &json!({"items": [refused, {"index": {"_id": "good", "status": status}}]}))
    })
    .await;
    let event = batch([message("cities").upsert("bad", 1, "{}").upsert("good", 1, "{}")]);
    assert_eq!(fixture.handle(&event).await, ["0"]);
    assert!(fixture.dead_letters.letters().is_empty());
    is_busy.store(false, Ordering::Relaxed);
    assert_eq!(fixture.handle(&event).await, [""; 0]);
    assert_eq!(fixture.dead_letters.keys(), ["bad"]);
}

#[tokio::test]
async fn a_request_that_is_too_large_is_split_and_a_document_alone_is_permanent() {
    let fixture = Fixture::with_wire(|request| {
        if request.keys().len() > 2 || request.body.contains("huge") {
            return Reply::Whole(413, "text/plain", String::new());
        }
        all_written(request)
    })
    .await;
    let event = messages(&["a", "b", "c", "huge", "d", "e", "f"]);
    assert_eq!(fixture.handle(&event).await, [""; 0]);
    let letter = fixture.dead_letters.letter();
    assert_eq!((letter.attribute("key"), letter.attribute("error_type")), ("huge", "document_too_large"));
}

#[tokio::test]
async fn a_request_that_one_item_spoils_is_bisected() {
    let fixture = Fixture::with_wire(|request| {
        let refusal =
            |error_type| json_reply(400, &json!({"error": {"type": error_type, "reason": "r"}, "status": 400}));
        match request.body.as_str() {
            body if body.contains("poison") => refusal("action_request_validation_exception"),
            body if body.contains("strange") => refusal("nobody_knows_exception"),
            _ => all_written(request),
        }
    })
    .await;
    let event = messages(&["a", "b", "poison", "c", "strange", "d", "e"]);
    assert_eq!(fixture.handle(&event).await, ["4"]);
    assert_eq!(fixture.dead_letters.keys(), ["poison"]);
}

#[tokio::test]
async fn a_400_that_is_about_no_item_is_not_asked_for_each_of_them() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let fixture = Fixture::with_wire(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        json_reply(400, &json!({"error": {"type": "media_type_header_exception"}, "status": 400}))
    })
    .await;
    let all = (0..1000).fold(message("cities"), |message, n| message.upsert(&n.to_string(), 1, "{}"));
    assert_eq!(fixture.handle(&batch([all])).await, ["0"]);
    assert!(fixture.dead_letters.letters().is_empty());
    assert!(requests.load(Ordering::Relaxed) < 20, "{requests:?} requests");
}

#[tokio::test]
async fn a_bulk_request_has_a_limited_size_and_each_key_once() {
    let seen = Arc::new(Mutex::new(Vec::<(usize, Vec<String>)>::new()));
    let noted = Arc::clone(&seen);
    let fixture = Fixture::with_wire(move |request| {
        noted.lock().unwrap().push((request.body.len(), request.keys()));
        all_written(request)
    })
    .await;
    let document = json!({"text": "x".repeat(10_000)});
    let huge = json!({"text": "x".repeat(200_000)});
    let all = (0..30).fold(message("cities"), |message, n| message.upsert(&(n % 20).to_string(), n, &document));
    assert_eq!(fixture.handle(&batch([all.upsert("huge", 1, &huge)])).await, [""; 0]);
    for (bytes, keys) in seen.lock().unwrap().iter() {
        assert!(*bytes <= 100_000 || keys == &["huge"], "{bytes} bytes for {keys:?}");
        let once: std::collections::HashSet<&String> = keys.iter().collect();
        assert_eq!(once.len(), keys.len(), "{keys:?}");
    }
}

#[tokio::test]
async fn work_that_was_done_before_its_answer_was_lost_is_stale_the_next_time() {
    let address = elasticsearch_address();
    let is_lossy = Arc::new(AtomicBool::new(true));
    let lossy = Arc::clone(&is_lossy);
    let fixture = Fixture::with_wire(move |_| match lossy.load(Ordering::Relaxed) {
        true => Reply::CarriedOutAndLost(address.clone()),
        false => json_reply(
            200,
            &json!({"items": [{"index": {"_id": "a", "status": 409,
            "error": {"type": "version_conflict_engine_exception"}}}]}),
        ),
    })
    .await;
    fixture.index("cities", json!({"n": {"type": "long"}})).await;
    let event = messages(&["a"]);
    assert_eq!(fixture.handle(&event).await, ["0"]);
    assert_eq!(fixture.document("cities", "a").await, Some((1, r#"{"n":1}"#.to_owned())));
    is_lossy.store(false, Ordering::Relaxed);
    assert_eq!(fixture.handle(&event).await, [""; 0]);
}

#[tokio::test]
async fn no_request_outlives_the_deadline() {
    let fixture = Fixture::with_wire(|_| Reply::Silence).await;
    let deadline = Instant::now() + Duration::from_secs(5);
    assert_eq!(fixture.handle_within(&messages(&["a", "b"]), Duration::from_secs(5)).await, ["0", "1"]);
    assert!(Instant::now() < deadline, "it answered after its deadline");
}

#[tokio::test]
async fn with_too_little_time_nothing_is_begun() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let fixture = Fixture::with_wire(move |request| {
        counted.fetch_add(1, Ordering::Relaxed);
        all_written(request)
    })
    .await;
    assert_eq!(fixture.handle_within(&messages(&["a"]), Duration::from_millis(300)).await, ["0"]);
    assert_eq!(requests.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_rotated_password_costs_no_more_than_a_second_try() {
    let fixture = Fixture::with_wire(|request| match request.head.contains("Basic dTpuZXc=") {
        true => all_written(request),
        false => json_reply(401, &json!({"error": {"type": "security_exception"}})),
    })
    .await;
    assert_eq!(fixture.handle(&messages(&["a"])).await, ["0"]);
    fixture.rotate(&json!({"url": fixture.url(), "username": "u", "password": "new"}));
    assert_eq!(fixture.handle(&messages(&["a"])).await, [""; 0]);
}

#[tokio::test]
async fn a_batch_with_a_message_that_has_no_id_fails_as_a_whole() {
    let fixture = Fixture::with_wire(all_written).await;
    let event = serde_json::from_value(json!({"Records": [{"messageId": "", "body": "x"}]})).unwrap();
    fixture.indexer.handle(&event, SystemTime::now(), Instant::now() + Duration::from_secs(5)).await.unwrap_err();
}
