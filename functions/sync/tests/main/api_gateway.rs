//! What API Gateway does for a WebSocket API, on a port of this machine: it holds the connections, tells a function what clients say, and
//! takes what is said to them. LocalStack has none without a licence.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test by its panic")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use axum::Router;
use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use serde_json::{Value, json};
use sluice_sync::Function;
use telemetry::Trace;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::spawn_blocking;

use crate::issuer::now;

/// What becomes of a request to a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    #[default]
    Taken,
    /// There is no such connection, although nobody was told that it has ended.
    Gone,
    /// So many requests are answered by 429.
    Throttled(u32),
    /// There is no answer.
    Hangs,
    /// It is done, and the answer is lost.
    Lost,
}

struct Held {
    to_client: UnboundedSender<Message>,
    fate: Fate,
    /// Requests that were made to it.
    asked: u32,
}

#[derive(Default)]
struct Shared {
    function: OnceLock<Arc<Function>>,
    held: Mutex<HashMap<String, Held>>,
    made: Mutex<u32>,
}

pub struct ApiGateway {
    /// For clients.
    pub url: String,
    /// For the function.
    pub connections_url: String,
    shared: Arc<Shared>,
}

impl ApiGateway {
    /// Of the stage `live`.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let host = listener.local_addr()?;
        let shared = Arc::<Shared>::default();
        let router = Router::new()
            .route("/live", get(connect))
            .route("/live/@connections/{id}", any(request))
            .with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { url: format!("ws://{host}/live"), connections_url: format!("http://{host}/live"), shared })
    }

    /// What its routes lead to.
    pub fn integrate(&self, function: &Arc<Function>) {
        self.shared.function.set(Arc::clone(function)).ok();
    }

    /// Of the connections that were made, the one of this number, from 0 on.
    pub fn id(number: u32) -> String {
        // As they look: the = has to be written as %3D in a URL.
        format!("L0SM9c{number:04}fVHcCIhw=")
    }

    pub fn let_be(&self, number: u32, fate: Fate) {
        self.shared.held().get_mut(&Self::id(number)).unwrap().fate = fate;
    }

    pub fn asked(&self, number: u32) -> u32 {
        self.shared.held()[&Self::id(number)].asked
    }

    pub fn holds(&self, number: u32) -> bool {
        self.shared.held().contains_key(&Self::id(number))
    }
}

impl Shared {
    fn held(&self) -> MutexGuard<'_, HashMap<String, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn tell(&self, id: &str, route: &str, kind: &str, body: Option<&str>) {
        let context = json!({
            "routeKey": route, "eventType": kind, "messageDirection": "IN", "stage": "live", "connectionId": id, "requestId": "JKJaXmPLvHcESHA=",
            "connectedAt": now() * 1000, "requestTimeEpoch": now() * 1000, "requestTime": "21/Nov/2020:20:39:08 +0000", "apiId": "asasasas",
            "domainName": "asasasas.execute-api.us-east-1.amazonaws.com", "identity": {"sourceIp": "192.0.2.7"},
        });
        let mut event = json!({"requestContext": context, "isBase64Encoded": false});
        if let Some(body) = body {
            event["body"] = json!(body);
        }
        // As in a process of its own: what an invocation waits for holds up nobody, and need not be Send.
        let (function, runtime) = (Arc::clone(self.function.get().unwrap()), Handle::current());
        let answer = spawn_blocking(move || runtime.block_on(invoke(&function, event))).await.unwrap().unwrap();
        assert_eq!(
            answer,
            json!({"statusCode": 200}),
            "else the client is told that there was an internal server error"
        );
    }
}

/// What the function answers in JSON.
pub async fn invoke(function: &Function, event: Value) -> Result<Value> {
    use lambda_http::lambda_runtime::FunctionResponse;
    let deadline = SystemTime::now() + Duration::from_mins(5);
    match Box::pin(function.handle(event, &Trace::of_invocation(None), deadline)).await? {
        FunctionResponse::BufferedResponse(answer) => Ok(answer),
        FunctionResponse::StreamingResponse(_) => anyhow::bail!("only HTTP is answered by a stream"),
    }
}

async fn connect(State(shared): State<Arc<Shared>>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async move |socket| hold(&shared, socket).await)
}

async fn hold(shared: &Shared, mut socket: WebSocket) {
    let (to_client, mut outgoing) = unbounded_channel();
    let id = {
        let mut made = shared.made.lock().unwrap();
        *made += 1;
        ApiGateway::id(*made - 1)
    };
    shared.tell(&id, "$connect", "CONNECT", None).await;
    shared.held().insert(id.clone(), Held { to_client, fate: Fate::default(), asked: 0 });
    loop {
        tokio::select! {
            told = outgoing.recv() => match told {
                Some(message) => { socket.send(message).await.ok(); }
                None => break,
            },
            said = socket.recv() => match said {
                Some(Ok(Message::Text(text))) => shared.tell(&id, "$default", "MESSAGE", Some(text.as_str())).await,
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Binary(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
            },
        }
    }
    shared.held().remove(&id);
    socket.send(Message::Close(None)).await.ok();
    shared.tell(&id, "$disconnect", "DISCONNECT", None).await;
}

/// `POST`, `GET` and `DELETE` of a connection.
async fn request(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let refused = |status: StatusCode, kind: &str| {
        (status, [("x-amzn-errortype", kind.to_owned())], axum::Json(json!({"message": null}))).into_response()
    };
    let signed = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !signed.starts_with("AWS4-HMAC-SHA256 Credential=") || !signed.contains("/us-east-1/execute-api/aws4_request") {
        return refused(StatusCode::FORBIDDEN, "ForbiddenException");
    }
    let fate = {
        let mut held = shared.held();
        let Some(connection) = held.get_mut(&id) else { return refused(StatusCode::GONE, "GoneException") };
        connection.asked += 1;
        let fate = connection.fate;
        if let Fate::Throttled(times) = fate {
            connection.fate = if times > 1 { Fate::Throttled(times - 1) } else { Fate::Taken };
        }
        if matches!(fate, Fate::Taken | Fate::Lost) {
            if method == Method::POST {
                let text = String::from_utf8(body.to_vec()).unwrap();
                connection.to_client.send(Message::text(text)).ok();
            } else if method == Method::DELETE {
                held.remove(&id);
            }
        }
        fate
    };
    match fate {
        Fate::Gone => refused(StatusCode::GONE, "GoneException"),
        Fate::Throttled(_) => refused(StatusCode::TOO_MANY_REQUESTS, "LimitExceededException"),
        Fate::Hangs | Fate::Lost => std::future::pending().await,
        Fate::Taken if method == Method::DELETE => StatusCode::NO_CONTENT.into_response(),
        Fate::Taken => StatusCode::OK.into_response(),
    }
}
