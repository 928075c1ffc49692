//! `sluice run`: the parts side by side, until somebody says stop.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use admin::Admin;
use aws_config::{ConfigLoader, Region, SdkConfig};
use aws_credential_types::Credentials;
use config::Env;
use indexer::Indexer;
use ingest::{Ingest, Patience};
use search::Connection;
use secrets::Secrets;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use validate::Validator;

use crate::arguments::Part;
use crate::environment::Environment;
use crate::plan::{Plan, Planned};
use crate::{Ended, direct, serve, worker};

/// From SIGTERM on. Whoever sent it kills after 30 s, mostly.
const STOP_WITHIN: Duration = Duration::from_secs(25);
/// What a function is given for an invocation.
const INVOCATION: Duration = Duration::from_secs(60);
/// Between two looks at whether something is to be compared, or to be redriven.
const PAUSE: Duration = Duration::from_secs(10);

/// Runs these parts, or all that are configured.
pub async fn run(environment: &Environment, parts: &[Part]) -> Ended {
    let plan = match Plan::of(environment, parts) {
        Ok(plan) => plan,
        Err(problems) => return Ended::Wrong(problems),
    };
    let mut env = environment.env();
    let (spans, exporter) = otlp::from_env("sluice", &mut env).unzip();
    if let Err(error) = env.finish() {
        return Ended::Wrong(environment.problems(error.problems));
    }
    telemetry::init_with("sluice", &environment.env(), spans);
    // Until the process ends.
    exporter.map(|exporter| tokio::spawn(exporter.run()));
    let (aws, secrets) = clients(environment).await;
    let admin = Admin::with_clients(plan.admin.clone(), secrets.clone(), aws_sdk_sqs::Client::new(&aws));
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    match listen(&plan, &secrets, &admin, &stop).await {
        Ok(servers) => servers.into_iter().for_each(|server| {
            tasks.spawn(server);
        }),
        Err(problem) => {
            error!(problem);
            return Ended::Badly;
        }
    }
    for part in plan.parts {
        tasks.spawn(start(part, &aws, &secrets, &admin, &stop));
    }
    let mut terminated = match signal(SignalKind::terminate()) {
        Ok(signal) => signal,
        Err(error) => {
            error!(%error, "SIGTERM cannot be waited for");
            return Ended::Badly;
        }
    };
    let has_failed = tokio::select! {
        _ = terminated.recv() => false,
        _ = tokio::signal::ctrl_c() => false,
        // Each goes on until it is stopped: this is a defect, or a port that was taken away.
        _ = tasks.join_next() => true,
    };
    info!("stopping: what is under way is finished, or given back");
    stop.cancel();
    let ends = timeout(STOP_WITHIN, async { while tasks.join_next().await.is_some() {} });
    tokio::select! {
        ended = ends => {
            if ended.is_err() {
                warn!("not everything was finished in time: it is repeated by whoever is next");
            }
        }
        _ = terminated.recv() => warn!("told to stop once more: at once"),
    }
    if has_failed {
        error!("a part ended by itself");
        return Ended::Badly;
    }
    info!("stopped");
    Ended::Well
}

/// AWS is asked for nothing where nothing of it is used: it would be waited for.
pub async fn clients(environment: &Environment) -> (SdkConfig, Secrets) {
    let aws = if environment.needs_aws() {
        with_variables(secrets::aws(), &environment.env()).load().await
    } else {
        SdkConfig::builder().behavior_version(aws_config::BehaviorVersion::latest()).build()
    };
    let secrets = Secrets::of(&aws).with_given(environment.given());
    (aws, secrets)
}

/// The SDK of AWS looks at the environment alone, and its variables may stand in the file, too.
fn with_variables(mut loader: ConfigLoader, env: &Env) -> ConfigLoader {
    if let Some(region) = env.optional("AWS_REGION") {
        loader = loader.region(Region::new(region));
    }
    if let Some(url) = env.optional("AWS_ENDPOINT_URL") {
        loader = loader.endpoint_url(url);
    }
    if let Some(profile) = env.optional("AWS_PROFILE") {
        loader = loader.profile_name(profile);
    }
    let key = env.optional("AWS_ACCESS_KEY_ID").zip(env.optional("AWS_SECRET_ACCESS_KEY"));
    if let Some((id, secret)) = key {
        let token = env.optional("AWS_SESSION_TOKEN");
        loader = loader.credentials_provider(Credentials::new(id, secret, token, None, "variables"));
    }
    loader
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

async fn listen(plan: &Plan, secrets: &Secrets, admin: &Admin, stop: &CancellationToken) -> Result<Vec<Task>, String> {
    let mut servers: Vec<Task> = vec![];
    let bind = async |address, what: &str| {
        let cannot = |error| format!("nobody can listen at {address}: {error}");
        let listener = TcpListener::bind(address).await.map_err(cannot)?;
        info!(address = %listener.local_addr().map_err(cannot)?, "serving {what}");
        Ok::<_, String>(listener)
    };
    let listener = bind(plan.health_address, "health and metrics").await?;
    servers.push(Box::pin(serve::serve(listener, serve::health(admin.clone()), stop.clone())));
    for part in &plan.parts {
        if let Planned::Admin(address) = part {
            let listener = bind(*address, "dashboard and API").await?;
            servers.push(Box::pin(serve::serve(listener, admin::router(admin.clone()), stop.clone())));
        }
        if let Planned::Sync(config, address) = part {
            let (router, telling) = sluice_sync::serve(config.clone(), secrets, stop.clone())
                .map_err(|error| format!("nobody can ask SYNC_ISSUER for its keys: {error}"))?;
            let listener = bind(*address, "live sync").await?;
            servers.push(Box::pin(serve::serve(listener, router, stop.clone())));
            servers.push(Box::pin(telling));
        }
    }
    Ok(servers)
}

/// Starts a part in a thread of its own, as each function has a process: none waits for another's work. Ends with it.
fn start(part: Planned, aws: &SdkConfig, secrets: &Secrets, admin: &Admin, stop: &CancellationToken) -> Task {
    let (aws, secrets, admin, stop) = (aws.clone(), secrets.clone(), admin.clone(), stop.clone());
    let (ended, has_ended) = oneshot::channel::<()>();
    let work = move || {
        // Whatever becomes of it: dropped with the thread's end.
        let _ended = ended;
        match runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => LocalSet::new().block_on(&runtime, work_on(part, &aws, &secrets, admin, stop)),
            Err(error) => error!(%error, "a part does not start"),
        }
    };
    std::thread::spawn(work);
    Box::pin(async move {
        has_ended.await.ok();
    })
}

/// Goes on until it is stopped.
async fn work_on(part: Planned, aws: &SdkConfig, secrets: &Secrets, admin: Admin, stop: CancellationToken) {
    let sqs = || aws_sdk_sqs::Client::new(aws);
    match part {
        Planned::Elasticsearch(config) => direct::new(config, secrets).run(&stop).await,
        Planned::Trigger(config) => trigger::new(config, secrets, sqs()).run(&stop).await,
        Planned::Clickhouse(config) => sluice_clickhouse::new(config, secrets).run(&stop).await,
        Planned::Kafka(config) => kafka::new(config, secrets).run(&stop).await,
        Planned::Sync(config, _) => sluice_sync::new(config, secrets).run(&stop).await,
        Planned::Indexer(config, batches) => {
            let indexer::Config { search, database, settings } = config;
            let queue_url = settings.queue_url.clone();
            let search = Connection::new(search, secrets.clone());
            let database = indexer::Database::new(database, secrets.clone());
            let indexer = Indexer::new(search, database, sqs(), settings);
            worker::run(indexer, sqs(), queue_url, batches, stop).await;
        }
        Planned::Validate(config) => {
            let validator = Validator::new(config, secrets.clone());
            let work = async || {
                if let Err(error) = Box::pin(validator.handle(json!({}), SystemTime::now() + INVOCATION)).await {
                    error!(%error, "nothing could be compared");
                }
            };
            again_and_again(work, stop).await;
        }
        Planned::Ingest(config) => {
            let ingest = Ingest::new(config, secrets, Patience::default());
            let work = async || {
                if let Err(error) = Box::pin(ingest.handle(SystemTime::now() + INVOCATION)).await {
                    error!(%error, "nothing could be ingested");
                }
            };
            again_and_again(work, stop).await;
        }
        Planned::Admin(_) => again_and_again(async || admin::go_on_with_redrives(&admin).await, stop).await,
    }
}

/// Whatever is interrupted is gone on with by the next process.
async fn again_and_again(work: impl AsyncFn(), stop: CancellationToken) {
    let work = async {
        loop {
            work().await;
            sleep(PAUSE).await;
        }
    };
    stop.run_until_cancelled(work).await;
}

#[cfg(test)]
mod tests {
    use aws_credential_types::provider::ProvideCredentials as _;

    use super::*;

    #[tokio::test]
    async fn aws_is_asked_as_the_variables_say_wherever_they_stand() {
        secrets::install_crypto_provider();
        let environment = Environment::of(&[
            ("AWS_REGION", "eu-central-1"),
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:4566"),
            ("AWS_ACCESS_KEY_ID", "an id"),
            ("AWS_SECRET_ACCESS_KEY", "a key"),
        ]);
        let (aws, _) = clients(&environment).await;
        assert_eq!(aws.region().map(Region::as_ref), Some("eu-central-1"));
        assert_eq!(aws.endpoint_url(), Some("http://127.0.0.1:4566"));
        let credentials = aws.credentials_provider().unwrap().provide_credentials().await.unwrap();
        assert_eq!((credentials.access_key_id(), credentials.secret_access_key()), ("an id", "a key"));
    }
}
