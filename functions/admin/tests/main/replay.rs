//! Checkpoints, and what is delivered again.

use axum::http::{Method, StatusCode};
use localstack::eventually;
use serde_json::json;

use crate::fixture::Fixture;

#[tokio::test]
async fn what_changed_since_a_checkpoint_is_delivered_again_or_it_is_said_why_not() {
    let fixture = Fixture::new().await;
    fixture.item().await;
    let post = async |path: &str, body| fixture.call(Method::POST, path, Some(body)).await;
    let replay = "/api/subscriptions/elasticsearch/replay";
    let (status, problem) = post(replay, json!({"from": "one"})).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("there is no checkpoint 'one'"), "{problem}");
    let (status, problem) = post(replay, json!({"from": "2030-12-31T23:59:59Z"})).await;
    assert_eq!(status, StatusCode::CONFLICT, "{problem}");
    assert_eq!(post("/api/checkpoints", json!({"name": "2030"})).await.0, StatusCode::BAD_REQUEST);

    assert_eq!(post("/api/checkpoints", json!({"name": "one"})).await, (StatusCode::ACCEPTED, json!({"name": "one"})));
    assert_eq!(post("/api/checkpoints", json!({"name": "one"})).await.0, StatusCode::CONFLICT);
    let (status, problem) = post(replay, json!({"from": "one"})).await;
    assert_eq!(status, StatusCode::CONFLICT, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("has arrived yet"), "{problem}");
    // PostgreSQL tells that it refuses something before it lets go of what that has locked, and what is locked is reached later.
    let arrived = "UPDATE sluice.subscription SET seen = sluice.snapshot(); SELECT sluice.keep_checkpoints()";
    let reached = "SELECT bool_and(at IS NOT NULL) FROM sluice.checkpoint WHERE name = 'one'";
    eventually("the checkpoint to be reached", async || {
        fixture.owner.batch_execute(arrived).await.unwrap();
        if fixture.one::<bool>(reached).await { Ok(()) } else { Err("it is not") }
    })
    .await;
    let (status, list) = fixture.call(Method::GET, "/api/checkpoints", None).await;
    assert_eq!(status, StatusCode::OK);
    let named = list["checkpoints"].as_array().unwrap().iter().find(|one| one["name"] == "one").unwrap().clone();
    assert_eq!((&named["subscription"], &named["problem"]), (&json!("elasticsearch"), &json!(null)), "{list}");

    fixture.owner.batch_execute("SELECT sluice.resync('item', '{7}')").await.unwrap();
    let (status, told) = post(replay, json!({"from": "one", "dry_run": true})).await;
    assert_eq!(
        (status, &told["log_rows"], &told["dry_run"]),
        (StatusCode::ACCEPTED, &json!(1), &json!(true)),
        "{told}"
    );
    let audited = "SELECT count(*) FROM sluice.audit WHERE action = 'replay'";
    assert_eq!(fixture.one::<i64>(audited).await, 0, "a dry run is no mutation");
    let (status, told) = post(replay, json!({"from": named["at"], "stream": "item"})).await;
    assert_eq!((status, &told["checkpoint_at"]), (StatusCode::ACCEPTED, &named["at"]), "{told}");
    assert_eq!(fixture.one::<i64>(audited).await, 1);
    assert_eq!(post("/api/subscriptions/nobody/replay", json!({"from": "one"})).await.0, StatusCode::NOT_FOUND);
}
