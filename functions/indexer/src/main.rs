//! The indexer's process.

use std::time::SystemTime;

use aws_lambda_events::event::sqs::SqsEvent;
use indexer::{Config, Database, Indexer};
use process::{Error, Started};
use search::Connection;
use telemetry::Trace;
use tokio::time::Instant;

// One thread: by its memory it has less than one core, and others would only have to be woken.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let Started { config, aws, secrets } = process::start("indexer", Config::from_env).await?;
    let Config { search, database, settings } = config;
    let search = Connection::new(search, secrets.clone());
    let database = Database::new(database, secrets);
    let indexer = Indexer::new(search, database, aws_sdk_sqs::Client::new(&aws), settings);
    process::serve(async |batch: SqsEvent, _: &Trace, deadline| {
        let now = SystemTime::now();
        let remaining = deadline.duration_since(now).unwrap_or_default();
        indexer.handle(&batch, now, Instant::now() + remaining).await
    })
    .await
}
