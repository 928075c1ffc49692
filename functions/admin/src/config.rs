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
    /// QUEUE_URL and DEAD_LETTER_QUEUE_URL; none where Elasticsearch is a direct target.
    pub queues: Option<QueueUrls>,
    /// ADMIN_AUTH and ADMIN_SECRET_ARN: how callers prove who they are.
    pub access: Access,
    /// STACK_NAME: whose metrics they are; none are written where there is none.
    pub metrics: Option<Metrics>,
    /// DEMO: whether the demo's mutations are offered.
    pub is_demo: bool,
    /// COMMIT: which code this is.
    pub commit: String,
}

/// The queues by way of which Elasticsearch is written to.
#[derive(Clone, Debug)]
pub struct QueueUrls {
    /// Where letters that nobody could read go back to.
    pub queue: String,
    /// Where the letters are.
    pub dead_letters: String,
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
            queues: queues(&mut env),
            access: if auth == "iam" { Access::Iam } else { Access::Token(env.required("ADMIN_SECRET_ARN")) },
            metrics: Metrics::from_env(&mut env, "admin"),
            is_demo: env.parsed("DEMO", false, "true or false", |_| true),
            commit: env.commit(),
        };
        env.finish()?;
        Ok(config)
    }
}

fn queues(env: &mut Env) -> Option<QueueUrls> {
    if env.optional("QUEUE_URL").is_none() && env.optional("DEAD_LETTER_QUEUE_URL").is_none() {
        return None;
    }
    Some(QueueUrls { queue: env.required("QUEUE_URL"), dead_letters: env.required("DEAD_LETTER_QUEUE_URL") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let pairs = [("DEMO", "perhaps"), ("ADMIN_AUTH", "password"), ("QUEUE_URL", "http://queue")];
        let error = Config::from_env(Env::from_pairs(pairs)).unwrap_err();
        let text = error.problems.join("\n");
        for name in ["DEAD_LETTER_QUEUE_URL", "DATABASE_SECRET_ARN", "ELASTICSEARCH_SECRET_ARN", "DEMO", "ADMIN_AUTH"] {
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
