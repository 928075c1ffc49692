//! Who sees and does what.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fixture::{Fixture, METRICS, OPERATOR, READER, TOKENS};

/// Each method of each path that the description has, but for `/live`, which is open.
async fn endpoints(fixture: &Fixture) -> Vec<(Method, String)> {
    let (_, api) = fixture.send(Method::GET, "/openapi.json", None, None).await;
    let paths = api["paths"].as_object().unwrap();
    let methods = |(path, methods): (&String, &Value)| {
        let filled = path.replace("{id}", "1").replace("{task}", "1").replace("{name}", "elasticsearch");
        let filled = filled.replace("{stream}", "users");
        let methods = methods.as_object().unwrap().keys().map(|method| method.to_uppercase().parse().unwrap());
        methods.map(move |method| (method, filled.clone())).collect::<Vec<_>>()
    };
    paths.iter().flat_map(methods).filter(|(_, path)| path != "/live").collect()
}

#[tokio::test]
async fn the_metrics_token_reads_metrics_and_ready_and_nothing_else() {
    let fixture = Fixture::new().await;
    let endpoints = endpoints(&fixture).await;
    assert!(endpoints.len() > 20, "{endpoints:?}");
    for (method, path) in endpoints {
        let path_alone = path.strip_prefix("/api/v1/data-sync").unwrap_or(&path);
        let is_open = method == Method::GET && ["/metrics", "/ready"].contains(&path_alone);
        let (status, body) = fixture.send(method.clone(), &path, Some(METRICS), None).await;
        let expected = if is_open { StatusCode::OK } else { StatusCode::FORBIDDEN };
        assert_eq!(status, expected, "{method} {path}: {body}");
    }
}

#[tokio::test]
async fn a_secret_without_a_metrics_token_has_none() {
    let fixture = Fixture::new().await;
    fixture.manager.put(TOKENS, &json!({"operator": OPERATOR, "reader": READER}));
    assert_eq!(fixture.send(Method::GET, "/metrics", Some(READER), None).await.0, StatusCode::OK);
    for token in ["", METRICS] {
        assert_eq!(fixture.send(Method::GET, "/metrics", Some(token), None).await.0, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn only_an_operator_sees_what_documents_contain() {
    let fixture = Fixture::new().await;
    fixture.letters.put_letter("item", "1", Some("{\"name\": \"secret\"}"));
    fixture.letters.put("no message: secret", &[]);
    let reject = "INSERT INTO sluice.ingest_rejects (source, reason, message, payload, digest) VALUES ('profiles', 'email', 'it is none', '{\"email\": \"secret\"}', '1')";
    fixture.owner.execute(reject, &[]).await.unwrap();
    for path in ["/api/dlq", "/api/ingest/rejects"] {
        let (status, body) = fixture.send(Method::GET, path, Some(OPERATOR), None).await;
        assert!(status.is_success() && body.to_string().contains("secret"), "{path}: {body}");
        let (status, body) = fixture.send(Method::GET, path, Some(READER), None).await;
        assert!(status.is_success() && !body.to_string().contains("secret"), "{path}: {body}");
    }
    let list = fixture.send(Method::GET, "/api/dlq", Some(READER), None).await.1;
    assert_eq!((list["letters"].as_array().unwrap().len(), &list["depth"]), (2, &json!(2)));
    assert!(list["letters"].as_array().unwrap().iter().any(|letter| letter["error_type"] == "strict"), "{list}");
}

#[tokio::test]
async fn only_an_operator_is_told_hosts_and_logins_where_a_server_is_away() {
    let fixture = Fixture::new().await;
    let away = json!({"username": "someone", "password": "x", "host": "127.0.0.1", "port": 1, "dbname": "x"});
    fixture.manager.put("arn:aws:secretsmanager:us-east-1:000000000000:secret:functions", &away);
    for (path, token, is_told) in
        [("/health", OPERATOR, true), ("/health", READER, false), ("/ready", READER, false), ("/ready", METRICS, false)]
    {
        let (status, body) = fixture.send(Method::GET, path, Some(token), None).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{path}: {body}");
        assert_eq!(body.to_string().contains("127.0.0.1"), is_told, "{path} for {token}: {body}");
        assert!(body["parts"][0]["reason"].is_string(), "{body}");
    }
}

#[tokio::test]
async fn a_short_token_lets_nobody_in_until_the_secret_is_mended() {
    let fixture = Fixture::new().await;
    fixture.manager.put(TOKENS, &json!({"operator": OPERATOR, "reader": "hunter2"}));
    for token in [OPERATOR, "hunter2"] {
        let (status, body) = fixture.send(Method::GET, "/api/session", Some(token), None).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
        let detail = body["detail"].as_str().unwrap();
        assert!(
            detail.contains("`reader`") && detail.contains("20 characters") && !detail.contains("hunter2"),
            "{detail}"
        );
    }
    fixture.manager.put(TOKENS, &json!({"operator": OPERATOR, "reader": READER}));
    assert_eq!(fixture.send(Method::GET, "/api/session", Some(READER), None).await.0, StatusCode::OK);
}

#[tokio::test]
async fn nobody_gets_in_with_a_token_whose_secret_was_taken_away() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.send(Method::GET, "/api/session", Some(OPERATOR), None).await.0, StatusCode::OK);
    fixture.manager.refuse(TOKENS);
    assert_eq!(
        fixture.send(Method::GET, "/api/session", Some(OPERATOR), None).await.0,
        StatusCode::SERVICE_UNAVAILABLE
    );
}
