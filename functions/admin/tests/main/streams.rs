//! The page of the streams, when a server is slow.

use axum::http::{Method, StatusCode};
use serde_json::json;
use tokio::net::TcpListener;

use crate::fixture::{Fixture, OPERATOR, SEARCH_SECRET};

#[tokio::test]
async fn streams_are_told_while_elasticsearch_answers_nothing_and_a_view_takes_for_ever() {
    let fixture = Fixture::new().await;
    fixture
        .owner
        .batch_execute(
            "CREATE TABLE item (id text PRIMARY KEY, n int); INSERT INTO item VALUES ('1', 1);
             CREATE VIEW slow AS SELECT id FROM item WHERE pg_sleep(100)::text IS NOT NULL;
             GRANT SELECT ON slow TO sluice_app;
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
