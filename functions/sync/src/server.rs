use std::sync::Arc;

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use database::Postgres;
use tokio_util::sync::CancellationToken;

use crate::connected::{Pace, tell};
use crate::hub::Hub;
use crate::problem::Problem;
use crate::sessions::Sessions;
use crate::token::{Claims, Verifier};

/// The parameters of a request.
pub(crate) type Asked<T> = Result<Query<T>, QueryRejection>;

/// What answers clients.
#[derive(Clone)]
pub struct Server {
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) verifier: Arc<Verifier>,
    /// For those that stay connected; `None`: nobody can.
    pub(crate) live: Option<Live>,
}

/// Who is connected, until they are told to go.
#[derive(Clone)]
pub(crate) struct Live {
    pub hub: Arc<Hub>,
    pub stop: CancellationToken,
}

impl Server {
    /// Connects to nothing yet. Without `live` nobody stays connected; with it so many may, until it is cancelled.
    pub fn new(database: Postgres, verifier: Verifier, live: Option<(usize, CancellationToken)>) -> Self {
        let live = live.map(|(most, stop)| Live { hub: Arc::new(Hub::new(database.clone(), most)), stop });
        Self { sessions: Arc::new(Sessions::new(database)), verifier: Arc::new(verifier), live }
    }

    /// Tells operators how many are connected, until these are told to go. Where nobody can be it ends at once.
    pub fn tell(&self, pace: Pace) -> impl Future<Output = ()> + Send + use<> {
        let live = self.live.clone();
        async move {
            if let Some(Live { hub, stop }) = live {
                tell(&hub, pace, &stop).await;
            }
        }
    }

    /// What the bearer of the request's token claims.
    pub(crate) async fn admit(&self, headers: &HeaderMap) -> Result<Claims, Problem> {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (given.next(), given.next()) else {
            return Err(Problem::unauthorized("give one header Authorization: Bearer TOKEN"));
        };
        let token = value.to_str().ok().and_then(|value| value.split_once(' '));
        let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
        let token = token.ok_or_else(|| Problem::unauthorized("the header Authorization is not Bearer TOKEN"))?;
        Ok(self.verifier.verify(token).await?)
    }

    /// The same, and the parameters.
    pub(crate) async fn admit_with<T>(&self, headers: &HeaderMap, asked: Asked<T>) -> Result<(Claims, T), Problem> {
        let claims = self.admit(headers).await?;
        let Query(asked) = asked.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
        Ok((claims, asked))
    }
}
