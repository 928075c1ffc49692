use std::time::Duration;

use config::{Env, Error};
use telemetry::Metrics;

/// What the environment says, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Elasticsearch and its secret, and `INDEX_PREFIX`.
    pub search: search::Settings,
    /// ClickHouse and its secret, where streams go there.
    pub clickhouse: Option<sluice_clickhouse::Settings>,
    /// The database and its secret.
    pub database: database::Settings,
    /// How generations of indexes change places.
    pub generations: generations::Settings,
    /// `STACK_NAME`: whose metrics they are; none are written where there is none.
    pub metrics: Option<Metrics>,
    /// How to validate.
    pub settings: Settings,
}

/// How to validate.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `VALIDATE_WITHIN`: in so long all of each stream is compared; zero: only what somebody asks for.
    pub within: Duration,
    /// `VALIDATE_RATE`: documents a second, of both passes together.
    pub rate: u32,
    /// `REPAIR_CONFIRMED`: what nobody asked for is repaired, too, where it is confirmed to differ.
    pub repair: bool,
    /// `REPAIR_RATE`: documents a minute that are repaired.
    pub repair_rate: u32,
    /// STAY: how long one invocation goes on, at most; it ends in time before its deadline in any case.
    pub stay: Duration,
}

impl Config {
    /// Reads and checks all of it.
    ///
    /// # Errors
    /// Everything that is missing or malformed, by name.
    pub fn from_env(mut env: Env) -> Result<Self, Error> {
        let is_one_of = |text: &String| matches!(text.as_str(), "true" | "false");
        let config = Self {
            search: search::Settings::from_env(&mut env),
            clickhouse: sluice_clickhouse::Settings::from_env_if_any(&env),
            database: database::Settings::from_env(&mut env),
            generations: generations::Settings::from_env(&mut env),
            metrics: Metrics::from_env(&mut env, "validate"),
            settings: Settings {
                within: env.duration("VALIDATE_WITHIN", Duration::from_secs(24 * 60 * 60)),
                rate: env.parsed("VALIDATE_RATE", 1000, "a number of documents from 1 to 100000", |n| {
                    (1..=100_000).contains(n)
                }),
                repair: env.parsed("REPAIR_CONFIRMED", "false".to_owned(), "true or false", is_one_of) == "true",
                repair_rate: env.parsed("REPAIR_RATE", 600, "a number of documents from 1 to 100000", |n| {
                    (1..=100_000).contains(n)
                }),
                stay: env.duration("STAY", Duration::from_secs(65)),
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
        let pairs =
            [("VALIDATE_WITHIN", "soon"), ("VALIDATE_RATE", "0"), ("REPAIR_CONFIRMED", "yes"), ("REPAIR_RATE", "-1")];
        let text = Config::from_env(Env::from_pairs(pairs)).unwrap_err().problems.join("\n");
        for name in [
            "DATABASE_SECRET_ARN",
            "ELASTICSEARCH_SECRET_ARN",
            "VALIDATE_WITHIN",
            "VALIDATE_RATE",
            "REPAIR_CONFIRMED",
            "REPAIR_RATE",
        ] {
            assert!(text.contains(name), "{name} is not named in:\n{text}");
        }
    }
}
