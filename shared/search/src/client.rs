//! Requests: each of them goes through here, since a signature is made of all that a request is.

use std::fmt::{self, Debug, Formatter};
use std::time::Duration;

use bytes::Bytes;
use elasticsearch::http::headers::{HeaderMap, HeaderName, HeaderValue};
use elasticsearch::http::transport::Transport;
use elasticsearch::http::{Method, Url, response::Response};
use serde_json::Value;

use crate::signature::Signer;

/// A client of a server. A clone of it uses the same connections.
#[derive(Clone, Debug)]
pub struct Client {
    transport: Transport,
    url: Url,
    signer: Option<Signer>,
}

/// A request that is not sent yet.
#[must_use]
pub struct Request<'a> {
    client: &'a Client,
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Option<Bytes>,
    timeout: Option<Duration>,
}

impl Client {
    pub(crate) fn new(transport: Transport, url: Url, signer: Option<Signer>) -> Self {
        Self { transport, url, signer }
    }

    /// `GET`, of a path in its parts: `["books", "_alias"]`.
    pub fn get<'p>(&self, path: impl IntoIterator<Item = &'p str>) -> Request<'_> {
        self.request(Method::Get, path)
    }

    /// `HEAD`.
    pub fn head<'p>(&self, path: impl IntoIterator<Item = &'p str>) -> Request<'_> {
        self.request(Method::Head, path)
    }

    /// `PUT`.
    pub fn put<'p>(&self, path: impl IntoIterator<Item = &'p str>) -> Request<'_> {
        self.request(Method::Put, path)
    }

    /// `POST`.
    pub fn post<'p>(&self, path: impl IntoIterator<Item = &'p str>) -> Request<'_> {
        self.request(Method::Post, path)
    }

    /// `DELETE`.
    pub fn delete<'p>(&self, path: impl IntoIterator<Item = &'p str>) -> Request<'_> {
        self.request(Method::Delete, path)
    }

    /// Any of them.
    pub fn request<'p>(&self, method: Method, path: impl IntoIterator<Item = &'p str>) -> Request<'_> {
        let mut url = self.url.clone();
        // It is of http or https, so it has a path.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        Request { client: self, method, url, headers: HeaderMap::new(), body: None, timeout: None }
    }
}

impl Request<'_> {
    /// A parameter of the URL.
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.url.query_pairs_mut().append_pair(name, value);
        self
    }

    /// A header in place of the client's own.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// What is sent, byte by byte.
    pub fn body(self, body: impl Into<Bytes>) -> Self {
        Self { body: Some(body.into()), ..self }
    }

    /// What is sent, as JSON.
    pub fn json(self, body: &Value) -> Self {
        self.body(body.to_string())
    }

    /// How long it may take, if not as long as any.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self }
    }

    /// Sends it.
    ///
    /// # Errors
    /// Nobody answered, or it could not be signed.
    pub async fn send(self) -> Result<Response, elasticsearch::Error> {
        let Self { client, method, url, mut headers, body, timeout } = self;
        if let Some(signer) = &client.signer {
            headers.extend(signer.sign(name(method), url.as_str(), body.as_deref().unwrap_or_default()).await?);
        }
        // The transport joins it to its own URL, of which a whole one leaves nothing.
        client.transport.send(method, url.as_str(), headers, None::<&()>, body, timeout).await
    }
}

/// Without its headers, which may be a signature.
impl Debug for Request<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("method", &self.method).field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

fn name(method: Method) -> &'static str {
    match method {
        Method::Get => "GET",
        Method::Put => "PUT",
        Method::Post => "POST",
        Method::Delete => "DELETE",
        Method::Head => "HEAD",
    }
}
