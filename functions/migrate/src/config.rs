//! What migrate needs to know.

use config::{Env, Error};

/// Where the database and Elasticsearch are. The database's secret is its owner's.
#[derive(Clone, Debug)]
pub struct Config {
    /// The database, as its owner.
    pub database: database::Settings,
    /// Elasticsearch and the prefix of its indexes.
    pub search: search::Settings,
}

impl Config {
    /// Reads everything, and tells all that is wrong at once.
    pub fn from_env(mut env: Env) -> Result<Self, Error> {
        let database = database::Settings::from_env(&mut env);
        let search = search::Settings::from_env(&mut env);
        env.finish()?;
        Ok(Self { database, search })
    }
}
