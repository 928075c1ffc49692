use std::time::Duration;

use config::{Env, Error};

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
    /// INDEX_PREFIX: what the names of aliases begin with.
    pub index_prefix: String,
    /// RE_READ_AFTER: a document that was read longer ago is read again before it is written.
    pub re_read_after: Duration,
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
            index_prefix: search.index_prefix.clone(),
            re_read_after: env.duration("RE_READ_AFTER", Duration::from_secs(60)),
            // Elasticsearch takes 100 MB; a few MB are as quick a document, and the function's memory holds them twice.
            bulk_bytes: env.parsed("BULK_BYTES", 5 << 20, "a number of bytes from 1024 to 52428800", |n| {
                (1 << 10..=50 << 20).contains(n)
            }),
        };
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
        let error = Config::from_env(Env::from_pairs([("RE_READ_AFTER", "soon"), ("BULK_BYTES", "5MB")])).unwrap_err();
        let text = error.problems.join("\n");
        for name in [
            "QUEUE_URL",
            "DEAD_LETTER_QUEUE_URL",
            "ELASTICSEARCH_SECRET_ARN",
            "DATABASE_SECRET_ARN",
            "RE_READ_AFTER",
            "BULK_BYTES",
        ] {
            assert!(text.contains(name), "{name} is not told in: {text}");
        }
    }
}
