//! The admin function: dead letters, redrive, validation, the ingest, health, metrics, and the dashboard, behind one function URL.
//!
//! [`router`] is all of it. Who calls is found out in `access.rs` before a handler runs; what a handler changes is on
//! record in `sluice.audit`.

mod access;
mod api;
mod audit;
mod clients;
mod config;
mod data_sync;
mod demo;
mod extract;
mod health;
mod ingest;
mod letters;
mod metrics;
mod newest;
mod pages;
mod pipeline;
mod problem;
mod services;
mod validation;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderValue, Request, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tower_http::compression::CompressionLayer;
use tracing::warn;

pub use crate::access::Peer;
pub use crate::config::{Access, Config};
use crate::letters::tasks;
use crate::problem::Problem;
pub use crate::services::Admin;

/// A selection of a thousand message ids is less.
const BODY_BYTES: usize = 64 << 10;
/// For whatever does not say otherwise.
const HEADERS: [(HeaderName, &str); 6] = [
    (CACHE_CONTROL, "no-store"),
    (CONTENT_SECURITY_POLICY, pages::PAGE_POLICY),
    (REFERRER_POLICY, "no-referrer"),
    (STRICT_TRANSPORT_SECURITY, "max-age=31536000"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
];

/// All endpoints.
pub fn router(admin: Admin) -> Router {
    let description = async || ([(CONTENT_TYPE, "application/json")], api::DESCRIPTION);
    Router::new()
        .merge(api::endpoints().route_layer(from_fn_with_state(admin.clone(), access::guard)))
        .route("/live", get(health::live))
        .route("/api/v1/data-sync/live", get(data_sync::live))
        .route("/events", post(tasks::tick))
        .route("/openapi.json", get(description))
        .route("/", get(pages::dashboard))
        .route("/docs", get(pages::docs))
        .route("/assets/{*path}", get(pages::asset))
        .fallback(async || Problem::not_found("there is nothing of this name; /docs tells what there is"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path takes another method; /docs tells which")
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(CompressionLayer::new())
        .layer(from_fn(with_headers))
        .with_state(admin)
}

/// What is served to whoever can reach it, on a port that is for machines: the metrics, which tell nothing of documents.
pub fn open_router(admin: Admin) -> Router {
    Router::new().route("/metrics", get(metrics::metrics)).with_state(admin)
}

/// Goes on with each redrive that runs, for a part of a minute. To be called each minute.
pub async fn go_on_with_redrives(admin: &Admin) {
    if let Err(problem) = tasks::go_on_with_all(admin).await {
        warn!(error = problem.detail(), "redrives could not be gone on with");
    }
}

async fn with_headers(request: Request<axum::body::Body>, next: Next) -> Response {
    let mut response = next.run(request).await.into_response();
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}
