//! The admin function's process: one HTTP request after the other.

use admin::{Admin, Config, router};
use config::Env;
use lambda_http::Error;

// One thread: by its memory it has less than one core, and others would only have to be woken.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    telemetry::init("admin");
    secrets::install_crypto_provider();
    let config = Config::from_env(Env::from_process()).inspect_err(|error| tracing::error!(%error, "configuration"))?;
    lambda_http::run(router(Admin::new(config))).await
}
