use config::{Env, Error};
use telemetry::Metrics;

/// The package's, as answers tell it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the environment says, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The database and its secret.
    pub database: database::Settings,
    /// Elasticsearch and its secret.
    pub search: search::Settings,
    /// QUEUE_URL: where letters that nobody could read go back to.
    pub queue_url: String,
    /// DEAD_LETTER_QUEUE_URL.
    pub dead_letter_queue_url: String,
    /// ADMIN_AUTH and ADMIN_SECRET_ARN: how callers prove who they are.
    pub access: Access,
    /// STACK_NAME: whose metrics they are; none are written where there is none.
    pub metrics: Option<Metrics>,
    /// DEMO: whether the demo's mutations are offered.
    pub is_demo: bool,
    /// COMMIT: which code this is.
    pub commit: String,
}

/// Who may call.
#[derive(Clone, Debug)]
pub enum Access {
    /// Those with a token of this secret, by its ARN.
    Token(String),
    /// Those whose signature the function's URL has checked.
    Iam,
}

impl Config {
    /// Reads and checks all of it.
    ///
    /// # Errors
    /// Everything that is missing or malformed, by name.
    pub fn from_env(mut env: Env) -> Result<Self, Error> {
        let auth = env.parsed("ADMIN_AUTH", "token".to_owned(), "token or iam", |it| it == "token" || it == "iam");
        let config = Self {
            database: database::Settings::from_env(&mut env),
            search: search::Settings::from_env(&mut env),
            queue_url: env.required("QUEUE_URL"),
            dead_letter_queue_url: env.required("DEAD_LETTER_QUEUE_URL"),
            access: if auth == "iam" { Access::Iam } else { Access::Token(env.required("ADMIN_SECRET_ARN")) },
            metrics: Metrics::from_env(&mut env, "admin"),
            is_demo: env.parsed("DEMO", false, "true or false", |_| true),
            commit: env.commit(),
        };
        env.finish()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let error = Config::from_env(Env::from_pairs([("DEMO", "perhaps"), ("ADMIN_AUTH", "password")])).unwrap_err();
        let text = error.problems.join("\n");
        for name in [
            "QUEUE_URL",
            "DEAD_LETTER_QUEUE_URL",
            "DATABASE_SECRET_ARN",
            "ELASTICSEARCH_SECRET_ARN",
            "DEMO",
            "ADMIN_AUTH",
        ] {
            assert!(text.contains(name), "{name} is not told in: {text}");
        }
    }

    #[test]
    fn a_token_needs_its_secret_and_a_signature_does_not() {
        let told = |auth| Config::from_env(Env::from_pairs([("ADMIN_AUTH", auth)])).unwrap_err().problems.join("\n");
        assert!(told("token").contains("ADMIN_SECRET_ARN"));
        assert!(!told("iam").contains("ADMIN_SECRET_ARN"));
    }
}
