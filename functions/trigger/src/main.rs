//! The trigger's process.

use process::{Error, Started};
use serde_json::Value;
use telemetry::Trace;
use trigger::Config;

// One thread: by its memory it has less than one core, and others would only have to be woken.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let Started { config, aws, secrets } = process::start("trigger", Config::from_env).await?;
    let trigger = trigger::new(config, &secrets, aws_sdk_sqs::Client::new(&aws));
    process::serve(async |_: Value, trace: &Trace, deadline| trigger.handle(trace, deadline).await).await
}
