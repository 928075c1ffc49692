use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use database::Postgres;

use crate::problem::Problem;
use crate::sessions::Sessions;
use crate::token::{Claims, Verifier};

/// What answers clients.
#[derive(Clone)]
pub struct Server(Arc<Parts>);

/// What it is made of.
pub struct Parts {
    pub(crate) sessions: Sessions,
    verifier: Verifier,
}

impl std::ops::Deref for Server {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Server {
    /// Connects to nothing yet.
    pub fn new(database: Postgres, verifier: Verifier) -> Self {
        Self(Arc::new(Parts { sessions: Sessions::new(database), verifier }))
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
}
