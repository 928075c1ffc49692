//! An operator's HTTP client.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use localstack::{PATIENCE, eventually, eventually_within, variable};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};
use url::Url;

use crate::stack::{ARRIVAL, Stack, mapping};

static ALONE: Mutex<()> = Mutex::const_new(());

/// The deployed function.
pub struct Admin {
    http: Client,
    url: String,
    _turn: MutexGuard<'static, ()>,
}

/// A status and a JSON body; `null` where there is none.
pub type Answer = (StatusCode, Value);

impl Admin {
    /// Waits for its turn, and empties the dead-letter queue.
    pub async fn alone() -> Result<Self> {
        let turn = ALONE.lock().await;
        let url: Url = variable("ADMIN_URL").parse()?;
        let host = url.host_str().context("ADMIN_URL has a host")?;
        let port = url.port_or_known_default().context("ADMIN_URL has a port")?;
        // The system's resolver knows no names below localhost; browsers do.
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let http = Client::builder().resolve(host, here).timeout(PATIENCE).no_proxy().build()?;
        let admin = Self { http, url: url.as_str().trim_end_matches('/').to_owned(), _turn: turn };
        admin.has_no_letters().await;
        Ok(admin)
    }

    /// As anybody: with this token, or none.
    pub async fn send(&self, method: Method, path: &str, token: Option<&str>, body: Option<&str>) -> Result<Answer> {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_owned());
        }
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// As the operator.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Answer> {
        let body = body.map(|body| body.to_string());
        self.send(method, path, Some(&variable("ADMIN_TOKEN")), body.as_deref()).await
    }

    /// As the operator, and it has to work.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let (status, body) = self.call(Method::GET, path, None).await?;
        ensure!(status.is_success(), "GET {path}: {status} {body}");
        Ok(body)
    }

    /// The same.
    pub async fn post(&self, path: &str, body: Value) -> Result<Value> {
        let (status, answer) = self.call(Method::POST, path, Some(body)).await?;
        ensure!(status.is_success(), "POST {path}: {status} {answer}");
        Ok(answer)
    }

    /// The letters of a stream, as they are listed.
    pub async fn letters(&self, stream: &str) -> Result<Vec<Value>> {
        let list = self.get(&format!("/api/dlq?stream={stream}")).await?;
        Ok(list["letters"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until a stream has so many letters.
    pub async fn has_letters(&self, stream: &str, count: usize) -> Vec<Value> {
        let mut letters = vec![];
        eventually_within(ARRIVAL, &format!("{count} letters of {stream}"), async || {
            letters = self.letters(stream).await.map_err(|error| format!("{error:#}"))?;
            if letters.len() == count { Ok(()) } else { Err(format!("{letters:?}")) }
        })
        .await;
        letters
    }

    /// Waits until so many letters are in the queue, whosever they are.
    pub async fn has_depth(&self, letters: i64) {
        eventually_within(ARRIVAL, &format!("{letters} letters"), async || {
            let depth = self.get("/api/dlq?limit=1").await.map_err(|error| format!("{error:#}"))?["depth"].clone();
            if depth == letters { Ok(()) } else { Err(depth.to_string()) }
        })
        .await;
    }

    /// Redrives all letters; how many.
    pub async fn redrive_all(&self, selection: Value) -> Result<u64> {
        let mut task = self.post("/api/dlq/redrive", selection).await?;
        while task["state"] == "running" {
            let id = task["task"].as_str().context("a task has an id")?.to_owned();
            task = self.post(&format!("/api/dlq/redrive/{id}"), json!({})).await?;
        }
        ensure!(task["state"] == "done", "{task}");
        task["redriven"].as_u64().context("a task counts")
    }

    /// Discards whatever is in the dead-letter queue, whose ever it was.
    async fn has_no_letters(&self) {
        eventually("the dead-letter queue to be empty", async || {
            let list = self.get("/api/dlq").await.map_err(|error| format!("{error:#}"))?;
            for letter in list["letters"].as_array().into_iter().flatten() {
                let path = format!("/api/dlq/{}", letter["message_id"].as_str().unwrap_or_default());
                let reason = json!({"reason": "left by another test"});
                self.call(Method::DELETE, &path, Some(reason)).await.map_err(|error| format!("{error:#}"))?;
            }
            if list["depth"] == 0 { Ok(()) } else { Err(format!("{} letters", list["depth"])) }
        })
        .await;
    }

    /// The audit's entries with this action, newest first.
    pub async fn audit(&self, action: &str) -> Result<Vec<Value>> {
        let entries = self.get("/api/audit?limit=500").await?["entries"].as_array().cloned().unwrap_or_default();
        Ok(entries.into_iter().filter(|entry| entry["action"] == action).collect())
    }
}

/// A stack with a table `item (id, day)` whose stream, of the schema's name, takes dates alone.
pub async fn days(schema: &str) -> Result<Stack> {
    let stack = Stack::connect(schema).await?;
    stack
        .execute(&format!(
            "CREATE TABLE item (id int PRIMARY KEY, day text);
             SELECT sluice.define_stream('{schema}', source => '{schema}.item', key => 'id', mapping => '{}');
             SELECT sluice.track('item', stream => '{schema}', key => 'id')",
            mapping(&[("id", "integer"), ("day", "date")])
        ))
        .await?;
    stack.migrate().await?;
    Ok(stack)
}

/// Waits until nothing waits in the log.
pub async fn is_drained(stack: &Stack) {
    eventually("the log to be drained", async || {
        let has_changes = stack.has_changes_in_the_log().await.map_err(|error| format!("{error:#}"))?;
        if has_changes { Err("rows wait".to_owned()) } else { Ok(()) }
    })
    .await;
}
