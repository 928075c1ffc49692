//! The migrate function. Started by Lambda, it handles invocations; started from a shell, it runs once.

use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use config::Env;
use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use migrate::{Command, Config, Error, Limits, Migrate, Reindex, Replay, Report};
use secrets::{Secrets, install_crypto_provider};
use serde::Deserialize as _;
use serde_json::{Value, json};

const DEFAULT_COMMAND: &str = "migrate";

// One thread: by its memory it has less than one core, and others would only have to be woken.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    install_crypto_provider();
    if Env::from_process().optional("AWS_LAMBDA_RUNTIME_API").is_some() {
        telemetry::init("migrate");
        return match lambda_runtime::run(service_fn(handle)).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(error, "the runtime ended");
                ExitCode::FAILURE
            }
        };
    }
    let command = json!({ "command": std::env::args().nth(1) });
    match run(&command, Limits::default(), &mut Report::new(print)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_failure(&error);
            ExitCode::FAILURE
        }
    }
}

/// The words of the run are the answer, and whether it has finished. A failure is the invocation's failure, and has the
/// words as well.
async fn handle(event: LambdaEvent<Value>) -> Result<Value, Diagnostic> {
    let remaining = event.context.deadline().duration_since(SystemTime::now()).unwrap_or_default();
    let limits = Limits { deadline: Some(Instant::now() + remaining) };
    let mut report = Report::new(|line| tracing::info!("{line}"));
    match run(&event.payload, limits, &mut report).await {
        Ok(()) => Ok(json!({"ok": true, "finished": report.is_finished(), "lines": report.lines()})),
        Err(error) => {
            // Logged by the runtime.
            let mut lines = report.lines().to_vec();
            lines.push(error.to_string());
            Err(Diagnostic { error_type: "MigrateError".to_owned(), error_message: lines.join("\n") })
        }
    }
}

/// Everything is made anew for each run, so that what is wrong with the configuration reaches the one who asked.
async fn run(asked: &Value, limits: Limits, report: &mut Report) -> Result<(), Error> {
    let command = match asked["command"].as_str().unwrap_or(DEFAULT_COMMAND) {
        "replay" => Command::Replay(Replay::deserialize(asked).map_err(|error| Error::Replay(error.to_string()))?),
        "reindex" => Command::Reindex(Reindex::deserialize(asked).map_err(|error| Error::Reindex(error.to_string()))?),
        name => name.parse()?,
    };
    let config = Config::from_env(Env::from_process())?;
    let aws = secrets::aws().load().await;
    let secrets = Secrets::of(&aws);
    // Boxed: nested as it is, its type is too deep for the compiler.
    Box::pin(Migrate::new(config, secrets).within(limits).run(command, report)).await
}

#[allow(clippy::print_stdout, reason = "the words of a command belong there")]
fn print(line: &str) {
    println!("{line}");
}

#[allow(clippy::print_stderr, reason = "the failure of a command belongs there")]
fn print_failure(error: &Error) {
    eprintln!("{error}");
}
