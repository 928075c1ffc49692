//! The Lambda Runtime API of one function: what it asks for, and what it answers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Router, serve};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

/// As the template gives the trigger, and more than the indexer's.
const TIMEOUT: Duration = Duration::from_secs(75);

type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<Result<Bytes, Bytes>>>>>;

/// A function that runs, or will.
#[derive(Clone)]
pub struct Function {
    invocations: mpsc::Sender<(String, Bytes)>,
    waiting: Waiting,
}

#[derive(Clone)]
struct Api {
    invocations: Arc<tokio::sync::Mutex<mpsc::Receiver<(String, Bytes)>>>,
    waiting: Waiting,
}

impl Function {
    /// Serves its API on a free port, which is told.
    pub async fn listen() -> Result<(Self, u16)> {
        let (sender, receiver) = mpsc::channel(1);
        let waiting = Waiting::default();
        let api = Api { invocations: Arc::new(tokio::sync::Mutex::new(receiver)), waiting: waiting.clone() };
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/response", post(respond))
            .route("/2018-06-01/runtime/invocation/{id}/error", post(fail))
            .layer(DefaultBodyLimit::disable())
            .with_state(api);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        tokio::spawn(async move { serve(listener, router).await });
        Ok((Self { invocations: sender, waiting }, port))
    }

    /// Its answer to an event.
    pub async fn invoke(&self, event: Bytes) -> Result<Bytes> {
        let id = format!("{:032x}", fastrand::u128(..));
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), answer);
        self.invocations.send((id, event)).await?;
        match answered.await? {
            Ok(body) => Ok(body),
            Err(body) => bail!("the function failed: {}", String::from_utf8_lossy(&body)),
        }
    }
}

async fn next(State(api): State<Api>) -> impl IntoResponse {
    let Some((id, event)) = api.invocations.lock().await.recv().await else {
        return Err(StatusCode::GONE);
    };
    let deadline = (SystemTime::now() + TIMEOUT).duration_since(UNIX_EPOCH).unwrap_or_default();
    let headers = [
        ("Content-Type", "application/json".to_owned()),
        ("Lambda-Runtime-Aws-Request-Id", id),
        ("Lambda-Runtime-Deadline-Ms", deadline.as_millis().to_string()),
        ("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:us-east-1:000000000000:function:bench".to_owned()),
    ];
    Ok((headers, event))
}

async fn respond(State(api): State<Api>, Path(id): Path<String>, body: Bytes) -> StatusCode {
    answer(&api, &id, Ok(body))
}

async fn fail(State(api): State<Api>, Path(id): Path<String>, body: Bytes) -> StatusCode {
    answer(&api, &id, Err(body))
}

fn answer(api: &Api, id: &str, answer: Result<Bytes, Bytes>) -> StatusCode {
    if let Some(waiting) = api.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(id) {
        waiting.send(answer).ok();
    }
    StatusCode::ACCEPTED
}
