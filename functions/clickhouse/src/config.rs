use config::{Env, Error};
use database::subscriptions::CLICKHOUSE;
use telemetry::Metrics;

use crate::connection::Settings;

/// What the environment says, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The database and its secret.
    pub database: database::Settings,
    /// STACK_NAME: whose metrics they are; none are written where there is none.
    pub metrics: Option<Metrics>,
    /// How to drain.
    pub drain: drain::Settings,
    /// Where ClickHouse is.
    pub clickhouse: Settings,
}

impl Config {
    /// Reads and checks all of it.
    ///
    /// # Errors
    /// Everything that is missing or malformed, by name.
    pub fn from_env(mut env: Env) -> Result<Self, Error> {
        let config = Self {
            database: database::Settings::from_env(&mut env),
            metrics: Metrics::from_env(&mut env, "clickhouse"),
            drain: drain::Settings::from_env(CLICKHOUSE, &mut env),
            clickhouse: Settings::from_env(&mut env),
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
        let error = Config::from_env(Env::from_pairs([("DRAIN", "twice"), ("PAGE_SIZE", "0")])).unwrap_err();
        let text = error.problems.join("\n");
        for name in ["DATABASE_SECRET_ARN", "CLICKHOUSE_SECRET_ARN", "DRAIN", "PAGE_SIZE"] {
            assert!(text.contains(name), "{name} is not named in:\n{text}");
        }
    }
}
