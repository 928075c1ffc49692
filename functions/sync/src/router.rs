//! What clients ask, over HTTP: `docs/live-sync.md` says what is answered.

use std::sync::Arc;
use std::time::Duration;

use ::accounts::Accounts;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, IF_NONE_MATCH, RETRY_AFTER,
    STRICT_TRANSPORT_SECURITY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use tower_http::compression::CompressionLayer;
use tower_http::cors::CorsLayer;

use crate::accounts::Desk;
use crate::problem::Problem;
use crate::server::Server;
use crate::{accounts, live, pull, writes};

/// Of changes.
const BODY_BYTES: usize = 1 << 20;
/// For whatever does not say otherwise. A client keeps its own copy, and asks with the ETag of it.
const HEADERS: [(HeaderName, &str); 4] = [
    (CACHE_CONTROL, "no-store"),
    (STRICT_TRANSPORT_SECURITY, "max-age=31536000"),
    (VARY, "authorization"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
];

/// All endpoints. Pages of these origins, `https://app.example.com`, may ask from a browser. Where `accounts` are our own, whoever has one
/// logs in here; so many proxies are in front.
pub fn router(server: Server, origins: Vec<HeaderValue>, accounts: Option<(Arc<Accounts>, usize)>) -> Router {
    let desk = accounts.map(|(accounts, proxies)| Desk::new(accounts, proxies, server.clone()));
    let router = Router::new()
        .route("/sync", get(pull::changes))
        .route("/sync/changes", post(writes::changes))
        .route("/sync/conflicts", get(writes::conflicts))
        .route("/sync/live", get(live::live))
        .route("/sync/snapshot", get(pull::snapshot))
        .route("/sync/status", get(pull::status))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "there is nothing of this name: see docs/live-sync.md"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path takes another method: see docs/live-sync.md")
        })
        .with_state(server)
        .merge(desk.map(accounts::router).unwrap_or_default())
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(CompressionLayer::new())
        .layer(from_fn(with_headers));
    if origins.is_empty() {
        return router;
    }
    let cors = CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers([AUTHORIZATION, CONTENT_TYPE, IF_NONE_MATCH])
        .expose_headers([ETAG, RETRY_AFTER])
        .max_age(Duration::from_hours(1));
    router.layer(cors)
}

async fn with_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await.into_response();
    for (name, value) in HEADERS {
        let headers = response.headers_mut();
        if name == VARY {
            headers.append(name, HeaderValue::from_static(value));
        } else {
            headers.entry(name).or_insert(HeaderValue::from_static(value));
        }
    }
    response
}
