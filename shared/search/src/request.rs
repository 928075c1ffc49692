//! Requests to Elasticsearch whose answers are small JSON.

use elasticsearch::http::{StatusCode, response::Response};
use serde_json::Value;

/// A request that was not answered as hoped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No answer.
    #[error("{doing} failed: {reason}", reason = crate::describe(.source))]
    Unanswered {
        /// What the request is for.
        doing: String,
        /// The cause.
        #[source]
        source: elasticsearch::Error,
    },
    /// A refusal.
    #[error("{doing} failed: Elasticsearch refuses it with {status}: {reason}")]
    Refused {
        /// What the request is for.
        doing: String,
        /// The status of HTTP.
        status: u16,
        /// The innermost cause that Elasticsearch gives.
        reason: String,
    },
    /// An answer without what some shards hold.
    #[error("{doing} failed: shards of it did not answer; wait until the index is green or yellow, and try again")]
    Partial {
        /// What the request is for.
        doing: String,
    },
    /// Something of somebody else's is where Sluice's should be. In words.
    #[error("{0}")]
    Foreign(String),
}

/// The answer, or nothing where Elasticsearch knows no such thing (404).
pub async fn find(
    sent: Result<Response, elasticsearch::Error>,
    doing: impl Into<String>,
) -> Result<Option<Value>, Error> {
    match answer(sent, doing).await {
        Err(Error::Refused { status, .. }) if status == StatusCode::NOT_FOUND.as_u16() => Ok(None),
        other => other.map(Some),
    }
}

/// The answer of a request that must succeed.
pub async fn answer(sent: Result<Response, elasticsearch::Error>, doing: impl Into<String>) -> Result<Value, Error> {
    let doing = doing.into();
    let response = match sent {
        Ok(response) => response,
        Err(source) => return Err(Error::Unanswered { doing, source }),
    };
    let status = response.status_code();
    let text = match response.text().await {
        Ok(text) => text,
        Err(source) => return Err(Error::Unanswered { doing, source }),
    };
    if status.is_success() {
        return Ok(serde_json::from_str(&text).unwrap_or_default());
    }
    Err(refusal(doing, status, &text))
}

/// What a refusal says.
pub(crate) fn refusal(doing: String, status: StatusCode, text: &str) -> Error {
    let body: Option<Value> = serde_json::from_str(text).ok();
    let reason = body.and_then(|body| innermost_reason(&body["error"])).unwrap_or_else(|| text.to_owned());
    Error::Refused { doing, status: status.as_u16(), reason: reason.chars().take(500).collect() }
}

/// The answer of a search, which must be of all shards.
pub async fn whole_answer(sent: Result<Response, elasticsearch::Error>, doing: String) -> Result<Value, Error> {
    let found = answer(sent, doing.as_str()).await?;
    let shards = &found["_shards"];
    if shards["successful"] == shards["total"] { Ok(found) } else { Err(Error::Partial { doing }) }
}

/// The outer reasons say that something failed, the innermost `caused_by` says what.
fn innermost_reason(error: &Value) -> Option<String> {
    let mut error = error;
    while error["caused_by"].is_object() {
        error = &error["caused_by"];
    }
    // Security answers with a bare text.
    error["reason"].as_str().or(error.as_str()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_innermost_cause_is_told() {
        let error = json!({"reason": "outer", "caused_by": {"reason": "middle", "caused_by": {"reason": "inner"}}});
        assert_eq!(innermost_reason(&error).as_deref(), Some("inner"));
        assert_eq!(innermost_reason(&json!("plain")).as_deref(), Some("plain"));
        assert_eq!(innermost_reason(&Value::Null), None);
    }
}
