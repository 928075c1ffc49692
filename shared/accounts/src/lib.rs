//! Accounts, for those who have no issuer of tokens of their own: registration, login, refresh, logout and removal.
//!
//! Passwords are kept as argon2id. An access token is a JWT of fifteen minutes, signed by ES256. A refresh token is used once: whoever
//! comes with a used one ends its session, since two have had it. How often somebody may try is counted in PostgreSQL, so that it
//! holds for all processes together. No answer tells whether an address has an account.

mod keys;
mod passwords;
mod refresh;

use std::net::IpAddr;
use std::time::Duration;

use database::accounts::{Account, Refreshed};
use secrets::{SecretError, Secrets};
use serde::Serialize;
use tokio_postgres::Client;
use tracing::warn;
use uuid::Uuid;

use crate::keys::{Keys, Signer};
use crate::passwords::Passwords;
use crate::refresh::RefreshToken;

pub use jsonwebtoken::jwk::JwkSet;

/// Of an access token. Whoever has one keeps it for as long, whatever becomes of the account.
const ACCESS_TOKEN_LIVES: Duration = Duration::from_secs(15 * 60);
/// Of a session that nobody refreshes.
const SESSION_LIVES: Duration = Duration::from_secs(30 * 24 * 3600);
/// Within it a refresh token may be used again: the answer may have been lost.
const LEEWAY: Duration = Duration::from_secs(10);

/// How often something may be tried.
struct Limit {
    kind: &'static str,
    most: i32,
    period: Duration,
}

const QUARTER: Duration = Duration::from_secs(15 * 60);
const LOGINS_OF_AN_ACCOUNT: Limit = Limit { kind: "login", most: 10, period: QUARTER };
const LOGINS_OF_AN_ADDRESS: Limit = Limit { kind: "login_from", most: 100, period: QUARTER };
const REGISTRATIONS_OF_AN_ADDRESS: Limit = Limit { kind: "register_from", most: 20, period: Duration::from_secs(3600) };
const REFRESHES_OF_AN_ADDRESS: Limit = Limit { kind: "refresh_from", most: 3000, period: QUARTER };

/// Of an address, as SMTP has it.
const EMAIL_CHARS: usize = 254;
const PASSWORD_CHARS: std::ops::RangeInclusive<usize> = 10..=1024;

/// Who issues tokens, and for whom.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The secret with the keys: `{"private_key": "PEM", "previous_key": "PEM"}`.
    pub secret_arn: String,
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
}

/// What a login or a refresh gives, as OAuth 2.0 names it.
#[derive(Debug, Serialize)]
pub struct Tokens {
    /// A JWT.
    pub access_token: String,
    /// `Bearer`.
    pub token_type: &'static str,
    /// Seconds.
    pub expires_in: u64,
    /// To be used once.
    pub refresh_token: String,
}

/// Why there is no answer. Each variant is a remedy of its own; none tells whether there is an account.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was sent cannot be an account's.
    #[error("{0}")]
    Invalid(&'static str),
    /// The address or the password is wrong.
    #[error("the address or the password is wrong")]
    WrongCredentials,
    /// The refresh token is unknown, has ended, or was used before.
    #[error("this refresh token is unknown, has ended or was used before; log in")]
    WrongToken,
    /// It was tried too often.
    #[error("this was tried too often; try again in {0} s")]
    TooMany(i32),
    /// The keys cannot be read, or are none.
    #[error("the secret with the keys cannot be used: {0}")]
    Keys(String),
    /// PostgreSQL did not do it.
    #[error("PostgreSQL did not do it: {}", database::describe(.0))]
    Database(#[from] tokio_postgres::Error),
}

impl From<SecretError> for Error {
    fn from(error: SecretError) -> Self {
        Self::Keys(error.to_string())
    }
}

/// All of it.
#[derive(Debug)]
pub struct Accounts {
    settings: Settings,
    keys: Keys,
    passwords: Passwords,
}

impl Accounts {
    /// Reads nothing yet.
    pub fn new(settings: Settings, secrets: Secrets) -> Self {
        let keys = Keys::new(secrets, settings.secret_arn.clone());
        Self { settings, keys, passwords: Passwords::default() }
    }

    /// The public keys of its tokens, as RFC 7517 has them, read anew.
    ///
    /// # Errors
    /// The secret cannot be read, or has no keys.
    pub async fn jwks(&self) -> Result<JwkSet, Error> {
        self.keys.public().await
    }

    /// Makes an account, unless there is one of this address: nobody is told which. `from` is who asks.
    ///
    /// # Errors
    /// The address or the password cannot be one, it was tried too often, or PostgreSQL did not do it.
    pub async fn register(&self, database: &Client, from: IpAddr, email: &str, password: &str) -> Result<(), Error> {
        if !is_email(email) {
            return Err(Error::Invalid(
                "`email` is no address: it has one @ between two parts, and 254 characters at most",
            ));
        }
        if !PASSWORD_CHARS.contains(&password.chars().count()) {
            return Err(Error::Invalid("`password` has 10 to 1024 characters"));
        }
        let limit = &REGISTRATIONS_OF_AN_ADDRESS;
        limit.take(database, &network(from)).await?;
        let hash = self.passwords.hash(password).await;
        Ok(database::accounts::register(database, email, &hash).await?)
    }

    /// Logs in.
    ///
    /// # Errors
    /// The address or the password is wrong, it was tried too often, the keys cannot be read, or PostgreSQL did not do it.
    pub async fn login(&self, database: &Client, from: IpAddr, email: &str, password: &str) -> Result<Tokens, Error> {
        LOGINS_OF_AN_ADDRESS.take(database, &network(from)).await?;
        let subject = email.to_lowercase();
        // What no account can have is not asked for, and takes as long.
        let mut known = None;
        if is_email(email) {
            LOGINS_OF_AN_ACCOUNT.take(database, &subject).await?;
            known = database::accounts::password(database, email).await?;
        }
        let (account, hash) = known.unzip();
        if !self.passwords.is(password, hash).await {
            return Err(Error::WrongCredentials);
        }
        let account = account.ok_or(Error::WrongCredentials)?;
        let token = RefreshToken::random();
        let (session, digest) = (token.session(), token.digest());
        let opened = database::accounts::open_session(database, session, account, &digest, SESSION_LIVES).await?;
        let account = opened.ok_or(Error::WrongCredentials)?;
        database::accounts::forget_attempts(database, LOGINS_OF_AN_ACCOUNT.kind, &subject).await?;
        self.tokens(&self.keys.signer().await?, &account, &token)
    }

    /// Gives new tokens for a refresh token, which ends.
    ///
    /// # Errors
    /// The token is of no use, it was tried too often, the keys cannot be read, or PostgreSQL did not do it.
    pub async fn refresh(&self, database: &Client, from: IpAddr, token: &str) -> Result<Tokens, Error> {
        REFRESHES_OF_AN_ADDRESS.take(database, &network(from)).await?;
        let token: RefreshToken = token.parse().map_err(|()| Error::WrongToken)?;
        // Before the token ends: without keys there would be nothing to give for it.
        let signer = self.keys.signer().await?;
        let next = token.next();
        let (session, digests) = (token.session(), (token.digest(), next.digest()));
        match database::accounts::refresh(database, session, &digests.0, &digests.1, SESSION_LIVES, LEEWAY).await? {
            Refreshed::Account(account) => self.tokens(&signer, &account, &next),
            Refreshed::Unknown => Err(Error::WrongToken),
            Refreshed::Reused(account) => {
                warn!(%account, "a refresh token was used again, and its session has ended: somebody else may have had it");
                Err(Error::WrongToken)
            }
        }
    }

    /// Ends the session of a refresh token; of another text, nothing.
    ///
    /// # Errors
    /// PostgreSQL did not do it.
    pub async fn logout(&self, database: &Client, token: &str) -> Result<(), Error> {
        if let Ok(token) = token.parse::<RefreshToken>() {
            database::accounts::close_session(database, token.session(), &token.digest()).await?;
        }
        Ok(())
    }

    /// Removes an account, by the `sub` of its token: whether there was one.
    ///
    /// # Errors
    /// PostgreSQL did not do it.
    pub async fn remove(&self, database: &Client, subject: &str) -> Result<bool, Error> {
        match Uuid::parse_str(subject) {
            Ok(account) => Ok(database::accounts::remove(database, account).await?),
            Err(_) => Ok(false),
        }
    }

    fn tokens(&self, signer: &Signer, account: &Account, refresh: &RefreshToken) -> Result<Tokens, Error> {
        let Settings { issuer, audience, .. } = &self.settings;
        let access_token = signer.sign(issuer, audience, account, ACCESS_TOKEN_LIVES)?;
        let expires_in = ACCESS_TOKEN_LIVES.as_secs();
        Ok(Tokens { access_token, token_type: "Bearer", expires_in, refresh_token: refresh.to_string() })
    }
}

impl Limit {
    async fn take(&self, database: &Client, subject: &str) -> Result<(), Error> {
        let wait = database::accounts::attempt(database, self.kind, subject, self.most, self.period).await?;
        wait.map_or(Ok(()), |seconds| Err(Error::TooMany(seconds)))
    }
}

/// Whether it can be an address: there is no telling more without writing to it.
fn is_email(email: &str) -> bool {
    let is_part = |part: &str| !part.is_empty() && !part.contains(|c: char| c.is_whitespace() || c.is_control());
    email.chars().count() <= EMAIL_CHARS
        && email.split_once('@').is_some_and(|(user, host)| is_part(user) && is_part(host) && !host.contains('@'))
}

/// Whom an address belongs to: of IPv6 everybody has a /64.
fn network(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_two_parts_and_no_spaces() {
        for email in ["a@b", "a.b+c@example.com", "ä@ö.example"] {
            assert!(is_email(email), "{email}");
        }
        let long = format!("{}@b", "a".repeat(253));
        for email in ["", "a", "@", "a@", "@b", "a@b@c", "a b@c", "a@b c", "a@b\n", "a\0@b", long.as_str()] {
            assert!(!is_email(email), "{email:?}");
        }
    }

    #[test]
    fn whoever_has_a_network_counts_once() {
        let of = |address: &str| network(address.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:3:4:5:6"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
