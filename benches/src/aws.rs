//! AWS, as far as the functions ask for it, and the bench's own requests beside it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use config::Env;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::copy::print;
use crate::deliver::Queue;
use crate::instant;
use crate::runtime::Function;

#[derive(Clone)]
struct World {
    queue: Arc<Queue>,
    letters: Arc<Queue>,
    functions: Arc<[Function]>,
    /// SECRET_name is the secret `name`; `instant` is the endpoint that answers at once.
    secrets: Arc<BTreeMap<String, String>>,
    delivering: Arc<tokio::sync::Mutex<Vec<JoinHandle<Result<()>>>>>,
}

/// Serves until its process is ended; the first line that it prints has the ports.
pub async fn serve(functions: usize) -> Result<()> {
    let (mut made, mut runtimes) = (vec![], vec![]);
    for _ in 0..functions {
        let (function, port) = Function::listen().await?;
        made.push(function);
        runtimes.push(port);
    }
    let (aws, elastic) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
    let profiles = TcpListener::bind("127.0.0.1:0").await?;
    let origin = origin::router(origin::Config::from_env(Env::from_process())?);
    let mut secrets: BTreeMap<String, String> =
        std::env::vars().filter_map(|(name, value)| Some((name.strip_prefix("SECRET_")?.to_owned(), value))).collect();
    let instant = json!({"url": format!("http://{}", elastic.local_addr()?), "username": "none", "password": "none"});
    secrets.insert("instant".to_owned(), instant.to_string());
    let world = World {
        queue: Arc::default(),
        letters: Arc::default(),
        functions: made.into(),
        secrets: Arc::new(secrets),
        delivering: Arc::default(),
    };
    let router = Router::new()
        .route("/", post(request))
        .route("/bench/counted", get(counted))
        .route("/bench/reset", post(reset))
        .route("/bench/invoke/{function}", post(invoke))
        .route("/bench/deliver", post(deliver))
        .layer(DefaultBodyLimit::disable())
        .with_state(world);
    let ports = (aws.local_addr()?.port(), profiles.local_addr()?.port());
    print(&json!({"aws": ports.0, "origin": ports.1, "runtimes": runtimes}));
    tokio::try_join!(axum::serve(aws, router), axum::serve(elastic, instant::router()), axum::serve(profiles, origin))?;
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Batch<'a> {
    queue_url: String,
    #[serde(borrow)]
    entries: Vec<Entry<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry<'a> {
    id: String,
    /// As it travels, escapes and all: it is unpacked where it is kept.
    #[serde(borrow, default)]
    message_body: Option<&'a RawValue>,
    /// A message that is delayed would come after the bench.
    #[serde(default)]
    delay_seconds: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Receive {
    #[serde(default)]
    wait_time_seconds: u64,
}

/// The AWS JSON protocol: the operation is in a header.
async fn request(State(world): State<World>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers.get("x-amz-target").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let answer = match target {
        "AmazonSQS.SendMessageBatch" => serde_json::from_slice(&body).map(|batch: Batch<'_>| world.send(&batch)),
        "AmazonSQS.ChangeMessageVisibilityBatch" | "AmazonSQS.DeleteMessageBatch" => {
            serde_json::from_slice(&body).map(|batch: Batch<'_>| taken(&batch.entries))
        }
        "AmazonSQS.GetQueueAttributes" => {
            Ok(json!({"Attributes": {"ApproximateNumberOfMessages": world.queue.depth().to_string()}}))
        }
        "secretsmanager.GetSecretValue" => serde_json::from_slice(&body).map(|asked: Value| {
            let name = asked["SecretId"].as_str().unwrap_or_default();
            json!({"ARN": name, "Name": name, "SecretString": world.secrets.get(name)})
        }),
        "AmazonSQS.ReceiveMessage" => match serde_json::from_slice(&body) {
            Ok(Receive { wait_time_seconds }) => Ok(world.queue.receive(Duration::from_secs(wait_time_seconds)).await),
            Err(error) => Err(error),
        },
        _ => return (StatusCode::NOT_IMPLEMENTED, target.to_owned()).into_response(),
    };
    match answer {
        Ok(answer) => ([("Content-Type", "application/x-amz-json-1.0")], answer.to_string()).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}

impl World {
    fn send(&self, batch: &Batch<'_>) -> Value {
        let queue = if batch.queue_url.ends_with("letters") { &self.letters } else { &self.queue };
        for body in batch.entries.iter().filter(|entry| entry.delay_seconds == 0).filter_map(|entry| entry.message_body)
        {
            queue.push(body);
        }
        taken(&batch.entries)
    }
}

fn taken(entries: &[Entry<'_>]) -> Value {
    let taken: Vec<Value> =
        entries.iter().map(|entry| json!({"Id": entry.id, "MessageId": entry.id, "MD5OfMessageBody": ""})).collect();
    json!({"Successful": taken, "Failed": []})
}

async fn counted(State(world): State<World>) -> Json<Value> {
    Json(json!({ "queue": world.queue.counted() }))
}

#[derive(Deserialize)]
struct Reset {
    /// Whether messages stay, to be delivered.
    keeps: bool,
}

async fn reset(State(world): State<World>, Json(Reset { keeps }): Json<Reset>) -> StatusCode {
    for task in world.delivering.lock().await.drain(..) {
        task.abort();
    }
    world.queue.reset(keeps);
    world.letters.reset(false);
    StatusCode::NO_CONTENT
}

async fn invoke(State(world): State<World>, Path(function): Path<usize>, event: Bytes) -> Response {
    let Some(function) = world.functions.get(function) else { return StatusCode::NOT_FOUND.into_response() };
    match function.invoke(event).await {
        Ok(answer) => answer.into_response(),
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}

#[derive(Deserialize)]
struct Deliver {
    /// Which of them.
    functions: Vec<usize>,
    /// Answer when nothing is left; otherwise at once, and go on.
    until_empty: bool,
}

/// Delivers to these functions side by side, as an event source mapping does with its concurrency.
async fn deliver(State(world): State<World>, Json(which): Json<Deliver>) -> Response {
    let mut tasks = vec![];
    for function in which.functions {
        let Some(function) = world.functions.get(function).cloned() else {
            return StatusCode::NOT_FOUND.into_response();
        };
        let queue = world.queue.clone();
        tasks.push(tokio::spawn(async move { queue.deliver(&function, which.until_empty).await }));
    }
    if !which.until_empty {
        world.delivering.lock().await.extend(tasks);
        return StatusCode::ACCEPTED.into_response();
    }
    for task in tasks {
        match task.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return (StatusCode::BAD_GATEWAY, format!("{error:#}")).into_response(),
            Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }
    StatusCode::NO_CONTENT.into_response()
}
