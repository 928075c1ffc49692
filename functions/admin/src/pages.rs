//! The dashboard and the page of the API: files in the binary, which hold no data.

use axum::extract::Path;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use rust_embed::{EmbeddedFile, RustEmbed};

use crate::problem::Problem;

#[derive(RustEmbed)]
#[folder = "dashboard/dist"]
struct Files;

/// Names of assets have a hash of their content in them.
const FOR_EVER: &str = "public, max-age=31536000, immutable";
const ASK_AGAIN: &str = "no-cache";

/// What a page may load: its own files, and data from where it came.
pub const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// The page of the API writes styles of its own.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The dashboard.
pub async fn dashboard(headers: HeaderMap) -> Response {
    file("index.html", ASK_AGAIN, &headers)
}

/// The page of the API.
pub async fn docs(headers: HeaderMap) -> Response {
    let mut response = file("docs.html", ASK_AGAIN, &headers);
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(DOCS_POLICY));
    response
}

/// What they load.
pub async fn asset(Path(path): Path<String>, headers: HeaderMap) -> Response {
    file(&format!("assets/{path}"), FOR_EVER, &headers)
}

fn file(path: &str, caching: &'static str, headers: &HeaderMap) -> Response {
    let Some(EmbeddedFile { data, metadata }) = Files::get(path) else {
        return Problem::not_found("there is no such file").into_response();
    };
    let tag = metadata.sha256_hash()[..16].iter().fold(String::new(), |tag, byte| format!("{tag}{byte:02x}"));
    let tag = format!("\"{tag}\"");
    if headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, [(ETAG, tag), (CACHE_CONTROL, caching.to_owned())]).into_response();
    }
    let headers = [(CONTENT_TYPE, metadata.mimetype().to_owned()), (CACHE_CONTROL, caching.to_owned()), (ETAG, tag)];
    (headers, data.into_owned()).into_response()
}
