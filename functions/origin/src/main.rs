//! The origin's process: one HTTP request after the other.

use config::Env;
use lambda_http::Error;
use origin::{Config, router};

// One thread: by its memory it has less than one core, and others would only have to be woken.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    telemetry::init("origin");
    let config = Config::from_env(Env::from_process()).inspect_err(|error| tracing::error!(%error, "configuration"))?;
    lambda_http::run(router(config)).await
}
