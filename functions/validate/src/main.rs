//! The validator's process.

use process::{Error, Started};
use serde_json::Value;
use telemetry::Trace;
use validate::{Config, Validator};

// One thread: by its memory it has less than one core, and others would only have to be woken.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let Started { config, secrets, .. } = process::start("validate", Config::from_env).await?;
    let validator = Validator::new(config, secrets);
    process::serve(async |event: Value, _: &Trace, deadline| validator.handle(event, deadline).await).await
}
