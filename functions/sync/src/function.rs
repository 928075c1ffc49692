//! All of live sync as one function of Lambda. What an invocation is for is told by the shape of its event: API Gateway's of a WebSocket,
//! that of the function's URL, or else the minute's, by which it drains and pokes.

mod connections;
mod gateway;
mod http;
mod poker;

use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use axum::Router;
use axum::body::BodyDataStream;
use lambda_http::lambda_runtime::FunctionResponse;
use secrets::Secrets;
use serde_json::Value;
use telemetry::Trace;
use tokio::join;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::router::router;
use crate::{Sync, new, server};
use connections::Connections;
use gateway::Gateway;
use poker::Poker;

/// Left for the answer, and for a request that was begun in the last moment.
const MARGIN: Duration = Duration::from_secs(4);

/// What Lambda is given: an answer of HTTP as a stream, which may be larger than 6 MB; anything else as JSON.
pub type Answer = FunctionResponse<Value, BodyDataStream>;

/// Why an invocation fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was sent was sent: the next one goes on.
    #[error(transparent)]
    Drain(#[from] drain::Error),
    /// It is none that this function is for. What it is in detail may quote the event.
    #[error("the event is none of a function's URL, of a WebSocket or of a schedule")]
    Event(#[source] serde_json::Error),
}

/// The function's value.
pub struct Function {
    drainer: Sync,
    router: Router,
    /// For those whose connections API Gateway holds, where it does.
    pushing: Option<(Connections, Poker)>,
}

impl Function {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// There is no client of HTTP to ask the issuer with.
    pub fn new(config: Config, aws: &SdkConfig, secrets: &Secrets) -> Result<Self, reqwest::Error> {
        let (server, accounts) = server(config.clone(), secrets, None)?;
        let pushing = config.connections_url.as_deref().map(|url| {
            let gateway = Gateway::new(aws, url);
            let poker = Poker::new(&config, secrets, &server, gateway.clone());
            (Connections::new(server.clone(), gateway, config.clients), poker)
        });
        let router = router(server, config.origins.clone(), accounts);
        Ok(Self { drainer: new(config, secrets), router, pushing })
    }

    /// Does what an event is for, until the deadline at most. What it sends is in this trace.
    ///
    /// # Errors
    /// It could not drain, or the event is none of its own.
    pub async fn handle(&self, event: Value, trace: &Trace, deadline: SystemTime) -> Result<Answer, Error> {
        let context = &event["requestContext"];
        if context["connectionId"].is_string() {
            let event = serde_json::from_value(event).map_err(Error::Event)?;
            if let Some((connections, _)) = &self.pushing {
                connections.hear(event).await;
            }
            return Ok(FunctionResponse::BufferedResponse(serde_json::json!({"statusCode": 200})));
        }
        if context["http"].is_object() {
            return http::answer(&self.router, event).await.map_err(Error::Event);
        }
        let summary = self.drain(trace, deadline).await?;
        Ok(FunctionResponse::BufferedResponse(serde_json::to_value(summary).map_err(Error::Event)?))
    }

    /// Whoever is connected is poked meanwhile, and once more when it has ended: a poke that fails, or hangs, holds up no drain.
    async fn drain(&self, trace: &Trace, deadline: SystemTime) -> Result<drain::Summary, drain::Error> {
        let Some((_, poker)) = &self.pushing else { return self.drainer.handle(trace, deadline).await };
        let left = deadline.duration_since(SystemTime::now()).unwrap_or_default().saturating_sub(MARGIN);
        let until = Instant::now() + left;
        // Before anything is drained: so what is drained is told of.
        poker.begin().await;
        let is_over = CancellationToken::new();
        let drain = async {
            let drained = self.drainer.handle(trace, deadline).await;
            is_over.cancel();
            drained
        };
        let (drained, ()) = join!(Box::pin(drain), Box::pin(poker.stay(&is_over, until)));
        drained
    }
}
