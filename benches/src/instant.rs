//! An Elasticsearch that answers at once: everything is written, and nothing is kept.

use std::fmt::Write as _;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};

/// All of the API that the indexer and the peers use.
pub fn router() -> Router {
    Router::new().route("/_alias/{alias}", get(alias)).fallback(any(bulk)).layer(DefaultBodyLimit::disable())
}

fn answer(body: String) -> Response {
    let headers = [("Content-Type", "application/json"), ("X-Elastic-Product", "Elasticsearch")];
    (StatusCode::OK, headers, body).into_response()
}

async fn alias(Path(alias): Path<String>) -> Response {
    // As migrate names the index of a first generation, which is written by an alias with its number.
    let searched = alias.strip_suffix(".g1").unwrap_or(&alias);
    answer(format!(r#"{{"{searched}-0123456789abcdef":{{"aliases":{{"{alias}":{{}}}}}}}}"#))
}

async fn bulk(body: Bytes) -> Response {
    let mut items = String::from(r#"{"errors":false,"took":0,"items":["#);
    let text = String::from_utf8_lossy(&body);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some((op, id)) = action(line) else { continue };
        if op != "delete" {
            lines.next();
        }
        let comma = if items.ends_with('[') { "" } else { "," };
        write!(items, r#"{comma}{{"{op}":{{"_id":{id},"status":201,"result":"created"}}}}"#).ok();
    }
    items.push_str("]}");
    answer(items)
}

/// Of `{"index":{"_id":"7",…}}` the words `index` and `"7"`.
fn action(line: &str) -> Option<(&str, &str)> {
    let op = line.strip_prefix("{\"")?.split_once('"')?.0;
    let id = line.split_once(r#""_id":"#)?.1;
    let end = id.char_indices().skip(1).find(|&(at, c)| c == '"' && !id[..at].ends_with('\\')).map(|(at, _)| at + 1)?;
    Some((op, &id[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_has_its_word_and_its_id() {
        assert_eq!(action(r#"{"index":{"_id":"7","version":1}}"#), Some(("index", r#""7""#)));
        assert_eq!(action(r#"{"delete":{"version":1,"_id":"a\"b"}}"#), Some(("delete", r#""a\"b""#)));
        assert_eq!(action(""), None);
    }
}
