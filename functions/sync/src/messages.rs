//! What a client says that stays connected, and what it is told, whoever holds its connection.

use std::collections::HashSet;
use std::time::Duration;

use database::sync::Name;
use serde::{Deserialize, Serialize};

use crate::token::{Claims, Refusal, Verifier};

/// Between two pokes of a bucket.
pub const PACE: Duration = Duration::from_secs(1);
/// That a message names.
pub const NAMED: usize = 1000;

/// Who is there, and what it wants to be told of.
pub struct Hello {
    pub claims: Claims,
    /// `None`: of all that it may read.
    pub wanted: Option<HashSet<Name>>,
}

/// Why a message says neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unheard {
    /// It is not as it should be.
    Malformed,
    /// Its token opens nothing.
    Refused,
    /// Nobody can look at tokens just now.
    Later,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    token: String,
    buckets: Option<Vec<Named>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    stream: String,
    bucket: String,
}

impl Hello {
    pub async fn read(verifier: &Verifier, text: &str) -> Result<Self, Unheard> {
        let Said { token, buckets } = serde_json::from_str(text).map_err(|_| Unheard::Malformed)?;
        if buckets.as_ref().is_some_and(|named| named.len() > NAMED) {
            return Err(Unheard::Malformed);
        }
        let claims = verifier.verify(&token).await.map_err(|refusal| match refusal {
            Refusal::Token(_) => Unheard::Refused,
            Refusal::NoKeys(_) => Unheard::Later,
        })?;
        let name = |Named { stream, bucket }| Name { stream, bucket };
        Ok(Self { claims, wanted: buckets.map(|named| named.into_iter().map(name).collect()) })
    }
}

/// That a bucket changed.
#[derive(Serialize)]
pub struct Poke<'a> {
    stream: &'a str,
    bucket: &'a str,
    seq: i64,
}

impl<'a> Poke<'a> {
    pub fn of(Name { stream, bucket }: &'a Name, seq: i64) -> Self {
        Self { stream, bucket, seq }
    }
}
