//! What API Gateway tells of its connections: what a client says, and that it is gone.

use std::time::{Duration, SystemTime};

use database::connections;
use database::sync::Name;
use serde::Deserialize;
use tracing::{debug, warn};

use super::gateway::Gateway;
use crate::messages::{Hello, Unheard};
use crate::problem::Problem;
use crate::server::Server;

/// API Gateway ends a connection after two hours, and does not always tell: so long it may be listed.
const LIFE: Duration = Duration::from_hours(2);

/// What is of use to us.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    request_context: Context,
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Context {
    connection_id: String,
    event_type: String,
    /// Milliseconds since 1970.
    connected_at: Option<u64>,
}

/// Who is connected.
pub struct Connections {
    server: Server,
    gateway: Gateway,
    /// At once.
    most: usize,
}

impl Connections {
    /// Connects to nothing yet.
    pub fn new(server: Server, gateway: Gateway, most: usize) -> Self {
        Self { server, gateway, most }
    }

    /// Takes a message of a client, which is poked from then on; one that cannot be taken ends the connection. Of one that was only made
    /// nothing is to be done: who it is, the first message says.
    pub async fn hear(&self, Event { request_context: context, body, is_base64_encoded }: Event) {
        let Context { connection_id: id, event_type, connected_at } = context;
        match event_type.as_str() {
            "MESSAGE" => {
                let text = body.filter(|_| !is_base64_encoded).unwrap_or_default();
                let connected_at = connected_at.map(|at| SystemTime::UNIX_EPOCH + Duration::from_millis(at));
                if let Err(reason) = self.admit(&id, &text, connected_at.unwrap_or_else(SystemTime::now)).await {
                    debug!(reason, "a connection is ended");
                    self.gateway.end(&id).await;
                    self.forget(&id).await;
                }
            }
            "DISCONNECT" => self.forget(&id).await,
            _ => {}
        }
    }

    async fn admit(&self, id: &str, text: &str, connected_at: SystemTime) -> Result<(), &'static str> {
        let hello = Hello::read(&self.server.verifier, text).await;
        let Hello { claims, wanted } = hello.map_err(|unheard| match unheard {
            Unheard::Malformed => "the message is not as it should be",
            Unheard::Refused => "the token is refused, or has ended",
            Unheard::Later => "the issuer's keys cannot be had",
        })?;
        let wanted: Option<Vec<Name>> = wanted.map(|names| names.into_iter().collect());
        let ends_at = claims.ends_at.min(connected_at + LIFE);
        let admitted = async {
            let session = self.server.sessions.write().await?;
            let admit =
                connections::admit(session.client(), id, &claims.json, wanted.as_deref(), ends_at, self.most).await?;
            Ok::<_, Problem>(admit)
        };
        // What was wrong is in the log.
        let is_admitted = admitted.await.map_err(|_| "PostgreSQL does not answer as it should")?;
        if is_admitted { Ok(()) } else { Err("there are as many as SYNC_CLIENTS lets in") }
    }

    /// Whoever stays listed is removed when it is poked, or when its time is over.
    async fn forget(&self, id: &str) {
        let forgotten = async {
            let session = self.server.sessions.write().await?;
            connections::remove(session.client(), id).await?;
            Ok::<_, Problem>(())
        };
        if let Err(problem) = forgotten.await {
            warn!(status = problem.status(), "a connection that is gone is still listed");
        }
    }
}
