//! The shapes of the older API, and what they say.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fixture::{Fixture, METRICS, OPERATOR, READER, SEARCH_SECRET};
use crate::validation::Compared;

const API: &str = "/api/v1/data-sync";
const DATABASE_SECRET: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:functions";

async fn get(fixture: &Fixture, path: &str, token: Option<&str>) -> (StatusCode, Value) {
    fixture.send(Method::GET, &format!("{API}{path}"), token, None).await
}

/// The issues without their times, as `table target kind count explained`.
fn issues(answer: &Value) -> Vec<String> {
    let told = |issue: &Value| {
        let [table, target, kind] = ["table", "target", "kind"].map(|name| issue[name].as_str().unwrap().to_owned());
        format!("{table} {target} {kind} {} {}", issue["count"], issue["explained"])
    };
    answer["issues"].as_array().unwrap().iter().map(told).collect()
}

#[tokio::test]
async fn health_tells_the_servers_the_lag_and_the_last_five_minutes() {
    let fixture = Fixture::new().await;
    fixture.owner.batch_execute("UPDATE sluice.target SET live_index = stream, live_mapping = mapping").await.unwrap();
    let sampled = "INSERT INTO sluice.delivery_history (subscription, at, pending_rows, totals) VALUES
        ('elasticsearch', clock_timestamp() - interval '600 s', 0, '{}'),
        ('elasticsearch', clock_timestamp() - interval '250 s', 0, '{\"written\": 100, \"retried\": 5}'),
        ('elasticsearch', clock_timestamp() - interval '10 s', 0,
            '{\"written\": 190, \"stale\": 5, \"gone\": 1, \"retried\": 8, \"dead_lettered\": 1, \"configuration\": 7}')";
    fixture.owner.batch_execute(sampled).await.unwrap();
    let (status, health) = get(&fixture, "/health", Some(READER)).await;
    assert_eq!((status, &health["status"]), (StatusCode::OK, &json!("healthy")), "{health}");
    assert_eq!(health["services"], json!({"elasticsearch": true, "postgresql": true, "sqs": true}));
    assert!(health["timestamp"].as_str().unwrap().ends_with('Z'), "{health}");
    let metrics = &health["metrics"];
    assert_eq!(metrics["errorRate"], 0.04, "{health}");
    assert!(metrics["syncLag"].as_f64().is_some_and(|lag| lag < 90.0), "{health}");
    let throughput = metrics["throughput"].as_f64().unwrap();
    assert!((0.399..0.401).contains(&throughput), "96 changes in 240 s: {health}");

    // A change that waits, of a stream that has no index.
    fixture.owner.batch_execute("UPDATE sluice.target SET live_index = NULL, live_mapping = NULL").await.unwrap();
    let waits = "INSERT INTO sluice.outbox (stream, key, op, created_at) VALUES ('users', '1', 'upsert', clock_timestamp() - interval '90 s')";
    fixture.owner.batch_execute(waits).await.unwrap();
    let (status, health) = get(&fixture, "/health", Some(READER)).await;
    assert_eq!((status, &health["status"]), (StatusCode::OK, &json!("degraded")), "{health}");
    assert!(health["metrics"]["syncLag"].as_f64().unwrap() >= 90.0, "{health}");
}

#[tokio::test]
async fn a_server_that_is_away_makes_it_unhealthy_and_without_postgresql_it_is_not_ready() {
    let fixture = Fixture::new().await;
    assert_eq!(get(&fixture, "/ready", Some(METRICS)).await.1, json!({"ready": true, "message": "ready"}));
    fixture.manager.put(SEARCH_SECRET, &json!({"url": "http://127.0.0.1:1", "username": "x", "password": "x"}));
    let (status, health) = get(&fixture, "/health", Some(OPERATOR)).await;
    assert_eq!((status, &health["status"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("unhealthy")), "{health}");
    assert_eq!(health["services"], json!({"elasticsearch": false, "postgresql": true, "sqs": true}));

    let away = json!({"username": "someone", "password": "x", "host": "127.0.0.1", "port": 1, "dbname": "x"});
    fixture.manager.put(DATABASE_SECRET, &away);
    // The session that is open goes with the server.
    let superuser = fixture.database.superuser().await.unwrap();
    superuser.batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()").await.unwrap();
    let (status, health) = get(&fixture, "/health", Some(READER)).await;
    assert_eq!((status, &health["metrics"]["syncLag"]), (StatusCode::SERVICE_UNAVAILABLE, &json!(null)), "{health}");
    assert!(!health.to_string().contains("127.0.0.1"), "{health}");
    let (status, ready) = get(&fixture, "/ready", Some(METRICS)).await;
    assert_eq!((status, &ready["ready"]), (StatusCode::SERVICE_UNAVAILABLE, &json!(false)), "{ready}");
    assert!(ready["message"].is_string(), "{ready}");
    assert_eq!(get(&fixture, "/live", None).await, (StatusCode::OK, json!({"alive": true, "message": "alive"})));
}

#[tokio::test]
async fn consistency_is_what_the_validator_found_and_nothing_is_compared_for_it() {
    let compared = Compared::new().await;
    let (fixture, stream) = (&compared.fixture, &compared.stream);
    let path = format!("/consistency?table={stream}");
    let (_, never) = get(fixture, &path, Some(READER)).await;
    assert_eq!(issues(&never), [format!("{stream} elasticsearch not_compared 0 false")]);
    assert_eq!((&never["consistent"], &never["issues"][0]["comparedAt"]), (&json!(false), &json!(null)));

    compared.is_compared(None).await;
    let (_, equal) = get(fixture, &path, Some(READER)).await;
    assert_eq!((issues(&equal), &equal["consistent"]), (vec![], &json!(true)), "{equal}");

    compared.differs("1", "missing", "candidate").await;
    compared.differs("2", "stale", "repaired").await;
    compared.differs("3", "dead_lettered", "confirmed").await;
    let (_, explained) = get(fixture, &path, Some(READER)).await;
    assert_eq!(issues(&explained), [format!("{stream} elasticsearch dead_lettered 1 true")]);
    assert_eq!(explained["consistent"], true, "a dead letter says why: {explained}");

    compared.differs("4", "extra", "confirmed").await;
    compared.differs("5", "extra", "stuck").await;
    let (_, differs) = get(fixture, &path, Some(READER)).await;
    let told = ["dead_lettered 1 true", "extra 2 false"].map(|one| format!("{stream} elasticsearch {one}"));
    assert_eq!((issues(&differs), &differs["consistent"]), (told.to_vec(), &json!(false)));
    for field in ["timestamp", "issues/0/comparedAt"] {
        let at = differs.pointer(&format!("/{field}")).unwrap();
        assert!(at.as_str().is_some_and(|at| at.ends_with('Z')), "{field}: {differs}");
    }
    assert!(
        issues(&get(fixture, "/consistency", Some(READER)).await.1).len() > 2,
        "the other streams are never compared"
    );
    let (status, unknown) = get(fixture, "/consistency?table=nobody", Some(READER)).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{unknown}");
    assert_eq!(get(fixture, "/consistency?stream=x", Some(READER)).await.0, StatusCode::BAD_REQUEST);
    compared.end().await;
}

#[tokio::test]
async fn a_stream_that_is_emitted_cannot_be_compared_and_makes_nothing_inconsistent() {
    let compared = Compared::new().await;
    let (fixture, stream) = (&compared.fixture, &compared.stream);
    compared.is_compared(Some("it is fed by sluice.emit, and has no source to compare with")).await;
    fixture.owner.batch_execute("UPDATE sluice.validation SET verdict = 'not compared'").await.unwrap();
    let (_, answer) = get(fixture, &format!("/consistency?table={stream}"), Some(READER)).await;
    assert_eq!(issues(&answer), [format!("{stream} elasticsearch not_compared 0 true")]);
    assert_eq!(answer["consistent"], true, "{answer}");
    compared.end().await;
}

#[tokio::test]
async fn its_metrics_are_those_of_metrics_and_nothing_but_live_is_open() {
    let fixture = Fixture::new().await;
    fixture.item().await;
    let count = "SELECT sluice.count_deliveries('elasticsearch', ARRAY['item', 'item'], ARRAY['succeeded_insert', 'failed_delete'], ARRAY[3, 1]::bigint[])";
    fixture.owner.batch_execute(count).await.unwrap();
    let waits = "INSERT INTO sluice.outbox (stream, key, op, created_at) VALUES ('item', '1', 'insert', clock_timestamp() - interval '90 s')";
    fixture.owner.batch_execute(waits).await.unwrap();
    let (status, text) = get(&fixture, "/metrics", Some(METRICS)).await;
    let text = text.as_str().unwrap();
    assert_eq!(status, StatusCode::OK);
    for line in [
        r#"cdc_sync_events_total{table="item",target="elasticsearch",operation="INSERT",status="success"} 3"#,
        r#"cdc_sync_events_total{table="item",target="elasticsearch",operation="DELETE",status="error"} 1"#,
        r#"cdc_sync_lag_seconds{table="sluice_heartbeat",target="elasticsearch"} 0.000"#,
    ] {
        assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
    }
    let lag =
        text.lines().find_map(|it| it.strip_prefix(r#"cdc_sync_lag_seconds{table="item",target="elasticsearch"} "#));
    assert!(lag.is_some_and(|lag| lag.parse::<f64>().unwrap() >= 90.0), "{text}");
    assert!(text.lines().any(|it| it.starts_with("sluice_log_bytes ")), "{text}");
    for path in ["/health", "/ready", "/consistency", "/metrics"] {
        assert_eq!(get(&fixture, path, None).await.0, StatusCode::UNAUTHORIZED, "{path}");
    }
}
