//! Accounts of those who have no issuer of tokens of their own.

use std::time::Duration;

use serde_json::Value;
use tokio_postgres::{Client, Error, Row};
use uuid::Uuid;

/// Whose tokens are made.
#[derive(Clone, Debug)]
pub struct Account {
    /// For ever the same.
    pub id: Uuid,
    /// As it was given.
    pub email: String,
    /// What the operator has its tokens say besides: an object.
    pub claims: Value,
}

/// What a refresh token comes to.
#[derive(Debug)]
pub enum Refreshed {
    /// It is replaced.
    Account(Account),
    /// It was used before: its session has ended.
    Reused(Uuid),
    /// There is no such session, or not any more.
    Unknown,
}

impl From<&Row> for Account {
    fn from(row: &Row) -> Self {
        Self { id: row.get("id"), email: row.get("email"), claims: row.get("claims") }
    }
}

/// Counts an attempt of a kind, `most` of which are let through in a period: the seconds to wait, if it is one too many.
pub async fn attempt(
    client: &Client,
    kind: &str,
    subject: &str,
    most: i32,
    period: Duration,
) -> Result<Option<i32>, Error> {
    let statement = "SELECT sluice.attempt($1, $2, $3, make_interval(secs => $4))";
    client.query_one(statement, &[&kind, &subject, &most, &period.as_secs_f64()]).await.map(|row| row.get(0))
}

/// Forgets the attempts of a subject.
pub async fn forget_attempts(client: &Client, kind: &str, subject: &str) -> Result<(), Error> {
    client.execute("SELECT sluice.forget_attempts($1, $2)", &[&kind, &subject]).await.map(drop)
}

/// Makes an account, unless there is one of this address.
pub async fn register(client: &Client, email: &str, password: &str) -> Result<(), Error> {
    client.execute("SELECT sluice.register_account($1, $2)", &[&email, &password]).await.map(drop)
}

/// The account of an address, and the digest of its password.
pub async fn password(client: &Client, email: &str) -> Result<Option<(Uuid, String)>, Error> {
    let row = client.query_opt("SELECT id, password FROM sluice.account_of($1)", &[&email]).await?;
    Ok(row.map(|row| (row.get(0), row.get(1))))
}

/// Begins a session with the digest of its refresh token. `None`: the account is gone.
pub async fn open_session(
    client: &Client,
    session: Uuid,
    account: Uuid,
    token: &[u8],
    lifetime: Duration,
) -> Result<Option<Account>, Error> {
    let statement = "SELECT id, email, claims FROM sluice.open_session($1, $2, $3, make_interval(secs => $4))";
    let row = client.query_opt(statement, &[&session, &account, &token, &lifetime.as_secs_f64()]).await?;
    Ok(row.as_ref().map(Account::from))
}

/// Replaces a refresh token by the next, of both of which it is given digests. The one before is taken once more within `leeway`.
pub async fn refresh(
    client: &Client,
    session: Uuid,
    token: &[u8],
    next: &[u8],
    lifetime: Duration,
    leeway: Duration,
) -> Result<Refreshed, Error> {
    let statement = "SELECT id, email, claims, is_reused
         FROM sluice.refresh_session($1, $2, $3, make_interval(secs => $4), make_interval(secs => $5))";
    let (lifetime, leeway) = (lifetime.as_secs_f64(), leeway.as_secs_f64());
    let row = client.query_opt(statement, &[&session, &token, &next, &lifetime, &leeway]).await?;
    Ok(match row {
        None => Refreshed::Unknown,
        Some(row) if row.get("is_reused") => Refreshed::Reused(row.get("id")),
        Some(row) => Refreshed::Account(Account::from(&row)),
    })
}

/// Ends the session of a refresh token, of which it is given the digest.
pub async fn close_session(client: &Client, session: Uuid, token: &[u8]) -> Result<(), Error> {
    client.execute("SELECT sluice.close_session($1, $2)", &[&session, &token]).await.map(drop)
}

/// Removes an account: whether there was one.
pub async fn remove(client: &Client, account: Uuid) -> Result<bool, Error> {
    client.query_one("SELECT sluice.remove_account($1)", &[&account]).await.map(|row| row.get(0))
}
