//! An origin of profiles for demos and benches: `GET /users/changes`, made up from a seed and the clock.
//!
//! Each second one profile changes, all of them in turn. So nothing has to be remembered, and whoever asks again for the
//! same time gets the same answer.

mod answer;
mod changes;
mod config;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;

pub use config::Config;

/// The only endpoint.
pub fn router(config: Config) -> Router {
    Router::new().route("/users/changes", get(changed)).with_state(Arc::new(config))
}

async fn changed(State(config): State<Arc<Config>>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    answer::answer(&config, query.as_deref().unwrap_or_default(), &headers, now_s)
}
