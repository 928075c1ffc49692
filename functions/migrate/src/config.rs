//! What migrate needs to know.

use config::{Env, Error};

/// Where the database and Elasticsearch are. The database's secret is its owner's.
#[derive(Clone, Debug)]
pub struct Config {
    /// The database, as its owner.
    pub database: database::Settings,
    /// Elasticsearch and the prefix of its indexes.
    pub search: search::Settings,
    /// CLICKHOUSE_SECRET_ARN: where the tables are made of streams that go to ClickHouse.
    pub clickhouse: Option<sluice_clickhouse::Settings>,
    /// KAFKA_BROKERS: where the topics are made of streams that go to Kafka.
    pub kafka: Option<kafka::Settings>,
    /// How generations of indexes change places.
    pub generations: generations::Settings,
    /// DEMO: whether the demo's tables are made, too.
    pub is_demo: bool,
    /// INGEST: whether the table of the ingest's profiles is made, too.
    pub has_ingest: bool,
}

impl Config {
    /// Reads everything, and tells all that is wrong at once.
    pub fn from_env(mut env: Env) -> Result<Self, Error> {
        let database = database::Settings::from_env(&mut env);
        let search = search::Settings::from_env(&mut env);
        let clickhouse = sluice_clickhouse::Settings::from_env_if_any(&env);
        let kafka = kafka::Settings::from_env_if_any(&mut env);
        let generations = generations::Settings::from_env(&mut env);
        let is_demo = env.parsed("DEMO", false, "true or false", |_| true);
        let has_ingest = env.parsed("INGEST", false, "true or false", |_| true);
        env.finish()?;
        Ok(Self { database, search, clickhouse, kafka, generations, is_demo, has_ingest })
    }
}
