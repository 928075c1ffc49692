//! The ingest's process.

use ingest::{Config, Ingest, Patience};
use process::{Error, Started};
use serde_json::Value;
use telemetry::Trace;

// One thread: by its memory it has less than one core, and others would only have to be woken.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let Started { config, secrets, .. } = process::start("ingest", Config::from_env).await?;
    let ingest = Ingest::new(config, &secrets, Patience::default());
    process::serve(async |_: Value, _: &Trace, deadline| ingest.handle(deadline).await).await
}
