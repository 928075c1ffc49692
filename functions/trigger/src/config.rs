use config::{Env, Error};
use database::subscriptions::ELASTICSEARCH;
use telemetry::Metrics;

/// What the environment says, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The database and its secret.
    pub database: database::Settings,
    /// STACK_NAME: whose metrics they are; none are written where there is none.
    pub metrics: Option<Metrics>,
    /// How to drain.
    pub drain: drain::Settings,
    /// QUEUE_URL.
    pub queue_url: String,
    /// What the queue takes.
    pub queue: QueueSettings,
}

/// What the queue takes.
#[derive(Clone, Debug)]
pub struct QueueSettings {
    /// MAX_QUEUE_DEPTH: with more messages in the queue, changes wait in the log.
    pub max_depth: i64,
    /// SEND_CONCURRENCY: requests to SQS that are under way at once, of up to 1 MiB each.
    pub send_concurrency: usize,
}

impl Config {
    /// Reads and checks all of it.
    ///
    /// # Errors
    /// Everything that is missing or malformed, by name.
    pub fn from_env(mut env: Env) -> Result<Self, Error> {
        let config = Self {
            database: database::Settings::from_env(&mut env),
            metrics: Metrics::from_env(&mut env, "trigger"),
            drain: drain::Settings::from_env(ELASTICSEARCH, &mut env),
            queue_url: env.required("QUEUE_URL"),
            queue: QueueSettings {
                // SQS keeps 120,000 messages in flight; half of it leaves room for a second look at each.
                max_depth: env.parsed("MAX_QUEUE_DEPTH", 50_000, "a number of messages from 1 to 50000", |n| {
                    (1..=50_000).contains(n)
                }),
                send_concurrency: env
                    .parsed("SEND_CONCURRENCY", 4, "a number of requests from 1 to 64", |n| (1..=64).contains(n)),
            },
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
        let pairs = [("DRAIN", "twice"), ("PAGE_SIZE", "0"), ("POLL_INTERVAL", "1m"), ("MAX_QUEUE_DEPTH", "60000")];
        let error = Config::from_env(Env::from_pairs(pairs)).unwrap_err();
        let text = error.problems.join("\n");
        for name in ["DATABASE_SECRET_ARN", "QUEUE_URL", "DRAIN", "PAGE_SIZE", "POLL_INTERVAL", "MAX_QUEUE_DEPTH"] {
            assert!(text.contains(name), "{name} is not named in:\n{text}");
        }
    }
}
