//! Every endpoint: what it gives, what it says to bad input, and whom it lets in.

use anyhow::Result;
use localstack::variable;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::client::{Admin, days};

const GETS: [&str; 22] = [
    "/api/session",
    "/api/outbox",
    "/api/dlq",
    "/api/subscriptions",
    "/api/checkpoints",
    "/api/streams",
    "/api/streams/sluice_heartbeat/generations",
    "/api/validation",
    "/api/validation/users",
    "/api/ingest",
    "/api/ingest/rejects",
    "/api/history",
    "/api/audit",
    "/metrics",
    "/health",
    "/ready",
    "/api/v1/data-sync/health",
    "/api/v1/data-sync/ready",
    "/api/v1/data-sync/consistency",
    "/api/v1/data-sync/metrics",
    "/api/dlq/redrive/1",
    "/api/retry/1",
];
const MUTATIONS: [(Method, &str); 16] = [
    (Method::POST, "/api/dlq/1/redrive"),
    (Method::POST, "/api/dlq/redrive"),
    (Method::POST, "/api/dlq/redrive/1"),
    (Method::DELETE, "/api/dlq/1"),
    (Method::DELETE, "/api/dlq/redrive/1"),
    (Method::POST, "/api/ingest/run"),
    (Method::POST, "/api/validation"),
    (Method::POST, "/api/add-user"),
    (Method::POST, "/api/update-user"),
    (Method::POST, "/api/subscriptions/elasticsearch/pause"),
    (Method::POST, "/api/subscriptions/elasticsearch/resume"),
    (Method::POST, "/api/subscriptions/elasticsearch/replay"),
    (Method::POST, "/api/checkpoints"),
    (Method::POST, "/api/streams/users/takeover"),
    (Method::POST, "/api/streams/users/rollback"),
    (Method::POST, "/api/streams/users/abort"),
];

fn is_problem(body: &Value, status: StatusCode) -> bool {
    body["status"] == status.as_u16() && body["detail"].as_str().is_some_and(|detail| !detail.is_empty())
}

#[tokio::test]
async fn nobody_gets_in_without_a_token_and_the_reader_only_reads() -> Result<()> {
    let admin = Admin::alone().await?;
    let audited = admin.get("/api/audit").await?;
    let reader = variable("ADMIN_READ_TOKEN");
    let endpoints = GETS.map(|path| (Method::GET, path)).into_iter().chain(MUTATIONS);
    for (method, path) in endpoints {
        for token in [None, Some("wrong"), Some("")] {
            let (status, body) = admin.send(method.clone(), path, token, Some("{}")).await?;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path} with the token {token:?}");
            assert!(is_problem(&body, status), "{method} {path}: {body}");
        }
        let changes_something = method != Method::GET || path.starts_with("/api/retry");
        let (status, body) = admin.send(method.clone(), path, Some(&reader), None).await?;
        assert_eq!(
            status == StatusCode::FORBIDDEN,
            changes_something,
            "{method} {path} for the reader: {status} {body}"
        );
    }
    for path in ["/live", "/api/v1/data-sync/live", "/", "/docs", "/openapi.json"] {
        assert_eq!(admin.send(Method::GET, path, None, None).await?.0, StatusCode::OK, "{path}");
    }
    assert_eq!(
        admin.send(Method::POST, "/events", None, Some(r#"{"source": "aws.events"}"#)).await?.0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(admin.get("/api/audit").await?, audited, "nothing that was refused was done");
    Ok(())
}

#[tokio::test]
async fn bad_input_is_answered_with_a_problem_that_names_it() -> Result<()> {
    let admin = Admin::alone().await?;
    let (bad, unprocessable, missing) =
        (StatusCode::BAD_REQUEST, StatusCode::UNPROCESSABLE_ENTITY, StatusCode::NOT_FOUND);
    let long = " ".repeat(70_000);
    for (method, path, body, expected) in [
        (Method::GET, "/api/outbox?limit=many", None, bad),
        (Method::GET, "/api/outbox?colour=red", None, bad),
        (Method::GET, "/api/outbox?before=99999999999999999999", None, bad),
        (Method::GET, "/api/dlq?limit=-1", None, bad),
        (Method::GET, "/api/history?minutes=x", None, bad),
        (Method::GET, "/api/audit?before=x", None, bad),
        (Method::GET, "/api/ingest/rejects?open=perhaps", None, bad),
        (Method::GET, "/api/ingest/rejects?since=yesterday", None, bad),
        (Method::POST, "/api/dlq/redrive", Some("{"), bad),
        (Method::POST, "/api/dlq/redrive", Some(r#"{"streams": "users"}"#), unprocessable),
        (Method::POST, "/api/dlq/redrive", Some(r#"{"stream": 1}"#), unprocessable),
        (Method::POST, "/api/dlq/redrive", Some("[]"), unprocessable),
        (Method::POST, "/api/dlq/no-such-letter/redrive", None, missing),
        (Method::GET, "/api/retry/no-such-letter", None, missing),
        (Method::DELETE, "/api/dlq/no-such-letter", Some(r#"{"reason": "x"}"#), missing),
        (Method::GET, "/api/dlq/redrive/99999", None, missing),
        (Method::POST, "/api/dlq/redrive/seven", None, missing),
        (Method::POST, "/api/subscriptions/nobody/pause", None, missing),
        (Method::GET, "/api/nothing", None, missing),
        (Method::GET, "/assets/none.js", None, missing),
        (Method::PUT, "/api/outbox", None, StatusCode::METHOD_NOT_ALLOWED),
        (Method::POST, "/api/dlq/redrive", Some(long.as_str()), StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let (status, answer) = admin.send(method.clone(), path, Some(&variable("ADMIN_TOKEN")), body).await?;
        assert_eq!(status, expected, "{method} {path}: {answer}");
        assert!(is_problem(&answer, status), "{method} {path}: {answer}");
    }
    // Far too much is cut to what is allowed.
    let rows = admin.get("/api/outbox?limit=9223372036854775807").await?;
    assert!(rows["rows"].as_array().is_some_and(|rows| rows.len() <= 500));
    Ok(())
}

#[tokio::test]
async fn the_log_is_told_newest_first_page_by_page_and_with_filters() -> Result<()> {
    let admin = Admin::alone().await?;
    let stack = days("admin_outbox").await?;
    // The log still has what an earlier run of this test has written.
    let last = admin.get("/api/outbox?limit=1").await?["rows"][0]["id"].as_i64();
    stack
        .execute(
            "INSERT INTO item SELECT i, '2026-01-01' FROM generate_series(1, 5) AS i; DELETE FROM item WHERE id = 2",
        )
        .await?;
    stack.converges("admin_outbox", "SELECT id::text FROM item").await?;
    let newest = admin.get("/api/outbox?limit=2&stream=admin_outbox").await?;
    let facts = |rows: &Value| -> Vec<(String, String)> {
        let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let new = rows["rows"].as_array().into_iter().flatten().filter(|row| row["id"].as_i64() > last);
        new.map(|row| (text(row, "key"), text(row, "op"))).collect()
    };
    let wanted = |facts: &[(&str, &str)]| -> Vec<(String, String)> {
        facts.iter().map(|(key, op)| ((*key).to_owned(), (*op).to_owned())).collect()
    };
    assert_eq!(facts(&newest), wanted(&[("2", "delete"), ("5", "insert")]));
    assert_eq!(newest["rows"][0]["published"]["elasticsearch"], true);
    assert!(newest["rows"][0]["created_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{newest}");
    let older = admin.get(&format!("/api/outbox?limit=2&stream=admin_outbox&before={}", newest["next_before"])).await?;
    assert_eq!(facts(&older), wanted(&[("4", "insert"), ("3", "insert")]));
    let one = admin.get("/api/outbox?stream=admin_outbox&key=2").await?;
    assert_eq!(facts(&one), wanted(&[("2", "delete"), ("2", "insert")]));
    Ok(())
}

#[tokio::test]
async fn a_renamed_user_of_the_demo_reaches_the_documents_that_show_the_name() -> Result<()> {
    let admin = Admin::alone().await?;
    let stack = days("admin_demo").await?;
    let added = admin.post("/api/add-user", json!({})).await?;
    assert_eq!((&added["stream"], &added["key"]), (&json!("users"), &added["user"]));
    assert!(added["log_rows"].as_array().is_some_and(|rows| rows[0]["key"] == added["key"]), "{added}");
    let updated = admin.post("/api/update-user", json!({})).await?;
    assert!(
        updated["log_rows"].as_array().is_some_and(|rows| rows.iter().any(|row| row["op"] == "fan_out")),
        "{updated}"
    );
    for (stream, keys) in [
        ("users", "SELECT id::text FROM demo.users"),
        ("hackathons", "SELECT id::text FROM demo.hackathons"),
        ("projects", "SELECT id::text FROM demo.projects"),
    ] {
        assert!(stack.converges(stream, keys).await? > 0);
    }
    assert!(admin.audit("update_user").await?.iter().any(|entry| entry["subject"] == updated["key"]));
    Ok(())
}

#[tokio::test]
async fn a_paused_subscription_says_so_and_its_changes_wait() -> Result<()> {
    let admin = Admin::alone().await?;
    let stack = days("admin_pause").await?;
    let paused = admin.post("/api/subscriptions/elasticsearch/pause", json!({})).await?;
    assert_eq!((&paused["name"], &paused["paused"]), (&json!("elasticsearch"), &json!(true)));
    stack.execute("INSERT INTO item VALUES (1, '2026-01-01')").await?;
    let list = admin.get("/api/subscriptions").await?;
    let found = list["subscriptions"].as_array().into_iter().flatten().find(|it| it["name"] == "elasticsearch");
    assert!(
        found.is_some_and(|it| it["pending_rows"].as_i64() > Some(0) && it["oldest_pending_ms"].is_i64()),
        "{list}"
    );
    let row = admin.get("/api/outbox?stream=admin_pause").await?["rows"][0].clone();
    assert_eq!(row["published"]["elasticsearch"], false);
    let resumed = admin.post("/api/subscriptions/elasticsearch/resume", json!({})).await?;
    assert_eq!(resumed["paused"], json!(false));
    assert_eq!(stack.converges("admin_pause", "SELECT id::text FROM item").await?, 1);
    let subjects =
        [admin.audit("pause").await?, admin.audit("resume").await?].map(|entries| entries[0]["subject"].clone());
    assert_eq!(subjects, [json!("elasticsearch"), json!("elasticsearch")]);
    Ok(())
}

#[tokio::test]
async fn streams_health_and_history_say_how_things_are() -> Result<()> {
    let admin = Admin::alone().await?;
    let stack = days("admin_health").await?;
    stack.execute("INSERT INTO item SELECT i, '2026-01-01' FROM generate_series(1, 3) AS i").await?;
    stack.converges("admin_health", "SELECT id::text FROM item").await?;
    let streams = admin.get("/api/streams").await?;
    let stream = streams["streams"].as_array().into_iter().flatten().find(|it| it["name"] == "admin_health");
    let stream = stream.cloned().unwrap_or_default();
    assert_eq!((&stream["source_count"], &stream["index_count"]), (&json!(3), &json!(3)), "{stream}");
    assert_eq!((&stream["tables"], &stream["is_current"]), (&json!(["admin_health.item"]), &json!(true)), "{stream}");
    let health = admin.get("/health").await?;
    let parts: Vec<&Value> = health["parts"].as_array().into_iter().flatten().collect();
    assert_eq!(parts.len(), 3);
    assert!(parts.iter().all(|part| part["ok"] == true && part["latency_ms"].is_u64()), "{health}");
    assert!(health["pipeline"]["queue_depth"].is_i64(), "{health}");
    assert!(health["commit"].as_str().is_some_and(|commit| commit != "unknown"), "the deploy says it: {health}");
    assert_eq!(admin.get("/ready").await?["status"], "ready");
    let sync = admin.get("/api/v1/data-sync/health").await?;
    assert!(["healthy", "degraded"].iter().any(|status| sync["status"] == *status), "other streams may wait: {sync}");
    assert_eq!(sync["services"], json!({"elasticsearch": true, "postgresql": true, "sqs": true}));
    assert!(sync["metrics"]["syncLag"].is_f64() && sync["metrics"]["errorRate"].is_f64(), "{sync}");
    localstack::eventually("a sample of the pipeline", async || {
        let history = admin.get("/api/history").await.map_err(|error| format!("{error:#}"))?;
        let is_there = history["samples"].as_array().is_some_and(|samples| !samples.is_empty());
        if is_there { Ok(()) } else { Err(history.to_string()) }
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn everything_that_answers_is_described() -> Result<()> {
    let admin = Admin::alone().await?;
    let api = admin.get("/openapi.json").await?;
    for path in GETS.iter().copied().chain(MUTATIONS.map(|(_, path)| path)) {
        let described = path
            .replace("/1", "/{id}")
            .replace("redrive/{id}", "redrive/{task}")
            .replace("/elasticsearch/", "/{name}/")
            .replace("validation/users", "validation/{stream}")
            .replace("sluice_heartbeat", "{name}")
            .replace("users/takeover", "{name}/{action}")
            .replace("users/rollback", "{name}/{action}")
            .replace("users/abort", "{name}/{action}");
        assert!(api["paths"].get(&described).is_some(), "{described} is not described");
    }
    Ok(())
}
