//! The process of a function: what each of them needs once, then one invocation after the other.

use std::fmt::Debug;
use std::time::SystemTime;

use aws_config::SdkConfig;
use bytes::Bytes;
use config::Env;
use futures_util::Stream;
use lambda_runtime::{IntoFunctionResponse, LambdaEvent, service_fn};
use secrets::Secrets;
use serde::Serialize;
use serde::de::DeserializeOwned;
use telemetry::Trace;
use tracing::{Instrument as _, error};

pub use lambda_runtime::Error;

/// What a function's value is made of.
#[derive(Debug)]
pub struct Started<C> {
    /// What the environment says.
    pub config: C,
    /// For its clients.
    pub aws: SdkConfig,
    /// Where they find their credentials.
    pub secrets: Secrets,
}

/// Begins the process of the function of this name. Nothing is connected yet.
///
/// # Errors
/// What is wrong with the environment, which is logged, too.
pub async fn start<C>(
    name: &'static str,
    from_env: impl FnOnce(Env) -> Result<C, config::Error>,
) -> Result<Started<C>, Error> {
    let mut env = Env::from_process();
    log(name, &mut env);
    secrets::install_crypto_provider();
    let config = from_env(env).inspect_err(|error| error!(%error, "configuration"))?;
    let aws = secrets::aws().load().await;
    let secrets = Secrets::of(&aws);
    Ok(Started { config, aws, secrets })
}

#[cfg(not(feature = "otlp"))]
fn log(name: &'static str, _: &mut Env) {
    telemetry::init(name);
}

/// What was heard is sent while an invocation goes on; what is left of one, with the next.
#[cfg(feature = "otlp")]
fn log(name: &'static str, env: &mut Env) {
    let (spans, exporter) = otlp::from_env(name, env).unzip();
    telemetry::init_with(name, env, spans);
    exporter.map(|exporter| tokio::spawn(exporter.run()));
}

/// Handles invocations, each in its span: `handle` is given the event, the trace that it is in, and its deadline. What it gives is JSON,
/// or a stream.
///
/// # Errors
/// The runtime ends.
pub async fn serve<E, R, F, B, S, D, X>(
    handle: impl AsyncFn(E, &Trace, SystemTime) -> Result<R, F>,
) -> Result<(), Error>
where
    E: DeserializeOwned,
    R: IntoFunctionResponse<B, S>,
    F: Into<Error>,
    B: Serialize,
    S: Stream<Item = Result<D, X>> + Unpin + Send + 'static,
    D: Into<Bytes> + Send,
    X: Into<Error> + Send + Debug,
{
    lambda_runtime::run(service_fn(|LambdaEvent { payload, context }: LambdaEvent<E>| {
        let handle = &handle;
        // Boxed: the compiler gives up on the layout of so deep a future.
        Box::pin(async move {
            let trace = Trace::of_invocation(context.xray_trace_id.as_deref());
            let work = handle(payload, &trace, context.deadline());
            work.instrument(telemetry::invocation(&context.request_id, &trace)).await.map_err(Into::into)
        })
    }))
    .await
}
