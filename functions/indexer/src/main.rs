//! The indexer's process: clients once, then one batch after the other.

use std::time::SystemTime;

use aws_lambda_events::event::sqs::SqsEvent;
use config::Env;
use indexer::{Config, Database, Indexer};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use search::Connection;
use secrets::Secrets;
use telemetry::Trace;
use tokio::time::Instant;
use tracing::Instrument as _;

// One thread: by its memory it has less than one core, and others would only have to be woken.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    telemetry::init("indexer");
    secrets::install_crypto_provider();
    let Config { search, database, settings } =
        Config::from_env(Env::from_process()).inspect_err(|error| tracing::error!(%error, "configuration"))?;
    let aws = secrets::aws().load().await;
    let secrets = Secrets::new(aws_sdk_secretsmanager::Client::new(&aws));
    let search = Connection::new(search, secrets.clone());
    let database = Database::new(database, secrets);
    let indexer = Indexer::new(search, database, aws_sdk_sqs::Client::new(&aws), settings);
    lambda_runtime::run(service_fn(|event: LambdaEvent<SqsEvent>| {
        let indexer = &indexer;
        // Boxed: the compiler gives up on the layout of so deep a future.
        Box::pin(async move {
            let now = SystemTime::now();
            let LambdaEvent { payload, context } = event;
            let remaining = context.deadline().duration_since(now).unwrap_or_default();
            let trace = Trace::of_invocation(context.xray_trace_id.as_deref());
            let work = indexer.handle(&payload, now, Instant::now() + remaining);
            Ok::<_, Error>(work.instrument(telemetry::invocation(&context.request_id, &trace)).await?)
        })
    }))
    .await
}
