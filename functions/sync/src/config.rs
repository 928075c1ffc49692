use std::time::Duration;

use config::{Env, Error};
use database::subscriptions::SYNC;
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
    /// SYNC_RETENTION: how long deletes are kept. A client that was away for longer begins anew.
    pub keep: Duration,
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
        };
        // A client pulls every 30 seconds, and may be asleep for a night.
        if config.keep < Duration::from_hours(1) {
            env.problem("SYNC_RETENTION must be 1h or more: a client that was away for longer begins anew");
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
        let error =
            Config::from_env(Env::from_pairs([("DRAIN", "twice"), ("SYNC_RETENTION", "5m")])).unwrap_err().problems;
        let text = error.join("\n");
        for name in ["DATABASE_SECRET_ARN", "DRAIN", "SYNC_RETENTION must be 1h or more"] {
            assert!(text.contains(name), "{name} is not named in:\n{text}");
        }
    }
}
