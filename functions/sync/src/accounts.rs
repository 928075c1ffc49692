//! `/auth/…`: accounts of our own, where there is no other issuer. `docs/live-sync.md` says what is answered.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use accounts::{Accounts, Error, Tokens};
use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{delete, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::Value;
use tracing::error;

use crate::problem::Problem;
use crate::server::Server;
use crate::sessions::Sessions;

/// Where proxies say who asks, each behind those before it.
const FORWARDED: &str = "x-forwarded-for";

/// What answers.
#[derive(Clone)]
pub struct Desk {
    accounts: Arc<Accounts>,
    /// Of its own: passwords take their time, and whoever tries many keeps nobody from writing.
    sessions: Arc<Sessions>,
    /// Proxies in front, each of which adds whom it was asked by.
    proxies: usize,
    server: Server,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Credentials {
    email: String,
    password: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refresh {
    refresh_token: String,
}

type Given<T> = Result<Json<T>, JsonRejection>;

/// All of them.
pub fn router(desk: Desk) -> Router {
    Router::new()
        .route("/auth/register", post(register))
        .route("/auth/login", post(login))
        .route("/auth/refresh", post(refresh))
        .route("/auth/logout", post(logout))
        .route("/auth/me", delete(remove))
        .with_state(desk)
}

async fn register(
    State(desk): State<Desk>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    given: Given<Credentials>,
) -> Result<StatusCode, Problem> {
    let Json(Credentials { email, password }) = given.map_err(|rejection| Problem::of_body(&rejection))?;
    let session = desk.sessions.write().await?;
    desk.accounts.register(session.client(), desk.address(peer, &headers), &email, &password).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn login(
    State(desk): State<Desk>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    given: Given<Credentials>,
) -> Result<Json<Tokens>, Problem> {
    let Json(Credentials { email, password }) = given.map_err(|rejection| Problem::of_body(&rejection))?;
    let session = desk.sessions.write().await?;
    let address = desk.address(peer, &headers);
    Ok(Json(desk.accounts.login(session.client(), address, &email, &password).await?))
}

async fn refresh(
    State(desk): State<Desk>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    given: Given<Refresh>,
) -> Result<Json<Tokens>, Problem> {
    let Json(Refresh { refresh_token }) = given.map_err(|rejection| Problem::of_body(&rejection))?;
    let session = desk.sessions.write().await?;
    let address = desk.address(peer, &headers);
    Ok(Json(desk.accounts.refresh(session.client(), address, &refresh_token).await?))
}

async fn logout(State(desk): State<Desk>, given: Given<Refresh>) -> Result<StatusCode, Problem> {
    let Json(Refresh { refresh_token }) = given.map_err(|rejection| Problem::of_body(&rejection))?;
    let session = desk.sessions.write().await?;
    desk.accounts.logout(session.client(), &refresh_token).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes the account of the token.
async fn remove(State(desk): State<Desk>, headers: HeaderMap) -> Result<StatusCode, Problem> {
    let claims: Value = serde_json::from_str(&desk.server.admit(&headers).await?.json).unwrap_or_default();
    let session = desk.sessions.write().await?;
    desk.accounts.remove(session.client(), claims["sub"].as_str().unwrap_or_default()).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl Desk {
    /// Connects to nothing yet.
    pub fn new(accounts: Arc<Accounts>, proxies: usize, server: Server) -> Self {
        Self { accounts, sessions: Arc::new(server.sessions.others()), proxies, server }
    }

    /// Who asks: of all that stands in the header, only what proxies of ours have written is true.
    fn address(&self, peer: SocketAddr, headers: &HeaderMap) -> IpAddr {
        let lines = headers.get_all(FORWARDED).iter().filter_map(|line| line.to_str().ok());
        let told: Vec<&str> = lines.flat_map(|line| line.split(',')).map(str::trim).collect();
        let first = told.len().checked_sub(self.proxies).filter(|_| self.proxies > 0);
        first.and_then(|first| told[first].parse().ok()).unwrap_or(peer.ip())
    }
}

impl From<Error> for Problem {
    fn from(failure: Error) -> Self {
        match failure {
            Error::Invalid(_) => Self::bad_request(failure.to_string()),
            Error::WrongCredentials | Error::WrongToken => Self::unauthorized(failure.to_string()),
            Error::TooMany(seconds) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, failure.to_string()).after(seconds.unsigned_abs())
            }
            Error::Keys(_) => {
                error!(error = %failure, "nobody can log in");
                Self::unavailable("tokens cannot be made just now: try again")
            }
            Error::Database(failure) => failure.into(),
        }
    }
}
