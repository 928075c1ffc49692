//! What clients write, and what they were told of it.

use anyhow::{Context as _, Result, ensure};
use axum::http::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use uuid::Uuid;

/// A change of a client's.
#[derive(Clone, Debug)]
pub struct Edit {
    pub id: String,
    pub op: &'static str,
    pub key: String,
    /// The tenant of a new one.
    pub tenant: Option<&'static str>,
    /// The seq and the source version of what the client had.
    pub base: Option<(i64, i64)>,
    /// The first answer that came, and whether it is applied by it.
    pub answer: Option<(String, bool)>,
}

impl Edit {
    pub fn new(
        id: u128,
        op: &'static str,
        key: String,
        tenant: Option<&'static str>,
        base: Option<(i64, i64)>,
    ) -> Self {
        Self { id: Uuid::from_u128(id).to_string(), op, key, tenant, base, answer: None }
    }

    /// Its title is its id, so that what it wrote is known by it.
    pub fn fields(&self) -> Option<Value> {
        match (self.op, self.tenant) {
            ("delete", _) => None,
            (_, Some(tenant)) => Some(json!({"title": self.id, "tenant": tenant})),
            (_, None) => Some(json!({"title": self.id})),
        }
    }

    pub fn as_sent(&self) -> Value {
        let mut sent = json!({"id": self.id, "stream": "task", "key": self.key, "op": self.op});
        if let Some(fields) = self.fields() {
            sent["fields"] = fields;
        }
        if let Some((seq, _)) = self.base {
            sent["base"] = json!(seq);
        }
        sent
    }
}

/// A request that is under way.
pub struct Post {
    /// Whose.
    pub client: usize,
    pub ids: Vec<String>,
    pub keys: Vec<String>,
    /// Nobody waits for its answer any more.
    pub is_forgotten: bool,
    pub task: JoinHandle<Result<(StatusCode, Value)>>,
}

/// The result of each change by its id; `None`: not all of it could be done.
pub fn results(ids: &[String], status: StatusCode, answer: &Value) -> Result<Option<Vec<(String, bool)>>> {
    if status == StatusCode::SERVICE_UNAVAILABLE {
        return Ok(None);
    }
    ensure!(status == StatusCode::OK, "{status} {answer}");
    let told = answer["results"].as_array().context("results")?;
    ensure!(
        told.iter().map(|it| it["id"].as_str()).eq(ids.iter().map(|id| Some(id.as_str()))),
        "in their order: {answer}"
    );
    let result = |it: &Value| {
        let result = it["result"].as_str().unwrap_or_default().to_owned();
        let is_applied = it["applied"].as_bool().unwrap_or(result == "applied");
        (result, is_applied)
    };
    Ok(Some(told.iter().map(result).collect()))
}
