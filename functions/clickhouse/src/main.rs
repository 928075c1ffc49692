//! The process of the target ClickHouse.

use process::{Error, Started};
use serde_json::Value;
use sluice_clickhouse::Config;
use telemetry::Trace;

// One thread: by its memory it has less than one core, and others would only have to be woken.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let Started { config, secrets, .. } = process::start("clickhouse", Config::from_env).await?;
    let target = sluice_clickhouse::new(config, &secrets);
    process::serve(async |_: Value, trace: &Trace, deadline| target.handle(trace, deadline).await).await
}
