//! The process of the drainer into Kafka.

use kafka::Config;
use process::{Error, Started};
use serde_json::Value;
use telemetry::Trace;

// One thread: by its memory it has less than one core, and others would only have to be woken.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let Started { config, secrets, .. } = process::start("kafka", Config::from_env).await?;
    let kafka = kafka::new(config, &secrets);
    process::serve(async |_: Value, trace: &Trace, deadline| kafka.handle(trace, deadline).await).await
}
