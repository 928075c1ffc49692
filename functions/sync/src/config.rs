use std::time::Duration;

use axum::http::HeaderValue;
use config::{Env, Error};
use database::subscriptions::SYNC;
use telemetry::Metrics;
use url::Url;

use crate::token;

/// What the environment says, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The database and its secret.
    pub database: database::Settings,
    /// STACK_NAME: whose metrics they are; none are written where there is none.
    pub metrics: Option<Metrics>,
    /// How to drain.
    pub drain: drain::Settings,
    /// SYNC_RETENTION: how long deletes are kept. A client that was away for longer begins anew.
    pub keep: Duration,
    /// Whose tokens are taken.
    pub tokens: token::Settings,
    /// SYNC_AUTH `builtin`: accounts are our own. ACCOUNTS_SECRET_ARN: the secret with the keys of their tokens; and SYNC_PROXIES: how many
    /// proxies are in front, each of which adds to X-Forwarded-For whom it was asked by.
    pub accounts: Option<(String, usize)>,
    /// SYNC_CLIENTS: how many may be connected at once, to be told when to pull.
    pub clients: usize,
    /// SYNC_CONNECTIONS_URL: where API Gateway takes what is said to those whose connections it holds; `None`: it holds none.
    pub connections_url: Option<String>,
    /// SYNC_ORIGINS: whose pages may ask from a browser, `https://app.example.com`, with commas between them.
    pub origins: Vec<HeaderValue>,
}

impl Config {
    /// Reads and checks all of it.
    ///
    /// # Errors
    /// Everything that is missing or malformed, by name.
    pub fn from_env(mut env: Env) -> Result<Self, Error> {
        let config = Self {
            database: database::Settings::from_env(&mut env),
            metrics: Metrics::from_env(&mut env, "sync"),
            drain: drain::Settings::from_env(SYNC, &mut env),
            keep: env.duration("SYNC_RETENTION", Duration::from_hours(30 * 24)),
            tokens: token::Settings::from_env(&mut env),
            accounts: accounts(&mut env),
            clients: env
                .parsed("SYNC_CLIENTS", 10_000, "a number of clients from 1 to 100000", |n| (1..=100_000).contains(n)),
            connections_url: connections_url(&mut env),
            origins: origins(&mut env),
        };
        // A client pulls every 30 seconds, and may be asleep for a night.
        if config.keep < Duration::from_hours(1) {
            env.problem("SYNC_RETENTION must be 1h or more: a client that was away for longer begins anew");
        }
        env.finish()?;
        Ok(config)
    }
}

fn accounts(env: &mut Env) -> Option<(String, usize)> {
    let auth = env.optional("SYNC_AUTH");
    match auth.as_deref().unwrap_or("oidc") {
        "oidc" => None,
        "builtin" => {
            let proxies = env.parsed("SYNC_PROXIES", 0, "a number of proxies from 0 to 10", |n| *n <= 10);
            Some((env.required("ACCOUNTS_SECRET_ARN"), proxies))
        }
        _ => {
            env.problem("SYNC_AUTH must be oidc or builtin");
            None
        }
    }
}

fn connections_url(env: &mut Env) -> Option<String> {
    let url = env.optional("SYNC_CONNECTIONS_URL")?;
    if token::trusted(&url).is_none() {
        env.problem("SYNC_CONNECTIONS_URL must be a URL that begins with https:// (http:// on this machine alone)");
    }
    Some(url)
}

fn origins(env: &mut Env) -> Vec<HeaderValue> {
    let given = env.optional("SYNC_ORIGINS").unwrap_or_default();
    let mut origins = vec![];
    for origin in given.split(',').map(str::trim).filter(|origin| !origin.is_empty()) {
        let is_right = Url::parse(origin).is_ok_and(|url| url.origin().ascii_serialization() == origin);
        match HeaderValue::from_str(origin) {
            Ok(value) if is_right => origins.push(value),
            _ => {
                env.problem("SYNC_ORIGINS must be origins, as in https://app.example.com, with commas between them");
                return vec![];
            }
        }
    }
    origins
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let pairs = [
            ("DRAIN", "twice"),
            ("SYNC_RETENTION", "5m"),
            ("SYNC_ISSUER", "http://issuer.example.com"),
            ("SYNC_AUTH", "builtin"),
            ("SYNC_PROXIES", "11"),
            ("SYNC_CONNECTIONS_URL", "http://s3cret.example.com/live"),
            ("SYNC_ORIGINS", "https://s3cret.example.com/"),
        ];
        let text = Config::from_env(Env::from_pairs(pairs)).unwrap_err().problems.join("\n");
        for name in [
            "DATABASE_SECRET_ARN",
            "DRAIN",
            "SYNC_RETENTION must be 1h or more",
            "SYNC_ISSUER must",
            "ACCOUNTS_SECRET_ARN is missing",
            "SYNC_PROXIES must",
            "SYNC_AUDIENCE is missing",
            "SYNC_CONNECTIONS_URL must",
            "SYNC_ORIGINS must",
        ] {
            assert!(text.contains(name), "{name} is not named in:\n{text}");
        }
        assert!(!text.contains("s3cret"), "{text}");
    }

    #[test]
    fn an_issuer_is_asked_by_tls_alone_but_on_this_machine() {
        for (issuer, is_right) in [
            ("https://issuer.example.com", true),
            ("https://issuer.example.com/realms/a", true),
            ("http://127.0.0.1:8080/realms/a", true),
            ("http://localhost:8080", true),
            ("http://[::1]:8080", true),
            ("http://localhost.example.com", false),
            ("http://10.0.0.1", false),
            ("issuer.example.com", false),
            ("file:///etc/passwd", false),
        ] {
            let pairs = [("DATABASE_SECRET_ARN", "arn"), ("SYNC_AUDIENCE", "app"), ("SYNC_ISSUER", issuer)];
            assert_eq!(Config::from_env(Env::from_pairs(pairs)).is_ok(), is_right, "{issuer}");
        }
    }
}
