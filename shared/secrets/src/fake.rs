//! Servers that tests hold in their hands: a Secrets Manager that is rotated between two calls or taken away, and one that
//! never answers.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{Arc, Mutex, PoisonError},
};

use aws_sdk_secretsmanager::{
    Client,
    config::{BehaviorVersion, Config, Credentials, Region, retry::RetryConfig},
};
use axum::{Router, body::Bytes, extract::State, http::StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// It speaks the one operation that is used, `GetSecretValue`, over HTTP on 127.0.0.1, until its runtime ends.
#[derive(Clone, Debug)]
pub struct SecretsManager {
    url: String,
    state: Arc<Mutex<Held>>,
}

#[derive(Debug, Default)]
struct Held {
    values: HashMap<String, String>,
    refused: HashSet<String>,
    lookups: usize,
    is_away: bool,
    is_silent: bool,
}

impl SecretsManager {
    /// Starts it on a free port.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let state = Arc::<Mutex<Held>>::default();
        let served = Arc::clone(&state);
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer).with_state(served)).await });
        Ok(Self { url, state })
    }

    /// Where it is, for a process of its own.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Sets a secret; set again, it is rotated.
    pub fn put(&self, arn: &str, value: &(impl ToString + ?Sized)) {
        self.with_state(|state| state.values.insert(arn.to_owned(), value.to_string()));
    }

    /// Deletes a secret.
    pub fn delete(&self, arn: &str) {
        self.with_state(|state| state.values.remove(arn));
    }

    /// Nobody may read this one from now on.
    pub fn refuse(&self, arn: &str) {
        self.with_state(|state| state.refused.insert(arn.to_owned()));
    }

    /// Takes the service away, or brings it back.
    pub fn set_away(&self, is_away: bool) {
        self.with_state(|state| state.is_away = is_away);
    }

    /// From now on it takes requests, and never answers.
    pub fn fall_silent(&self) {
        self.with_state(|state| state.is_silent = true);
    }

    /// How many lookups arrived.
    pub fn lookups(&self) -> usize {
        self.with_state(|state| state.lookups)
    }

    /// A client of it that does not retry.
    pub fn client(&self) -> Client {
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(&self.url)
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("test", "test", None, None, "fake"))
            .retry_config(RetryConfig::disabled())
            .build();
        Client::from_conf(config)
    }

    fn with_state<T>(&self, f: impl FnOnce(&mut Held) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Starts a server on 127.0.0.1 that takes every connection and never answers, until its runtime ends. Gives its URL.
pub async fn silent_server() -> io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move {
        let mut taken = vec![];
        while let Ok((stream, _)) = listener.accept().await {
            taken.push(stream);
        }
    });
    Ok(url)
}

async fn answer(State(state): State<Arc<Mutex<Held>>>, body: Bytes) -> (StatusCode, String) {
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    let arn = request["SecretId"].as_str().unwrap_or_default();
    let is_silent = state.lock().unwrap_or_else(PoisonError::into_inner).is_silent;
    if is_silent {
        std::future::pending::<()>().await; // until the client gives up and closes
    }
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    state.lookups += 1;
    let refused = |kind: &str, message: &str| json!({"__type": kind, "message": message});
    let (status, answer) = match state.values.get(arn) {
        _ if state.is_away => (StatusCode::SERVICE_UNAVAILABLE, refused("InternalServiceError", "away")),
        _ if state.refused.contains(arn) => {
            (StatusCode::BAD_REQUEST, refused("AccessDeniedException", "not authorized to perform GetSecretValue"))
        }
        Some(value) => (StatusCode::OK, json!({"ARN": arn, "Name": arn, "SecretString": value})),
        None => {
            (StatusCode::BAD_REQUEST, refused("ResourceNotFoundException", "Secrets Manager can't find the secret."))
        }
    };
    (status, answer.to_string())
}
