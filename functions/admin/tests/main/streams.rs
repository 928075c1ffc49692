//! The page of the streams, when a server is slow.

use axum::http::{Method, StatusCode};
use serde_json::json;
use tokio::net::TcpListener;

use crate::fixture::{Fixture, METRICS, OPERATOR, READER, SEARCH_SECRET};

#[tokio::test]
async fn a_stream_that_does_not_keep_up_is_told_by_health_by_the_metrics_and_by_the_streams() {
    let fixture = Fixture::new().await;
    // Of the streams that a new database has, none has an index yet.
    fixture
        .owner
        .batch_execute("SELECT sluice.set_live(subscription, stream, stream || '-1', mapping) FROM sluice.target")
        .await
        .unwrap();
    assert_eq!(fixture.get("/health").await["status"], "ok");
    fixture.item().await;
    let (status, health) = fixture.send(Method::GET, "/health", Some(OPERATOR), None).await;
    assert_eq!((status, &health["status"]), (StatusCode::OK, &json!("degraded")), "every server answers: {health}");
    assert_eq!(health["streams"][0]["stream"], "item");
    assert_eq!(health["streams"][0]["subscription"], "elasticsearch");
    let reason = health["streams"][0]["reason"].as_str().unwrap();
    let told = fixture.send(Method::GET, "/health", Some(READER), None).await.1;
    assert!(reason.contains("index") && told["streams"][0]["reason"] != reason, "{health} {told}");
    let streams = fixture.get("/api/streams").await;
    let item = streams["streams"].as_array().unwrap().iter().find(|it| it["name"] == "item").unwrap();
    assert_eq!(item["problem"], reason);
    let metrics = fixture.send(Method::GET, "/metrics", Some(METRICS), None).await.1;
    assert!(
        metrics.as_str().unwrap().contains("sluice_stream_problem{subscription=\"elasticsearch\",stream=\"item\"} 1\n"),
        "{metrics}"
    );
    fixture
        .owner
        .batch_execute(
            "SELECT sluice.set_live(subscription, stream, 'item-1', mapping) FROM sluice.target WHERE stream = 'item'",
        )
        .await
        .unwrap();
    assert_eq!(fixture.get("/health").await["status"], "ok");
    let metrics = fixture.send(Method::GET, "/metrics", Some(METRICS), None).await.1;
    assert!(
        metrics.as_str().unwrap().contains("sluice_stream_problem{subscription=\"elasticsearch\",stream=\"item\"} 0\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn streams_are_told_while_elasticsearch_answers_nothing_and_a_view_takes_for_ever() {
    let fixture = Fixture::new().await;
    fixture
        .owner
        .batch_execute(
            "CREATE TABLE item (id text PRIMARY KEY, n int); INSERT INTO item VALUES ('1', 1);
             CREATE VIEW slow AS SELECT id FROM item WHERE pg_sleep(100)::text IS NOT NULL;
             SELECT sluice.define_stream('a_' || i, source => 'public.item', key => 'id', mapping => '{\"properties\": {\"id\": {\"type\": \"keyword\"}}}')
                 FROM generate_series(1, 13) AS i;
             SELECT sluice.define_stream('slow', source => 'public.slow', key => 'id', mapping => '{\"properties\": {\"id\": {\"type\": \"keyword\"}}}')",
        )
        .await
        .unwrap();
    // It takes connections, and never answers.
    let black_hole = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", black_hole.local_addr().unwrap());
    fixture.manager.put(SEARCH_SECRET, &json!({"url": url, "username": "x", "password": "x"}));
    let (status, body) = fixture.send(Method::GET, "/api/streams", Some(OPERATOR), None).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let streams = body["streams"].as_array().unwrap();
    let ours: Vec<_> = streams.iter().filter(|it| it["name"].as_str().unwrap().starts_with("a_")).collect();
    assert_eq!(ours.len(), 13);
    for stream in ours {
        assert_eq!((&stream["source_count"], &stream["index_count"]), (&json!(1), &json!(null)), "{stream}");
    }
    let slow = streams.iter().find(|it| it["name"] == "slow").unwrap();
    assert_eq!(slow["source_count_is_estimate"], true, "{slow}");
}
