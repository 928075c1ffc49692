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
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// It speaks the one operation that is used, `GetSecretValue`, over HTTP on 127.0.0.1, until its runtime ends.
#[derive(Clone, Debug)]
pub struct SecretsManager {
    url: String,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
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
        let state = Arc::<Mutex<State>>::default();
        let served = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&served)));
            }
        });
        Ok(Self { url, state })
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

    fn with_state<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
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

async fn answer(stream: TcpStream, state: Arc<Mutex<State>>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let request: serde_json::Value = serde_json::from_slice(&body)?;
    let arn = request["SecretId"].as_str().unwrap_or_default();

    if state.lock().unwrap_or_else(PoisonError::into_inner).is_silent {
        // Until the client gives up and closes.
        stream.read_u8().await?;
    }
    let (status, body) = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.lookups += 1;
        match state.values.get(arn) {
            _ if state.is_away => {
                ("503 Service Unavailable", json!({"__type": "InternalServiceError", "message": "away"}))
            }
            _ if state.refused.contains(arn) => (
                "400 Bad Request",
                json!({"__type": "AccessDeniedException", "message": "not authorized to perform GetSecretValue"}),
            ),
            Some(value) => ("200 OK", json!({"ARN": arn, "Name": arn, "SecretString": value})),
            None => (
                "400 Bad Request",
                json!({"__type": "ResourceNotFoundException", "message": "Secrets Manager can't find the secret."}),
            ),
        }
    };
    let body = body.to_string();
    let response = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/x-amz-json-1.1\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.get_mut().write_all(response.as_bytes()).await
}
