use std::time::Duration;

use config::{Env, Error};
use telemetry::Metrics;

/// What the environment says, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The database and its secret.
    pub database: database::Settings,
    /// STACK_NAME: whose metrics they are; none are written where there is none.
    pub metrics: Option<Metrics>,
    /// QUEUE_URL.
    pub queue_url: String,
    /// SUBSCRIPTION: which position to drain from.
    pub subscription: String,
    /// DRAIN=once: end as soon as nothing is left, for those who prefer the bill to the pace.
    pub is_once: bool,
    /// STAY: how long one invocation polls, at most; it ends in time before its deadline in any case.
    pub stay: Duration,
    /// POLL_INTERVAL: between two looks at a log that has nothing new.
    pub poll_interval: Duration,
    /// PAGE_SIZE: rows of the log that are read at once, under one version.
    pub page_size: i32,
    /// MAX_QUEUE_DEPTH: with more messages in the queue, changes wait in the log.
    pub max_queue_depth: i64,
    /// SEND_CONCURRENCY: requests to SQS that are under way at once, of up to 1 MiB each.
    pub send_concurrency: usize,
    /// RETENTION: how long rows stay in the log after every subscription has passed them.
    pub retention: Duration,
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
            queue_url: env.required("QUEUE_URL"),
            subscription: env.optional("SUBSCRIPTION").unwrap_or_else(|| "elasticsearch".to_owned()),
            is_once: env.parsed("DRAIN", "stay".to_owned(), "stay or once", |drain| drain == "stay" || drain == "once")
                == "once",
            stay: env.duration("STAY", Duration::from_secs(55)),
            poll_interval: env.duration("POLL_INTERVAL", Duration::from_millis(100)),
            page_size: env.parsed("PAGE_SIZE", 2000, "a number of rows from 1 to 10000", |n| (1..=10_000).contains(n)),
            // SQS keeps 120,000 messages in flight; half of it leaves room for a second look at each.
            max_queue_depth: env.parsed("MAX_QUEUE_DEPTH", 50_000, "a number of messages from 1 to 50000", |n| {
                (1..=50_000).contains(n)
            }),
            send_concurrency: env
                .parsed("SEND_CONCURRENCY", 4, "a number of requests from 1 to 64", |n| (1..=64).contains(n)),
            retention: env.duration("RETENTION", Duration::from_secs(7 * 24 * 3600)),
        };
        // A holder that is silent for ten seconds counts as gone.
        if config.poll_interval > Duration::from_secs(5) {
            env.problem("POLL_INTERVAL must be 5s or less: a longer silence looks like a drainer that is gone");
        }
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
