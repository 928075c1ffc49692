use std::time::Duration;

use config::{Env, Error};
use telemetry::Metrics;
use url::Url;

use crate::link::is_in_the_clear;

/// What the environment says, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The database and its secret.
    pub database: database::Settings,
    /// STACK_NAME: whose metrics they are; none are written where there is none.
    pub metrics: Option<Metrics>,
    /// ORIGIN_URL: where those sources are whose definitions do not say it.
    pub origin_url: Option<Url>,
    /// ORIGIN_SECRET_ARN: the secret with the header by which that origin knows us, `{"header", "value"}`.
    pub origin_secret_arn: Option<String>,
    /// SYNC_INTERVAL: from the beginning of a round of a source to that of the next, where its definition does not say it.
    pub sync_interval: Duration,
    /// STAY: how long one invocation goes on with rounds, at most; it ends in time before its deadline in any case.
    pub stay: Duration,
    /// DB_WRITERS: batches that are stored at once, each on a connection of its own.
    pub db_writers: usize,
    /// MAX_BODY_BYTES: a larger page is refused.
    pub max_body_bytes: usize,
}

impl Config {
    /// Reads and checks all of it.
    ///
    /// # Errors
    /// Everything that is missing or malformed, by name.
    pub fn from_env(mut env: Env) -> Result<Self, Error> {
        let database = database::Settings::from_env(&mut env);
        let metrics = Metrics::from_env(&mut env, "ingest");
        let origin_url = origin_url(&mut env);
        let origin_secret_arn = env.optional("ORIGIN_SECRET_ARN");
        if origin_secret_arn.is_some() && origin_url.as_ref().is_some_and(is_in_the_clear) {
            env.problem(
                "ORIGIN_URL must begin with https:// where there is a ORIGIN_SECRET_ARN: anybody on the way could read its header",
            );
        }
        let sync_interval = env.duration("SYNC_INTERVAL", Duration::from_secs(15));
        let stay = env.duration("STAY", Duration::from_secs(65));
        let db_writers = env.parsed("DB_WRITERS", 2, "a number of connections from 1 to 16", |n| (1..=16).contains(n));
        let max_body_bytes = env.parsed("MAX_BODY_BYTES", 8 << 20, "a number of bytes from 1024 to 67108864", |n| {
            (1024..=64 << 20).contains(n)
        });
        if sync_interval < Duration::from_secs(1) {
            env.problem("SYNC_INTERVAL must be 1s or more: that is how often it is looked whether a round is due");
        }
        env.finish()?;
        Ok(Self { database, metrics, origin_url, origin_secret_arn, sync_interval, stay, db_writers, max_body_bytes })
    }
}

fn origin_url(env: &mut Env) -> Option<Url> {
    let text = env.optional("ORIGIN_URL")?;
    let url = Url::parse(text.trim()).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    match &url {
        None => env.problem("ORIGIN_URL must be a URL that begins with http:// or https://"),
        Some(url) if !url.username().is_empty() || url.password().is_some() => {
            env.problem(
                "ORIGIN_URL must have no credentials: put a header into a secret, and its ARN into ORIGIN_SECRET_ARN",
            );
        }
        Some(_) => {}
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let pairs =
            [("ORIGIN_URL", "ftp://s3cret"), ("DB_WRITERS", "17"), ("SYNC_INTERVAL", "15"), ("MAX_BODY_BYTES", "1")];
        let text = Config::from_env(Env::from_pairs(pairs)).unwrap_err().problems.join("\n");
        for name in ["DATABASE_SECRET_ARN", "ORIGIN_URL", "DB_WRITERS", "SYNC_INTERVAL", "MAX_BODY_BYTES"] {
            assert!(text.contains(name), "{name} is not named in:\n{text}");
        }
        assert!(!text.contains("s3cret"), "{text}");
        let text = Config::from_env(Env::from_pairs([("SYNC_INTERVAL", "999ms")])).unwrap_err().problems.join("\n");
        assert!(text.contains("SYNC_INTERVAL must be 1s"), "{text}");
    }

    #[test]
    fn credentials_belong_into_a_secret() {
        let pairs = [("DATABASE_SECRET_ARN", "arn"), ("ORIGIN_URL", "https://me:s3cret@example.com/")];
        let told = Config::from_env(Env::from_pairs(pairs)).unwrap_err().to_string();
        assert!(told.contains("ORIGIN_SECRET_ARN") && !told.contains("s3cret"), "{told}");
    }

    #[test]
    fn a_secret_header_leaves_this_machine_by_tls_alone() {
        let config = |url: &str, more: &[(&str, &str)]| {
            let pairs = [("DATABASE_SECRET_ARN", "arn"), ("ORIGIN_URL", url)];
            Config::from_env(Env::from_pairs(pairs.into_iter().chain(more.iter().copied())))
        };
        let secret: &[(&str, &str)] = &[("ORIGIN_SECRET_ARN", "arn:origin")];
        for url in ["http://example.com/", "HTTP://10.0.0.7:8080/", "http://localhost.example.com", "http://[::2]/"] {
            let told = config(url, secret).unwrap_err().to_string();
            assert!(told.contains("ORIGIN_URL must begin with https://") && !told.contains("arn:origin"), "{told}");
            assert!(config(url, &[]).is_ok(), "{url} without a secret");
        }
        let local =
            ["http://localhost:80/", "http://origin.localhost:4566/", "http://127.0.0.2/", "http://[::1]:8080/"];
        for url in ["https://example.com/"].iter().chain(&local) {
            assert!(config(url, secret).is_ok(), "{url}");
        }
    }
}
