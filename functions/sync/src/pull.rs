//! What clients pull: changes behind a cursor, whole buckets, and whether a write has come.

use std::io;
use std::time::SystemTime;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use database::describe;
use database::sync::{self, Bucket, Item, Limit, Name};
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use tokio_postgres::error::SqlState;
use tracing::warn;

use crate::problem::Problem;
use crate::server::{Asked, Server};
use crate::token::Claims;

/// Changes of a page, at most and if nobody says otherwise.
const MOST: i64 = 1000;
const USUAL: i64 = 500;
/// Documents of a page: an answer of a function has 6 MB at most, and one document is among them in any case.
const PAGE_BYTES: i64 = 4_000_000;
/// What of a snapshot is read at once.
const SNAPSHOT: Limit = Limit { items: 1000, bytes: 1_000_000 };

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pull {
    after: Option<i64>,
    limit: Option<i64>,
    stream: Option<String>,
    bucket: Option<String>,
}

#[derive(Serialize)]
struct Page<'a> {
    changes: Vec<Change<'a>>,
    upto: i64,
    more: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    buckets: Option<Vec<Had<'a>>>,
}

#[derive(Serialize)]
struct Change<'a> {
    stream: &'a str,
    bucket: &'a str,
    key: &'a str,
    seq: i64,
    op: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    checksum: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Had<'a> {
    stream: &'a str,
    bucket: &'a str,
    seq: i64,
    count: i64,
    checksum: i64,
}

/// `GET /sync`
pub async fn changes(
    State(server): State<Server>,
    headers: HeaderMap,
    asked: Asked<Pull>,
) -> Result<Response, Problem> {
    let (claims, Pull { after, limit, stream, bucket }) = server.admit_with(&headers, asked).await?;
    if bucket.is_some() && stream.is_none() {
        return Err(Problem::bad_request("`bucket` goes with `stream`, whose bucket it is"));
    }
    let limit = limit.unwrap_or(USUAL);
    if !(1..=MOST).contains(&limit) || after.is_some_and(|after| after < 0) {
        return Err(Problem::bad_request(format!("`limit` is from 1 to {MOST}, and `after` is 0 or more")));
    }
    // All of it is of one moment: who may read what, the page, and what the buckets have.
    let reading = server.sessions.read().await?;
    let client = reading.client();
    let names = sync::list_readable(client, &claims.json, stream.as_deref(), bucket.as_deref()).await?;
    let head = sync::read_head(client).await?;
    let buckets = sync::list_buckets(client, &names).await?;
    let mut items = vec![];
    if let Some(after) = after {
        let lost: Vec<Name> =
            buckets.iter().filter(|bucket| after < bucket.floor).map(|bucket| bucket.name.clone()).collect();
        if after > head || !lost.is_empty() {
            reading.end().await?;
            return Err(Problem::gone(lost));
        }
        let changed: Vec<Name> =
            buckets.iter().filter(|bucket| bucket.seq > after).map(|bucket| bucket.name.clone()).collect();
        if !changed.is_empty() {
            items = sync::list_changes(client, &changed, after, Limit { items: limit, bytes: PAGE_BYTES }).await?;
        }
    }
    reading.end().await?;
    let last = items.last().map(|item| item.seq);
    let more = last.filter(|last| buckets.iter().any(|bucket| bucket.seq > *last));
    let page = Page {
        changes: items.iter().map(Change::of).collect::<Result<_, _>>()?,
        upto: more.unwrap_or(head),
        more: more.is_some(),
        buckets: more.is_none().then(|| buckets.iter().map(Had::of).collect()),
    };
    let body = serde_json::to_vec(&page).map_err(unserializable)?;
    let digest: String = Sha256::digest(&body)[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    // Weak: it may be compressed.
    let etag = format!("W/\"{digest}\"");
    if headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == etag.as_bytes()) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, etag)]).into_response());
    }
    Ok(([(ETAG, etag), (CONTENT_TYPE, "application/json".to_owned())], body).into_response())
}

impl<'a> Change<'a> {
    fn of(item: &'a Item) -> Result<Self, Problem> {
        let Item { name, key, seq, document, checksum } = item;
        let op = if document.is_some() { "upsert" } else { "delete" };
        let document = document.as_deref().map(serde_json::from_str).transpose().map_err(unserializable)?;
        Ok(Self { stream: &name.stream, bucket: &name.bucket, key, seq: *seq, op, checksum: *checksum, document })
    }
}

impl<'a> Had<'a> {
    fn of(Bucket { name, seq, count, checksum, .. }: &'a Bucket) -> Self {
        Self { stream: &name.stream, bucket: &name.bucket, seq: *seq, count: *count, checksum: *checksum }
    }
}

/// What PostgreSQL gave is JSON. Its words may quote it.
#[allow(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
fn unserializable(_: serde_json::Error) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "a document is no JSON: tell whoever runs this")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Whole {
    stream: String,
    bucket: String,
}

#[derive(Serialize)]
struct Line<'a> {
    key: &'a str,
    seq: i64,
    checksum: Option<i64>,
    document: &'a RawValue,
}

/// How far a snapshot has come.
struct Copying {
    server: Server,
    claims: Claims,
    name: Name,
    after: Option<String>,
    items: u64,
}

/// `GET /sync/snapshot`
pub async fn snapshot(
    State(server): State<Server>,
    headers: HeaderMap,
    asked: Asked<Whole>,
) -> Result<Response, Problem> {
    let (claims, Whole { stream, bucket }) = server.admit_with(&headers, asked).await?;
    let mut copying = Copying { server, claims, name: Name { stream, bucket }, after: None, items: 0 };
    let (seq, lines, goes_on) = copying.next().await?;
    let first = format!("{{\"seq\":{seq}}}\n").into_bytes();
    let lines = [first, lines].concat();
    // One that is not whole lacks its last line, and its connection ends.
    let rest = stream::unfold(goes_on.then_some(copying), |copying| async {
        let mut copying = copying?;
        match copying.next().await {
            Ok((_, lines, goes_on)) => Some((Ok(Bytes::from(lines)), goes_on.then_some(copying))),
            Err(problem) => {
                warn!(status = problem.status(), "a snapshot was broken off");
                Some((Err(io::Error::other("the snapshot was broken off")), None))
            }
        }
    });
    let begin = stream::iter([Ok(Bytes::from(lines))]);
    let body = Body::from_stream(begin.chain(rest).fuse());
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

impl Copying {
    /// The last seq, the next lines, and whether others follow. Each time it is asked anew who may read what.
    async fn next(&mut self) -> Result<(i64, Vec<u8>, bool), Problem> {
        if self.claims.ends_at < SystemTime::now() {
            return Err(Problem::unauthorized("the token has ended"));
        }
        let reading = self.server.sessions.read().await?;
        let client = reading.client();
        let Name { stream, bucket } = &self.name;
        let readable = sync::list_readable(client, &self.claims.json, Some(stream), Some(bucket)).await?;
        if !readable.contains(&self.name) {
            reading.end().await?;
            return Err(Problem::new(StatusCode::FORBIDDEN, "the token does not give this bucket, or there is none"));
        }
        let head = sync::read_head(client).await?;
        let items = sync::list_items(client, &self.name, self.after.as_deref(), SNAPSHOT).await?;
        reading.end().await?;
        let mut lines = vec![];
        for Item { key, seq, document, checksum, .. } in &items {
            let document = serde_json::from_str(document.as_deref().unwrap_or("null")).map_err(unserializable)?;
            let line = Line { key, seq: *seq, checksum: *checksum, document };
            serde_json::to_writer(&mut lines, &line).map_err(unserializable)?;
            lines.push(b'\n');
        }
        self.items += items.len() as u64;
        let goes_on = !items.is_empty();
        if let Some(last) = items.into_iter().next_back() {
            self.after = Some(last.key);
        } else {
            lines.extend_from_slice(format!("{{\"items\":{}}}\n", self.items).as_bytes());
        }
        Ok((head, lines, goes_on))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    snapshot: String,
    stream: Option<String>,
}

#[derive(Serialize)]
pub struct Readable {
    readable: bool,
}

/// `GET /sync/status`
pub async fn status(
    State(server): State<Server>,
    headers: HeaderMap,
    asked: Asked<Status>,
) -> Result<Json<Readable>, Problem> {
    let (_, Status { snapshot, stream }) = server.admit_with(&headers, asked).await?;
    let reading = server.sessions.read().await?;
    match sync::is_readable(reading.client(), &snapshot, stream.as_deref()).await {
        Ok(Some(readable)) => {
            reading.end().await?;
            Ok(Json(Readable { readable }))
        }
        Ok(None) => {
            reading.end().await?;
            Err(Problem::new(StatusCode::NOT_FOUND, "there is no such stream that clients pull"))
        }
        Err(error) if error.code() == Some(&SqlState::INVALID_TEXT_REPRESENTATION) => {
            reading.end().await?;
            Err(Problem::bad_request("`snapshot` is what PostgreSQL gives for SELECT pg_current_snapshot()"))
        }
        Err(error) => {
            warn!(error = describe(&error), "whether a write has come could not be found out");
            Err(error.into())
        }
    }
}
