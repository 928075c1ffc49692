//! Requests to Elasticsearch, and what came back in bytes.

use std::time::Duration;

use elasticsearch::Error;
use elasticsearch::http::{StatusCode, response::Response};
use telemetry::call;
use tokio::time::timeout_at;
use tracing::warn;

use crate::answer::{Answer, decide_connection};
use crate::cause::Cause;
use crate::client::Client;
use crate::connection::Connection;
use crate::deadline::Deadline;
use crate::error::{ConnectError, describe, untrusted_certificate};
use crate::outcome::Reason;

/// In the spans of calls.
const PEER: &str = "elasticsearch";
/// Longer than any healthy request of a few MB takes.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long Elasticsearch itself waits for a shard that is not there, before it answers for the others.
const SHARD_TIMEOUT: &str = "10s";

/// What a writer asks of Elasticsearch. [`Elastic`] is the real one; the simulation has a model of it.
#[allow(async_fn_in_trait, reason = "whoever needs its futures to be Send knows which one it is")]
pub trait Cluster {
    /// Sends a bulk request to an alias: these lines, byte for byte. It does not outlive the deadline.
    async fn bulk(&self, alias: &str, lines: &[&str], deadline: Deadline) -> Answer;

    /// Asks which indexes bear an alias.
    async fn indexes_of(&self, alias: &str, deadline: Deadline) -> Answer;
}

/// Elasticsearch over HTTP.
#[derive(Debug)]
pub struct Elastic {
    connection: Connection,
}

impl Cluster for Elastic {
    async fn bulk(&self, alias: &str, lines: &[&str], deadline: Deadline) -> Answer {
        self.request("_bulk", deadline, async |client, timeout| {
            client
                .post([alias, "_bulk"])
                .query("require_alias", "true")
                .query("timeout", SHARD_TIMEOUT)
                .query("filter_path", "items.*._id,items.*.status,items.*.result,items.*.error")
                .timeout(timeout)
                .body(lines_of(lines))
                .send()
                .await
        })
        .await
    }

    async fn indexes_of(&self, alias: &str, deadline: Deadline) -> Answer {
        self.request("_alias", deadline, async |client, timeout| {
            client.get(["_alias", alias]).timeout(timeout).send().await
        })
        .await
    }
}

impl Elastic {
    /// Connects to nothing yet.
    pub fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// Refused credentials are looked up once more.
    async fn request(
        &self,
        name: &'static str,
        deadline: Deadline,
        send: impl AsyncFn(Client, Duration) -> Result<Response, Error>,
    ) -> Answer {
        let client = match timeout_at(deadline.instant(), self.connection.client()).await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return unconnected(&error),
            Err(_) => return Answer::Lost(Reason::deadline()),
        };
        let first = call(PEER, name, attempt(client, deadline, &send)).await;
        if !matches!(first, Answer::Refused { status: 401, .. }) {
            return first;
        }
        match timeout_at(deadline.instant(), self.connection.renew()).await {
            Ok(Ok(client)) => call(PEER, name, attempt(client, deadline, &send)).await,
            Ok(Err(error)) => unconnected(&error),
            Err(_) => Answer::Lost(Reason::deadline()),
        }
    }
}

/// Each of them with its end.
fn lines_of(lines: &[&str]) -> String {
    let mut body = String::with_capacity(lines.iter().map(|line| line.len() + 1).sum());
    for line in lines {
        body.push_str(line);
        body.push('\n');
    }
    body
}

async fn attempt(
    client: Client,
    deadline: Deadline,
    send: &impl AsyncFn(Client, Duration) -> Result<Response, Error>,
) -> Answer {
    let Some(remaining) = deadline.remaining() else { return Answer::Lost(Reason::deadline()) };
    let answer = async {
        let response = send(client, remaining.min(REQUEST_TIMEOUT)).await?;
        let status = response.status_code();
        Ok::<(StatusCode, Vec<u8>), Error>((status, response.bytes().await?.to_vec()))
    };
    match answer.await {
        Ok((status, body)) if status.is_success() => Answer::Success(body),
        Ok((status, body)) => Answer::Refused { status: status.as_u16(), cause: Cause::of_body(&body) },
        Err(error) => {
            let problem = describe(&error);
            warn!(error = problem, "Elasticsearch gave no answer");
            match untrusted_certificate(&error) {
                Some(_) => Answer::Misconfigured(Reason::new("untrusted_certificate", problem)),
                None => Answer::Lost(Reason::new("no_answer", problem)),
            }
        }
    }
}

fn unconnected(error: &ConnectError) -> Answer {
    warn!(%error, "there is no way to Elasticsearch");
    decide_connection(error)
}
