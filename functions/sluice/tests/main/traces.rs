//! The spans of a change, at a collector.

use std::sync::{Arc, Mutex};

use axum::routing::post;
use axum::{Json, Router};
use localstack::eventually;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::world::World;

/// A collector of OTLP over HTTP: where it is, and the spans that it got.
async fn collector() -> (String, Arc<Mutex<Vec<Value>>>) {
    let spans: Arc<Mutex<Vec<Value>>> = Arc::default();
    let kept = Arc::clone(&spans);
    let keep = async move |Json(body): Json<Value>| {
        let found = body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().cloned().unwrap_or_default();
        kept.lock().unwrap().extend(found);
        Json(json!({}))
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/v1/traces", post(keep));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (endpoint, spans)
}

#[tokio::test]
async fn a_collector_gets_the_way_of_a_change_in_its_writers_trace() {
    let world = World::create().await;
    let (endpoint, spans) = collector().await;
    let process = world.run(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint), ("OTEL_SERVICE_NAME", "books")]);
    let trace_id = format!("{:032x}", fastrand::u128(1..));
    world
        .execute(&format!(
            "BEGIN; SET LOCAL sluice.traceparent = '00-{trace_id}-00f067aa0ba902b7-01'; INSERT INTO item VALUES (1, 'traced'); COMMIT;
             BEGIN; SET LOCAL sluice.traceparent = '00-{trace_id}-00f067aa0ba902b7-00'; INSERT INTO item VALUES (2, 'not sampled'); COMMIT"
        ))
        .await;
    world.converges("items").await;
    let found = eventually("both spans", async || {
        let found = spans.lock().unwrap().clone();
        if found.len() >= 2 { Ok(found) } else { Err(found) }
    })
    .await;
    let names: Vec<&str> = found.iter().map(|span| span["name"].as_str().unwrap_or_default()).collect();
    assert_eq!(names, ["drain", "deliver"], "{found:?}");
    for span in &found {
        assert_eq!((&span["traceId"], &span["parentSpanId"]), (&json!(trace_id), &json!("00f067aa0ba902b7")));
        assert!(span["attributes"].to_string().contains(r#""items""#), "{span}");
    }
    let told = process.log().lines().filter(|line| line.contains(&trace_id)).count();
    assert_eq!(told, 2, "the log has the trace's id: {}", process.log());
}
