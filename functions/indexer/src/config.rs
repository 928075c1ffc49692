use std::time::Duration;

use config::{Env, Error};
use queue::LONGEST_DELAY;
use telemetry::Metrics;

use crate::decision::SendAnew;

/// A message is sent anew long before the 14 days of its retention are over.
const SEND_ANEW_AFTER: Duration = Duration::from_secs(3 * 24 * 3600);

/// What the function is told by its environment.
#[derive(Clone, Debug)]
pub struct Config {
    /// Elasticsearch and its secret.
    pub search: search::Settings,
    /// The database and its secret, for re-reads.
    pub database: database::Settings,
    /// The indexer's own.
    pub settings: Settings,
}

/// The indexer's own settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// QUEUE_URL: where batches come from, to delay what is given back.
    pub queue_url: String,
    /// DEAD_LETTER_QUEUE_URL.
    pub dead_letter_queue_url: String,
    /// STACK_NAME: whose metrics they are; none are written where there is none.
    pub metrics: Option<Metrics>,
    /// INDEX_PREFIX: what the names of aliases begin with.
    pub index_prefix: String,
    /// RE_READ_AFTER: a document that was read longer ago is read again before it is written.
    pub re_read_after: Duration,
    /// SECOND_LOOK_AFTER: how long after a delete its key is looked at once more. By then no older write is in flight.
    pub second_look_after: Duration,
    /// MAX_RECEIVE_COUNT, as the queue has it, and an age.
    pub send_anew: SendAnew,
    /// BULK_BYTES: a bulk request is no larger, unless a single document is.
    pub bulk_bytes: usize,
}

impl Config {
    /// Reads and checks all of it.
    ///
    /// # Errors
    /// Everything that is missing or malformed, by name.
    pub fn from_env(mut env: Env) -> Result<Self, Error> {
        let search = search::Settings::from_env(&mut env);
        let settings = Settings {
            queue_url: env.required("QUEUE_URL"),
            dead_letter_queue_url: env.required("DEAD_LETTER_QUEUE_URL"),
            metrics: Metrics::from_env(&mut env, "indexer"),
            index_prefix: search.index_prefix.clone(),
            re_read_after: env.duration("RE_READ_AFTER", Duration::from_secs(60)),
            second_look_after: env.duration("SECOND_LOOK_AFTER", LONGEST_DELAY),
            send_anew: SendAnew {
                max_receive_count: env.parsed("MAX_RECEIVE_COUNT", 1000, "a number of receipts from 10 to 1000", |n| {
                    (10..=1000).contains(n)
                }),
                max_age: SEND_ANEW_AFTER,
            },
            // Elasticsearch takes 100 MB; a few MB are as quick a document, and the function's memory holds them twice.
            bulk_bytes: env.parsed("BULK_BYTES", 5 << 20, "a number of bytes from 1024 to 52428800", |n| {
                (1 << 10..=50 << 20).contains(n)
            }),
        };
        if settings.second_look_after > LONGEST_DELAY {
            env.problem("SECOND_LOOK_AFTER must be 15m or less: SQS delays no message for longer");
        }
        let config = Self { search, database: database::Settings::from_env(&mut env), settings };
        env.finish()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let error = Config::from_env(Env::from_pairs([
            ("RE_READ_AFTER", "soon"),
            ("SECOND_LOOK_AFTER", "1h"),
            ("MAX_RECEIVE_COUNT", "5"),
            ("BULK_BYTES", "5MB"),
        ]))
        .unwrap_err();
        let text = error.problems.join("\n");
        for name in [
            "QUEUE_URL",
            "DEAD_LETTER_QUEUE_URL",
            "ELASTICSEARCH_SECRET_ARN",
            "DATABASE_SECRET_ARN",
            "RE_READ_AFTER",
            "SECOND_LOOK_AFTER",
            "MAX_RECEIVE_COUNT",
            "BULK_BYTES",
        ] {
            assert!(text.contains(name), "{name} is not told in: {text}");
        }
    }
}
