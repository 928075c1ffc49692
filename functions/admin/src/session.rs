//! Who the caller is, for the page.

use axum::extract::State;
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use crate::access::{Caller, Role};
use crate::health::VERSION;
use crate::services::Admin;

/// What the caller may do here.
#[derive(Debug, Serialize, ToSchema)]
pub struct Session {
    role: Role,
    actor: String,
    /// Whether the demo's mutations are offered.
    demo: bool,
    version: &'static str,
}

/// What the caller may do.
#[utoipa::path(get, path = "/api/session", tag = "session", responses((status = OK, body = Session)))]
pub async fn session(State(admin): State<Admin>, Extension(caller): Extension<Caller>) -> Json<Session> {
    Json(Session { role: caller.role, actor: caller.actor, demo: admin.config.is_demo, version: VERSION })
}
