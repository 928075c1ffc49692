//! The process of the drainer into Kafka: clients once, then one invocation after the other.

use config::Env;
use kafka::Config;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use secrets::Secrets;
use serde_json::Value;
use telemetry::Trace;
use tracing::Instrument as _;

// One thread: by its memory it has less than one core, and others would only have to be woken.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    telemetry::init("kafka");
    secrets::install_crypto_provider();
    let config = Config::from_env(Env::from_process()).inspect_err(|error| tracing::error!(%error, "configuration"))?;
    let aws = secrets::aws().load().await;
    let secrets = Secrets::new(aws_sdk_secretsmanager::Client::new(&aws));
    let kafka = kafka::new(config, &secrets, &aws);
    lambda_runtime::run(service_fn(|event: LambdaEvent<Value>| {
        let kafka = &kafka;
        // Boxed: the compiler gives up on the layout of so deep a future.
        Box::pin(async move {
            let context = event.context;
            let trace = Trace::of_invocation(context.xray_trace_id.as_deref());
            let work = kafka.handle(&trace, context.deadline());
            Ok::<_, Error>(work.instrument(telemetry::invocation(&context.request_id, &trace)).await?)
        })
    }))
    .await
}
