//! The process of live sync on AWS.

use process::{Error, Started};
use sluice_sync::{Config, Function};

// One thread: by its memory it has less than one core, and others would only have to be woken.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let Started { config, aws, secrets } = process::start("sync", Config::from_env).await?;
    let function = Function::new(config, &aws, &secrets)?;
    process::serve(async |event, trace, deadline| function.handle(event, trace, deadline).await).await
}
