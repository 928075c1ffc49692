//! What a request says, or a problem that names what is wrong with it.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::{StatusCode, request::Parts};
use serde::de::DeserializeOwned;

use crate::problem::Problem;

/// The query.
pub struct Params<T>(pub T);

/// A body of JSON; an empty one is `{}`.
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(rejection) => Err(Problem::bad_request(rejection.body_text())),
        }
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
        let text: &[u8] = if bytes.trim_ascii().is_empty() { b"{}" } else { bytes.trim_ascii() };
        // serde would take a list for an object's fields in their order, and an empty one for an object without any.
        if text.starts_with(b"[") {
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "the body is a list, and should be an object"));
        }
        serde_json::from_slice(text).map(Self).map_err(|error| {
            let status = if error.is_data() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::BAD_REQUEST };
            Problem::new(status, format!("the body is not as it should be: {error}"))
        })
    }
}
