//! HTTP, on ports of this process.

use std::net::SocketAddr;
use std::time::Duration;

use admin::{Admin, Peer};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

/// Whoever asks whether the process is ready waits for a second or two.
const READY_WITHIN: Duration = Duration::from_secs(2);

/// What machines ask, without a token: nothing of it tells what documents contain.
pub fn health(admin: Admin) -> Router {
    Router::new()
        .route("/live", get(async || Json(json!({"status": "live"}))))
        .route("/ready", get(ready))
        .with_state(admin.clone())
        .merge(admin::open_router(admin))
}

/// A target that is away makes no process unready: what waits for it waits in the log, and to start another helps nobody.
async fn ready(State(admin): State<Admin>) -> (StatusCode, Json<Value>) {
    let database = timeout(READY_WITHIN, async {
        let client = admin.database().await.map_err(|error| error.to_string())?;
        client.batch_execute("SELECT").await.map_err(|error| database::describe(&error))
    });
    let reason = match database.await {
        Ok(Ok(())) => return (StatusCode::OK, Json(json!({"status": "ready"}))),
        Ok(Err(reason)) => reason,
        Err(_) => format!("PostgreSQL did not answer within {} s", READY_WITHIN.as_secs()),
    };
    // It names hosts and logins.
    warn!(reason, "not ready");
    let answer = json!({"status": "not ready", "reason": "PostgreSQL does not answer as it should; the log says why"});
    (StatusCode::SERVICE_UNAVAILABLE, Json(answer))
}

/// Serves until `stop` says so; what is being answered is.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let router = router.layer(from_fn(with_peer));
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    if let Err(error) = axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned()).await {
        error!(%error, "a port is not served any more");
    }
}

async fn with_peer(ConnectInfo(address): ConnectInfo<SocketAddr>, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(Peer(address.ip()));
    next.run(request).await.into_response()
}
