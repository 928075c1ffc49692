//! What clients write, and what became of it where others had written before.

use std::collections::HashMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::HeaderMap;
use database::describe;
use database::sync::{self, Outcome, Write};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;
use tracing::warn;
use uuid::Uuid;

use crate::problem::Problem;
use crate::server::{Asked, Server};

/// Of one request.
const CHANGES: usize = 500;
/// For all of a request; a client sends again what was not done.
const PATIENCE: Duration = Duration::from_secs(25);
/// Of one answer.
const CONFLICTS: i64 = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    changes: Vec<Given>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    id: Uuid,
    stream: String,
    key: String,
    op: Op,
    fields: Option<Box<RawValue>>,
    base: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Op {
    Insert,
    Update,
    Delete,
}

#[derive(Serialize)]
pub struct Answered {
    results: Vec<Became>,
    snapshot: String,
}

#[derive(Serialize)]
struct Became {
    id: Uuid,
    result: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// `POST /sync/changes`
pub async fn changes(
    State(server): State<Server>,
    headers: HeaderMap,
    given: Result<Json<Batch>, JsonRejection>,
) -> Result<Json<Answered>, Problem> {
    let claims = server.admit(&headers).await?;
    let Json(Batch { changes }) = given.map_err(|rejection| Problem::of_body(&rejection))?;
    if changes.len() > CHANGES {
        return Err(Problem::bad_request(format!("{CHANGES} changes are the most: send the others behind them")));
    }
    let writes: Vec<Write> = changes.into_iter().map(checked).collect::<Result<_, _>>()?;
    let reading = server.sessions.read().await?;
    let names = sync::list_readable(reading.client(), &claims.json, None, None).await?;
    reading.end().await?;
    let mut readable: HashMap<&str, Vec<&str>> = HashMap::new();
    for name in &names {
        readable.entry(&name.stream).or_default().push(&name.bucket);
    }
    let until = Instant::now() + PATIENCE;
    let (mut results, mut is_done, mut writing) = (vec![], true, None);
    for write in &writes {
        if Instant::now() > until {
            is_done = false;
            break;
        }
        let buckets = readable.get(write.stream.as_str()).map(Vec::as_slice).unwrap_or_default();
        let session = match writing.take() {
            Some(session) => session,
            None => server.sessions.write().await?,
        };
        match session.apply(&claims.json, buckets, write).await {
            Ok(Outcome { result, is_applied, reason }) => {
                writing = Some(session);
                let applied = matches!(result.as_str(), "conflict" | "repeated").then_some(is_applied);
                results.push(Became { id: write.id, result, applied, reason });
            }
            // None of its fault, and none of the others'.
            Err(failure) => {
                warn!(stream = write.stream, error = describe(&failure), "a change of a client could not be applied");
                is_done = false;
            }
        }
    }
    if !is_done {
        return Err(Problem::unavailable("not all of it could be done just now: send the same again"));
    }
    let reading = server.sessions.read().await?;
    let snapshot = sync::read_snapshot(reading.client()).await?;
    reading.end().await?;
    Ok(Json(Answered { results, snapshot }))
}

fn checked(Given { id, stream, key, op, fields, base }: Given) -> Result<Write, Problem> {
    let fields = fields.map(|fields| fields.get().to_owned());
    let has_object = fields.as_deref().is_some_and(|fields| fields.starts_with('{'));
    let (op, is_right, wants) = match op {
        Op::Insert => ("insert", has_object && base.is_none(), "`fields`, an object, and no `base`"),
        Op::Update => ("update", has_object && base.is_some(), "`fields`, an object, and `base`"),
        Op::Delete => ("delete", fields.is_none() && base.is_some(), "`base`, and no `fields`"),
    };
    if is_right {
        Ok(Write { id, stream, key, op, fields, base })
    } else {
        Err(Problem::bad_request(format!("the change {id}: {op} has {wants}")))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct After {
    #[serde(default)]
    after: i64,
}

#[derive(Serialize)]
pub struct Listed {
    conflicts: Vec<Conflict>,
    upto: i64,
    more: bool,
}

#[derive(Serialize)]
struct Conflict {
    number: i64,
    id: Uuid,
    stream: String,
    key: String,
    at: String,
    applied: bool,
    fields: Option<Box<RawValue>>,
    document: Option<Box<RawValue>>,
}

/// `GET /sync/conflicts`
pub async fn conflicts(
    State(server): State<Server>,
    headers: HeaderMap,
    asked: Asked<After>,
) -> Result<Json<Listed>, Problem> {
    let (claims, After { after }) = server.admit_with(&headers, asked).await?;
    let reading = server.sessions.read().await?;
    let names = sync::list_readable(reading.client(), &claims.json, None, None).await?;
    let (found, next) = sync::list_conflicts(reading.client(), &names, after, CONFLICTS).await?;
    reading.end().await?;
    let upto = next.or_else(|| found.last().map(|conflict| conflict.number)).unwrap_or(after);
    // Both were read as JSON before they were stored.
    let raw = |json: Option<String>| json.and_then(|json| RawValue::from_string(json).ok());
    let conflict = |it: sync::Conflict| Conflict {
        number: it.number,
        id: it.id,
        stream: it.stream,
        key: it.key,
        at: it.at,
        applied: it.is_applied,
        fields: raw(it.fields),
        document: raw(it.document),
    };
    Ok(Json(Listed { conflicts: found.into_iter().map(conflict).collect(), upto, more: next.is_some() }))
}
