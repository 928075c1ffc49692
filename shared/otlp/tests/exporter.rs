//! What a collector gets.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test by its panic")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use config::Env;
use serde_json::Value;
use telemetry::Trace;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tracing_subscriber::layer::SubscriberExt as _;

const TEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Takes requests, and keeps their bodies and heads.
async fn collector(listener: TcpListener, requests: Arc<Mutex<Vec<String>>>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut request, mut buffer) = (vec![], [0; 4096]);
        loop {
            let bytes = stream.read(&mut buffer).await.unwrap();
            request.extend_from_slice(&buffer[..bytes]);
            let text = String::from_utf8_lossy(&request);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if bytes == 0 || body.len() >= length.unwrap_or(usize::MAX) {
                break;
            }
        }
        requests.lock().unwrap().push(String::from_utf8(request).unwrap());
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}").await.unwrap();
    }
}

#[tokio::test]
async fn the_spans_of_a_change_are_in_one_trace() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/", listener.local_addr().unwrap());
    let requests = Arc::new(Mutex::new(vec![]));
    tokio::spawn(collector(listener, Arc::clone(&requests)));
    let pairs = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_EXPORTER_OTLP_HEADERS", "key=s3cret")];
    let (spans, exporter) = otlp::from_env("sluice", &mut Env::from_pairs(pairs)).unwrap();
    tokio::spawn(exporter.run());
    tracing::subscriber::with_default(tracing_subscriber::registry().with(spans), || {
        let trace = Trace::parse(TEXT).unwrap();
        telemetry::tell_sent(&trace, "books", 7, 1_000);
        telemetry::tell_landed(&trace, "books", 7, "written", 2_000, Some(1_500));
        tracing::info!(traceparent = TEXT, "this is about something else");
    });
    let found = async {
        loop {
            let bodies: Vec<String> = requests.lock().unwrap().clone();
            let spans: Vec<Value> = bodies.iter().flat_map(|request| spans_of(request)).collect();
            if spans.len() >= 2 {
                return (bodies, spans);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let (requests, spans) = tokio::time::timeout(Duration::from_mins(5), found).await.unwrap();
    assert!(requests[0].starts_with("POST /v1/traces ") && requests[0].contains("key: s3cret"), "{requests:?}");
    let names: Vec<&str> = spans.iter().map(|span| span["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["drain", "deliver"]);
    assert!(spans.iter().all(|span| span["traceId"] == "4bf92f3577b34da6a3ce929d0e0e4736"), "{spans:?}");
    assert!(spans.iter().all(|span| span["parentSpanId"] == "00f067aa0ba902b7"), "{spans:?}");
    assert!(spans[1]["attributes"].to_string().contains("written"), "{spans:?}");
}

fn spans_of(request: &str) -> Vec<Value> {
    let (_, body) = request.split_once("\r\n\r\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone()
}

#[tokio::test]
async fn nobody_waits_for_a_collector_that_is_away() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    // It takes connections, and never answers.
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (spans, exporter) =
        otlp::from_env("sluice", &mut Env::from_pairs([("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())])).unwrap();
    tokio::spawn(exporter.run());
    tracing::subscriber::with_default(tracing_subscriber::registry().with(spans), || {
        let trace = Trace::parse(TEXT).unwrap();
        // More than are kept: this would never end if anybody waited.
        (0..100_000).for_each(|id| telemetry::tell_sent(&trace, "books", id, 1_000));
    });
    drop(listener);
}
