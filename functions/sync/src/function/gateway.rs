//! API Gateway, which holds the connections: what is posted to them, and their end.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_apigatewaymanagement::Client;
use aws_sdk_apigatewaymanagement::config::retry::RetryConfig;
use aws_sdk_apigatewaymanagement::config::timeout::TimeoutConfig;
use aws_sdk_apigatewaymanagement::config::{Builder, http::HttpResponse};
use aws_sdk_apigatewaymanagement::error::{DisplayErrorContext, SdkError};
use aws_sdk_apigatewaymanagement::primitives::Blob;
use telemetry::call;
use tracing::warn;

/// In the spans of calls.
const PEER: &str = "api gateway";
/// For a request. One takes some ten milliseconds.
const PATIENCE: Duration = Duration::from_secs(3);
const GONE: u16 = 410;
const TOO_MANY: u16 = 429;

/// The stage that holds the connections.
#[derive(Clone)]
pub struct Gateway(Client);

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// There is no such connection any more.
    Gone,
    /// So many requests at once are not taken.
    Throttled,
    /// It was refused, or nobody answered in time. What it was is in the log.
    Failed,
}

impl Gateway {
    /// By the URL of the stage, `https://ID.execute-api.REGION.amazonaws.com/STAGE`.
    pub fn new(aws: &SdkConfig, url: &str) -> Self {
        let patience = TimeoutConfig::builder().connect_timeout(PATIENCE).operation_timeout(PATIENCE).build();
        // Who is to be tried again is known in PostgreSQL: to wait here would keep others waiting.
        let config =
            Builder::from(aws).endpoint_url(url).retry_config(RetryConfig::disabled()).timeout_config(patience).build();
        Self(Client::from_conf(config))
    }

    /// Sends a text to a connection.
    pub async fn post(&self, id: &str, text: String) -> Outcome {
        let request = self.0.post_to_connection().connection_id(id).data(Blob::new(text)).send();
        call(PEER, "post", request).await.map_or_else(|error| outcome(&error), |_| Outcome::Done)
    }

    /// Ends a connection.
    pub async fn end(&self, id: &str) -> Outcome {
        let request = self.0.delete_connection().connection_id(id).send();
        call(PEER, "end", request).await.map_or_else(|error| outcome(&error), |_| Outcome::Done)
    }
}

/// By the status alone: a proxy in between, and a quota of the account, answer without a name of the error.
fn outcome<E: std::error::Error + 'static>(error: &SdkError<E, HttpResponse>) -> Outcome {
    match error.raw_response().map(|response| response.status().as_u16()) {
        Some(GONE) => Outcome::Gone,
        Some(TOO_MANY) => Outcome::Throttled,
        _ => {
            warn!(error = %DisplayErrorContext(error), "API Gateway does not take what is said to a connection");
            Outcome::Failed
        }
    }
}
