//! Makes what Sluice needs: the schema in PostgreSQL, the indexes in Elasticsearch. And takes it away again.
//!
//! Every command may be run again: what is done is left alone, what is half done is finished.

mod config;
mod error;
mod indexes;
mod mapping;
mod rebase;
mod reindex;
mod report;
pub mod schema;
mod tables;
mod targets;
mod topics;
mod uninstall;

use std::str::FromStr;

use database::audit::Actor;
use database::checkpoints;
use database::subscriptions::ELASTICSEARCH;
use secrets::Secrets;
use serde::Deserialize;
use tokio_postgres::Client;

pub use crate::reindex::{Action, Reindex};
pub use crate::{config::Config, error::Error, rebase::Limits, report::Report};

/// What `pg_stat_activity` shows.
const APPLICATION_NAME: &str = "sluice migrate";

/// What can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The schema, then the indexes.
    Migrate,
    /// After a restore or a copy of the database: every index is brought to what the source is now. Where there was no
    /// time for all of it, the next one goes on.
    Rebase,
    /// Delivers again what changed since a checkpoint.
    Replay(Replay),
    /// Begins another generation of a stream's index, or does something with those that there are.
    Reindex(Reindex),
    /// Removes everything that Sluice made, and nothing else.
    Uninstall,
}

/// What is delivered again.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Replay {
    /// A checkpoint's name, or a time, which means the last checkpoint before it.
    pub from: String,
    /// To which target; `None`: Elasticsearch.
    pub target: Option<String>,
    /// This stream; `None`: all.
    pub stream: Option<String>,
    /// It is only said what that would be.
    #[serde(default)]
    pub dry_run: bool,
}

impl FromStr for Command {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "migrate" => Ok(Self::Migrate),
            "rebase" => Ok(Self::Rebase),
            "uninstall" => Ok(Self::Uninstall),
            other => Err(Error::Command(other.to_owned())),
        }
    }
}

/// Runs commands.
#[derive(Clone, Debug)]
pub struct Migrate {
    config: Config,
    secrets: Secrets,
    limits: Limits,
}

impl Migrate {
    /// Connects to nothing yet.
    pub fn new(config: Config, secrets: Secrets) -> Self {
        Self { config, secrets, limits: Limits::default() }
    }

    /// With other limits for a rebase.
    pub fn within(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Runs one command. Both servers must answer before anything is changed. After an error the report has what was
    /// done before it.
    pub async fn run(&self, command: Command, report: &mut Report) -> Result<(), Error> {
        let Config { database, search, clickhouse, kafka, generations, is_demo, has_ingest } = &self.config;
        let elasticsearch = search::connect(search, &self.secrets).await?;
        let prefix = &search.index_prefix;
        match command {
            Command::Migrate => {
                let mut client = database::connect_unchecked(database, &self.secrets, APPLICATION_NAME).await?;
                schema::lock(&client).await?;
                let is_migrated = schema::migrate(&mut client, &schema::migrations(), report).await?;
                if *is_demo {
                    tables::make(&mut client, &tables::DEMO, report).await?;
                }
                if *has_ingest {
                    tables::make(&mut client, &tables::PROFILES, report).await?;
                }
                // What fails for one target holds no other up.
                let are_indexes_made = indexes::make(&mut client, &elasticsearch, prefix, *generations, report).await;
                let are_tables_made =
                    targets::make_tables(&mut client, clickhouse.as_ref(), &self.secrets, report).await;
                let are_topics_made = topics::make(&mut client, kafka.as_ref(), &self.secrets, report).await;
                let is_anything_made = both(both(are_indexes_made, are_tables_made), are_topics_made)?;
                if !is_migrated && !is_anything_made {
                    let version = schema::version(&client).await?;
                    report.say(format!("nothing to do: the schema has version {version}, every stream has its index"));
                }
                Ok(())
            }
            Command::Rebase => {
                let client = database::connect(database, &self.secrets, APPLICATION_NAME).await?;
                schema::lock(&client).await?;
                rebase::rebase(&client, &elasticsearch, self.limits, report).await
            }
            Command::Replay(replay) => {
                let client = database::connect(database, &self.secrets, APPLICATION_NAME).await?;
                replay.run(&client, report).await
            }
            Command::Reindex(reindex) => {
                let mut client = database::connect(database, &self.secrets, APPLICATION_NAME).await?;
                schema::lock(&client).await?;
                reindex.run(&mut client, &elasticsearch, prefix, *generations, report).await
            }
            Command::Uninstall => {
                let mut client = database::connect_unchecked(database, &self.secrets, APPLICATION_NAME).await?;
                schema::lock(&client).await?;
                uninstall::uninstall(&mut client, &elasticsearch, prefix, report).await
            }
        }
    }
}

impl Replay {
    async fn run(&self, client: &Client, report: &mut Report) -> Result<(), Error> {
        let (target, stream) = (self.target.as_deref().unwrap_or(ELASTICSEARCH), self.stream.as_deref());
        let actor = Actor { name: APPLICATION_NAME, source_ip: None };
        let begun = checkpoints::replay(client, actor, target, &self.from, stream, self.dry_run).await;
        let checkpoints::Replay { checkpoint_at, log_rows, read_anew } = begun.map_err(error::query("the replay"))?;
        let verb = if self.dry_run { "would be" } else { "are" };
        let what = stream.unwrap_or("all streams");
        report.say(format!(
            "{target}: {what} from the checkpoint of {checkpoint_at} on; {log_rows} rows of the log {verb} looked at"
        ));
        for stream in read_anew {
            report.say(format!("stream {stream} is left out of the checkpoint, and {verb} read anew"));
        }
        Ok(())
    }
}

/// Whether either did anything; what failed for streams of both, together.
fn both(one: Result<bool, Error>, other: Result<bool, Error>) -> Result<bool, Error> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok(one || other),
        (Err(Error::Streams(mut failures)), Err(Error::Streams(others))) => {
            failures.extend(others);
            Err(Error::Streams(failures))
        }
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}
