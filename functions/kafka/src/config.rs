use config::{Env, Error};
use database::subscriptions::KAFKA;
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
    /// Where to.
    pub kafka: Settings,
}

impl Config {
    /// Reads and checks all of it.
    ///
    /// # Errors
    /// Everything that is missing or malformed, by name.
    pub fn from_env(mut env: Env) -> Result<Self, Error> {
        let config = Self {
            database: database::Settings::from_env(&mut env),
            metrics: Metrics::from_env(&mut env, "kafka"),
            drain: drain::Settings::from_env(KAFKA, &mut env),
            kafka: Settings::from_env(&mut env),
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
        let pairs = [("PAGE_SIZE", "0"), ("KAFKA_BROKERS", "s3cret"), ("KAFKA_TRANSACTIONS", "s3cret")];
        let error = Config::from_env(Env::from_pairs(pairs)).unwrap_err();
        let text = error.problems.join("\n");
        for name in ["DATABASE_SECRET_ARN", "PAGE_SIZE", "KAFKA_BROKERS must", "KAFKA_TRANSACTIONS must"] {
            assert!(text.contains(name), "{name} is not named in:\n{text}");
        }
        assert!(!text.contains("s3cret"), "{text}");
        let error = Config::from_env(Env::from_pairs([("DATABASE_SECRET_ARN", "arn")])).unwrap_err();
        assert_eq!(error.problems, ["KAFKA_BROKERS is missing"]);
    }

    #[test]
    fn brokers_are_hosts_with_ports() {
        for (brokers, is_right) in [
            ("b-1.kafka.eu-central-1.amazonaws.com:9098", true),
            ("broker-1:9092, broker-2:9092", true),
            ("[::1]:9092", true),
            ("broker-1", false),
            ("broker-1:", false),
            (":9092", false),
            ("broker-1:0", false),
            ("broker-1:9092,", false),
            ("https://broker-1:9092", false),
            ("user@broker-1:9092", false),
        ] {
            let config =
                Config::from_env(Env::from_pairs([("DATABASE_SECRET_ARN", "arn"), ("KAFKA_BROKERS", brokers)]));
            assert_eq!(config.is_ok(), is_right, "{brokers}");
        }
    }
}
