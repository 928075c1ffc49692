//! The admin function: dead letters, redrive, validation, the ingest, health, metrics, and the dashboard, behind one function URL.
//!
//! [`router`] is all of it. Who calls is found out in `access.rs` before a handler runs; what a handler changes is on
//! record in `sluice.audit`.

mod access;
mod audit;
mod config;
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

use axum::extract::DefaultBodyLimit;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderValue, Request, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use tower_http::compression::CompressionLayer;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{RefOr, Schema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::ingest::rejects;
use crate::letters::{dead_letters, tasks};
use crate::metrics::history;
use crate::pipeline::{outbox, streams, subscriptions};
use crate::problem::Problem;
use crate::validation::differences;

pub use crate::config::{Access, Config};
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

#[derive(OpenApi)]
#[openapi(info(
    title = "Sluice admin",
    description = "Dead letters, redrive, validation, ingest, health and metrics of a pipeline from PostgreSQL to Elasticsearch."
))]
struct Api;

/// All endpoints.
pub fn router(admin: Admin) -> Router {
    let (guarded, api) = api();
    let description = move || {
        let api = api.clone();
        async move { Json(api) }
    };
    Router::new()
        .merge(guarded.route_layer(from_fn_with_state(admin.clone(), access::guard)))
        .route("/live", get(health::live))
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

/// What takes a caller who is known, and what is written about all of it.
fn api() -> (Router<Admin>, utoipa::openapi::OpenApi) {
    let (router, mut api) = OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(access::session))
        .routes(routes!(outbox::list))
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::discard))
        .routes(routes!(dead_letters::redrive))
        .routes(routes!(dead_letters::retry))
        .routes(routes!(tasks::begin))
        .routes(routes!(tasks::progress, tasks::go_on_now, tasks::cancel))
        .routes(routes!(subscriptions::list))
        .routes(routes!(subscriptions::pause))
        .routes(routes!(subscriptions::resume))
        .routes(routes!(streams::list))
        .routes(routes!(validation::list, validation::ask))
        .routes(routes!(differences::list))
        .routes(routes!(ingest::status))
        .routes(routes!(ingest::run))
        .routes(routes!(rejects::list))
        .routes(routes!(history::list))
        .routes(routes!(audit::list))
        .routes(routes!(demo::add_user))
        .routes(routes!(demo::update_user))
        .routes(routes!(metrics::metrics))
        .routes(routes!(health::health))
        .routes(routes!(health::ready))
        .split_for_parts();
    let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    let components = api.components.get_or_insert_default();
    components.add_security_scheme("token", bearer);
    components.schemas.values_mut().for_each(require_fields);
    api.security = Some(vec![utoipa::openapi::SecurityRequirement::new::<_, _, String>("token", [])]);
    (router, api)
}

/// An answer has all its fields, null where there is nothing to tell; utoipa takes a field that may be null for one that may
/// be missing. That is so in what a request says, which refuses fields that it does not know.
fn require_fields(schema: &mut RefOr<Schema>) {
    if let RefOr::T(Schema::Object(object)) = schema
        && object.additional_properties.is_none()
    {
        object.required = object.properties.keys().cloned().collect();
    }
}

async fn with_headers(request: Request<axum::body::Body>, next: Next) -> Response {
    let mut response = next.run(request).await.into_response();
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The dashboard's build makes its types of the file.
    const FILE: &str = "dashboard/openapi.json";

    #[test]
    fn the_dashboard_is_built_for_the_answers_that_are_served() {
        let served = format!("{}\n", api().1.to_pretty_json().unwrap());
        if std::env::var_os("WRITE").is_some() {
            std::fs::write(FILE, &served).unwrap();
        }
        assert!(
            std::fs::read_to_string(FILE).unwrap_or_default() == served,
            "{FILE} is not what /openapi.json serves; write it: WRITE=1 cargo test -p admin --lib the_dashboard"
        );
    }
}
