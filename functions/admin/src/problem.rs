//! Errors as RFC 9457 problem documents.

use axum::Json;
use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use database::{ConnectError, describe, is_unheld};
use serde::Serialize;
use tracing::{error, warn};
use utoipa::ToSchema;

/// Why a request was not carried out: `application/problem+json`. It holds nothing of a document, of a secret or of our
/// own inside.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`: the status says what kind it is.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What happened, and what to do.
    detail: String,
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or_default();
        Self { kind: "about:blank", title, status: status.as_u16(), detail: detail.into() }
    }

    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    pub fn detail(&self) -> &str {
        &self.detail
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// The server's own words may quote what is in a row: they are for the log.
impl From<tokio_postgres::Error> for Problem {
    fn from(failure: tokio_postgres::Error) -> Self {
        if is_unheld(&failure) {
            return Self::bad_request("a text of the request has the character U+0000, which PostgreSQL cannot hold");
        }
        error!(error = describe(&failure), "PostgreSQL refused a statement");
        let code = failure
            .code()
            .map_or_else(|| "the connection was lost".to_owned(), |code| format!("SQLSTATE {}", code.code()));
        Self::unavailable(format!("PostgreSQL did not do it ({code}); its words are in the function's log. Try again."))
    }
}

impl From<ConnectError> for Problem {
    fn from(failure: ConnectError) -> Self {
        warn!(error = %failure, "there is no way to PostgreSQL");
        Self::unavailable("PostgreSQL cannot be reached; /health and the function's log say why. Try again.")
    }
}

impl From<queue::Error> for Problem {
    fn from(failure: queue::Error) -> Self {
        warn!(error = %failure, "SQS did not answer");
        Self::unavailable(format!("SQS did not answer {}; the function's log says why. Try again.", failure.request))
    }
}
