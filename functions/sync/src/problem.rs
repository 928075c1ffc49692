//! Errors as RFC 9457 problem documents.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use database::sync::{Name, READERS_FAIL};
use database::{describe, is_unheld};
use serde::Serialize;
use tracing::{error, warn};

use crate::{sessions, token};

/// Why a request was not carried out: `application/problem+json`. Nothing in it is of a document, of a token, or of what a server said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    /// Of a cursor that is of no use: whose deletes it misses.
    #[serde(skip_serializing_if = "Option::is_none")]
    buckets: Option<Vec<Lost>>,
    /// Seconds, after which it may be tried again.
    #[serde(skip)]
    retry_after: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Lost {
    stream: String,
    bucket: String,
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or_default();
        Self {
            kind: "about:blank",
            title,
            status: status.as_u16(),
            detail: detail.into(),
            buckets: None,
            retry_after: None,
        }
    }

    /// It may be tried again after so many seconds.
    pub fn after(self, seconds: u32) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    /// A body that is not what it should be.
    pub fn of_body(rejection: &JsonRejection) -> Self {
        Self::new(client_error(rejection.status()), rejection.body_text())
    }

    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, detail)
    }

    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).after(5)
    }

    /// These buckets' deletes were forgotten since the cursor; none: it is of another database.
    pub fn gone(names: Vec<Name>) -> Self {
        let detail = "the cursor is of no use any more: forget it and all items, and begin anew without `after`";
        let lost = names.into_iter().map(|Name { stream, bucket }| Lost { stream, bucket }).collect();
        Self { buckets: Some(lost), ..Self::new(StatusCode::GONE, detail) }
    }

    pub fn status(&self) -> u16 {
        self.status
    }
}

fn client_error(status: StatusCode) -> StatusCode {
    if status == StatusCode::PAYLOAD_TOO_LARGE { status } else { StatusCode::BAD_REQUEST }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = self.retry_after;
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl From<token::Refusal> for Problem {
    fn from(refusal: token::Refusal) -> Self {
        match refusal {
            token::Refusal::Token(reason) => Self::unauthorized(reason),
            token::Refusal::NoKeys(_) => {
                Self::unavailable("the issuer's keys cannot be had, so no token can be looked at: try again")
            }
        }
    }
}

/// The server's own words may quote what is in a row: they are for the log, and those of users' functions for nobody.
impl From<tokio_postgres::Error> for Problem {
    fn from(failure: tokio_postgres::Error) -> Self {
        if is_unheld(&failure) {
            return Self::bad_request("a text of the request has the character U+0000, which PostgreSQL cannot hold");
        }
        error!(error = describe(&failure), "PostgreSQL refused a statement");
        if failure.code().is_some_and(|code| code.code() == READERS_FAIL) {
            let detail = "the function that says who may read what fails: whoever runs this finds out why in its log";
            return Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail);
        }
        Self::unavailable("PostgreSQL did not answer as it should: try again")
    }
}

impl From<sessions::Error> for Problem {
    fn from(failure: sessions::Error) -> Self {
        match failure {
            sessions::Error::Query(failure) => failure.into(),
            sessions::Error::Connect(failure) => {
                warn!(error = %failure, "there is no way to PostgreSQL");
                Self::unavailable("PostgreSQL cannot be reached: try again")
            }
            sessions::Error::Busy => Self::unavailable("too many ask at once: try again"),
        }
    }
}
